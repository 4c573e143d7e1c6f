"""Calibration of limits: CPU time, number of calls and mode that each reference solution needs on this host.

A fixed limit that is generous on one machine causes false failures on another, so limits are multiples of what the
reference solution takes here. A task whose reference fails here would only count against models; it is excluded, and
reported by name.

The limit is on CPU time, of the program and of every process that it starts. Unlike wall time, it does not depend on
the load of the machine: next to four busy loops on two cores, references that take 50 ms or more took 0.87 to 0.99
times their undisturbed CPU time. The limit can therefore be short, and infinite loops are cheap. Of the 1,302
references of HumanEval, MBPP and HumanEvalPack half take 5 ms or less, and all but three less than 30 ms, candidate and
referee together. The slowest of HumanEval takes 0.16 s; one of MBPP takes 2.5 s and gets a limit of 12.6 s. The minimum
of one second is thus two hundred times the median reference, which leaves room for much slower algorithms.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from crosstok.sandbox.pool import Pool
from crosstok.sandbox.program import Mode, Program

if TYPE_CHECKING:
    from crosstok.sandbox.verdict import Verdict

FACTOR = 5.0
MINIMUM_S = 1.0
_WALL_PER_CPU = 4.0
"""Wall limit as a multiple of the CPU limit; generous, because programs share their cores."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """Cost of one task's reference solution, and the limits derived for its candidates."""

    id: str
    mode: Mode
    cpu_s: float
    """CPU seconds of the reference."""
    limit_s: float
    """CPU limit of a candidate, in seconds."""
    expected_calls: int | None
    """Number of calls; None if two runs of the reference made different numbers of calls."""

    def apply(self, program: Program) -> Program:
        """Return ``program`` with this mode, these limits and this number of calls."""
        limits = replace(program.limits, cpu_s=self.limit_s, wall_s=_WALL_PER_CPU * self.limit_s)
        return replace(program, mode=self.mode, limits=limits, expected_calls=self.expected_calls)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Requirements of a benchmark on this host; stored with its results."""

    factor: float
    minimum_s: float
    requirements: Mapping[str, Requirement]
    excluded: Mapping[str, str]
    """Tasks whose reference fails on this host, with the reason."""

    @property
    def guarded(self) -> list[str]:
        """Tasks that only pass in guarded mode; their verdicts are reported separately."""
        return [name for name, found in self.requirements.items() if found.mode is Mode.GUARDED]


def calibrate(
    pool: Pool, references: Iterable[Program], *, factor: float = FACTOR, minimum_s: float = MINIMUM_S
) -> Calibration:
    """Run every reference twice and derive its mode, CPU limit and number of calls.

    A reference that fails in split mode is tried in guarded mode. The limit is max(``minimum_s``, ``factor`` x CPU
    time), in seconds.
    """
    programs = {program.id: program for program in references}
    requirements: dict[str, Requirement] = {}
    excluded: dict[str, str] = {}
    waiting = programs
    for mode in (Mode.SPLIT, Mode.GUARDED):
        twice = [replace(program, mode=mode, expected_calls=None) for program in waiting.values() for _ in range(2)]
        runs: dict[str, list[Verdict]] = {name: [] for name in waiting}
        for verdict in pool.run(twice):
            runs[verdict.id].append(verdict)
        for name, verdicts in runs.items():
            failed = next((verdict for verdict in verdicts if not verdict.passed), None)
            if failed is not None:
                excluded[name] = f"{excluded.get(name, '')} {mode.value}: {failed.status.value} {failed.error}".strip()
                continue
            excluded.pop(name, None)
            cpu_s = max(verdict.cpu_s for verdict in verdicts)
            calls = {verdict.calls for verdict in verdicts}
            requirements[name] = Requirement(
                name, mode, cpu_s, max(minimum_s, factor * cpu_s), calls.pop() if len(calls) == 1 else None
            )
        waiting = {name: programs[name] for name in excluded}
    return Calibration(factor, minimum_s, requirements, excluded)
