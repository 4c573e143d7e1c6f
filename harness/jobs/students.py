"""Students of a plan: each is made once, in the cache folder, under its fingerprint."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from crosstok.distill import ensemble
from crosstok.distill.models import checkpoints
from crosstok.distill.models.checkpoints import Checkpoint
from crosstok.distill.recipes.options import at
from crosstok.distill.recipes.student import make_student
from crosstok.distill.sources.tokenizers import read_tokenizer
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.distill.training.log import read_log
from crosstok.distill.training.loop import LOG
from crosstok.folders import cache_folder
from crosstok.harness.generation.answer_facts import new_ids
from crosstok.harness.jobs.estimates import seconds_to_make
from crosstok.harness.plan.planned import Plan, PlannedCell
from crosstok.progress import Reporter

_BUILD_SECONDS = "build_seconds"


@dataclass
class Students:
    """The models of a plan; a student is made when it is first needed."""

    plan: Plan
    reporter: Reporter
    data: Path | None
    device: str
    in_memory: Mapping[str, Checkpoint] = field(default_factory=dict)
    """Loaded models, by source."""
    folder: Path = field(default_factory=lambda: cache_folder() / "students")

    def ready(self, name: str) -> bool:
        """Return whether the student or ensemble ``name`` is in the cache."""
        return (self.folder / self.plan.models[name].fingerprint / _BUILD_SECONDS).exists()

    def to_make(self, cells: Iterable[PlannedCell]) -> list[str]:
        """Return the students and ensembles that must be made to measure ``cells``, in the order of the plan."""
        found: set[str] = set()

        def visit(name: str) -> None:
            model = self.plan.models[name]
            if name not in found and model.spec.source is None and not self.ready(name):
                found.add(name)
                for parent in model.parents:
                    visit(parent)

        for cell in cells:
            visit(cell.model.name)
            if cell.teacher is not None:
                visit(cell.teacher.name)
        return [name for name in self.plan.models if name in found]

    def source(self, name: str) -> str:
        """Return the source to load for ``name``; makes it and the models it is made from if necessary."""
        model = self.plan.models[name]
        if model.spec.source:
            return model.spec.source
        folder = self.folder / model.fingerprint
        if not self.ready(name):
            sources = [self.source(parent) for parent in model.parents]
            began = time.monotonic()
            if model.recipe:
                recipe = at(model.recipe, dict(zip(model.options_of_parents, sources, strict=True)))
                with self.reporter.stage(f"make {model.name}", max(recipe.steps, 1), seconds_to_make(model)) as advance:
                    make_student(
                        recipe, folder, identity=model.identity, data=self.data, device=self.device, progress=advance,
                        replace=True,
                    )  # fmt: skip
            elif model.spec.ensemble:
                spec = model.spec.ensemble
                settings = spec.model_dump(exclude={"members"})
                ensemble.save_ensemble(folder, sources, **settings)
            # The training log counts the seconds of earlier, interrupted sessions too.
            logged = [line["seconds"] for line in read_log(folder / LOG)]
            took = max([time.monotonic() - began, *logged])
            (folder / _BUILD_SECONDS).write_text(f"{took:.1f}\n", encoding="utf-8")
        return str(folder)

    def build_s(self, name: str) -> float:
        """Return the seconds that making ``name`` took, in all sessions."""
        path = self.folder / self.plan.models[name].fingerprint / _BUILD_SECONDS
        return float(path.read_text(encoding="utf-8")) if path.exists() else 0.0

    def new_ids(self, name: str, checkpoint: Checkpoint) -> frozenset[int] | None:
        """Return the token ids that the original model does not have; None if ``name`` is not a student.

        The original is found by following ``from`` to a source: a second training stage adds no tokens, but its model
        generates those of the first.
        """
        if self.plan.models[name].recipe is None:
            return None
        origin = name
        while (recipe := (model := self.plan.models[origin]).recipe) is not None:
            named = dict(zip(model.options_of_parents, model.parents, strict=True))
            if "from" not in named:
                origin = recipe.source
                break
            origin = named["from"]
        else:
            origin = self.source(origin)
        tokenizer = read_tokenizer(checkpoints.fetch(origin))
        return new_ids(checkpoint.tokenbytes, TokenBytes.from_tokenizer(tokenizer))

    def load(self, name: str) -> Checkpoint:
        """Load ``name`` in the data type of the suite."""
        source = self.source(name)
        if source in self.in_memory:
            return self.in_memory[source]
        return checkpoints.load(source, dtype=self.plan.suite.dtype, device=self.device)
