"""Comparability of two cells: whether they measured the same thing, and the reasons if not.

Cells are comparable if everything but the model is equal: the task with its version, options and documents, the
settings of the measurement, and the trust level of the verdicts. Any other difference is a reason: tables mark such
rows, which are neither tested nor averaged. Prompt style and sampling seed belong to the model, and excluded documents
drop out of both sides once pairs are formed; these are only remarks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crosstok.results.store.aggregates import VerdictFacts
from crosstok.results.store.records import Cell, Run, Task

_OF_THE_MODEL = frozenset({"style", "seed"})
_NUMBERS_DEPEND_ON = ("torch", "transformers", "tokenizers")


@dataclass(frozen=True, slots=True)
class Measurement:
    """What determines whether a cell is comparable."""

    task: Task
    cell: Cell
    verdicts: Sequence[VerdictFacts]

    @property
    def trust(self) -> frozenset[str]:
        """Trust level of its verdicts: integrity and sandbox tier."""
        return frozenset(f"{fact.integrity} {fact.tier}" for fact in self.verdicts)


def mismatch(first: Measurement, second: Measurement) -> tuple[str, str]:
    """Return the reasons why two cells are not comparable, and harmless differences; both empty if there are none."""
    reasons = _of_the_task(first, second)
    remarks: list[str] = []
    before, after = first.cell.settings, second.cell.settings
    for key in _differing(before, after):
        if key == "excluded":
            remarks.append(f"excluded documents: {_size(before.get(key))} and {_size(after.get(key))}")
        elif key == "guarded":
            reasons.append(f"guarded documents: {_size(before.get(key))} and {_size(after.get(key))}")
        else:
            (remarks if key in _OF_THE_MODEL else reasons).append(f"{key}: {before.get(key)} and {after.get(key)}")
    if _trusted_unlike(first, second):
        shown = [" + ".join(sorted(one.trust)) for one in (first, second)]
        reasons.append(f"verdicts: {shown[0]} and {shown[1]}")
    return "; ".join(reasons), "; ".join(remarks)


def mixed_versions(first: Run, second: Run) -> str:
    """Return the versions and devices that differ between two runs and may change the last digits of scores."""
    if first.id == second.id:
        return ""
    before, after = (_versions(run) for run in (first, second))
    return "; ".join(
        f"{name}: {before[name]} and {after[name]}" for name in before if before[name] and after[name] != before[name]
    )


def _trusted_unlike(first: Measurement, second: Measurement) -> bool:
    mine, theirs = first.trust, second.trust
    if not mine or not theirs or mine == theirs:
        return False
    # An unfinished cell may not have reached its guarded documents yet.
    planned = first.cell.settings.get("guarded")
    alike = bool(planned) and planned == second.cell.settings.get("guarded")
    return not (alike and (mine <= theirs or theirs <= mine))


def _of_the_task(first: Measurement, second: Measurement) -> list[str]:
    if first.cell.task == second.cell.task:
        return []
    one, other = first.task, second.task
    reasons = [] if one.version == other.version else [f"version of the task: {one.version} and {other.version}"]
    reasons += [
        f"option {key} of the task: {one.settings.get(key)} and {other.settings.get(key)}"
        for key in _differing(one.settings, other.settings)
    ]
    if one.source != other.source:
        reasons.append(f"source of the task: {_place(one.source)} and {_place(other.source)}")
    if one.documents != other.documents:
        reasons.append(f"documents of the task: {one.documents} and {other.documents}")
    return reasons or ["the task's documents differ"]


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return [key for key in sorted({*first, *second}) if first.get(key) != second.get(key)]


def _size(documents: Any) -> int:
    return len(documents) if isinstance(documents, list) else 0


def _place(source: Mapping[str, Any]) -> str:
    return " ".join(str(source.get(key) or "") for key in ("location", "revision", "sha256"))[:60].strip()


def _versions(run: Run) -> dict[str, Any]:
    packages = run.environment.get("packages")
    packages = packages if isinstance(packages, dict) else {}
    of_run = {name: run.environment.get(name) for name in ("crosstok", "device")}
    return of_run | {name: packages.get(name) for name in _NUMBERS_DEPEND_ON}
