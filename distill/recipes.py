"""Recipes: how a student is made, from a checked specification to a folder that any Hugging Face program reads.

``transfer`` moves a model to another tokenizer: the vocabulary is replaced, its rows are initialised, and the student
is trained against the model that it came from (self-distillation), which needs no labels and no second model.

The student's folder appears whole or not at all. Until then everything lies in a working folder beside it, from which
the same call continues after it was interrupted; asked again for a student that exists, it does nothing.
"""

import copy
import dataclasses
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from crosstok.corpora import Texts, load_texts
from crosstok.errors import UserError, unknown_name
from crosstok.fingerprint import fingerprint
from distill import checkpoints
from distill.checkpoints import Checkpoint
from distill.embeddings import INITIALISERS, Rows
from distill.embeddings.transplant import special_ids, special_rows, transplant
from distill.ensemble import EnsembleForCausalLM
from distill.losses import LOSSES, Loss, Reader
from distill.registry import plain
from distill.roles import Roles
from distill.special_tokens import wear_specials
from distill.tokenbytes import TokenBytes
from distill.tokenizers import load_tokenizer
from distill.training import LOG, Advance, Model, TrainingSpec, train
from distill.training_log import plot_log, read_log
from distill.weights import is_tied
from distill.windows import Encoder, Windows

log = logging.getLogger(__name__)

Choice = str | dict[str, Any]
"""A method by name, or a mapping of ``name`` and options."""

_RECIPE = "recipe.json"
_DEFAULT_STEPS = 200


