"""Trained parameters of a student: their selection, optimizer groups, and the conversion back to a plain model."""

from typing import Any

from torch import nn

from crosstok.distill.expansion.new_rows import restore, train_new_rows, trained_rows
from crosstok.distill.models.lora import adapter_weights, attach, embedding_matrices, merge
from crosstok.distill.training.options import TrainingSpec
from crosstok.errors import UserError


def prepare(student: nn.Module, spec: TrainingSpec, new_from: int | None = None) -> None:
    """Prepare ``student`` for ``spec.train``, in place: add adapters, or freeze all rows below id ``new_from``.

    Raises ValueError if ``spec.train`` is ``new_rows`` and ``new_from`` is missing, UserError for a model without
    gradient checkpointing if the options ask for it.
    """
    if spec.train == "lora":
        attach(student, spec.lora_rank, spec.lora_alpha or spec.lora_rank)
    if spec.train == "new_rows":
        if new_from is None:
            raise ValueError("train: new_rows needs new_from, the first id of the new rows")
        train_new_rows(student, new_from)
    if spec.gradient_checkpointing:
        _checkpoint_activations(student, on=True)


def finish(student: nn.Module, spec: TrainingSpec) -> None:
    """Undo :func:`prepare`, in place: merge adapters, remove hooks. Trained values are kept."""
    if spec.gradient_checkpointing:
        _checkpoint_activations(student, on=False)
    if spec.train == "lora":
        merge(student)
    if spec.train == "new_rows":
        restore(student)


def groups(student: nn.Module, spec: TrainingSpec) -> list[dict[str, Any]]:
    """Return the optimizer's parameter groups: the embedding matrices and, if trained, all other parameters.

    Each group has a ``peak`` learning rate. ``requires_grad`` of all parameters is set accordingly.
    """
    if spec.train == "new_rows":
        return [{"params": trained_rows(student), "peak": spec.embedding_lr or spec.lr}]
    embeddings = embedding_matrices(student)
    known = {id(matrix) for matrix in embeddings}
    others = [parameter for parameter in student.parameters() if id(parameter) not in known]
    if spec.train != "full":
        for parameter in others:
            parameter.requires_grad = False
        others = adapter_weights(student)
    for parameter in (*embeddings, *others):
        parameter.requires_grad = True
    found: list[dict[str, Any]] = [{"params": embeddings, "peak": spec.embedding_lr or spec.lr}]
    return [*found, {"params": others, "peak": spec.lr}] if others else found


def _checkpoint_activations(student: Any, *, on: bool) -> None:
    if not getattr(student, "supports_gradient_checkpointing", False):
        raise UserError(
            f"{type(student).__name__} does not support gradient checkpointing.",
            hint="Set gradient_checkpointing: false.",
        )
    # transformers renamed these methods.
    prefix = "activation" if hasattr(student, "activation_checkpointing_enable") else "gradient"
    if on:
        getattr(student, f"{prefix}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(student, f"{prefix}_checkpointing_disable")()
