"""What comes out of the sandbox."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a program ended. Only ``PASSED`` is a pass; ``SANDBOX_ERROR`` says nothing about the program."""

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
    """The infrastructure failed; the run is incomplete and the program must be judged again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one program, with what it cost and how far it can be trusted."""

    id: str
    status: Status
    integrity: str
    """``split``, ``guarded`` or ``none``: how candidate and tests were kept apart."""
    tier: str
    """Backend and the guarantees that it gave on this host, for example ``namespaces(net,pid,mount,memory)``."""
    error: str = ""
    """One line for people: the failing assertion or the exception."""
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
