"""What every recipe shares: from a checked specification to a folder that any Hugging Face program reads.

A recipe is one specification class with a method ``build``, which makes the student in memory, trained or not. All
else is done here for every one of them: checking options, naming what decides the student, keeping the state of an
unfinished one, and saving.

The student's folder appears whole or not at all. Until then everything lies in a working folder beside it, from which
the same call continues after it was interrupted; asked again for a student that exists, it does nothing.
"""

import json
import logging
import shutil
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from crosstok.corpora import Texts, load_texts
from crosstok.distill.ensemble import EnsembleForCausalLM
from crosstok.distill.inspection.snapshots import FOLDER as SNAPSHOTS
from crosstok.distill.inspection.snapshots import RowSnapshots
from crosstok.distill.losses import LOSSES, Loss, Reader
from crosstok.distill.models import checkpoints, model_card
from crosstok.distill.models.checkpoints import Checkpoint
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.distill.training.held_out import HeldOut
from crosstok.distill.training.log import plot_log, read_log
from crosstok.distill.training.loop import LOG, Model, TrainingSpec, train
from crosstok.distill.training.options import BESIDE
from crosstok.distill.training.windows import Encoder, Windows
from crosstok.errors import UserError
from crosstok.fingerprint import fingerprint
from crosstok.progress import Advance

log = logging.getLogger(__name__)

_READ, _READ_BYTES = 16, 512  # of held-out text, to see how new tokens are taken up

Choice = str | dict[str, Any]
"""A method by name, or a mapping of ``name`` and options."""

_RECIPE = "recipe.json"
_DEFAULT_STEPS = 200


@dataclass(frozen=True)
class BuiltStudent:
    """A student in memory, and the fields of its ``Provenance`` that its recipe decides."""

    checkpoint: Checkpoint
    record: dict[str, Any]
    files: tuple[str, ...] = ()
    """Names of further files for the student, which the recipe has put into the working folder."""


@dataclass(frozen=True)
class BuildContext:
    """Where a student is made: its working folder, the text that it reads, the device."""

    folder: Path
    """Keeps the training log and the state from which an interrupted call continues."""
    texts: Texts | None
    """The training text; None where nothing is trained."""
    data: Path | None
    device: str
    progress: Advance | None
    parent: TokenBytes
    """The tokens of the model that the student is made from: rows of all others are new."""

    def held_out(self, corpus: str) -> list[str]:
        """Return the beginnings of a few documents that training does not see; none where nothing was trained."""
        if self.texts is None:
            return []
        documents = load_texts(corpus, "heldout", self.data).documents[:_READ]
        return [document.text.encode()[:_READ_BYTES].decode(errors="ignore") for document in documents]

    def train(
        self, student: Checkpoint, teacher: Checkpoint, losses: Sequence[Loss], spec: "StudentSpec", **options: Any
    ) -> dict[str, dict[str, float]]:
        """Train the model of ``student`` in place, if there is text to train on; ``options`` are those of ``train``.

        Returns its figures on held-out text ``before`` and ``after``.
        """
        if self.texts is None:
            return {}
        encoders = Encoder(teacher.tokenbytes, teacher.bos_id), Encoder(student.tokenbytes, student.bos_id)
        windows = Windows(self.texts, *encoders, size=spec.window_bytes, seed=spec.seed, pack=spec.pack)
        sides = [
            Model(side.model, Reader.of(side.tokenbytes, side.valid_rows), side.fingerprint)
            for side in (student, teacher)
        ]
        teaches = any(loss.of_teacher for loss in losses)  # where it does not, its model may have become the student
        held_out = HeldOut.of(spec.corpus, self.data, encoders, sides[1] if teaches else None)
        before = held_out.figures(sides[0])
        train(
            sides[0],
            sides[1],
            windows,
            losses,
            spec,
            folder=self.folder,
            device=self.device,
            progress=self.progress,
            watch=RowSnapshots.of(
                self.folder, student.tokenbytes, self.parent, steps=spec.steps, count=spec.row_snapshots
            ),
            **options,
        )
        sides[0].network.to("cpu")
        return {"before": before, "after": held_out.figures(sides[0])} if before else {}


