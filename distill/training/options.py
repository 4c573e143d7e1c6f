"""Training options shared by all recipes, and the learning-rate schedule."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_SEED = 2**63 - 1
"""The largest seed that torch takes and that every database stores."""

BalanceName = Literal["fixed", "gradmag", "gradnorm"]


class TrainingSpec(BaseModel):
    """Options of the training loop."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    steps: int = Field(default=200, ge=0, description="Number of optimizer steps; 0 stops after initialisation.")
    batch: int = Field(default=16, ge=1, description="Windows per optimizer step, summed over processes.")
    micro_batch: int | None = Field(default=None, ge=1, description="Windows per forward pass; default: batch.")
    window_bytes: int = Field(default=2048, ge=16, description="Maximum bytes of text per window.")
    lr: float = Field(default=1e-4, gt=0, allow_inf_nan=False, description="Peak learning rate.")
    embedding_lr: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Peak learning rate of the embedding matrices; default: lr.",
    )
    warmup: int = Field(default=10, ge=0, description="Steps of linear warm-up; linear decay to 0 follows.")
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="Weight decay of AdamW.")
    clip: float = Field(default=1.0, gt=0, description="Maximum gradient norm (clipping).")
    balance: BalanceName = Field(
        default="fixed",
        description="Weights of the losses: fixed (those given), or from gradient norms (gradmag, gradnorm).",
    )
    train: Literal["full", "lora", "embeddings", "new_rows"] = Field(
        default="full",
        description="Parameters to train: full (all), lora (adapters of all layers, and the embedding matrices), "
        "embeddings (the embedding matrices), or new_rows (only the rows that an expansion adds).",
    )
    lora_rank: int = Field(default=64, ge=1, description="Rank of the LoRA adapters.")
    lora_alpha: int | None = Field(default=None, ge=1, description="LoRA alpha: scale times rank; default: lora_rank.")
    gradient_checkpointing: bool = Field(
        default=False, description="Recompute activations in the backward pass to save memory."
    )
    pack: bool = Field(default=False, description="Pack short windows into rows of up to window_bytes.")
    teacher_cache: bool = Field(
        default=False, description="Store teacher outputs in the cache folder and reuse them in later runs."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Type of matrix products; weights, log-softmax and losses are always float32."
    )
    seed: int = Field(
        default=0, ge=0, le=MAX_SEED, description="Seed of the window order, of dropout and of learned parameters."
    )
    row_snapshots: int = Field(
        default=10,
        ge=0,
        description="Number of times to save the rows of new tokens during training, for `crosstok inspect`.",
    )
    save_every: int = Field(default=50, ge=1, description="Steps between checkpoints, from which a restart resumes.")


STORAGE_OPTIONS = frozenset({"save_every", "teacher_cache", "row_snapshots"})
"""Options that change which files are stored with a student but not the student itself; not part of its fingerprint."""


def learning_rate(step: int, spec: TrainingSpec) -> float:
    """Return the factor of the peak rate at ``step`` (from 0): linear warm-up, then linear decay to 0."""
    if step < spec.warmup:
        return (step + 1) / (spec.warmup + 1)
    return (spec.steps - step) / max(1, spec.steps - spec.warmup)
