"""Records of a plan: models to make, cells (a model on a task) to measure, and the plan of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from crosstok.distill.recipes.identity import StudentIdentity
from crosstok.distill.recipes.options import StudentSpec
from crosstok.fingerprint import fingerprint
from crosstok.harness.openai.protocol import ServedModel
from crosstok.harness.plan.references import References
from crosstok.harness.plan.suite import ModelSpec, Suite
from crosstok.results.store.model_names import ModelName
from crosstok.sandbox import Program
from crosstok.tasks.task import CodeTask, Document, PromptStyle, Task

AGREEMENT_VERSION = 1  # raised when the agreement of the same two models changes


@dataclass(frozen=True)
class PlannedModel:
    """A model of the suite; a trained student is planned once per seed."""

    model_name: ModelName
    """Name in the suite, with the seed where the model is made once per seed."""
    spec: ModelSpec
    parents: tuple[str, ...]
    """Names of the planned models that it is made from."""
    options_of_parents: tuple[str, ...]
    """Options of its recipe that refer to them, in the same order; empty for an ensemble."""
    recipe: StudentSpec | None
    """Recipe of a student, with the seed filled in."""
    seed: int
    style: PromptStyle
    fingerprint: str
    identity: StudentIdentity | None = None
    """Everything that decides the weights of a student; its fingerprint is that of the model."""
    served: ServedModel | None = None
    """The server behind which it is; None for a local model."""
    dtype: str = ""
    """Data type, if the suite does not decide it."""

    @property
    def name(self) -> str:
        """Name shown in tables, unique in the plan."""
        return str(self.model_name)

    @property
    def generates_only(self) -> bool:
        """Whether it can only generate: a union of top-k tokens gives most tokens of a text no probability."""
        return self.spec.ensemble is not None and self.spec.ensemble.tokens == "union"

    @property
    def label(self) -> str:
        """Short description for tables."""
        if self.spec.ensemble:
            ensemble = self.spec.ensemble
            tokens = "" if ensemble.tokens == "same" else f", {ensemble.tokens} tokens"
            return f"{ensemble.combine} of {' + '.join(self.parents)}{tokens}"
        if self.recipe:
            return self.recipe.label
        return str(self.spec.source)


@dataclass(frozen=True)
class PlannedCell:
    """One model on one task."""

    model: PlannedModel
    task: Task
    settings: dict[str, Any]
    """Everything but model and task that affects its numbers; stored with the results."""
    timeout: float | None = None
    """CPU seconds per program; None for a limit calibrated by the published solutions."""
    references: References | None = None
    """Findings on the published solutions; None before they are known, and for tasks that run no programs."""
    teacher: PlannedModel | None = None
    """Model whose distributions are compared on every text; see ``crosstok.harness.likelihood.agreement``."""

    @cached_property
    def fingerprint(self) -> str:
        """Key of its results in the store."""
        identity: dict[str, Any] = {
            "model": self.model.fingerprint,
            "task": self.task.fingerprint(),
            "settings": self.settings,
        }
        if self.teacher is not None:  # not in settings: the likelihoods stay comparable with those of other cells
            identity["agreement"] = [self.teacher.fingerprint, AGREEMENT_VERSION]
        return fingerprint(identity)

    def with_references(self, references: References) -> "PlannedCell":
        """Return the cell with the time limits and the excluded documents of this host."""
        found = references.calibration
        calibrated = f"{found.factor:g} x reference, at least {found.minimum_s:g} s"
        settings = {
            **self.settings,
            "cpu_limit": calibrated if self.timeout is None else f"{self.timeout:g} s",
            "excluded": sorted(found.excluded),
            "guarded": sorted(found.guarded),
        }
        return replace(self, settings=settings, references=references)

    @property
    def documents(self) -> Sequence[Document]:
        """The documents of the task that this host can judge."""
        return [document for document in self.task.documents() if document.id not in self.excluded]

    @property
    def excluded(self) -> Mapping[str, str]:
        """Excluded documents by id, with reasons."""
        return self.references.excluded if self.references else {}

    def limited(self, program: Program) -> Program:
        """Return ``program`` with the isolation mode and the limits of this host."""
        return self.references.limited(program, self.timeout) if self.references else program


@dataclass(frozen=True)
class Plan:
    """Everything that a suite asks for, in the order of execution."""

    suite: Suite
    models: dict[str, PlannedModel]
    tasks: tuple[Task, ...]
    cells: tuple[PlannedCell, ...]

    @cached_property
    def run_id(self) -> str:
        """Id of the run: the name of the suite and a hash of suite and cells."""
        cells = [[cell.model.name, cell.fingerprint] for cell in self.cells]
        return f"{self.suite.name}-{fingerprint({'suite': self.suite.model_dump(mode='json'), 'cells': cells})[:8]}"

    def with_references(self, references: Mapping[str, References]) -> "Plan":
        """Return the plan with findings on published solutions; ``references`` maps names of tasks to them."""
        cells = tuple(
            cell.with_references(references[cell.task.name]) if cell.task.name in references else cell
            for cell in self.cells
        )
        return replace(self, cells=cells)

    @property
    def code_tasks(self) -> list[CodeTask]:
        """The tasks whose answers are programs."""
        return [task for task in self.tasks if isinstance(task, CodeTask)]

    def cells_of(self, model: str) -> list[PlannedCell]:
        """Return the cells of one planned model, in the order of the tasks."""
        return [cell for cell in self.cells if cell.model.name == model]
