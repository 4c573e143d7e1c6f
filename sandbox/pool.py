"""Many programs over a few warm workers.

One loop in the caller's thread feeds the workers and reads their verdicts; there are no threads and no queues. A worker
has one program at a time, and the next program is taken from the caller's iterable only when a worker is free, so an
endless iterable is fine. A worker that dies or overstays is replaced and its program tried once more; a second failure
is reported as ``sandbox_error``, which says nothing about the program.

The number of workers is the number of programs that compute at a time. A program that sleeps, or waits for what will
never come, holds up nobody: its worker says so, and the pool runs another program beside it on a further worker, where
memory allows. Programs that loop are not treated so: cores are what they take, and a limit of CPU time, not the number
of places, bounds how much.
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
from crosstok.sandbox.program_queue import Drawn, Inlet
from crosstok.sandbox.slot import Slot
from crosstok.sandbox.verdict import Status, Verdict

_log = logging.getLogger(__name__)
_TRIES = 2
_PLACES = 10
"""Programs per worker that there are at most, those that sleep included."""


class Pool:
    """Warm workers of one backend. Closing it leaves no process behind."""

    def __init__(self, backend: Backend, report: BackendReport, workers: int) -> None:
        self._backend = backend
        self.backend = backend.name
        self.guarantees = report.guarantees
        self.tier = f"{backend.name}({','.join(sorted(report.guarantees))})"
        """Stored with every verdict: what kept the program in."""
        self._workers = workers
        self._selector = selectors.DefaultSelector()
        self._slots: list[Slot] = []
        self._again: deque[tuple[Program, int]] = deque()
        self._running = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers; returns when their processes are gone."""
        for slot in self._slots:
            slot.stop()
        self._selector.close()

    def run(self, programs: Iterable[Program] | Inlet) -> Iterator[Verdict]:
        """Judge programs and yield their verdicts in the order in which they are ready.

        While an iterable makes its next program, the pool can do nothing else; where that may take long, use an inlet.
        """
        if self._running:
            raise RuntimeError("this pool is running already")
        source = programs if isinstance(programs, Inlet) else Drawn(programs)
        bell = source.attach() if isinstance(source, Inlet) else None
        self._running = True
        if bell is not None:
            self._selector.register(bell, selectors.EVENT_READ, source)
        try:
            while True:
                yield from self._fill(source)
                if not self._again and source.exhausted and not self._busy():
                    return
                yield from self._wait()
        finally:
            self._running = False
            self._again.clear()
            for slot in self._busy():  # the caller went away in mid-program
                slot.stop()
            if bell is not None:
                self._selector.unregister(bell)
            if isinstance(source, Inlet):
                source.detach()

    # --- handing out ----------------------------------------------------------------------------------------------

    def _busy(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.program is not None]

    def _fill(self, source: Inlet | Drawn) -> Iterator[Verdict]:
        """Give out programs until as many run as there are workers; yield a verdict where no worker can be had."""
        while self._has_room():
            program, tries = self._again.popleft() if self._again else (source.take(), 0)
            if program is None:
                return
            slot = self._slot(program.packages)
            try:
                slot.give(program, tries + 1)
            except OversizedError as fault:
                yield self._unrun(program, fault)
            except OSError as fault:
                yield from self._lost(slot, f"no worker can be had: {fault}")

    def _unrun(self, program: Program, fault: OversizedError) -> Verdict:
        """Return the verdict of a program that is too long: the candidate's own, or none where the tests are."""
        own = len(program.candidate) > len(program.tests) + len(program.setup)
        status = Status.ERROR if own else Status.SANDBOX_ERROR
        return Verdict(program.id, status, integrity=program.mode.value, tier=self.tier, error=str(fault))

    def _has_room(self) -> bool:
        """Whether one more program may run now; programs that use no core leave room for others."""
        busy = self._busy()
        if sum(not slot.idles for slot in busy) >= self._workers:
            return False
        if len(busy) < self._workers:
            return True
        most = max(total_memory(slot.program.limits) for slot in busy if slot.program is not None)
        return len(busy) < self._workers * _PLACES and available_memory() > 2 * most

    def _slot(self, packages: tuple[str, ...]) -> Slot:
        """Return a slot without a program: one with the right worker, one without any, or whichever there is."""
        free = [slot for slot in self._slots if slot.program is None]
        fitting = [slot for slot in free if slot.worker is not None and slot.packages == packages]
        empty = [slot for slot in free if slot.worker is None]
        if not fitting and not empty and (len(self._slots) < self._workers or not free):
            empty = [Slot(len(self._slots), self._backend, self._selector)]
            self._slots += empty
        return (fitting or empty or free)[0]

    # --- waiting --------------------------------------------------------------------------------------------------

    def _wait(self) -> Iterator[Verdict]:
        """Wait for something to happen; yield the verdicts that came of it."""
        busy = self._busy()
        patience = max(0.0, min(slot.deadline for slot in busy) - time.monotonic()) if busy else None
        for key, _ in self._selector.select(patience):
            if isinstance(key.data, Inlet):
                key.data.hear()
                continue
            slot: Slot = key.data
            if slot.worker is None:
                continue  # stopped by an event before this one
            if key.fd == slot.worker.programs:
                slot.send()
            else:
                yield from self._receive(slot)
        for slot in busy:
            if slot.program is not None and time.monotonic() > slot.deadline:
                yield from self._lost(slot, "the worker hung")

    def _receive(self, slot: Slot) -> Iterator[Verdict]:
        message, fault = slot.receive()
        verdict = None
        if message is not None and slot.program is not None:
            own = {"id": slot.program.id, "integrity": slot.program.mode.value, "tier": self.tier}
            try:
                verdict = Verdict(**{**message, **own, "status": Status(message["status"])})
            except (TypeError, ValueError) as nonsense:
                fault = f"the worker wrote nonsense: {nonsense}"
        if verdict is not None:
            slot.program = None
            yield verdict
        elif fault:
            yield from self._lost(slot, fault)

    def _lost(self, slot: Slot, why: str) -> Iterator[Verdict]:
        """Replace a worker that is of no more use; its program gets one more try."""
        program, tries = slot.program, slot.tries
        words = slot.worker.last_words() if slot.worker else ""
        slot.stop()
        if program is None:
            return
        _log.warning("Sandbox worker %d: %s %s", slot.number, why, words)
        if tries < _TRIES:
            self._again.append((program, tries))
        else:
            line = words.splitlines()[-1] if words else ""
            yield Verdict(
                id=program.id,
                status=Status.SANDBOX_ERROR,
                integrity="none",
                tier=self.tier,
                error=f"{why} {line}".strip(),
            )
