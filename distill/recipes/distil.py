"""``distil`` trains a model on the outputs of another one, the teacher; each keeps its own tokenizer.

The usual case is a larger teacher that has knowledge the student lacks (arXiv 2503.20083, section 5: a mathematical
model of 8B parameters teaches one of 2B). The vocabulary does not change, so nothing is initialised. Losses across
tokenizers (``alm``, ``uld``, ``mined``, ``dskd``, ``gold``, ``bpm``, ``strict``) accept any pair of models, ``kd`` only
models with the same vocabulary. The teacher may be an ensemble.

Tokenizers that do not read the same bytes (for example, because one of them normalises Unicode) are refused before the
first step, with counts and an example.
"""

from typing import Any

from crosstok.distill.expansion.uptake import uptake
from crosstok.distill.models import checkpoints
from crosstok.distill.models.checkpoints import Checkpoint
from crosstok.distill.models.weights import input_weight, is_tied
from crosstok.distill.recipes.building import BuildContext, BuiltStudent
from crosstok.distill.recipes.methods import losses_of
from crosstok.distill.recipes.options import DistilSpec


def build_distil(spec: DistilSpec, source: Checkpoint, context: BuildContext) -> BuiltStudent:
    """Train ``source`` in place against the teacher."""
    teacher = checkpoints.load(spec.teacher)
    measured = context.train(source, teacher, losses_of(spec), spec)
    expansion = source.provenance.get("expansion", {})  # an expanded student stays one
    if expansion and (held_out := context.held_out(spec.corpus)):
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