class StudentSpec(TrainingSpec):
    """Everything that decides a student, whatever its recipe."""

    kind: ClassVar[str]
    """The recipe's name: the key in a suite, and the command."""
    parents: ClassVar[Mapping[str, str]] = {"from": "source"}
    """Options that name a model, and the fields that hold them."""
    adds_tokens: ClassVar[bool] = False
    """Whether it knows which rows are new."""

    source: str = Field(alias="from", description="The model to begin with: any model source.")
    loss: tuple[Choice, ...] = Field(default=(), description="What it is trained on; none: initialised only.")
    corpus: str = Field(default="stdlib", description="Text source to train on.")

    @model_validator(mode="before")
    @classmethod
    def _steps_only_with_a_loss(cls, value: Any) -> Any:
        default = cls.model_fields["loss"].default
        if isinstance(value, Mapping) and "steps" not in value:
            return {**value, "steps": _DEFAULT_STEPS if value.get("loss", default) else 0}
        return value

    @model_validator(mode="after")
    def _adds_up(self) -> "StudentSpec":
        if self.steps and not self.loss:
            raise ValueError(f"steps is {self.steps} but loss is empty; name a loss, or set steps to 0")
        if self.train == "new_rows" and not self.adds_tokens:
            raise ValueError("train is new_rows, which only expand knows; take full, lora or embeddings")
        repeated = {name for name in self.loss_names if self.loss_names.count(name) > 1}
        if repeated:
            raise ValueError(f"loss names {min(repeated)} twice; use its weight instead")
        return self

    @property
    def loss_names(self) -> list[str]:
        """The names of the losses."""
        return [name_of(choice) for choice in self.loss]

    @property
    @abstractmethod
    def label(self) -> str:
        """What the student is, in a few words for a table."""

    def corpora(self) -> list[str]:
        """Return the text sources that making the student reads, in a fixed order."""
        return [self.corpus] if self.steps else []

    def check(self) -> None:
        """Raise UserError for methods, or options of methods, that do not exist."""
        self.losses()

    def losses(self) -> list[Loss]:
        """Return the losses, made anew."""
        return [LOSSES.create(choice) for choice in self.loss]

    def foreign_code(self) -> dict[str, str]:
        """Return the hash of what other people's methods and models add to the student, by the name that it has here.

        That is the code of methods that are not built in, and the content of models that a method reads.
        """
        return {name: code for name in self.loss_names if (code := LOSSES.code(name))}

    @abstractmethod
    def build(self, source: Checkpoint, context: BuildContext) -> BuiltStudent:
        """Make the student from ``source``, which may be changed in place, and train it."""


def name_of(choice: Choice) -> str:
    """Return the name of a method."""
    return choice if isinstance(choice, str) else str(choice.get("name"))


