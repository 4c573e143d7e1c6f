"""A place in a pool: one worker, started when it is needed, and the program that it has."""

import selectors
import time
from typing import Any

from crosstok.sandbox.backends.backend import Backend, Worker
from crosstok.sandbox.frames import frame, program_frames, take_frames
from crosstok.sandbox.program import Program

GRACE_S = 10.0
"""How long a worker may overstay a program's wall limit before it counts as hung."""
START_S = 20.0
"""What a worker that is being started is given on top."""


class Slot:
    """One worker and the program that it has. Its descriptors are watched by the pool's selector."""

    def __init__(self, number: int, backend: Backend, selector: selectors.BaseSelector) -> None:
        self.number = number
        self.worker: Worker | None = None
        self.program: Program | None = None
        self.tries = 0
        """How often the program was given to a worker, this time included."""
        self.idles = False
        """Whether the program uses no core for the time being."""
        self.deadline = 0.0
        self.packages: tuple[str, ...] = ()
        self._backend = backend
        self._selector = selector
        self._ready = False
        self._note = ""
        self._unsent = memoryview(b"")
        self._received = bytearray()

    def give(self, program: Program, tries: int) -> None:
        """Have the worker judge a program; start one where there is none.

        Raises OSError where none can be had, OversizedError where the program is too long to be sent.
        """
        frames = program_frames(program)
        self.program, self.tries, self.idles = program, tries, False
        message = b""
        if self.worker is not None and self.packages != program.packages:
            self.stop_worker()
        if self.worker is None:
            message = self._start(program.packages)
        if self.worker is not None:
            self.worker.limit(program.limits)
        self._unsent = memoryview(message + frames)
        start_s = 0 if self._ready else START_S
        self.deadline = time.monotonic() + program.limits.wall_s + GRACE_S + start_s
        self.send()

    def _start(self, packages: tuple[str, ...]) -> bytes:
        """Start a worker and return the frame that configures it."""
        worker = self.worker = self._backend.start(self.number, packages)
        self.packages = packages
        self._ready, self._note = False, ""
        self._received.clear()
        self._selector.register(worker.verdicts, selectors.EVENT_READ, self)
        return frame(worker.config)

    def stop(self) -> None:
        """End the worker and forget the program."""
        self.program = None
        self.stop_worker()

    def stop_worker(self) -> None:
        """End the worker, if there is one."""
        worker, self.worker, self._ready = self.worker, None, False
        if worker is None:
            return
        for descriptor in (worker.verdicts, worker.programs):
            if descriptor in self._selector.get_map():
                self._selector.unregister(descriptor)
        worker.close()

    def send(self) -> None:
        """Write as much as the pipe takes, and ask to be woken for the rest."""
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
            self._unsent = memoryview(b"")  # the end of the other pipe tells the rest
        if worker.programs in self._selector.get_map():
            self._selector.unregister(worker.programs)

    def receive(self) -> tuple[dict[str, Any] | None, str]:
        """Read what the worker wrote; return the verdict if there is one, and what is wrong with the worker."""
        worker = self.worker
        if worker is None:
            return None, ""
        try:
            chunk = worker.read()
        except BlockingIOError:
            return None, ""
        self._received += chunk
        try:
            verdict, fault = self._read(take_frames(self._received))
        except (ValueError, KeyError) as nonsense:
            return None, f"the worker wrote nonsense: {nonsense}"
        return verdict, fault or ("" if chunk or verdict else "the worker died")

    def _read(self, messages: list[dict[str, Any]]) -> tuple[dict[str, Any] | None, str]:
        verdict = None
        for message in messages:
            if "status" in message:
                if verdict is not None or self.program is None:
                    return None, "a verdict for no program"
                # Where the worker decided, the referee may yet have noted how its candidate went, or may not.
                note, self._note = self._note if message.pop("judged") else "", ""
                verdict = {**message, "error": (note + message["error"]).strip()}
            elif "error" in message:
                return None, message["error"]
            elif "note" in message:  # from the referee: the reason of the verdict that follows
                self._note = str(message["note"])
            elif "idles" in message:
                self.idles = bool(message["idles"])
            else:
                self._ready = True
        return verdict, ""
