"""Pool of warm sandbox workers.

A single loop in the caller's thread feeds the workers and reads their verdicts; the pool starts no threads. Each worker
runs one program at a time, and the pool takes the next program from the caller's iterable only when a worker is free,
so the iterable may be infinite. A worker that dies or hangs is replaced and its program retried once; after a second
failure the verdict is ``sandbox_error``, which says nothing about the program.

The number of workers is the number of programs that use a core at the same time. A program that sleeps or blocks does
not hold up the others: its worker reports that it is idle, and the pool runs another program on an additional worker
if memory allows. A busy loop gets no such treatment, because it does occupy a core; its CPU limit bounds it.
"""

import logging
import selectors
import time
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from crosstok.machine import available_memory
from crosstok.sandbox.backends.backend import Backend, BackendReport, total_memory
from crosstok.sandbox.frames import OversizedError
from crosstok.sandbox.program import Program
from crosstok.sandbox.program_queue import IterableSource, ProgramQueue
from crosstok.sandbox.slot import Slot
from crosstok.sandbox.verdict import Status, Verdict

_log = logging.getLogger(__name__)
_TRIES = 2
_SLOTS_PER_WORKER = 10
"""Upper bound on concurrent programs per worker, idle ones included."""


class Pool:
    """Warm workers of one backend; a context manager that ends them all on exit."""

    def __init__(self, backend: Backend, report: BackendReport, workers: int) -> None:
        self._backend = backend
        self.backend = backend.name
        self.guarantees = report.guarantees
        self.tier = f"{backend.name}({','.join(sorted(report.guarantees))})"
        """Backend and guarantees, stored with every verdict."""
        self._workers = workers
        self._selector = selectors.DefaultSelector()
        self._slots: list[Slot] = []
        self._retries: deque[tuple[Program, int]] = deque()
        self._running = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers and wait until their processes are gone."""
        for slot in self._slots:
            slot.stop()
        self._selector.close()

    def run(self, programs: Iterable[Program] | ProgramQueue) -> Iterator[Verdict]:
        """Run programs and yield their verdicts in order of completion.

        The pool is blocked while an iterable produces its next program; if that may take long, pass a
        :class:`ProgramQueue`. Raises RuntimeError if a previous ``run`` of this pool has not finished.
        """
        if self._running:
            raise RuntimeError("the pool is already running")
        source = programs if isinstance(programs, ProgramQueue) else IterableSource(programs)
        wakeup = source.attach() if isinstance(source, ProgramQueue) else None
        self._running = True
        if wakeup is not None:
            self._selector.register(wakeup, selectors.EVENT_READ, source)
        try:
            while True:
                yield from self._fill(source)
                if not self._retries and source.exhausted and not self._busy():
                    return
                yield from self._wait()
        finally:
            self._running = False
            self._retries.clear()
            for slot in self._busy():  # the caller abandoned the iterator
                slot.stop()
            if wakeup is not None:
                self._selector.unregister(wakeup)
            if isinstance(source, ProgramQueue):
                source.detach()

    # --- assignment -----------------------------------------------------------------------------------------------

    def _busy(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.program is not None]

    def _fill(self, source: ProgramQueue | IterableSource) -> Iterator[Verdict]:
        """Start programs until all workers are busy; yield a verdict for each program that cannot be started."""
        while self._has_room():
            program, tries = self._retries.popleft() if self._retries else (source.take(), 0)
            if program is None:
                return
            slot = self._slot(program.packages)
            try:
                slot.assign(program, tries + 1)
            except OversizedError as fault:
                yield self._oversized(program, fault)
            except OSError as fault:
                yield from self._replace_worker(slot, f"cannot start a worker: {fault}")

    def _oversized(self, program: Program, fault: OversizedError) -> Verdict:
        """Return the verdict for a program above the size limit: an error if the candidate is the longer part."""
        own = len(program.candidate) > len(program.tests) + len(program.setup)
        status = Status.ERROR if own else Status.SANDBOX_ERROR
        return Verdict(program.id, status, integrity=program.mode.value, tier=self.tier, error=str(fault))

    def _has_room(self) -> bool:
        """Return whether another program may start now; idle programs do not occupy a worker."""
        busy = self._busy()
        if sum(not slot.idle for slot in busy) >= self._workers:
            return False
        if len(busy) < self._workers:
            return True
        most = max(total_memory(slot.program.limits) for slot in busy if slot.program is not None)
        return len(busy) < self._workers * _SLOTS_PER_WORKER and available_memory() > 2 * most

    def _slot(self, packages: tuple[str, ...]) -> Slot:
        """Return a free slot, preferably one whose worker has ``packages`` imported, then one without a worker."""
        free = [slot for slot in self._slots if slot.program is None]
        fitting = [slot for slot in free if slot.worker is not None and slot.packages == packages]
        empty = [slot for slot in free if slot.worker is None]
        if not fitting and not empty and (len(self._slots) < self._workers or not free):
            empty = [Slot(len(self._slots), self._backend, self._selector)]
            self._slots += empty
        return (fitting or empty or free)[0]

    # --- waiting --------------------------------------------------------------------------------------------------

    def _wait(self) -> Iterator[Verdict]:
        """Wait for the next event or deadline and yield the resulting verdicts."""
        busy = self._busy()
        timeout_s = max(0.0, min(slot.deadline for slot in busy) - time.monotonic()) if busy else None
        for key, _ in self._selector.select(timeout_s):
            if isinstance(key.data, ProgramQueue):
                key.data.acknowledge()
                continue
            slot: Slot = key.data
            if slot.worker is None:
                continue  # stopped while an earlier event was handled
            if key.fd == slot.worker.programs:
                slot.send()
            else:
                yield from self._receive(slot)
        for slot in busy:
            if slot.program is not None and time.monotonic() > slot.deadline:
                yield from self._replace_worker(slot, "the worker did not answer before its deadline")

    def _receive(self, slot: Slot) -> Iterator[Verdict]:
        message, fault = slot.receive()
        verdict = None
        if message is not None and slot.program is not None:
            own = {"id": slot.program.id, "integrity": slot.program.mode.value, "tier": self.tier}
            try:
                verdict = Verdict(**{**message, **own, "status": Status(message["status"])})
            except (TypeError, ValueError) as invalid:
                fault = f"the worker wrote an invalid verdict: {invalid}"
        if verdict is not None:
            slot.program = None
            yield verdict
        elif fault:
            yield from self._replace_worker(slot, fault)

    def _replace_worker(self, slot: Slot, why: str) -> Iterator[Verdict]:
        """Stop a worker that failed; its program is retried once."""
        program, tries = slot.program, slot.tries
        stderr = slot.worker.stderr_tail() if slot.worker else ""
        slot.stop()
        if program is None:
            return
        _log.warning("Sandbox worker %d: %s %s", slot.number, why, stderr)
        if tries < _TRIES:
            self._retries.append((program, tries))
        else:
            line = stderr.splitlines()[-1] if stderr else ""
            yield Verdict(
                id=program.id,
                status=Status.SANDBOX_ERROR,
                integrity="none",
                tier=self.tier,
                error=f"{why} {line}".strip(),
            )
