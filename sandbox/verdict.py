"""Verdict of the sandbox on one program."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """Outcome of a program. Only ``PASSED`` is a pass; ``SANDBOX_ERROR`` says nothing about the program."""

    PASSED = "passed"
    FAILED = "failed"
    """A test failed."""
    ERROR = "error"
    """The candidate raised, did not compile, or died."""
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    TAMPERED = "tampered"
    """The candidate tried to write its own verdict."""
    SANDBOX_ERROR = "sandbox_error"
    """The infrastructure failed; the run is incomplete and the program must run again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcome of one program, with its cost (seconds, bytes) and the isolation it ran under."""

    id: str
    status: Status
    integrity: str
    """How candidate and tests were separated: ``split``, ``guarded``, or ``none`` for a sandbox error."""
    tier: str
    """Backend and its guarantees on this host, for example ``namespaces(files,ipc,memory,net,pid)``."""
    error: str = ""
    """One line: the failing assertion or the exception."""
    calls: int | None = None
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    stdout_tail: str = ""
    stderr_tail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the program passed its tests."""
        return self.status is Status.PASSED