class TransferSpec(TrainingSpec):
    """Everything that decides a transferred student."""

    source: str = Field(alias="from", description="The model to move: any model source.")
    tokenizer: str = Field(description="Its new tokenizer: any tokenizer source, `bytes` or `train:bpe:CORPUS:SIZE`.")
    init: Choice = Field(default="fvt", description="How the rows of the new vocabulary are made.")
    loss: tuple[Choice, ...] = Field(default=(), description="What it is trained on; none: initialised only.")
    corpus: str = Field(default="stdlib", description="Text source to train on.")
    specials: Literal["keep", "replace"] = Field(
        default="keep", description="Keep the model's own special tokens, or take those of the new tokenizer."
    )

    @model_validator(mode="before")
    @classmethod
    def _steps_only_with_a_loss(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "steps" not in value:
            return {**value, "steps": _DEFAULT_STEPS if value.get("loss") else 0}
        return value

    @model_validator(mode="after")
    def _adds_up(self) -> "TransferSpec":
        if self.steps and not self.loss:
            raise ValueError(f"steps is {self.steps} but loss is empty; name a loss, or set steps to 0")
        repeated = {name for name in self.loss_names if self.loss_names.count(name) > 1}
        if repeated:
            raise ValueError(f"loss names {min(repeated)} twice; use its weight instead")
        return self

    @property
    def init_name(self) -> str:
        """The initialiser's name."""
        return _name(self.init)

    @property
    def loss_names(self) -> list[str]:
        """The names of the losses."""
        return [_name(choice) for choice in self.loss]


def _name(choice: Choice) -> str:
    return choice if isinstance(choice, str) else str(choice.get("name"))


def check_transfer(options: Mapping[str, Any], name: str = "transfer") -> TransferSpec:
    """Return the checked specification of model ``name``.

    Raises UserError for unknown keys, values out of range, and methods or options of methods that do not exist.
    """
    known = [field.alias or key for key, field in TransferSpec.model_fields.items()]
    for key in options:
        if key not in known:
            raise unknown_name(f"option of {name}", str(key), known)
    try:
        spec = TransferSpec.model_validate(dict(options))
    except ValidationError as error:
        raise UserError(f"{name}: {plain(error)}.") from error
    INITIALISERS.create(spec.init)
    for choice in spec.loss:
        LOSSES.create(choice)
    return spec


def transfer(
    spec: TransferSpec, out: Path, *, data: Path | None = None, device: str = "auto", progress: Advance | None = None
) -> Path:
    """Make the student that ``spec`` describes in the folder ``out`` and return it.

    ``data`` is the data folder (for corpora), ``progress`` is told of each training step. Raises UserError for sources
    that cannot be had, a folder that holds something else, and training that fails (see ``training.train``).
    """
    texts = load_texts(spec.corpus, "train", data) if spec.steps else None
    recipe = _recipe(spec, texts)
    if out.exists():
        if _recipe_of(out) != recipe:
            raise UserError(f"{out} exists and is not this student.", hint="Name another folder, or remove it.")
        shutil.rmtree(_beside(out), ignore_errors=True)  # left by a kill right after the student appeared
        return out
    work = _working_folder(out, recipe)
    source = checkpoints.load(spec.source)
    if isinstance(source.model, EnsembleForCausalLM):
        raise UserError(
            f"{spec.source} is an ensemble, which has no vocabulary of its own to replace.",
            hint="Transfer its members.",
        )
    losses = [LOSSES.create(choice) for choice in spec.loss] if spec.steps else []
    needs_teacher = any(loss.of_teacher for loss in losses)
    student, rows = _initialise(source, spec, data=data, copied=needs_teacher)
    if texts is not None:
        _train(source, student, texts, losses, spec, work=work, device=device, progress=progress)
        plot_log(
            work / LOG, work / "training.svg", f"{source.source} → {spec.tokenizer}: {' + '.join(spec.loss_names)}"
        )
    record = _provenance(source, student, rows, losses, spec)
    record |= {"data": [{"name": texts.name, **texts.source}] if texts else [], "metrics": _summary(work / LOG)}
    record["training"]["recipe"] = recipe
    finished = checkpoints.save(student, work / "student", record)
    for name in (LOG, "training.svg"):
        if (work / name).exists():
            shutil.copyfile(work / name, finished / name)
    finished.rename(out)
    shutil.rmtree(work)
    return out


def _initialise(source: Checkpoint, spec: TransferSpec, *, data: Path | None, copied: bool) -> tuple[Checkpoint, Rows]:
    """Return the untrained student and where its rows came from; ``copied`` leaves the source's model as it is."""
    tokenizer = load_tokenizer(spec.tokenizer, data)
    if spec.specials == "keep":
        worn = wear_specials(tokenizer, source.tokenizer)
        tokenizer, specials = worn.tokenizer, {here: there for there, here in worn.specials.items()}
    tokens, roles = TokenBytes.from_tokenizer(tokenizer), Roles.from_tokenizer(tokenizer)
    if spec.specials == "replace":
        specials = special_rows(source.tokenbytes, tokens, source.roles.as_dict(), roles.as_dict())
    model = copy.deepcopy(source.model) if copied else source.model
    rows = transplant(model, INITIALISERS.create(spec.init), source.tokenbytes, tokens, specials)
    special_ids(model, specials)
    here = {there: token for token, there in sorted(specials.items(), reverse=True)}
    bos = None if source.bos_id is None else here.get(source.bos_id)
    stops = frozenset(here[token] for token in source.stop_ids if token in here) | roles.stop_ids
    student = dataclasses.replace(
        source, model=model, tokenizer=tokenizer, tokenbytes=tokens, roles=roles, bos_id=bos, stop_ids=stops
    )
    return student, rows


def _train(
    source: Checkpoint,
    student: Checkpoint,
    texts: Texts,
    losses: list[Loss],
    spec: TransferSpec,
    *,
    work: Path,
    device: str,
    progress: Advance | None,
) -> None:
    windows = Windows(
        texts,
        Encoder(source.tokenbytes, source.bos_id),
        Encoder(student.tokenbytes, student.bos_id),
        size=spec.window_bytes,
        seed=spec.seed,
    )
    sides = [Model(side.model, Reader.of(side.tokenbytes, side.valid_rows)) for side in (student, source)]
    train(sides[0], sides[1], windows, losses, spec, folder=work, device=device, progress=progress)
    sides[0].network.to("cpu")


def _provenance(
    source: Checkpoint, student: Checkpoint, rows: Rows, losses: list[Loss], spec: TransferSpec
) -> dict[str, Any]:
    """Return the fields of the student's ``Provenance`` that the specification and the two models decide."""
    training = spec.model_dump(mode="json", exclude={"source", "tokenizer", "init", "loss", "corpus", "specials"})
    kept = sum(name in source.tokenbytes.specials.values() for name in student.tokenbytes.specials.values())
    return {
        "kind": "student",
        "source": source.provenance["source"],
        "source_fingerprint": source.fingerprint,
        "licence": source.provenance.get("licence", ""),
        "source_tokenizer": source.tokenbytes.fingerprint,
        "target_tokenizer": student.tokenbytes.fingerprint,
        "tokenizer_source": spec.tokenizer,
        "initialiser": {**INITIALISERS.create(spec.init).describe(), "rows": rows.counts()},
        "specials": f"{spec.specials}: {kept} of {len(student.tokenbytes.specials)} are the source's",
        "losses": [loss.describe() for loss in losses],
        "training": training if spec.steps else {"steps": 0},
        "seed": spec.seed if spec.steps else None,
        "tied": is_tied(student.model),
        "rows": rows.matrices["input"].shape[0],
        "valid_rows": student.valid_rows,
        "dtype": "float32",
    }


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


def _recipe(spec: TransferSpec, texts: Texts | None) -> str:
    """Return the fingerprint of all that decides the student."""
    wanted = spec.model_dump(mode="json", exclude={"source", "save_every"})
    return fingerprint(
        {"spec": wanted, "source": checkpoints.identify(spec.source), "texts": texts.source if texts else None}
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
