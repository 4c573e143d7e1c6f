"""Worker slot of a pool: one worker, started on demand, and the program assigned to it."""

import selectors
import time
from typing import Any

from crosstok.sandbox.backends.backend import Backend, Worker
from crosstok.sandbox.frames import frame, program_frames, take_frames
from crosstok.sandbox.program import Program

GRACE_S = 10.0
"""Seconds beyond a program's wall limit after which its worker counts as hung."""
STARTUP_S = 20.0
"""Additional seconds for a worker that has yet to start."""


class Slot:
    """One worker and its current program; the worker's descriptors are registered with the pool's selector."""

    def __init__(self, number: int, backend: Backend, selector: selectors.BaseSelector) -> None:
        self.number = number
        self.worker: Worker | None = None
        self.program: Program | None = None
        self.tries = 0
        """Number of times the program was assigned to a worker, this time included."""
        self.idle = False
        """Whether the program currently uses no CPU time."""
        self.deadline = 0.0
        self.packages: tuple[str, ...] = ()
        self._backend = backend
        self._selector = selector
        self._ready = False
        self._note = ""
        self._unsent = memoryview(b"")
        self._received = bytearray()

    def assign(self, program: Program, tries: int) -> None:
        """Send a program to the worker, starting one if necessary.

        Raises OSError if no worker can be started, OversizedError if the program exceeds the frame limit.
        """
        frames = program_frames(program)
        self.program, self.tries, self.idle = program, tries, False
        message = b""
        if self.worker is not None and self.packages != program.packages:
            self.stop_worker()
        if self.worker is None:
            message = self._start(program.packages)
        if self.worker is not None:
            self.worker.limit(program.limits)
        self._unsent = memoryview(message + frames)
        start_s = 0 if self._ready else STARTUP_S
        self.deadline = time.monotonic() + program.limits.wall_s + GRACE_S + start_s
        self.send()

    def _start(self, packages: tuple[str, ...]) -> bytes:
        """Start a worker and return its configuration frame."""
        worker = self.worker = self._backend.start(self.number, packages)
        self.packages = packages
        self._ready, self._note = False, ""
        self._received.clear()
        self._selector.register(worker.verdicts, selectors.EVENT_READ, self)
        return frame(worker.config)

    def stop(self) -> None:
        """End the worker and drop the program."""
        self.program = None
        self.stop_worker()

    def stop_worker(self) -> None:
        """End the worker, if one is running."""
        worker, self.worker, self._ready = self.worker, None, False
        if worker is None:
            return
        for descriptor in (worker.verdicts, worker.programs):
            if descriptor in self._selector.get_map():
                self._selector.unregister(descriptor)
        worker.close()

    def send(self) -> None:
        """Write as much as the pipe accepts and register for write events if data remains."""
        worker = self.worker
        if worker is None:
            return
        try:
            while self._unsent:
                self._unsent = self._unsent[worker.write(self._unsent) :]
        except BlockingIOError:
            if worker.programs not in self._selector.get_map():
                self._selector.register(worker.programs, selectors.EVENT_WRITE, self)
            return
        except ConnectionError:
            self._unsent = memoryview(b"")  # end of file on the verdict pipe reports the failure
        if worker.programs in self._selector.get_map():
            self._selector.unregister(worker.programs)

    def receive(self) -> tuple[dict[str, Any] | None, str]:
        """Read from the worker; return its verdict, if complete, and a description of what is wrong with the worker."""
        worker = self.worker
        if worker is None:
            return None, ""
        try:
            chunk = worker.read()
        except BlockingIOError:
            return None, ""
        self._received += chunk
        try:
            verdict, problem = self._read(take_frames(self._received))
        except (ValueError, KeyError) as fault:
            return None, f"the worker wrote an invalid message: {fault}"
        return verdict, problem or ("" if chunk or verdict else "the worker died")

    def _read(self, messages: list[dict[str, Any]]) -> tuple[dict[str, Any] | None, str]:
        verdict = None
        for message in messages:
            if "status" in message:
                if verdict is not None or self.program is None:
                    return None, "a verdict without a program"
                # After a verdict of the worker itself (a limit), the note of the referee may be missing: drop it.
                note, self._note = self._note if message.pop("judged") else "", ""
                verdict = {**message, "error": (note + message["error"]).strip()}
            elif "error" in message:
                return None, message["error"]
            elif "note" in message:  # from the referee: the reason for the verdict that follows
                self._note = str(message["note"])
            elif "idle" in message:
                self.idle = bool(message["idle"])
            else:
                self._ready = True
        return verdict, ""
