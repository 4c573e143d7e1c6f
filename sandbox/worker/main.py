"""The warm worker: takes programs from the pool one after the other and forks a candidate process for each.

It never reads a program. The header of a program (its limits) is all that it takes from the pool's pipe; the rest is
read by the referee, so that nothing of one program is in the memory that the next one's candidate inherits. It holds
the clock, the output pipes and the power to kill. The referee is a fork as well, and goes on to the next program as
long as the tests that it ran cannot have changed it (:func:`crosstok.sandbox.worker.referee.leaves_no_trace`).
"""

import contextlib
import gc
import importlib
import os
import random
import resource
import socket
import sys
from typing import Any, NamedTuple, NoReturn

from . import candidate, jail, kernel, referee, seccomp
from .channel import Channel, ChannelClosed, read_frame, write_frame
from .watch import Watch, kill

_PROGRAMS, _VERDICTS = 0, 1
_REFEREE_LIMITS = {"memory_bytes": 1 << 30, "cpu_s": 10**8, "files": 64, "tmp_bytes": 0}
"""Of the process, whose time is limited program by program like the candidate's."""


class _RefereeProcess(NamedTuple):
    pid: int
    orders: socket.socket
    """Carries, per program, its ends of the two pipes to the candidate."""
    verdicts: int


class Worker:
    """Judges programs inside a jail that is already up."""

    def __init__(self, config: dict[str, Any], programs: int, verdicts: int) -> None:
        self._walls = config["backend"] != "process"
        self._programs = programs
        self._verdicts = verdicts
        self._numpy = "numpy" in sys.modules
        self._pid_namespace = jail.own_pid_namespace() if self._walls else -1
        self._candidate_filter = seccomp.program() if self._walls else b""
        self._referee_filter = seccomp.program(processes=False) if self._walls else b""
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._referee: _RefereeProcess | None = None

    def serve(self) -> None:
        """Judge programs until the pool hangs up."""
        while True:
            header = read_frame(self._programs)
            write_frame(self._verdicts, self._judge(header))

    def _judge(self, header: dict[str, Any]) -> dict[str, Any]:
        limits = header["limits"]
        referee = self._referee or self._start_referee()
        # Two pipes and not a socket: half the price, and no descriptor can be sent over them.
        requests_read, requests_write = os.pipe()
        answers_read, answers_write = os.pipe()
        out_read, out_write = os.pipe()
        error_read, error_write = os.pipe()
        socket.send_fds(referee.orders, [b"judge"], [answers_read, requests_write])
        if self._walls:
            jail.new_pid_namespace(self._pid_namespace)
        candidate_pid = os.fork()
        if not candidate_pid:
            self._be_candidate((requests_read, answers_write, out_write, error_write), limits)
        if self._walls:
            jail.back_to_own_pid_namespace(self._pid_namespace)
        for descriptor in (requests_read, requests_write, answers_read, answers_write, out_write, error_write):
            os.close(descriptor)
        watch = Watch(candidate_pid, referee.pid, (out_read, error_read), limits, alone=self._walls)
        reason = watch.wait(referee.verdicts, self._programs, lambda state: write_frame(self._verdicts, state))
        verdict = watch.finish(reason, process_group=not self._walls)
        if verdict.pop("spent"):
            self._end_referee(referee)
        return verdict

    def _start_referee(self) -> "_RefereeProcess":
        ours, its = socket.socketpair()
        verdict_read, verdict_write = os.pipe()
        pid = os.fork()
        if not pid:
            self._be_referee(its, verdict_write)
        its.close()
        os.close(verdict_write)
        self._referee = _RefereeProcess(pid, ours, verdict_read)
        return self._referee

    def _end_referee(self, referee: "_RefereeProcess") -> None:
        kill(referee.pid)
        os.waitpid(referee.pid, 0)
        referee.orders.close()
        os.close(referee.verdicts)
        self._referee = None

    def _be_referee(self, orders: socket.socket, verdict: int) -> NoReturn:
        code = 1
        try:
            wanted = {0: self._null, 1: self._null, 2: self._null, 3: self._programs, 4: verdict}
            wanted |= {5: self._verdicts, 6: orders.detach()}
            _keep_descriptors(wanted)
            _set_limits(_REFEREE_LIMITS, processes=None)
            if self._walls:
                kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
                kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
                kernel.drop_capabilities()
                kernel.install_seccomp(self._referee_filter)
            else:
                kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
            referee.serve(3, 4, 5, socket.socket(fileno=6), numpy=self._numpy)
        except SystemExit:
            code = 0
        finally:
            os._exit(code)

    def _be_candidate(self, descriptors: tuple[int, int, int, int], limits: dict[str, Any]) -> NoReturn:
        code = 1
        try:
            os.setsid()
            jail.favour_for_oom(1000)
            requests, answers, out, error = descriptors
            _keep_descriptors({0: self._null, 1: out, 2: error, 3: requests, 4: answers})
            if self._walls:
                jail.enter_inner(limits)
            _set_limits(limits, processes=limits["processes"])
            if self._walls:
                kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
                kernel.drop_capabilities()
                kernel.install_seccomp(self._candidate_filter)
            else:
                kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
            random.seed(0)  # after the fork, where the module seeds itself anew
            candidate.run(Channel(3, 4), numpy=self._numpy)
        except SystemExit:
            code = 0
        except BaseException as fault:  # noqa: BLE001  (a fault of ours or a trick of the candidate's: same end)
            os.write(2, f"{type(fault).__name__}: {fault}\n".encode(errors="replace"))
        finally:
            os._exit(code)


