"""Many programs over a few warm workers.

One loop in the caller's thread feeds the workers and reads their verdicts; there are no threads and no queues. A worker
has one program at a time, and the next program is taken from the caller's iterable only when a worker is free, so an
endless iterable is fine. A worker that dies or overstays is replaced and its program tried once more; a second failure
is reported as ``sandbox_error``, which says nothing about the program.
"""

import json
import logging
import selectors
import struct
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from crosstok.errors import UserError, unknown_name
from sandbox.backends.backend import Backend, BackendReport, Worker
from sandbox.backends.bubblewrap import Bubblewrap
from sandbox.backends.docker import Docker
from sandbox.backends.namespaces import Namespaces
from sandbox.backends.process import Process
from sandbox.program import Program
from sandbox.verdict import Status, Verdict

_log = logging.getLogger(__name__)
_LENGTH = struct.Struct("<I")
_GRACE_S = 10.0
"""How long a worker may overstay a program's wall limit before it counts as hung."""
_START_S = 20.0
_TRIES = 2

BACKENDS: dict[str, type[Backend]] = {backend.name: backend for backend in (Bubblewrap, Namespaces, Docker, Process)}
"""In the order in which ``auto`` prefers them; it never takes ``process``."""


def probe() -> list[BackendReport]:
    """Report what every backend can promise on this machine."""
    return [backend().report() for backend in BACKENDS.values()]


def open_pool(backend: str = "auto", workers: int = 2, *, unsafe: bool = False) -> "Pool":
    """Return a pool of ``workers`` warm workers, to be used in a ``with`` statement.

    ``auto`` takes the strongest backend that works here. Raises UserError where none does, or where the named one does
    not; there is no silent fall-back. ``process`` has no walls and needs ``unsafe``.
    """
    if workers < 1:
        raise UserError(f"A sandbox needs at least one worker, not {workers}.")
    if backend == "auto":
        reports = []
        for kind in BACKENDS.values():
            if kind is Process:
                continue
            reports.append(kind().report())
            if reports[-1].available:
                return Pool(kind(), reports[-1], workers)
        faults = "; ".join(f"{report.name}: {', '.join(report.missing)}" for report in reports)
        raise UserError(f"No sandbox works on this machine ({faults}).", hint=reports[-1].hint)
    if backend not in BACKENDS:
        raise unknown_name("sandbox backend", backend, BACKENDS)
    if backend == Process.name:
        if not unsafe:
            raise UserError("The backend 'process' has no walls.", hint="Add --unsafe if the programs are your own.")
        _log.warning("Sandbox backend 'process': programs run with your rights, without any wall.")
    chosen = BACKENDS[backend]()
    report = chosen.report()
    if not report.available:
        raise UserError(f"The sandbox {backend!r} does not work here: {', '.join(report.missing)}.", hint=report.hint)
    return Pool(chosen, report, workers)


