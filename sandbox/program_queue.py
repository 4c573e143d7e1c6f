"""Queue that feeds programs to a pool while other programs run.

The pool asks a plain iterable for the next program when a worker is free, and is blocked until the iterable answers. A
producer that is slow, such as a model that generates programs, puts them into a queue instead: the pool waits on the
queue and on its workers together, so it still yields verdicts and detects hung workers while no new program arrives.
"""

import os
import threading
from collections import deque
from collections.abc import Iterable

from crosstok.sandbox.program import Program


class ProgramQueue:
    """Thread-safe queue of programs; one pool consumes it, once.

    The queue is unbounded, because programs are small and slow to produce. For a fast or infinite producer pass an
    iterable to the pool, which takes a program only when a worker is free.
    """

    def __init__(self) -> None:
        self._waiting: deque[Program] = deque()
        self._lock = threading.Lock()
        self._wakeup: tuple[int, int] | None = None
        self._closed = False
        self._left = False

    def put(self, program: Program) -> None:
        """Add a program. Raises RuntimeError if the queue is closed or the pool has stopped consuming it."""
        with self._lock:
            if self._closed or self._left:
                raise RuntimeError("the queue is closed" if self._closed else "the pool no longer consumes this queue")
            self._waiting.append(program)
            self._wake()

    def close(self) -> None:
        """Declare that no more programs will come; those already queued still run."""
        with self._lock:
            self._closed = True
            self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None:
            try:
                os.write(self._wakeup[1], b"\0")
            except BlockingIOError:
                return  # the pipe is full: the pool is notified already

    # --- used by the pool ---------------------------------------------------------------------------------------

    def attach(self) -> int:
        """Return a descriptor that becomes readable when the queue changes. Raises RuntimeError on a second call."""
        with self._lock:
            if self._wakeup is not None or self._left:
                raise RuntimeError("a program queue feeds one pool, once")
            self._wakeup = os.pipe()
            for descriptor in self._wakeup:
                os.set_blocking(descriptor, False)
            self._wake()
            return self._wakeup[0]

    def acknowledge(self) -> None:
        """Clear the notification, so that the descriptor becomes readable at the next change."""
        if self._wakeup is not None:
            try:
                os.read(self._wakeup[0], 4096)
            except BlockingIOError:
                return

    def take(self) -> Program | None:
        """Return the next program, or None if none is queued."""
        return self._waiting.popleft() if self._waiting else None

    @property
    def exhausted(self) -> bool:
        """Whether the queue is empty and closed."""
        with self._lock:
            return self._closed and not self._waiting

    def detach(self) -> None:
        """Stop consuming the queue; further ``put`` calls raise."""
        with self._lock:
            wakeup, self._wakeup, self._left = self._wakeup, None, True
            for descriptor in wakeup or ():
                os.close(descriptor)


class IterableSource:
    """An iterable of programs behind the same interface as :class:`ProgramQueue`."""

    def __init__(self, programs: Iterable[Program]) -> None:
        self._programs = iter(programs)
        self.exhausted = False

    def take(self) -> Program | None:
        """Return the next program, or None once the iterable is exhausted."""
        program = None if self.exhausted else next(self._programs, None)
        self.exhausted = program is None
        return program
