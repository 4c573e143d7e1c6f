"""Programs that become known one by one, while others run.

A plain iterable is asked for the next program when a worker is free, and a pool that waits in it sees nothing else. A
source that has to wait for its programs (a model that writes them) puts them into an inlet instead: the pool watches it
together with its workers, so that verdicts are handed out and hung workers noticed while nothing new comes.
"""

import os
import threading
from collections import deque
from collections.abc import Iterable

from crosstok.sandbox.program import Program


class Inlet:
    """A queue of programs from any thread to the one that runs the pool.

    It has no bound, since programs are small and slow to make; a source that is quick and endless is better an
    iterable, from which programs are taken only when a worker is free.
    """

    def __init__(self) -> None:
        self._waiting: deque[Program] = deque()
        self._lock = threading.Lock()
        self._bell: tuple[int, int] | None = None
        self._closed = False
        self._left = False

    def put(self, program: Program) -> None:
        """Add a program. Raises RuntimeError where the inlet is closed, or the pool that ran on it has stopped."""
        with self._lock:
            if self._closed or self._left:
                raise RuntimeError("the inlet is closed" if self._closed else "the pool judges no more programs")
            self._waiting.append(program)
            self._ring()

    def close(self) -> None:
        """Say that there will be no more programs; those that wait are still judged."""
        with self._lock:
            self._closed = True
            self._ring()

    def _ring(self) -> None:
        if self._bell is not None:
            try:
                os.write(self._bell[1], b"\0")
            except BlockingIOError:
                return  # it is ringing already

    # --- the pool's side ------------------------------------------------------------------------------------------

    def attach(self) -> int:
        """Return a descriptor that is readable when something has come."""
        with self._lock:
            if self._bell is not None or self._left:
                raise RuntimeError("an inlet leads to one pool, once")
            self._bell = os.pipe()
            for descriptor in self._bell:
                os.set_blocking(descriptor, False)
            self._ring()
            return self._bell[0]

    def hear(self) -> None:
        """Take note of what has come, until the descriptor is readable again."""
        if self._bell is not None:
            try:
                os.read(self._bell[0], 4096)
            except BlockingIOError:
                return

    def take(self) -> Program | None:
        """Return the next program if there is one now."""
        return self._waiting.popleft() if self._waiting else None

    @property
    def exhausted(self) -> bool:
        """Whether nothing is here and nothing will come."""
        with self._lock:
            return self._closed and not self._waiting

    def detach(self) -> None:
        """Leave: nothing is taken from here any more."""
        with self._lock:
            bell, self._bell, self._left = self._bell, None, True
            for descriptor in bell or ():
                os.close(descriptor)


class Drawn:
    """A plain iterable, seen as an inlet in which the next program is always there at once."""

    def __init__(self, programs: Iterable[Program]) -> None:
        self._programs = iter(programs)
        self.exhausted = False

    def take(self) -> Program | None:
        """Return the next program; None, and for good, at the end."""
        program = None if self.exhausted else next(self._programs, None)
        self.exhausted = program is None
        return program