def _keep_descriptors(wanted: dict[int, int]) -> None:
    """Put descriptors at fixed numbers and close all others."""
    high = {number: os.dup2(descriptor, 100 + number, inheritable=True) for number, descriptor in wanted.items()}
    for number, descriptor in high.items():
        os.dup2(descriptor, number)
    os.closerange(max(wanted) + 1, 1 << 20)


def _set_limits(limits: dict[str, Any], *, processes: int | None) -> None:
    memory = limits["memory_bytes"] + _address_space()
    cpu = int(limits["cpu_s"]) + 1
    pairs = [
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_NOFILE, limits["files"]),
        (resource.RLIMIT_FSIZE, limits["tmp_bytes"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ]
    if processes is not None:
        pairs.append((resource.RLIMIT_NPROC, processes + 3))  # the worker, the referee and the candidate itself
    for which, value in pairs:
        _, hard = resource.getrlimit(which)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (bound, bound))


def _address_space() -> int:
    """Return the bytes of address space that this process has, which RLIMIT_AS counts too."""
    descriptor = os.open("/proc/self/statm", os.O_RDONLY)
    try:
        return int(os.read(descriptor, 200).split()[0]) * resource.getpagesize()
    finally:
        os.close(descriptor)


def _import(config: dict[str, Any]) -> None:
    """Import what programs have declared; behind the walls, where a package finds only what they will find."""
    walled = config["backend"] != "process"
    paths = [jail.visible_at(path) if walled else path for path in config["packages"]]
    sys.path += dict.fromkeys(os.path.dirname(path) for path in paths)
    with jail.scratch() if walled else contextlib.nullcontext():
        for name in config["imports"]:
            importlib.import_module(name)


def main() -> NoReturn:
    """Be a worker: read the configuration, go behind the walls, say so, and judge until the pool hangs up."""
    programs, verdicts = os.dup(_PROGRAMS), os.dup(_VERDICTS)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    config = read_frame(programs)
    try:
        if config["backend"] == "namespaces":
            jail.enter(jail.interpreter_root(config["packages"]), config["uid"])
        elif config["backend"] in ("bubblewrap", "docker"):
            jail.enter(None, config["uid"])
        if config["backend"] == "docker":
            jail.cover(["/dev/mqueue", "/dev/pts", "/sys"])
        _import(config)
        worker = Worker(config, programs, verdicts)
    except (OSError, ImportError) as fault:
        write_frame(verdicts, {"error": f"{type(fault).__name__}: {fault}"})
        os._exit(1)
    for name in [name for name in sys.modules if name.partition(".")[0] == __package__.partition(".")[0]]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()
    write_frame(verdicts, {"ready": True, "python": sys.version.split()[0]})
    with contextlib.suppress(ChannelClosed):
        worker.serve()
    os._exit(0)
