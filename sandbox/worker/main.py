"""Worker process: reads programs from the pool one at a time and forks a candidate process for each.

The worker never reads the program itself. It takes only the header with the limits from the pool's pipe; the referee
reads the rest, so no part of one program is in the memory that the next candidate inherits. The worker holds the clock,
the output pipes and the right to kill. The referee is forked too, and continues with the next program as long as the
tests that it ran cannot have changed its state (:func:`crosstok.sandbox.worker.referee.leaves_state_unchanged`).
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
from .supervisor import Supervisor, kill

_PROGRAMS, _VERDICTS = 0, 1
_REFEREE_LIMITS = {"memory_bytes": 1 << 30, "cpu_s": 10**8, "files": 64, "tmp_bytes": 0}
"""Limits of the referee process; its CPU time is limited per program, together with the candidate's."""


class _RefereeProcess(NamedTuple):
    pid: int
    control: socket.socket
    """Transfers, per program, the referee's ends of the two pipes to the candidate."""
    verdicts: int


class Worker:
    """Runs programs inside the outer jail, which is already in place."""

    def __init__(self, config: dict[str, Any], programs: int, verdicts: int) -> None:
        self._isolated = config["backend"] != "process"
        self._programs = programs
        self._verdicts = verdicts
        self._numpy = "numpy" in sys.modules
        self._pid_namespace = jail.own_pid_namespace() if self._isolated else -1
        self._candidate_filter = seccomp.program() if self._isolated else b""
        self._referee_filter = seccomp.program(processes=False) if self._isolated else b""
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._referee: _RefereeProcess | None = None

    def serve(self) -> None:
        """Run programs until the pool closes the pipe."""
        while True:
            header = read_frame(self._programs)
            write_frame(self._verdicts, self._judge(header))

    def _judge(self, header: dict[str, Any]) -> dict[str, Any]:
        limits = header["limits"]
        referee = self._referee or self._start_referee()
        # Pipes instead of a socket: half the cost, and they cannot transfer descriptors.
        requests_read, requests_write = os.pipe()
        answers_read, answers_write = os.pipe()
        out_read, out_write = os.pipe()
        error_read, error_write = os.pipe()
        socket.send_fds(referee.control, [b"judge"], [answers_read, requests_write])
        if self._isolated:
            jail.new_pid_namespace(self._pid_namespace)
        candidate_pid = os.fork()
        if not candidate_pid:
            self._run_candidate((requests_read, answers_write, out_write, error_write), limits)
        if self._isolated:
            jail.restore_pid_namespace(self._pid_namespace)
        for descriptor in (requests_read, requests_write, answers_read, answers_write, out_write, error_write):
            os.close(descriptor)
        supervisor = Supervisor(
            candidate_pid, referee.pid, (out_read, error_read), limits, owns_namespace=self._isolated
        )
        reason = supervisor.wait(referee.verdicts, self._programs, lambda state: write_frame(self._verdicts, state))
        verdict = supervisor.finish(reason, process_group=not self._isolated)
        if verdict.pop("spent"):
            self._end_referee(referee)
        return verdict

    def _start_referee(self) -> "_RefereeProcess":
        ours, its = socket.socketpair()
        verdict_read, verdict_write = os.pipe()
        pid = os.fork()
        if not pid:
            self._run_referee(its, verdict_write)
        its.close()
        os.close(verdict_write)
        self._referee = _RefereeProcess(pid, ours, verdict_read)
        return self._referee

    def _end_referee(self, referee: "_RefereeProcess") -> None:
        kill(referee.pid)
        os.waitpid(referee.pid, 0)
        referee.control.close()
        os.close(referee.verdicts)
        self._referee = None

    def _run_referee(self, control: socket.socket, verdict: int) -> NoReturn:
        code = 1
        try:
            wanted = {0: self._null, 1: self._null, 2: self._null, 3: self._programs, 4: verdict}
            wanted |= {5: self._verdicts, 6: control.detach()}
            _keep_descriptors(wanted)
            _set_limits(_REFEREE_LIMITS, processes=None)
            if self._isolated:
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

    def _run_candidate(self, descriptors: tuple[int, int, int, int], limits: dict[str, Any]) -> NoReturn:
        code = 1
        try:
            os.setsid()
            jail.set_oom_score(1000)
            requests, answers, out, error = descriptors
            _keep_descriptors({0: self._null, 1: out, 2: error, 3: requests, 4: answers})
            if self._isolated:
                jail.enter_inner(limits)
            _set_limits(limits, processes=limits["processes"])
            if self._isolated:
                kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
                kernel.drop_capabilities()
                kernel.install_seccomp(self._candidate_filter)
            else:
                kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
            random.seed(0)  # after the fork, at which the module reseeds itself
            candidate.run(Channel(3, 4), numpy=self._numpy)
        except SystemExit:
            code = 0
        except BaseException as fault:  # noqa: BLE001  (an internal error or an attack: handled alike)
            os.write(2, f"{type(fault).__name__}: {fault}\n".encode(errors="replace"))
        finally:
            os._exit(code)


def _keep_descriptors(wanted: dict[int, int]) -> None:
    """Move descriptors to fixed numbers and close all others."""
    raised = {number: os.dup2(descriptor, 100 + number, inheritable=True) for number, descriptor in wanted.items()}
    for number, descriptor in raised.items():
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
        pairs.append((resource.RLIMIT_NPROC, processes + 3))  # worker, referee and the candidate itself
    for which, value in pairs:
        _, hard = resource.getrlimit(which)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (bound, bound))


def _address_space() -> int:
    """Return the address space of this process in bytes, which RLIMIT_AS counts too."""
    descriptor = os.open("/proc/self/statm", os.O_RDONLY)
    try:
        return int(os.read(descriptor, 200).split()[0]) * resource.getpagesize()
    finally:
        os.close(descriptor)


def _import(config: dict[str, Any]) -> None:
    """Import the declared packages; inside the jail, so that they see only what programs will see."""
    isolated = config["backend"] != "process"
    paths = [jail.visible_at(path) if isolated else path for path in config["packages"]]
    sys.path += dict.fromkeys(os.path.dirname(path) for path in paths)
    with jail.scratch() if isolated else contextlib.nullcontext():
        for name in config["imports"]:
            importlib.import_module(name)


def main() -> NoReturn:
    """Entry point of a worker: read the configuration, enter the jail, report readiness, and serve the pool."""
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
            jail.mask(["/dev/mqueue", "/dev/pts", "/sys"])
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
