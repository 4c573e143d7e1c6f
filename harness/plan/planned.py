"""Records of a plan: the models to make, the cells to measure (one model on one task), and both together."""

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

AGREEMENT_VERSION = 1  # raised when the same model and teacher would get other figures of agreement


@dataclass(frozen=True)
class PlannedModel:
    """A model of the suite; under several seeds each trained student is planned once per seed."""

    model_name: ModelName
    """Name in the suite, with the seed where the model is made once per seed."""
    spec: ModelSpec
    parents: tuple[str, ...]
    """Names of the planned models that it is made from."""
    options_of_parents: tuple[str, ...]
    """The options of its recipe that name them, in the same order; empty for an ensemble."""
    recipe: StudentSpec | None
    """How a student is made, its seed filled in."""
    seed: int
    style: PromptStyle
    fingerprint: str
    identity: StudentIdentity | None = None
    """Everything that decides a student; its fingerprint is the model's."""
    served: ServedModel | None = None
    """The server that answers for it, where it is not loaded here."""
    dtype: str = ""
    """What it computes in, where that is not the suite's to say."""

    @property
    def name(self) -> str:
        """Name shown in tables, unique in the plan."""
        return str(self.model_name)

    @property
    def answers_alone(self) -> bool:
        """Whether texts have no likelihood under it: most tokens of a text are none that a union of top-k puts up."""
        return self.spec.ensemble is not None and self.spec.ensemble.tokens == "union"

    @property
    def label(self) -> str:
        """What it is, in a few words."""
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
    """Everything besides model and task that decides its numbers; stored with the results."""
    timeout: float | None = None
    """CPU seconds of each program; None: calibrated by the published solutions."""
    references: References | None = None
    """Findings on the published solutions; None before they are known, and for tasks that run no programs."""
    teacher: PlannedModel | None = None
    """The model that this one is compared with on every text; see ``crosstok.harness.likelihood.agreement``."""

    @cached_property
    def fingerprint(self) -> str:
        """Identity of its numbers: the store keeps them under this key."""
        identity: dict[str, Any] = {
            "model": self.model.fingerprint,
            "task": self.task.fingerprint(),
            "settings": self.settings,
        }
        if self.teacher is not None:  # no setting: likelihoods are those of a cell without it, and stay comparable
            identity["agreement"] = [self.teacher.fingerprint, AGREEMENT_VERSION]
        return fingerprint(identity)

    def with_references(self, references: References) -> "PlannedCell":
        """Return the cell with what this host can judge: limits of programs, and documents that are left out."""
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
        """The documents that are asked: all of the task's but those that this host cannot judge."""
        return [document for document in self.task.documents() if document.id not in self.excluded]

    @property
    def excluded(self) -> Mapping[str, str]:
        """Documents that are not asked, by id, and why."""
        return self.references.excluded if self.references else {}

    def limited(self, program: Program) -> Program:
        """Return a candidate's program under the mode and limits of this host."""
        return self.references.limited(program, self.timeout) if self.references else program


@dataclass(frozen=True)
class Plan:
    """Everything that a suite asks for, in the order in which it is done."""

    suite: Suite
    models: dict[str, PlannedModel]
    tasks: tuple[Task, ...]
    cells: tuple[PlannedCell, ...]

    @cached_property
    def run_id(self) -> str:
        """Name of the run: the suite's, with a hash of the suite and of all cells."""
        cells = [[cell.model.name, cell.fingerprint] for cell in self.cells]
        return f"{self.suite.name}-{fingerprint({'suite': self.suite.model_dump(mode='json'), 'cells': cells})[:8]}"

    def with_references(self, references: Mapping[str, References]) -> "Plan":
        """Return the plan with the findings on published solutions, by the name of the task that has them."""
        cells = tuple(
            cell.with_references(references[cell.task.name]) if cell.task.name in references else cell
            for cell in self.cells
        )
        return replace(self, cells=cells)

    @property
    def code_tasks(self) -> list[CodeTask]:
        """The benchmarks of programs."""
        return [task for task in self.tasks if isinstance(task, CodeTask)]

    def cells_of(self, model: str) -> list[PlannedCell]:
        """Return the cells of one planned model, in the order of the suite's tasks."""
        return [cell for cell in self.cells if cell.model.name == model]