class _Slot:
    """One worker and the program that it has."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: Worker | None = None
        self.program: Program | None = None
        self.packages: tuple[str, ...] = ()
        self.note = ""
        self.tries = 0
        self.ready = False
        self.unsent = memoryview(b"")
        self.received = bytearray()
        self.deadline = 0.0


class Pool:
    """Warm workers of one backend. Closing it leaves no process behind."""

    def __init__(self, backend: Backend, report: BackendReport, workers: int) -> None:
        self._backend = backend
        self.backend = backend.name
        self.guarantees = report.guarantees
        self.tier = f"{backend.name}({','.join(sorted(report.guarantees))})"
        """Stored with every verdict: what kept the program in."""
        self._slots = [_Slot(number) for number in range(workers)]
        self._selector = selectors.DefaultSelector()
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
            self._stop(slot)
        self._selector.close()

    def run(self, programs: Iterable[Program]) -> Iterator[Verdict]:
        """Judge programs and yield their verdicts in the order in which they are ready."""
        if self._running:
            raise RuntimeError("this pool is running already")
        self._running = True
        source, again = iter(programs), deque[tuple[Program, int]]()
        try:
            while True:
                for slot in self._slots:
                    if slot.program is None:
                        yield from self._give(slot, source, again)
                if all(slot.program is None for slot in self._slots):
                    return
                yield from self._wait(again)
        finally:
            self._running = False
            for slot in self._slots:
                if slot.program is not None:  # the caller went away in mid-program
                    self._stop(slot)

    # --- one worker -----------------------------------------------------------------------------------------------

    def _give(self, slot: _Slot, source: Iterator[Program], again: deque[tuple[Program, int]]) -> Iterator[Verdict]:
        """Send the next program, if there is one; yield a verdict only where no worker can be had for it."""
        program, tries = again.popleft() if again else (next(source, None), 0)
        if program is None:
            return
        slot.program, slot.tries = program, tries + 1
        message = b""
        if slot.worker is not None and slot.packages != program.packages:
            self._stop_worker(slot)
        try:
            if slot.worker is None:
                message = self._start(slot, program.packages)
            if slot.worker is not None:
                slot.worker.limit(program.limits)
        except OSError as fault:
            yield from self._lost(slot, f"no worker can be had: {fault}", again)
            return
        message += _frames(program)
        slot.unsent = memoryview(message)
        slot.deadline = time.monotonic() + program.limits.wall_s + _GRACE_S + (0 if slot.ready else _START_S)
        self._send(slot)

    def _start(self, slot: _Slot, packages: tuple[str, ...]) -> bytes:
        """Start a worker and return the frame that configures it."""
        worker = slot.worker = self._backend.start(slot.number, packages)
        slot.packages = packages
        slot.ready, slot.note = False, ""
        slot.received.clear()
        self._selector.register(worker.verdicts, selectors.EVENT_READ, slot)
        return _frame(worker.config)

    def _stop(self, slot: _Slot) -> None:
        slot.program = None
        self._stop_worker(slot)

    def _stop_worker(self, slot: _Slot) -> None:
        worker, slot.worker, slot.ready = slot.worker, None, False
        if worker is None:
            return
        for descriptor in (worker.verdicts, worker.programs):
            if descriptor in self._selector.get_map():
                self._selector.unregister(descriptor)
        worker.close()

    def _send(self, slot: _Slot) -> None:
        """Write as much as the pipe takes, and ask to be woken for the rest."""
        worker = slot.worker
        if worker is None:
            return
        try:
            while slot.unsent:
                slot.unsent = slot.unsent[worker.write(slot.unsent) :]
        except BlockingIOError:
            if worker.programs not in self._selector.get_map():
                self._selector.register(worker.programs, selectors.EVENT_WRITE, slot)
            return
        except ConnectionError:
            slot.unsent = memoryview(b"")  # the end of the other pipe tells the rest
        if worker.programs in self._selector.get_map():
            self._selector.unregister(worker.programs)

    def _wait(self, again: deque[tuple[Program, int]]) -> Iterator[Verdict]:
        """Wait for something to happen; yield the verdicts that came of it."""
        busy = [slot for slot in self._slots if slot.program is not None]
        patience = max(0.0, min(slot.deadline for slot in busy) - time.monotonic())
        for key, _ in self._selector.select(patience):
            slot: _Slot = key.data
            if slot.worker is None:
                continue  # stopped by an event before this one
            if key.fd == slot.worker.programs:
                self._send(slot)
            else:
                yield from self._receive(slot, again)
        for slot in busy:
            if slot.program is not None and time.monotonic() > slot.deadline:
                yield from self._lost(slot, "the worker hung", again)

    def _receive(self, slot: _Slot, again: deque[tuple[Program, int]]) -> Iterator[Verdict]:
        worker = slot.worker
        if worker is None:
            return
        try:
            chunk = worker.read()
        except BlockingIOError:
            return
        slot.received += chunk
        for message in _take_frames(slot.received):
            if "error" in message and "status" not in message:
                yield from self._lost(slot, message["error"], again)
                return
            if not slot.ready:
                slot.ready = True
                continue
            if "note" in message:  # from the referee: the reason of the verdict that follows
                slot.note = str(message["note"])
                continue
            message["error"], slot.note = (slot.note + message["error"]).strip(), ""
            program, slot.program = slot.program, None
            if program is None:
                yield from self._lost(slot, "a verdict for no program", again)
                return
            yield Verdict(
                id=program.id,
                integrity=program.mode.value,
                tier=self.tier,
                **{**message, "status": Status(message["status"])},
            )
        if not chunk and slot.worker is worker:
            yield from self._lost(slot, "the worker died", again)

    def _lost(self, slot: _Slot, why: str, again: deque[tuple[Program, int]]) -> Iterator[Verdict]:
        """Replace a worker that is of no more use; its program gets one more try."""
        program, tries = slot.program, slot.tries
        words = slot.worker.last_words() if slot.worker else ""
        self._stop(slot)
        if program is None:
            return
        _log.warning("Sandbox worker %d: %s %s", slot.number, why, words)
        if tries < _TRIES:
            again.append((program, tries))
        else:
            line = words.splitlines()[-1] if words else ""
            yield Verdict(
                id=program.id,
                status=Status.SANDBOX_ERROR,
                integrity="none",
                tier=self.tier,
                error=f"{why} {line}".strip(),
            )


def try_worker(backend: Backend) -> str:
    """Start a worker, have it judge one right and one wrong program, and end it; return what went wrong, or nothing."""
    right = Program("right", "def one():\n    return 1\n", "assert one() == 1\n", "one")
    wrong = Program("wrong", "def one():\n    return 2\n", "assert one() == 1\n", "one")
    report = BackendReport(backend.name, available=True, guarantees=frozenset())
    level, _log.level = _log.level, logging.CRITICAL  # a failure is the answer here, not news
    try:
        with Pool(backend, report, 1) as pool:
            verdicts = {verdict.id: verdict for verdict in pool.run([right, wrong])}
    except OSError as fault:
        return str(fault)
    finally:
        _log.level = level
    if verdicts["right"].status is Status.PASSED and verdicts["wrong"].status is Status.FAILED:
        return ""
    return verdicts["right"].error or verdicts["wrong"].error or "the control programs were judged wrongly"


def _frame(message: Any) -> bytes:
    text = json.dumps(message, separators=(",", ":")).encode("ascii")
    return _LENGTH.pack(len(text)) + text


def _frames(program: Program) -> bytes:
    """Return the two frames of a program: what the worker reads, and what only the referee reads."""
    header = {"limits": asdict(program.limits)}
    body = {
        "mode": program.mode.value,
        "setup": program.setup,
        "candidate": program.candidate,
        "tests": program.tests,
        "entry_point": program.entry_point,
        "expected_calls": program.expected_calls,
    }
    return _frame(header) + _frame(body)


def _take_frames(buffer: bytearray) -> list[Any]:
    """Remove the whole frames from a buffer and return their messages."""
    messages = []
    while len(buffer) >= 4:
        (length,) = _LENGTH.unpack_from(buffer)
        if len(buffer) < 4 + length:
            break
        messages.append(json.loads(bytes(buffer[4 : 4 + length])))
        del buffer[: 4 + length]
    return messages
