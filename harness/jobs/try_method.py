"""Trial of a new loss or initialiser: a student with it is trained, evaluated and compared with those of a suite.

The student copies the recipe of a trained student of the suite and replaces only its loss or initialiser, so that any
difference is due to the method. The other models of the suite come from the cache and the store if they are there. The
default baseline is, for each task, the best trained student of the suite.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosstok.distill.losses import Loss
from crosstok.distill.registry import INITIALISERS, LOSSES
from crosstok.errors import UserError, unknown_name
from crosstok.harness.jobs.run import Outcome, require_measured, run_suite
from crosstok.harness.plan.suite import ModelSpec, Suite
from crosstok.plugins import class_at
from crosstok.progress import ProgressCallback
from crosstok.results.compare.contrast import Side, best_of, sides
from crosstok.results.gate import GateReport, Rule, gate
from crosstok.results.store.store import Store


@dataclass(frozen=True)
class Trial:
    """Outcome of a trial."""

    outcome: Outcome
    model: str
    """Name of the new student in the run."""
    report: GateReport


def try_method(
    suite: Suite,
    store: Store,
    method: str,
    *,
    options: Mapping[str, Any],
    like: str | None = None,
    against: str | None = None,
    rules: tuple[Rule, ...] = (),
    progress: ProgressCallback | None = None,
    data: Path | None = None,
) -> Trial:
    """Run ``suite`` with another student that uses ``method``, and test it for regressions.

    ``method`` is a loss or an initialiser: ``module:Class`` or the name of a plug-in. ``like`` is the student whose
    recipe is copied (default: the last trained one), ``against`` the model to compare with.

    Raises:
        UserError: the method cannot be imported, or the suite has no such model.

    """
    students = [name for name, spec in suite.models.items() if is_trained(spec)]
    if not students:
        raise UserError(
            f"The suite {suite.name} trains no student.",
            hint="Choose a suite with a student that has a loss and steps.",
        )
    for chosen, known in ((like, students), (against, list(suite.models))):
        if chosen is not None and chosen not in known:
            raise unknown_name(f"model of the suite {suite.name}", chosen, known)
    name = free_name(method, suite)
    made = with_method(suite.models[like or students[-1]], method, options)
    extended = suite.model_copy(update={"models": {**suite.models, name: made}})
    outcome = run_suite(extended, store, progress=progress, data=data)
    require_measured(outcome, store, name)
    measured = sides(store, store.run(outcome.run_id))
    baselines = [against] if against else students
    return Trial(outcome, name, gate(*_by_seed(measured, name, baselines), rules))


def is_trained(spec: ModelSpec) -> bool:
    """Return whether the model is a student that is trained."""
    return spec.recipe is not None and bool(spec.recipe[1].get("loss")) and spec.recipe[1].get("steps") != 0


def with_method(spec: ModelSpec, method: str, options: Mapping[str, Any]) -> ModelSpec:
    """Return the spec of a student with its losses or its initialiser replaced by ``method``."""
    if spec.recipe is None:
        raise UserError("Only students have a loss and an initialiser.")
    kind, recipe = spec.recipe
    choice = {"name": method, **options} if options else method
    changed = {**recipe, "init": choice} if _is_initialiser(method) else {**recipe, "loss": [choice]}
    return spec.model_copy(update={kind: changed})


def free_name(method: str, suite: Suite) -> str:
    """Return a name for tables that no model of the suite has."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", method.rpartition(":")[2]) or "method"
    return next(name for name in (plain, *(f"{plain}-{n}" for n in range(2, 99))) if name not in suite.models)


def _is_initialiser(method: str) -> bool:
    if ":" not in method:
        return method in INITIALISERS.names() and method not in LOSSES.names()
    found = class_at(method)
    return not (isinstance(found, type) and issubclass(found, Loss))


def _by_seed(measured: Mapping[str, Side], name: str, baselines: list[str]) -> tuple[dict[str, Side], dict[str, Side]]:
    """Return candidates and their baselines of the same seed."""
    candidates: dict[str, Side] = {}
    references: dict[str, Side] = {}
    by_name = {(side.model, side.seed): side for side in measured.values()}
    for full, side in measured.items():
        if side.model != name:
            continue
        of_seed = [found for one in baselines if (found := by_name.get((one, side.seed)) or by_name.get((one, None)))]
        candidates[full] = side
        references[full] = best_of(of_seed)
    return candidates, references
