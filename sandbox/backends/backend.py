"""What every backend offers: a report of what it can promise here, and workers."""

import os
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

from crosstok.sandbox import cgroups
from crosstok.sandbox.cgroups import ControlGroup
from crosstok.sandbox.program import Limits

_OWN_BYTES = 192 << 20
"""Room in a control group for the worker and the referee beside the program."""
OWN_PROCESSES = 8
FOLDER = Path(__file__).resolve().parent.parent
"""The package's folder, in which the worker is found under the name ``worker``."""

ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",  # noqa: S108  (inside the sandbox: a tmpfs of the program's own)
    "TMPDIR": "/tmp",  # noqa: S108
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""All that a program finds in its environment, on every backend."""


@dataclass(frozen=True, slots=True)
class BackendReport:
    """What one backend can do on this machine."""

    name: str
    available: bool
    guarantees: frozenset[str]
    """Of ``files``, ``net``, ``pid``, ``ipc``, ``seccomp``, ``processes``, ``memory`` (of one process) and
    ``memory-total`` (of all that a program starts or maps)."""
    missing: tuple[str, ...] = ()
    """What this machine lacks for this backend, or for more guarantees."""
    hint: str = ""
    """How to get it."""


class Worker(ABC):
    """A running worker: a stream of programs into it, a stream of verdicts out of it, and the means to end it."""

    config: dict[str, Any]
    """The first frame that it is sent."""
    programs: int
    """Descriptor to wait on for room to write."""
    verdicts: int
    """Descriptor to wait on for something to read."""

    @abstractmethod
    def write(self, data: memoryview) -> int:
        """Write what fits now; raises BlockingIOError where nothing does, BrokenPipeError where nobody reads."""

    @abstractmethod
    def read(self) -> bytes:
        """Return what there is; nothing at the end of the stream. Raises BlockingIOError where there is nothing yet."""

    @abstractmethod
    def limit(self, limits: Limits) -> None:
        """Bound what the worker's processes take together, where this machine lets us."""

    @abstractmethod
    def last_words(self) -> str:
        """Return the end of what the worker wrote to its error stream."""

    @abstractmethod
    def close(self) -> None:
        """End the worker and everything inside it; returns when its processes are gone."""


class WorkerProcess(Worker):
    """A worker that is a child of this process, or a grandchild."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", errors: IO[bytes], config: dict[str, Any], group: ControlGroup | None
    ) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("a worker needs both of its pipes")
        self._process = process
        self._errors = errors
        self._group = group
        self.config = config
        self.programs = process.stdin.fileno()
        self.verdicts = process.stdout.fileno()
        for descriptor in (self.programs, self.verdicts):
            os.set_blocking(descriptor, False)

    def write(self, data: memoryview) -> int:
        """Write to the worker's standard input."""
        return os.write(self.programs, data)

    def read(self) -> bytes:
        """Read from the worker's standard output."""
        return os.read(self.verdicts, 1 << 20)

    def limit(self, limits: Limits) -> None:
        """Set the limits of the control group, if there is one."""
        if self._group is not None:
            self._group.limit(total_memory(limits), limits.processes + OWN_PROCESSES)

    def close(self) -> None:
        """Kill, and wait until the worker's end of the pipe is gone with it."""
        process = self._process
        if process.stdin is not None:
            process.stdin.close()
        process.kill()
        process.wait()
        # The worker may be a grandchild of this process; it holds the other end of this pipe until it is gone.
        os.set_blocking(self.verdicts, True)
        while os.read(self.verdicts, 1 << 16):
            pass
        if process.stdout is not None:
            process.stdout.close()
        self._errors.close()
        if self._group is not None:
            self._group.remove()

    def last_words(self) -> str:
        """Return the end of the error stream."""
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 2000))
        return self._errors.read().decode("utf-8", "replace").strip()


def total_memory(limits: Limits) -> int:
    """Return the bytes that a worker, its referee and a program under ``limits`` may take together."""
    return limits.memory_bytes + limits.tmp_bytes + _OWN_BYTES


class Backend(ABC):
    """One way to wall workers in."""

    name: ClassVar[str]

    needs_trial: ClassVar[bool] = True
    """Whether only a trial run shows that the backend works on this machine."""
    hint: ClassVar[str]
    """How to make the backend work where its trial fails."""

    def unmet_precondition(self) -> BackendReport | None:
        """Return a report of what the backend lacks before a trial makes sense, or None if nothing is missing."""
        return None

    @abstractmethod
    def promise(self) -> BackendReport:
        """Return the report for a machine on which the backend works."""

    def unavailable(self, fault: str, hint: str = "") -> BackendReport:
        """Return the report for a machine on which the backend does not work because of ``fault``."""
        return BackendReport(
            self.name, available=False, guarantees=frozenset(), missing=(fault,), hint=hint or self.hint
        )

    @abstractmethod
    def start(self, slot: int, packages: Sequence[str]) -> Worker:
        """Start worker number ``slot`` with ``packages`` imported beforehand. Raises OSError where it cannot start."""


def worker_command() -> list[str]:
    """Return the command of a worker: this interpreter and what to tell it."""
    return [interpreter(), *worker_arguments()]


def interpreter() -> str:
    """Return the path of the interpreter beside its standard library; an environment may hold a mere copy of it."""
    executable: str = getattr(sys, "_base_executable", "") or sys.executable
    return os.path.realpath(executable)


def worker_arguments() -> list[str]:
    """Return what makes an interpreter a worker: no site packages, and only the worker on its path."""
    start = "import sys; sys.path.insert(0, sys.argv.pop(1)); from worker.main import main; del sys.path[0]; main()"
    return ["-s", "-S", "-P", "-B", "-c", start, str(FOLDER)]


def worker_config(backend: str, uid: int, paths: Sequence[str], imports: Sequence[str]) -> dict[str, Any]:
    """Return a worker's configuration: the walls around it, its uid, what it sees of packages, what it imports."""
    return {"backend": backend, "uid": uid, "packages": list(paths), "imports": list(imports)}


def spawn(command: list[str], config: dict[str, Any], descriptors: Sequence[int] = ()) -> WorkerProcess:
    """Start a worker as a child of this process, in a control group of its own where this user may make one.

    Its configuration is the first frame that it is sent, so that it does nothing before it is in its group.
    """
    errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the worker)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,
            bufsize=0,
            pass_fds=descriptors,
        )
    except OSError:
        errors.close()
        raise
    group = cgroups.create()
    if group is not None:
        try:
            group.add(process.pid)
        except OSError:
            group.remove()
            group = None
    return WorkerProcess(process, errors, config, group)


def memory_total() -> frozenset[str]:
    """Return the guarantee that control groups add, where they can be made."""
    group = cgroups.create()
    if group is None:
        return frozenset()
    group.remove()
    return frozenset({"memory-total"})
