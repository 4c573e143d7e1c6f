"""Interface of the isolation backends, and the start of worker processes."""

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
"""Bytes of a control group reserved for the worker and the referee."""
OWN_PROCESSES = 8
"""Processes of a control group reserved for the worker and the referee."""
FOLDER = Path(__file__).resolve().parent.parent
"""Folder from which the worker interpreter imports the package ``worker``."""

ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",  # inside the sandbox: a tmpfs private to the program
    "TMPDIR": "/tmp",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""Complete environment of a program, on every backend."""


@dataclass(frozen=True, slots=True)
class BackendReport:
    """Availability and guarantees of one backend on this machine."""

    name: str
    available: bool
    guarantees: frozenset[str]
    """Subset of ``files``, ``net``, ``pid``, ``ipc``, ``seccomp``, ``processes``, ``memory`` (per process) and
    ``memory-total`` (all processes and memory files of a program); see docs/security.md."""
    missing: tuple[str, ...] = ()
    """What this machine lacks for this backend, or for further guarantees."""
    hint: str = ""
    """How to provide it."""


class Worker(ABC):
    """A running worker: an input stream of programs, an output stream of verdicts, and the means to end it."""

    config: dict[str, Any]
    """Content of the first frame sent to it."""
    programs: int
    """Descriptor to poll before writing."""
    verdicts: int
    """Descriptor to poll before reading."""

    @abstractmethod
    def write(self, data: memoryview) -> int:
        """Write what fits and return its size in bytes.

        Raises BlockingIOError if nothing fits, BrokenPipeError if the worker has closed its end.
        """

    @abstractmethod
    def read(self) -> bytes:
        """Return the available bytes, empty at the end of the stream. Raises BlockingIOError if none are available."""

    @abstractmethod
    def limit(self, limits: Limits) -> None:
        """Bound the total memory and number of the worker's processes, if the machine allows it."""

    @abstractmethod
    def stderr_tail(self) -> str:
        """Return the end of the worker's standard error."""

    @abstractmethod
    def close(self) -> None:
        """End the worker and everything it started; return once its processes are gone."""


class WorkerProcess(Worker):
    """A worker that is a child or grandchild of this process."""

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
        """Set the limits of the control group, if the worker has one."""
        if self._group is not None:
            self._group.limit(total_memory(limits), limits.processes + OWN_PROCESSES)

    def close(self) -> None:
        """Kill the worker and wait until its end of the pipe is closed."""
        process = self._process
        if process.stdin is not None:
            process.stdin.close()
        process.kill()
        process.wait()
        # The worker may be a grandchild, which cannot be waited for; the pipe closes when it is gone.
        os.set_blocking(self.verdicts, True)
        while os.read(self.verdicts, 1 << 16):
            pass
        if process.stdout is not None:
            process.stdout.close()
        self._errors.close()
        if self._group is not None:
            self._group.remove()

    def stderr_tail(self) -> str:
        """Return the last 2,000 bytes of standard error."""
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 2000))
        return self._errors.read().decode("utf-8", "replace").strip()


def total_memory(limits: Limits) -> int:
    """Return the bytes that a worker, its referee and a program under ``limits`` may use in total."""
    return limits.memory_bytes + limits.tmp_bytes + _OWN_BYTES


class Backend(ABC):
    """A way to isolate workers from the machine."""

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
        """Start worker number ``slot`` with ``packages`` imported in advance. Raises OSError if it cannot start."""


def worker_command() -> list[str]:
    """Return the command line of a worker: this interpreter and its arguments."""
    return [interpreter(), *worker_arguments()]


def interpreter() -> str:
    """Return the path of the base interpreter; a virtual environment may only hold a copy or link."""
    executable: str = getattr(sys, "_base_executable", "") or sys.executable
    return os.path.realpath(executable)


def worker_arguments() -> list[str]:
    """Return the interpreter arguments of a worker: no site packages, and only the worker package on the path."""
    start = "import sys; sys.path.insert(0, sys.argv.pop(1)); from worker.main import main; del sys.path[0]; main()"
    return ["-s", "-S", "-P", "-B", "-c", start, str(FOLDER)]


def worker_config(backend: str, uid: int, paths: Sequence[str], imports: Sequence[str]) -> dict[str, Any]:
    """Return a worker's configuration: backend, uid, paths of visible packages, and names to import."""
    return {"backend": backend, "uid": uid, "packages": list(paths), "imports": list(imports)}


def spawn(command: list[str], config: dict[str, Any], descriptors: Sequence[int] = ()) -> WorkerProcess:
    """Start a worker as a child of this process, in its own control group if this user may create one.

    The worker does nothing before it receives its configuration, so it is inside its group by then.
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
    """Return the guarantee that control groups add, or an empty set if this user cannot create any."""
    group = cgroups.create()
    if group is None:
        return frozenset()
    group.remove()
    return frozenset({"memory-total"})
