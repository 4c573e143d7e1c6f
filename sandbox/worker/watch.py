"""Watches one program: its output, its clock, its verdict, and the end of everything that it started."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any

from .channel import ChannelClosed, split_frames

_TICK_S = 0.05
_LOOK_S = 0.25
"""How often a program that runs for longer than that is looked at more closely."""
_IDLE = 0.02
"""Of a core; what used less since the last look idles. A busy program gets more, though thirty others want its core."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_WORDS = {"timeout": "out of time", "output_limit": "too much output"}


class Watch:
    """Supervises a candidate, and the referee that judges it, from the worker."""

    def __init__(
        self, candidate: int, referee: int, outputs: tuple[int, int], limits: dict[str, Any], *, alone: bool
    ) -> None:
        """``alone``: all other processes that /proc shows are descendants of the candidate."""
        self._candidate = candidate
        self._referee = referee
        self._outputs = outputs
        self._limits = limits
        self._tails = {descriptor: bytearray() for descriptor in outputs}
        self._written = 0
        self._received = b""
        self._started = self._looked = time.monotonic()
        self._referee_before = cpu_seconds(referee)
        self._alone = alone
        self._children_s = 0.0
        self._used = 0.0
        self._idles = False
        for descriptor in outputs:
            os.set_blocking(descriptor, False)

    def wait(self, verdict: int, programs: int, tell: Callable[[dict[str, Any]], None]) -> str:
        """Return why the watch ended: ``verdict``, ``died`` (the referee did), ``timeout`` or ``output_limit``.

        The pool is told when the program begins to idle, and when it ceases to. Raises ChannelClosed where it is gone.
        """
        poll = select.poll()
        for descriptor in (verdict, *self._outputs):
            poll.register(descriptor, select.POLLIN)
        poll.register(programs, 0)  # only the end of the stream is of interest
        while (patience := self._patience()) > 0:
            for descriptor, event in poll.poll(1000 * patience):
                if descriptor == programs:
                    raise ChannelClosed("the pool is gone")
                if descriptor == verdict:
                    if end := self._hear(verdict):
                        return end
                elif not self._drain(descriptor) and event & select.POLLHUP:
                    poll.unregister(descriptor)
            if self._written > self._limits["output_bytes"]:
                return "output_limit"
            self._look(tell)
        return "timeout"

    def _hear(self, verdict: int) -> str:
        """Read what the referee wrote; return whether that ends the watch, and why."""
        chunk = os.read(verdict, 65536)
        self._received += chunk
        if not chunk:
            return "died"
        return "verdict" if len(split_frames(self._received)) == 2 else ""

    def _patience(self) -> float:
        """Return for how many seconds neither limit can be reached by one thread; nothing is left where one was."""
        cpu_left = self._limits["cpu_s"] - self._seconds()
        wall_left = self._started + self._limits["wall_s"] - time.monotonic()
        return min(wall_left, max(cpu_left / 2, _TICK_S), _LOOK_S) if cpu_left > 0 else 0.0

    def _look(self, tell: Callable[[dict[str, Any]], None]) -> None:
        """Now and then, count the time of the candidate's children too, and see whether anything computes."""
        now = time.monotonic()
        if now < self._looked + _LOOK_S:
            return
        if self._alone:
            self._children_s = _seconds_of_others((os.getpid(), self._candidate, self._referee), self._candidate)
        used = self._seconds()
        idles = used - self._used < _IDLE * (now - self._looked)
        if idles != self._idles:
            tell({"idles": idles})
        self._looked, self._used, self._idles = now, used, idles

    def _seconds(self) -> float:
        """Return the CPU time of candidate and referee, and that of the candidate's children as of the last look."""
        return cpu_seconds(self._candidate) + self._children_s + self._referee_seconds()

    def finish(self, reason: str, *, process_group: bool) -> dict[str, Any]:
        """End the candidate with everything that it started, and return the verdict."""
        wall = time.monotonic() - self._started
        referee_s = self._referee_seconds()
        seen_s = cpu_seconds(self._candidate) + self._children_s  # children that are killed leave no account of theirs
        kill(self._candidate, group=process_group)
        # Of a PID namespace's first process this returns when every process of the namespace is gone.
        _, status, used = os.wait4(self._candidate, 0)
        for descriptor in self._outputs:
            while self._drain(descriptor) and self._written <= 2 * self._limits["output_bytes"]:
                pass
            os.close(descriptor)
        used_s = max(seen_s, used.ru_utime + used.ru_stime)
        out, error = (self._tails[descriptor].decode("utf-8", "replace") for descriptor in self._outputs)
        return {
            "wall_s": round(wall, 6),
            "cpu_s": round(used_s + referee_s, 6),
            "peak_memory_bytes": used.ru_maxrss * 1024,
            "stdout_tail": out,
            "stderr_tail": error,
            "calls": None,
            "spent": True,
            "judged": True,  # by the referee, whose note tells the reason
            **self._judged(reason, status, used_s),
        }

    def _judged(self, reason: str, candidate_status: int, used_s: float) -> dict[str, Any]:
        """Return the referee's verdict, or what stands in its place."""
        frames = split_frames(self._received)
        if not frames:
            raise ChannelClosed("the referee did not read its program")  # the pipe is out of step: the worker is spent
        if reason in _WORDS:
            return {"status": reason, "error": _WORDS[reason], "judged": False}
        if len(frames) != 2:
            return {"status": "sandbox_error", "error": "the referee ended without a verdict", "judged": False}
        verdict: dict[str, Any] = {**frames[1], "error": ""}
        if verdict["status"] == "died":
            verdict["status"] = "error"
            if os.WIFSIGNALED(candidate_status):
                name = signal.Signals(os.WTERMSIG(candidate_status)).name
                verdict["error"] = f" ({name})"
                # Process 1 of a PID namespace cannot be killed from within, so this was the kernel.
                if name in ("SIGXCPU", "SIGKILL"):
                    verdict["status"] = "timeout" if used_s >= self._limits["cpu_s"] else "memory"
        return verdict

    def _referee_seconds(self) -> float:
        return max(0.0, cpu_seconds(self._referee) - self._referee_before)

    def _drain(self, descriptor: int) -> bool:
        """Read what there is, keep its end; return whether there was anything."""
        tail = self._tails[descriptor]
        try:
            chunk = os.read(descriptor, 1 << 20)
        except BlockingIOError:
            return False
        self._written += len(chunk)
        tail += chunk
        del tail[: -self._limits["output_tail_bytes"]]
        return bool(chunk)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a running child; 0 for one that ended."""
    try:
        return time.clock_gettime(
            (~pid << 3) | 2
        )  # the clock id of another process's CPU time, as in clock_getcpuclockid
    except OSError:
        return 0.0


def _seconds_of_others(known: tuple[int, ...], parent: int) -> float:
    """Return the CPU time of all processes but ``known``, and of the ended children of ``parent``."""
    ticks = 0
    for name in os.listdir("/proc"):
        pid = int(name) if name.isdigit() else 0
        if pid and (pid == parent or pid not in known):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
                try:
                    fields = os.read(descriptor, 4096).rpartition(b")")[2].split()
                finally:
                    os.close(descriptor)
                ticks += sum(map(int, fields[13:15] if pid == parent else fields[11:15]))
    return ticks / _TICKS_PER_S


def kill(pid: int, *, group: bool = False) -> None:
    """End a process, and those of its process group that did not leave it."""
    with contextlib.suppress(ProcessLookupError):
        if group:
            os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
