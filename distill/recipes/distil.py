"""``distil`` lets another model teach: the student keeps its tokenizer, the teacher reads the same bytes with its own.

This is the case of a larger model that knows what the student lacks (in arXiv 2503.20083, section 5, a mathematical
model of 8B teaches one of 2B). No vocabulary changes, so there is nothing to initialise; all that the two have in
common is the text. Losses across tokenizers (``alm``, ``uld``, ``mined``, ``dskd``, ``gold``, ``bpm``, ``strict``) take
any pair, ``kd`` only models with one vocabulary. The teacher may be an ensemble.

Tokenizers that cannot read the same bytes (one of them normalises Unicode, say) are refused before the first step, with
counts and an example.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, model_validator

from crosstok.distill.expansion.uptake import uptake
from crosstok.distill.models import checkpoints
from crosstok.distill.models.checkpoints import Checkpoint
from crosstok.distill.models.weights import input_weight, is_tied
from crosstok.distill.recipes.student import BuildContext, BuiltStudent, Choice, StudentSpec


class DistilSpec(StudentSpec):
    """Everything that decides a student of another model."""

    kind: ClassVar[str] = "distil"
    parents: ClassVar[Mapping[str, str]] = {"from": "source", "teacher": "teacher"}

    teacher: str = Field(description="The model that teaches: any model source.")
    loss: tuple[Choice, ...] = Field(default=("alm",), description="What it is trained on.")

    @model_validator(mode="after")
    def _is_trained(self) -> "DistilSpec":
        if not self.steps:
            raise ValueError("steps is 0, and a student that is not taught is its source")
        return self

    @property
    def label(self) -> str:
        """The teacher and the losses."""
        return f"taught by {self.teacher.rpartition('/')[2]}, {'+'.join(self.loss_names)}"

    def build(self, source: Checkpoint, context: BuildContext) -> BuiltStudent:
        """Train the source in place against the teacher."""
        teacher = checkpoints.load(self.teacher)
        measured = context.train(source, teacher, self.losses(), self)
        expansion = source.provenance.get("expansion", {})  # an expanded student stays one
        if expansion and (held_out := context.held_out(self.corpus)):
            measured["new_tokens"] = uptake(source, expansion["first"], held_out)
        return BuiltStudent(source, _record(source, teacher) | {"metrics": measured, "expansion": expansion})


def _record(student: Checkpoint, teacher: Checkpoint) -> dict[str, Any]:
    return {
        "source_tokenizer": student.tokenbytes.fingerprint,
        "target_tokenizer": student.tokenbytes.fingerprint,
        "teacher": {
            "source": teacher.provenance["source"],
            "fingerprint": teacher.fingerprint,
            "tokenizer": teacher.tokenbytes.fingerprint,
            "licence": teacher.provenance.get("licence", ""),
        },
        "tied": is_tied(student.model),
        "rows": input_weight(student.model).shape[0],
        "valid_rows": student.valid_rows,
    }
