"""What the reference solutions need on this host: time, number of calls, and whether the tests can be split.

A limit that is generous on one machine is a false failure on another, so limits are multiples of what the reference
takes here. A reference that fails here would only count against models, so its task is excluded, by name.

The limit is CPU time of the program and of all processes that it starts. Unlike wall time it does not grow with what
else the machine does: beside four busy loops on two cores, references that take 50 ms or more took 0.87 to 0.99 times
what they took without them. That is why it can be short, and a looping program cheap. Of the 1,302 references of
HumanEval, MBPP and HumanEvalPack half take 5 ms or less and all but three less than 30 ms, process and referee
included. The slowest of HumanEval takes 0.16 s, and one of MBPP 2.5 s, which earns it 12.6 s. The minimum of one second
is thus two hundred times the usual reference: room for a candidate that goes about it in a much slower way.
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
"""Wall time is the backstop of CPU time: programs share their cores with others."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """What one task's reference took, and what its candidates are given for it."""

    id: str
    mode: Mode
    cpu_s: float
    """Of the reference."""
    limit_s: float
    """CPU seconds that a candidate is given."""
    expected_calls: int | None
    """None where two runs of the reference made different numbers of calls."""

    def apply(self, program: Program) -> Program:
        """Return a candidate's program under this requirement."""
        limits = replace(program.limits, cpu_s=self.limit_s, wall_s=_WALL_PER_CPU * self.limit_s)
        return replace(program, mode=self.mode, limits=limits, expected_calls=self.expected_calls)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The requirements of a benchmark on this host, to be stored with its results."""

    factor: float
    minimum_s: float
    requirements: Mapping[str, Requirement]
    excluded: Mapping[str, str]
    """Tasks whose reference fails here, and why."""

    @property
    def guarded(self) -> list[str]:
        """Tasks that cannot be split; their verdicts must not be mixed silently with the others."""
        return [name for name, found in self.requirements.items() if found.mode is Mode.GUARDED]


def calibrate(
    pool: Pool, references: Iterable[Program], *, factor: float = FACTOR, minimum_s: float = MINIMUM_S
) -> Calibration:
    """Run every reference twice and derive mode, time limit and number of calls.

    A reference that does not pass split is tried guarded. The limit is max(``minimum_s``, ``factor`` x CPU time).
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