def make_student(
    spec: StudentSpec, out: Path, *, data: Path | None = None, device: str = "auto", progress: Advance | None = None
) -> Path:
    """Make the student that ``spec`` describes in the folder ``out`` and return it.

    ``data`` is the data folder (for corpora), ``progress`` is told of each training step. Raises UserError for sources
    that cannot be had, a folder that holds something else, and training that fails (see ``training.train``).
    """
    texts = load_texts(spec.corpus, "train", data) if spec.steps else None
    recipe = identity(spec, data)
    if out.exists():
        if _recipe_of(out) != recipe:
            raise UserError(f"{out} exists and is not this student.", hint="Name another folder, or remove it.")
        shutil.rmtree(_beside(out), ignore_errors=True)  # left by a kill right after the student appeared
        return out
    work = _working_folder(out, recipe)
    source = checkpoints.load(spec.source)
    if isinstance(source.model, EnsembleForCausalLM):
        raise UserError(
            f"{spec.source} is an ensemble, which has no weights of its own to change.",
            hint="Take its members, one by one.",
        )
    made = spec.build(source, BuildContext(work, texts, data, device, progress, source.tokenbytes))
    if (work / LOG).exists():
        plot_log(work / LOG, work / "training.svg", f"{source.source} → {spec.label}")
    record = made.record | {
        "kind": "student",
        "source": source.provenance["source"],
        "source_fingerprint": source.fingerprint,
        "root_fingerprint": source.provenance.get("root_fingerprint") or source.provenance["source_fingerprint"],
        "licence": source.provenance.get("licence", ""),
        "data": [{"name": texts.name, **texts.source}] if texts else [],
        "losses": [loss.describe() for loss in spec.losses()] if spec.steps else [],
        "training": {"recipe": recipe, **(_training(spec) if spec.steps else {"steps": 0})},
        "seed": spec.seed if spec.steps else None,
        "metrics": _summary(work / LOG) | made.record.get("metrics", {}),
        "dtype": "float32",
    }
    finished = checkpoints.save(made.checkpoint, work / "student", record)
    model_card.write(finished, record, spec.label)
    for name in (LOG, "training.svg", *made.files):
        if (work / name).exists():
            shutil.copyfile(work / name, finished / name)
    if (work / SNAPSHOTS).exists():
        shutil.copytree(work / SNAPSHOTS, finished / SNAPSHOTS)
    finished.rename(out)
    shutil.rmtree(work)
    return out


def at(spec: StudentSpec, sources: Mapping[str, str]) -> StudentSpec:
    """Return ``spec`` with the models that it is made from found elsewhere: option to source."""
    return spec.model_copy(update={spec.parents[option]: source for option, source in sources.items()})


def _training(spec: StudentSpec) -> dict[str, Any]:
    fields = set(TrainingSpec.model_fields) - {"seed"}
    return spec.model_dump(mode="json", include=fields)


def _summary(path: Path) -> dict[str, Any]:
    """Return what the log says of the first and the last step, and of the whole run."""
    lines = read_log(path)
    if not lines:
        return {}
    return {
        "first_step": lines[0]["loss"],
        "last_step": lines[-1]["loss"],
        "bytes": sum(line["bytes"] for line in lines),
        "refused_windows": sum(line["refused_windows"] for line in lines),
        "seconds": lines[-1]["seconds"],
    }


def identity(spec: StudentSpec, data: Path | None = None) -> str:
    """Return the fingerprint of all that decides the student.

    Raises UserError for sources and texts that do not exist, so that asking costs little and comes before work.
    """
    wanted = spec.model_dump(mode="json", exclude={*spec.parents.values(), *BESIDE})
    models = {option: checkpoints.identify(getattr(spec, field)) for option, field in spec.parents.items()}
    texts = {corpus: load_texts(corpus, "train", data).source for corpus in spec.corpora()}
    return fingerprint(
        {"recipe": spec.kind, "spec": wanted, "models": models, "texts": texts, "foreign": spec.foreign_code()}
    )


def _recipe_of(folder: Path) -> str | None:
    try:
        record = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    training = record.get("training", {})
    return training.get("recipe") if isinstance(training, dict) else None


def _beside(out: Path) -> Path:
    return out.parent / f".{out.name}.work"


def _working_folder(out: Path, recipe: str) -> Path:
    """Return the working folder of ``out``, emptied if it was left by another recipe."""
    work = _beside(out)
    try:
        if work.exists() and (not (work / _RECIPE).exists() or (work / _RECIPE).read_text(encoding="utf-8") != recipe):
            log.warning("the unfinished student in %s was made by another recipe and is removed", work)
            shutil.rmtree(work)
        work.mkdir(parents=True, exist_ok=True)
        (work / _RECIPE).write_text(recipe, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"The folder {out.parent} cannot be written: {error.strerror}.", hint="Choose another one."
        ) from error
    return work
