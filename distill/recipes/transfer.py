"""``transfer`` moves a model to another tokenizer.

The vocabulary is replaced and its rows are initialised. The student is then trained against the model that it was made
from (self-distillation, arXiv 2503.20083), which requires neither labels nor a second model.
"""

import dataclasses
from typing import Any

from crosstok.distill.embeddings import Rows
from crosstok.distill.embeddings.transplant import special_ids, special_rows
from crosstok.distill.models.byte_ngrams import ByteNgramForCausalLM, NgramTable, with_ngrams
from crosstok.distill.models.checkpoints import Checkpoint
from crosstok.distill.models.tying import tie, untie
from crosstok.distill.models.weights import input_weight, is_tied
from crosstok.distill.recipes.building import BuildContext, BuiltStudent
from crosstok.distill.recipes.methods import losses_of
from crosstok.distill.recipes.new_vocabulary import give_vocabulary, untrained_copy
from crosstok.distill.recipes.options import TransferSpec
from crosstok.distill.registry import INITIALISERS
from crosstok.distill.sources.tokenizers import load_tokenizer
from crosstok.distill.tokenizers.roles import Roles
from crosstok.distill.tokenizers.special_tokens import adopt_specials
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError


def build_transfer(spec: TransferSpec, source: Checkpoint, context: BuildContext) -> BuiltStudent:
    """Replace the vocabulary, then train against the model as it was."""
    losses = losses_of(spec) if spec.steps else []
    student, rows = _initialise(spec, source, context, keep=any(loss.of_teacher for loss in losses))
    measured = context.train(student, source, losses, spec)
    return BuiltStudent(student, _record(spec, source, student, rows) | {"metrics": measured})


def _initialise(
    spec: TransferSpec, source: Checkpoint, context: BuildContext, *, keep: bool
) -> tuple[Checkpoint, Rows]:
    """Return the untrained student and the origin of its rows; ``keep`` leaves the source's model unchanged."""
    tokenizer = load_tokenizer(spec.tokenizer, context.data)
    if spec.specials == "keep":
        adopted = adopt_specials(tokenizer, source.tokenizer)
        tokenizer, specials = adopted.tokenizer, {here: there for there, here in adopted.specials.items()}
    tokens, roles = TokenBytes.from_tokenizer(tokenizer), Roles.from_tokenizer(tokenizer)
    if spec.specials == "replace":
        specials = special_rows(source.tokenbytes, tokens, source.roles.as_dict(), roles.as_dict())
    if isinstance(source.model, ByteNgramForCausalLM):
        raise UserError(
            f"{source.source} reads n-grams of bytes, which another tokenizer does not have.",
            hint="Transfer the model that it was made from.",
        )
    old = input_weight(source.model).detach()
    model = untrained_copy(spec, source) if keep else source.model
    if spec.embeddings == "untie":
        untie(model)
    rows = give_vocabulary(spec, model, source, tokens, specials, data=context.data)
    if spec.embeddings == "tie":
        tie(model)
    special_ids(model, specials)
    if spec.ngrams:
        table = NgramTable.of(source.tokenbytes, old, tokens, input_weight(model).shape[0])
        model = with_ngrams(model, table)
    here = {there: token for token, there in sorted(specials.items(), reverse=True)}
    bos = None if source.bos_id is None else here.get(source.bos_id)
    stops = frozenset(here[token] for token in source.stop_ids if token in here) | roles.stop_ids
    student = dataclasses.replace(
        source, model=model, tokenizer=tokenizer, tokenbytes=tokens, roles=roles, bos_id=bos, stop_ids=stops
    )
    return student, rows


def _record(spec: TransferSpec, source: Checkpoint, student: Checkpoint, rows: Rows) -> dict[str, Any]:
    ngrams = len(student.model.ngrams.hashes) if isinstance(student.model, ByteNgramForCausalLM) else None
    kept = sum(name in source.tokenbytes.specials.values() for name in student.tokenbytes.specials.values())
    return {
        "source_tokenizer": source.tokenbytes.fingerprint,
        "target_tokenizer": student.tokenbytes.fingerprint,
        "tokenizer_source": spec.tokenizer,
        "initialiser": {**INITIALISERS.create(spec.init).describe(), "rows": rows.counts(), **rows.metrics},
        "specials": f"{spec.specials}: {kept} of {len(student.tokenbytes.specials)} are the source's",
        "ngrams": ngrams,
        "tied": is_tied(student.model),
        "rows": rows.matrices["input"].shape[0],
        "valid_rows": student.valid_rows,
    }
