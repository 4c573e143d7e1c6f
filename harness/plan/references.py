"""Published solutions of code benchmarks, run in the sandbox of this host to calibrate it.

A document whose published solution fails here (missing library, no network, slow machine) is excluded with the reason:
it could only count against models. The solutions that pass give the time limit of candidate programs and the number of
calls that the tests make. Findings are cached per sandbox, Python version and versions of the packages involved.
"""

import json
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from crosstok import sandbox
from crosstok.errors import UserError
from crosstok.fingerprint import fingerprint
from crosstok.folders import cache_folder
from crosstok.sandbox import Calibration, Mode, Program, Requirement, Status, Verdict
from crosstok.sandbox.calibration import FACTOR, MINIMUM_S
from crosstok.tasks.code.libraries import missing
from crosstok.tasks.task import CodeTask, Document

_VERSION = 2


@dataclass(frozen=True)
class References:
    """Findings on the published solutions of one task."""

    task: str
    documents: int
    calibration: Calibration
    """Requirements of the solutions that passed, and the excluded documents with reasons."""
    controls: int
    """Number of programs published as wrong that were run."""
    unruly: tuple[str, ...]
    """Ids of documents whose wrong program passed."""
    seconds: float

    @property
    def passed(self) -> int:
        """Number of published solutions that passed."""
        return len(self.calibration.requirements)

    @property
    def excluded(self) -> dict[str, str]:
        """Excluded documents by id, with reasons."""
        return dict(self.calibration.excluded)

    def limited(self, program: Program, seconds: float | None = None) -> Program:
        """Return ``program`` with the mode (split or guarded) and the expected calls of its published solution.

        Its time limit is calibrated by that solution, or is ``seconds`` of CPU time if given.
        """
        fitted = self.calibration.requirements[program.id].apply(program)
        if seconds is None:
            return fitted
        ratio = fitted.limits.wall_s / fitted.limits.cpu_s
        return replace(fitted, limits=replace(fitted.limits, cpu_s=seconds, wall_s=ratio * seconds))


def check_references(
    task: CodeTask, pool: sandbox.Pool, *, fresh: bool = False, progress: Callable[[int], None] | None = None
) -> References:
    """Run every published solution of ``task`` twice, or return the cached findings (not if ``fresh``).

    A solution that fails in split mode is run again in guarded mode; programs that the task declares guarded run in
    guarded mode only. ``progress`` is called with the number of programs done since the last call.

    Raises:
        UserError: the sandbox itself failed, which says nothing about a solution.

    """
    known = None if fresh else known_references(task, pool.tier)
    if known is not None:
        return known
    began = time.monotonic()
    found = _check(task, pool, progress or (lambda _: None))
    references = replace(found, seconds=time.monotonic() - began)
    _save(_file(task, pool.tier), references)
    return references


def known_references(task: CodeTask, tier: str) -> References | None:
    """Return the cached findings for the sandbox ``tier`` of this host, None if there are none."""
    file = _file(task, tier)
    found = _load(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None
    return replace(found, task=task.name) if found else None


def _file(task: CodeTask, tier: str) -> Path:
    return cache_folder() / "references" / f"{_key(task, tier)}.json"


def _check(task: CodeTask, pool: sandbox.Pool, progress: Callable[[int], None]) -> References:
    documents = task.documents()
    requirements: dict[str, Requirement] = {}
    excluded: dict[str, str] = {}
    waiting: list[Program] = []
    for document in documents:
        lacking = missing(task.requires(document))
        if lacking:
            excluded[document.id] = f"requires {', '.join(lacking)}, not installed here"
            progress(1)
        else:
            waiting.append(task.reference(document))
    for mode in (Mode.SPLIT, Mode.GUARDED):
        now = [
            replace(one, mode=mode, expected_calls=None) for one in waiting if mode is Mode.GUARDED or one.mode is mode
        ]
        later = [one for one in waiting if mode is Mode.SPLIT and one.mode is Mode.GUARDED]
        for program, verdicts in _twice(pool, now):
            failed = next((verdict for verdict in verdicts if not verdict.passed), None)
            if failed is None:
                requirements[program.id] = _requirement(program, verdicts)
                excluded.pop(program.id, None)
            else:
                reason = f"{mode.value}: {failed.status.value} {failed.error}".strip()
                excluded[program.id] = f"{excluded[program.id]}; {reason}" if program.id in excluded else reason
                later.append(program)
            progress(1)
        waiting = later
    controls = [wrong for document in documents if (wrong := _control(task, document, requirements)) is not None]
    unruly = tuple(sorted(verdict.id for verdict in pool.run(controls) if verdict.passed))
    calibration = Calibration(FACTOR, MINIMUM_S, requirements, excluded)
    return References(task.name, len(documents), calibration, len(controls), unruly, 0.0)


def _twice(pool: sandbox.Pool, programs: Iterable[Program]) -> Iterable[tuple[Program, list[Verdict]]]:
    by_id = {program.id: program for program in programs}
    runs: dict[str, list[Verdict]] = {name: [] for name in by_id}
    for verdict in pool.run(program for program in by_id.values() for _ in range(2)):
        if verdict.status is Status.SANDBOX_ERROR:
            raise UserError(
                f"The sandbox failed on the published solution of {verdict.id}: {verdict.error or 'no reason given'}.",
                hint="`crosstok doctor` shows the state of the sandboxes.",
            )
        runs[verdict.id].append(verdict)
        if len(runs[verdict.id]) == 2:
            yield by_id[verdict.id], runs[verdict.id]


def _requirement(program: Program, verdicts: list[Verdict]) -> Requirement:
    cpu_s = max(verdict.cpu_s for verdict in verdicts)
    calls = {verdict.calls for verdict in verdicts}
    return Requirement(
        program.id, program.mode, cpu_s, max(MINIMUM_S, FACTOR * cpu_s), calls.pop() if len(calls) == 1 else None
    )


def _control(task: CodeTask, document: Document, requirements: dict[str, Requirement]) -> Program | None:
    wrong = task.wrong(document)
    found = requirements.get(document.id)
    return None if wrong is None or found is None else replace(found.apply(wrong), expected_calls=None)


def _key(task: CodeTask, tier: str) -> str:
    """Return the cache key of findings: programs, sandbox, Python and packages."""
    documents = task.documents()
    names = sorted({name for document in documents for name in task.requires(document)})
    return fingerprint(
        {
            "version": _VERSION,
            "programs": [asdict(task.reference(document)) for document in documents],
            "tier": tier,
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in names},
        }
    )


def _version(package: str) -> str:
    try:
        return version({"sklearn": "scikit-learn", "PIL": "pillow"}.get(package, package))
    except PackageNotFoundError:
        return ""


def _save(file: Path, references: References) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(references), indent=1), encoding="utf-8")
    partial.replace(file)


def _load(content: dict[str, Any]) -> References:
    calibration = content["calibration"]
    requirements = {
        name: Requirement(**{**found, "mode": Mode(found["mode"])})
        for name, found in calibration["requirements"].items()
    }
    restored = Calibration(calibration["factor"], calibration["minimum_s"], requirements, calibration["excluded"])
    return References(**{**content, "calibration": restored, "unruly": tuple(content["unruly"])})


def require_some(references: References) -> None:
    """Raise ``UserError`` if no document of a task can be judged on this host."""
    if references.passed:
        return
    document, reason = next(iter(references.excluded.items()))
    raise UserError(
        f"Every published solution of {references.task} fails on this host ({document}: {reason[:200]}).",
        hint=f"See `crosstok tasks check {references.task}` and `crosstok doctor`.",
    )
