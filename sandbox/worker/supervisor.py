"""Supervisor of one running program: collects its output, enforces its limits, and ends all of its processes."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any

from .channel import ChannelClosed, split_frames

_TICK_S = 0.05
_SAMPLE_S = 0.25
"""Seconds between samples of the CPU time of child processes."""
_IDLE_CORES = 0.02
"""Share of a core below which a program is idle. A busy program gets more, even if thirty others share its core."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_LIMIT_ERRORS = {"timeout": "out of time", "output_limit": "too much output"}


class Supervisor:
    """Supervises a candidate and its referee from the worker."""

    def __init__(
        self, candidate: int, referee: int, outputs: tuple[int, int], limits: dict[str, Any], *, owns_namespace: bool
    ) -> None:
        """``owns_namespace`` states that all other processes in /proc are descendants of the candidate."""
        self._candidate = candidate
        self._referee = referee
        self._outputs = outputs
        self._limits = limits
        self._tails = {descriptor: bytearray() for descriptor in outputs}
        self._written = 0
        self._received = b""
        self._started = self._sampled = time.monotonic()
        self._referee_before = cpu_seconds(referee)
        self._owns_namespace = owns_namespace
        self._children_s = 0.0
        self._sampled_cpu_s = 0.0
        self._idle = False
        for descriptor in outputs:
            os.set_blocking(descriptor, False)

    def wait(self, verdict: int, programs: int, notify: Callable[[dict[str, Any]], None]) -> str:
        """Wait and return the reason for the end: ``verdict``, ``died`` (the referee), ``timeout`` or ``output_limit``.

        ``notify`` sends the pool a message whenever the program becomes idle or busy. Raises ChannelClosed if the pool
        is gone.
        """
        poll = select.poll()
        for descriptor in (verdict, *self._outputs):
            poll.register(descriptor, select.POLLIN)
        poll.register(programs, 0)  # reports only that the pool has closed it
        while (poll_s := self._poll_s()) > 0:
            for descriptor, event in poll.poll(1000 * poll_s):
                if descriptor == programs:
                    raise ChannelClosed("the pool is gone")
                if descriptor == verdict:
                    if end := self._read_verdict(verdict):
                        return end
                elif not self._drain(descriptor) and event & select.POLLHUP:
                    poll.unregister(descriptor)
            if self._written > self._limits["output_bytes"]:
                return "output_limit"
            self._sample(notify)
        return "timeout"

    def _read_verdict(self, verdict: int) -> str:
        """Read from the referee; return the reason if that ends the program, else an empty string."""
        chunk = os.read(verdict, 65536)
        self._received += chunk
        if not chunk:
            return "died"
        return "verdict" if len(split_frames(self._received)) == 2 else ""

    def _poll_s(self) -> float:
        """Return the seconds until a single thread could reach a limit; 0 once a limit is reached."""
        cpu_left = self._limits["cpu_s"] - self._seconds()
        wall_left = self._started + self._limits["wall_s"] - time.monotonic()
        return min(wall_left, max(cpu_left / 2, _TICK_S), _SAMPLE_S) if cpu_left > 0 else 0.0

    def _sample(self, notify: Callable[[dict[str, Any]], None]) -> None:
        """At intervals, sample the CPU time of child processes and report changes between idle and busy."""
        now = time.monotonic()
        if now < self._sampled + _SAMPLE_S:
            return
        if self._owns_namespace:
            self._children_s = _seconds_of_others((os.getpid(), self._candidate, self._referee), self._candidate)
        used = self._seconds()
        idle = used - self._sampled_cpu_s < _IDLE_CORES * (now - self._sampled)
        if idle != self._idle:
            notify({"idle": idle})
        self._sampled, self._sampled_cpu_s, self._idle = now, used, idle

    def _seconds(self) -> float:
        """Return the CPU seconds of the candidate, its children (as of the last sample) and the referee."""
        return cpu_seconds(self._candidate) + self._children_s + self._referee_seconds()

    def finish(self, reason: str, *, process_group: bool) -> dict[str, Any]:
        """Kill the candidate and everything it started, and return the verdict."""
        wall = time.monotonic() - self._started
        referee_s = self._referee_seconds()
        seen_s = cpu_seconds(self._candidate) + self._children_s  # killed children leave no record of their CPU time
        kill(self._candidate, group=process_group)
        # For process 1 of a PID namespace, this returns once every process of the namespace is gone.
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
            "judged": True,  # by the referee, whose note holds the reason
            **self._outcome(reason, status, used_s),
        }

    def _outcome(self, reason: str, candidate_status: int, used_s: float) -> dict[str, Any]:
        """Return the fields of the referee's verdict, or of a substitute if there is none."""
        frames = split_frames(self._received)
        if not frames:
            # The pipe still holds the program, so the pool must replace the worker.
            raise ChannelClosed("the referee did not read its program")
        if reason in _LIMIT_ERRORS:
            return {"status": reason, "error": _LIMIT_ERRORS[reason], "judged": False}
        if len(frames) != 2:
            return {"status": "sandbox_error", "error": "the referee ended without a verdict", "judged": False}
        verdict: dict[str, Any] = {**frames[1], "error": ""}
        if verdict["status"] == "died":
            verdict["status"] = "error"
            if os.WIFSIGNALED(candidate_status):
                name = signal.Signals(os.WTERMSIG(candidate_status)).name
                verdict["error"] = f" ({name})"
                # Process 1 of a PID namespace cannot be killed from within, so the kernel sent this signal.
                if name in ("SIGXCPU", "SIGKILL"):
                    verdict["status"] = "timeout" if used_s >= self._limits["cpu_s"] else "memory"
        return verdict

    def _referee_seconds(self) -> float:
        return max(0.0, cpu_seconds(self._referee) - self._referee_before)

    def _drain(self, descriptor: int) -> bool:
        """Read the available output and keep its tail; return whether there was any."""
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
    """Return the CPU seconds of a running child, or 0 if it has ended."""
    clock = (~pid << 3) | 2  # CPU clock of another process, as computed by clock_getcpuclockid
    try:
        return time.clock_gettime(clock)
    except OSError:
        return 0.0


def _seconds_of_others(known: tuple[int, ...], parent: int) -> float:
    """Return the CPU seconds of all processes except ``known``, plus those of ended children of ``parent``."""
    ticks = 0
    for name in os.listdir("/proc"):
        pid = int(name) if name.isdigit() else 0
        if pid and (pid == parent or pid not in known):
            with contextlib.suppress(OSError):  # the process has ended
                descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
                try:
                    fields = os.read(descriptor, 4096).rpartition(b")")[2].split()
                finally:
                    os.close(descriptor)
                ticks += sum(map(int, fields[13:15] if pid == parent else fields[11:15]))
    return ticks / _TICKS_PER_S


def kill(pid: int, *, group: bool = False) -> None:
    """Kill a process and, with ``group``, the members of its process group."""
    with contextlib.suppress(ProcessLookupError):
        if group:
            os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
