"""How a student is trained: the options that every recipe has, and the course of the learning rate."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from crosstok.distill.training.balance import BalanceName


class TrainingSpec(BaseModel):
    """How long, on how much and how fast to train."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    steps: int = Field(default=200, ge=0, description="Optimizer steps; 0 only initialises.")
    batch: int = Field(default=16, ge=1, description="Windows per optimizer step, over all processes.")
    micro_batch: int | None = Field(default=None, ge=1, description="Windows per forward pass; default: the batch.")
    window_bytes: int = Field(default=2048, ge=16, description="Bytes of text per window, on both sides.")
    lr: float = Field(default=1e-4, gt=0, description="Peak learning rate.")
    embedding_lr: float | None = Field(default=None, gt=0, description="Peak rate of the embeddings; default: lr.")
    warmup: int = Field(default=10, ge=0, description="Steps of linear warm-up; a linear decay to 0 follows.")
    weight_decay: float = Field(default=0.0, ge=0, description="Of AdamW.")
    clip: float = Field(default=1.0, gt=0, description="Largest norm of the gradient.")
    balance: BalanceName = Field(
        default="fixed", description="Weights of several losses: their own, or from the length of their gradients."
    )
    train: Literal["full", "lora", "embeddings", "new_rows"] = Field(
        default="full",
        description="Which parameters learn; with lora adapters of all layers, and the embeddings in full; with "
        "new_rows the rows of tokens that an expansion adds, and nothing else.",
    )
    lora_rank: int = Field(default=64, ge=1, description="Rank of the adapters.")
    lora_alpha: int | None = Field(default=None, ge=1, description="Their scale times their rank; default: the rank.")
    gradient_checkpointing: bool = Field(
        default=False, description="Compute activations again in the backward pass instead of keeping them."
    )
    pack: bool = Field(default=False, description="Let short windows share a row, up to window_bytes in all.")
    teacher_cache: bool = Field(
        default=False, description="Keep what the teacher says in the cache folder, for every later run that asks it."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Of matrix products; weights, log-softmax and losses are float32 either way."
    )
    seed: int = Field(default=0, ge=0, description="Of the order of the windows and of dropout.")
    row_snapshots: int = Field(
        default=10, ge=0, description="How often to keep rows of new tokens on their way, for `crosstok inspect`."
    )
    save_every: int = Field(default=50, ge=1, description="Steps between saved states, which a restart continues from.")


BESIDE = frozenset({"save_every", "teacher_cache", "row_snapshots"})
"""Options that decide what is kept beside a student and not what it is: they are no part of its identity."""


def learning_rate(step: int, spec: TrainingSpec) -> float:
    """Return the factor of the peak rate at ``step`` (from 0): linear up over ``warmup``, then linear down to 0."""
    if step < spec.warmup:
        return (step + 1) / (spec.warmup + 1)
    return (spec.steps - step) / max(1, spec.steps - spec.warmup)
