"""``expand`` adds tokens to a model's vocabulary and trains their rows by self-distillation.

After Rehman Linder (arXiv 2508.15807). The idea and the claims are public, the details are not: the choice of tokens,
the form of the divergence, the schedule and everything else are our reconstruction.

The model with the old vocabulary is the teacher of the model with the new one. **Stage 1** (``train: new_rows``, the
default) trains the rows of the new tokens only; all other weights stay bit-identical. **Stage 2** adapts the model to
its new tokens. It is a ``distil`` with the stage-1 student as ``from``, the original as ``teacher``, ``loss: [kl]`` or
``[sft]`` and ``train: full`` or ``lora``, so each stage is a model of its own that can be measured. ``train: full``,
``lora`` or ``embeddings`` in ``expand`` skips stage 1.

On text without new tokens, the stage-1 student reads the old ids and computes the old logits for them; the new tokens
have logits in addition. Over the old ids alone, the scores equal the source's bit for bit. Over all ids, each token
costs ``-ln(1 - probability of the new ids)`` more, which training keeps small.
"""

import dataclasses
import json
from typing import Any

from crosstok.distill.embeddings import Rows
from crosstok.distill.expansion.cached import FILE, expansion_of
from crosstok.distill.expansion.selection import Expansion
from crosstok.distill.expansion.uptake import uptake
from crosstok.distill.models.byte_ngrams import ByteNgramForCausalLM
from crosstok.distill.models.checkpoints import Checkpoint
from crosstok.distill.models.weights import is_tied
from crosstok.distill.recipes.building import BuildContext, BuiltStudent
from crosstok.distill.recipes.methods import losses_of
from crosstok.distill.recipes.new_vocabulary import give_vocabulary, untrained_copy
from crosstok.distill.recipes.options import RECONSTRUCTION, ExpandSpec
from crosstok.distill.registry import INITIALISERS
from crosstok.errors import UserError


def build_expand(spec: ExpandSpec, source: Checkpoint, context: BuildContext) -> BuiltStudent:
    """Add the tokens, then train against the model as it was."""
    losses = losses_of(spec) if spec.steps else []
    expansion = expansion_of(source.tokenizer, source.tokenbytes, spec.tokens, context.data)
    student, rows = _initialise(spec, source, expansion, context, keep=any(loss.of_teacher for loss in losses))
    new_from = expansion.first if spec.train == "new_rows" else None
    measured = context.train(student, source, losses, spec, new_from=new_from)
    content = {"first": expansion.first, "report": expansion.report, "table": expansion.table}
    if held_out := context.held_out(spec.corpus):
        measured["new_tokens"] = uptake(student, expansion.first, held_out)
    (context.folder / FILE).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    return BuiltStudent(student, _record(spec, source, student, expansion, rows) | {"metrics": measured}, (FILE,))


def _initialise(
    spec: ExpandSpec, source: Checkpoint, expansion: Expansion, context: BuildContext, *, keep: bool
) -> tuple[Checkpoint, Rows]:
    """Return the untrained student and the origin of its rows; ``keep`` leaves the source's model unchanged."""
    if isinstance(source.model, ByteNgramForCausalLM):
        raise UserError(
            f"{source.source} reads n-grams of bytes, which new tokens do not have.",
            hint="Expand the model that it was made from.",
        )
    model = untrained_copy(spec, source) if keep else source.model
    old = source.tokenbytes
    kept = {token: token for token, data in enumerate(old.table) if not data}  # specials, and unused ids
    rows = give_vocabulary(spec, model, source, expansion.tokens, kept, data=context.data)
    student = dataclasses.replace(source, model=model, tokenizer=expansion.tokenizer, tokenbytes=expansion.tokens)
    return student, rows


def _record(
    spec: ExpandSpec, source: Checkpoint, student: Checkpoint, expansion: Expansion, rows: Rows
) -> dict[str, Any]:
    old = expansion.first
    made = dataclasses.replace(rows, origins=rows.origins[old:])
    return {
        "source_tokenizer": source.tokenbytes.fingerprint,
        "target_tokenizer": student.tokenbytes.fingerprint,
        "tokenizer_source": f"the source's, {spec.tokens.label}",
        "initialiser": {**INITIALISERS.create(spec.init).describe(), "rows": made.counts(), **rows.metrics},
        "expansion": {
            "first": old,
            "count": expansion.count,
            "tokens": spec.tokens.model_dump(mode="json", exclude_none=True),
            **expansion.report,
            "method": RECONSTRUCTION,
        },
        "specials": "the source's",
        "tied": is_tied(student.model),
        "rows": rows.matrices["input"].shape[0],
        "valid_rows": student.valid_rows,
    }
