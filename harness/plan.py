"""From a suite to the work it asks for: models to make and cells to measure, each under a fingerprint.

A model's fingerprint covers its source's content or, for a student, its parent's fingerprint, its recipe and the texts
it is trained on; a cell's covers model, task and settings. Nothing is loaded here but text, so that a plan can be shown
and checked before the first second of work.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosstok.corpora import load_texts
from crosstok.errors import UserError
from crosstok.fingerprint import fingerprint
from distill import checkpoints
from distill.recipes import TransferSpec, check_transfer
from harness.suite import ModelSpec, Suite, order_of_models, parents
from tasks.registry import build_task
from tasks.task import CodeTask, PromptStyle, Task

STUDENT_VERSION = 1  # raised when the same recipe would give other weights
MEASURE_VERSION = 1  # raised when the same model would get other numbers


@dataclass(frozen=True)
class PlannedModel:
    """A model of the suite; under several seeds each trained student is planned once per seed."""

    name: str
    """Name in the tables: the suite's, with ``@seed`` where there are several."""
    spec: ModelSpec
    parents: tuple[str, ...]
    """Names of the planned models that it is made from."""
    transfer: TransferSpec | None
    """The checked recipe of a transfer, its seed filled in."""
    seed: int
    style: PromptStyle
    fingerprint: str

    @property
    def label(self) -> str:
        """What it is, in a few words."""
        if self.spec.ensemble:
            return f"{self.spec.ensemble.combine} of {' + '.join(self.parents)}"
        if self.transfer:
            losses = "+".join(self.transfer.loss_names) if self.transfer.steps else "not trained"
            return f"{self.transfer.tokenizer}, {self.transfer.init_name}, {losses}"
        return str(self.spec.source)


@dataclass(frozen=True)
class PlannedCell:
    """One model on one task."""

    model: PlannedModel
    task: Task
    settings: dict[str, Any]
    fingerprint: str


@dataclass(frozen=True)
class Plan:
    """Everything that a suite asks for, in the order in which it is done."""

    run_id: str
    suite: Suite
    models: dict[str, PlannedModel]
    tasks: tuple[Task, ...]
    cells: tuple[PlannedCell, ...]

    def cells_of(self, model: str) -> list[PlannedCell]:
        """Return the cells of one planned model, in the order of the suite's tasks."""
        return [cell for cell in self.cells if cell.model.name == model]


def make_plan(suite: Suite, *, data: Path | None = None) -> Plan:
    """Return the plan of ``suite``.

    Raises ``UserError`` for whatever can be known to be wrong before work starts: unknown tasks, options, corpora,
    tokenizers and sources, missing data, recipes that do not add up.
    """
    tasks = tuple(build_task(spec.kind, spec.options, name=spec.name, data=data) for spec in suite.tasks)
    models = {model.name: model for model in _models(suite, data)}
    cells = tuple(_cell(model, task, suite) for model in models.values() for task in tasks)
    identity = {
        "suite": suite.model_dump(mode="json"),
        "cells": [[cell.model.name, cell.fingerprint] for cell in cells],
    }
    return Plan(f"{suite.name}-{fingerprint(identity)[:8]}", suite, models, tasks, cells)


def _models(suite: Suite, data: Path | None) -> Iterator[PlannedModel]:
    known: dict[tuple[str, int], PlannedModel] = {}
    for name in order_of_models(suite):
        for seed in suite.seeds:
            made_from = [known[parent, seed] for parent in parents(suite, name)]
            model = _model(suite, name, seed, made_from, data)
            known[name, seed] = model
    emitted: set[str] = set()
    for name in suite.models:
        for seed in suite.seeds:
            model = known[name, seed]
            if model.name not in emitted:
                emitted.add(model.name)
                yield model


def _model(suite: Suite, name: str, seed: int, made_from: list[PlannedModel], data: Path | None) -> PlannedModel:
    spec = suite.models[name]
    transfer: TransferSpec | None = None
    if spec.source is not None:
        identity: dict[str, Any] = {"source": checkpoints.identify(spec.source)}
    elif spec.transfer is not None:
        options = {key: value for key, value in spec.transfer.items() if key not in ("from", "seed")}
        source = made_from[0].name if made_from else spec.transfer["from"]
        transfer = check_transfer({"from": source, "seed": spec.transfer.get("seed", seed), **options}, name)
        parent = made_from[0].fingerprint if made_from else checkpoints.identify(transfer.source)
        recipe = transfer.model_dump(mode="json", exclude={"source"})
        if not transfer.steps:
            recipe.pop("seed")
        texts = {corpus: load_texts(corpus, "train", data).source for corpus in corpora_of(transfer)}
        identity = {"version": STUDENT_VERSION, "parent": parent, "recipe": recipe, "texts": texts}
    elif spec.ensemble is not None:
        ensemble = spec.ensemble.model_dump(mode="json", exclude={"members"})
        identity = {"members": [member.fingerprint for member in made_from], **ensemble}
    else:
        raise UserError(f"Model {name!r} has neither source, transfer nor ensemble.")
    repeated = bool(transfer and transfer.steps) or any("@" in parent.name for parent in made_from)
    return PlannedModel(
        name=f"{name}@{seed}" if repeated and len(suite.seeds) > 1 else name,
        spec=spec,
        parents=tuple(model.name for model in made_from),
        transfer=transfer,
        seed=seed,
        style=spec.prompt or suite.prompt,
        fingerprint=fingerprint(identity),
    )


def corpora_of(transfer: TransferSpec) -> list[str]:
    """Return the text sources that a transfer reads: for training, and for a tokenizer that it trains."""
    named = [transfer.corpus] if transfer.steps else []
    if transfer.tokenizer.startswith("train:"):
        named.append(transfer.tokenizer.split(":", 2)[2].rpartition(":")[0])
    return sorted(set(named))


def _cell(model: PlannedModel, task: Task, suite: Suite) -> PlannedCell:
    settings: dict[str, Any] = {"dtype": suite.dtype, "version": MEASURE_VERSION}
    if isinstance(task, CodeTask):
        settings |= {"style": model.style, "decoding": "greedy", "sandbox": suite.sandbox.backend}
    identity = {"model": model.fingerprint, "task": task.fingerprint(), "settings": settings}
    return PlannedCell(model, task, settings, fingerprint(identity))
