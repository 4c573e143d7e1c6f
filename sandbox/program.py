"""What goes into the sandbox: a program and the limits that it runs under."""

from dataclasses import dataclass, field
from enum import StrEnum


class Mode(StrEnum):
    """How candidate and tests are kept apart.

    ``SPLIT``: candidate and tests in two processes, calls cross as data; the verdict cannot be forged.
    ``GUARDED``: both in one process, for tests that patch or subclass the candidate's objects; forgeable in principle,
    so such verdicts are marked and never mixed silently with the others.
    """

    SPLIT = "split"
    GUARDED = "guarded"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for one program. CPU time decides; wall time is the backstop for a program that sleeps."""

    cpu_s: float = 10.0
    wall_s: float = 30.0
    memory_bytes: int = 1 << 30
    tmp_bytes: int = 64 << 20
    processes: int = 64
    files: int = 128
    output_bytes: int = 16 << 20
    output_tail_bytes: int = 4096


@dataclass(frozen=True, slots=True)
class Program:
    """One candidate solution with the tests that judge it.

    ``tests`` either defines HumanEval's ``check(candidate)`` or is a list of plain asserts that call ``entry_point`` by
    its name. ``setup`` is trusted code that both sides need before anything else (imports and helper functions of the
    prompt); it never holds expected values.
    """

    id: str
    candidate: str
    tests: str
    entry_point: str
    setup: str = ""
    mode: Mode = Mode.SPLIT
    expected_calls: int | None = None
    """Calls that the reference solution receives; where known, a pass needs exactly as many."""
    packages: tuple[str, ...] = ()
    """Installed packages that candidate and tests may import besides the standard library, such as ``numpy``; they are
    imported beforehand. Only these are visible: an installed benchmark would show its solutions."""
    limits: Limits = field(default_factory=Limits)
