"""Program to run in the sandbox, and its resource limits."""

from dataclasses import dataclass, field
from enum import StrEnum


class Mode(StrEnum):
    """Separation of candidate and tests.

    ``SPLIT``: two processes that exchange arguments and results as data; the verdict cannot be forged.
    ``GUARDED``: one process, for tests that patch or subclass the candidate's objects. A candidate can forge such a
    verdict, so guarded verdicts are marked and reported separately.
    """

    SPLIT = "split"
    GUARDED = "guarded"


@dataclass(frozen=True, slots=True)
class Limits:
    """Resource limits of one program, in seconds, bytes and counts.

    CPU time is the deciding limit; wall time only ends programs that sleep.
    """

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
    """A candidate solution together with its tests.

    ``tests`` either defines ``check(candidate)``, as in HumanEval, or consists of plain asserts that call
    ``entry_point`` by name. ``setup`` is trusted code that runs first in both processes (imports and helper functions
    of the prompt); it must not contain expected values.
    """

    id: str
    candidate: str
    tests: str
    entry_point: str
    setup: str = ""
    mode: Mode = Mode.SPLIT
    expected_calls: int | None = None
    """Number of calls that the reference solution receives; if set, a pass requires exactly as many."""
    packages: tuple[str, ...] = ()
    """Installed packages besides the standard library that candidate and tests may import, such as ``numpy``. They are
    imported in advance. No other package is visible, because an installed benchmark would expose its solutions."""
    limits: Limits = field(default_factory=Limits)
