"""``transfer`` moves a model to another tokenizer.

The vocabulary is replaced, its rows are initialised, and the student is trained against the model that it came from
(self-distillation, arXiv 2503.20083), which needs no labels and no second model.
"""

import copy
import dataclasses
from typing import Any, ClassVar, Literal

from pydantic import Field

from crosstok.corpora import load_texts
from crosstok.distill.embeddings import INITIALISERS, Rows, SourceModel
from crosstok.distill.embeddings.transplant import special_ids, special_rows, transplant
from crosstok.distill.models import checkpoints
from crosstok.distill.models.byte_ngrams import ByteNgramForCausalLM, NgramTable, with_ngrams
from crosstok.distill.models.checkpoints import Checkpoint
from crosstok.distill.models.lora import share
from crosstok.distill.models.tying import tie, untie
from crosstok.distill.models.weights import input_weight, is_tied
from crosstok.distill.recipes.student import BuildContext, BuiltStudent, Choice, StudentSpec, name_of
from crosstok.distill.sources.tokenizers import load_tokenizer
from crosstok.distill.tokenizers.roles import Roles
from crosstok.distill.tokenizers.special_tokens import adopt_specials
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError


class TransferSpec(StudentSpec):
    """Everything that decides a transferred student."""

    kind: ClassVar[str] = "transfer"

    tokenizer: str = Field(description="Its new tokenizer: any tokenizer source, `bytes` or `train:bpe:CORPUS:SIZE`.")
    init: Choice = Field(default="fvt", description="How the rows of the new vocabulary are made.")
    specials: Literal["keep", "replace"] = Field(
        default="keep", description="Keep the model's own special tokens, or take those of the new tokenizer."
    )

    embeddings: Literal["keep", "untie", "tie"] = Field(
        default="keep", description="Input and output matrix: as they are in the source, apart, or one."
    )
    ngrams: bool = Field(default=False, description="Let each byte read the longest old token that ends there.")

    @property
    def init_name(self) -> str:
        """The initialiser's name."""
        return name_of(self.init)

    @property
    def label(self) -> str:
        """Tokenizer, initialiser and losses."""
        losses = "+".join(self.loss_names) if self.steps else "not trained"
        return f"{self.tokenizer}, {self.init_name}, {losses}"

    def corpora(self) -> list[str]:
        """Return the text to train on, that of a tokenizer that is trained, and that of an initialiser that reads."""
        named = super().corpora()
        if (read := INITIALISERS.create(self.init).text_source) is not None:
            named.append(read)
        if self.tokenizer.startswith("train:"):
            named.append(self.tokenizer.split(":", 2)[2].rpartition(":")[0])
        return sorted(set(named))

    def check(self) -> None:
        """Raise UserError for methods, or options of methods, that do not exist."""
        INITIALISERS.create(self.init)
        super().check()

    def foreign_code(self) -> dict[str, str]:
        """Return the hash of the code of losses and initialiser, where they are not built in, and of its donor."""
        found = super().foreign_code()
        if code := INITIALISERS.code(self.init_name):
            found[self.init_name] = code
        if (donor := INITIALISERS.create(self.init).model_source) is not None:
            found[donor] = checkpoints.identify(donor)
        return found

    def build(self, source: Checkpoint, context: BuildContext) -> BuiltStudent:
        """Replace the vocabulary, then train against the model as it was."""
        losses = self.losses() if self.steps else []
        needs_teacher = any(loss.of_teacher for loss in losses)
        student, rows = initialise(source, self, context, copied=needs_teacher)
        measured = context.train(student, source, losses, self)
        return BuiltStudent(student, self._record(source, student, rows) | {"metrics": measured})

    def _record(self, source: Checkpoint, student: Checkpoint, rows: Rows) -> dict[str, Any]:
        ngrams = len(student.model.ngrams.hashes) if isinstance(student.model, ByteNgramForCausalLM) else None
        kept = sum(name in source.tokenbytes.specials.values() for name in student.tokenbytes.specials.values())
        return {
            "source_tokenizer": source.tokenbytes.fingerprint,
            "target_tokenizer": student.tokenbytes.fingerprint,
            "tokenizer_source": self.tokenizer,
            "initialiser": {**INITIALISERS.create(self.init).describe(), "rows": rows.counts(), **rows.metrics},
            "specials": f"{self.specials}: {kept} of {len(student.tokenbytes.specials)} are the source's",
            "ngrams": ngrams,
            "tied": is_tied(student.model),
            "rows": rows.matrices["input"].shape[0],
            "valid_rows": student.valid_rows,
        }


def initialise(
    source: Checkpoint, spec: TransferSpec, context: BuildContext, *, copied: bool
) -> tuple[Checkpoint, Rows]:
    """Return the untrained student and where its rows came from; ``copied`` leaves the source's model as it is."""
    tokenizer = load_tokenizer(spec.tokenizer, context.data)
    if spec.specials == "keep":
        adopted = adopt_specials(tokenizer, source.tokenizer)
        tokenizer, specials = adopted.tokenizer, {here: there for there, here in adopted.specials.items()}
    tokens, roles = TokenBytes.from_tokenizer(tokenizer), Roles.from_tokenizer(tokenizer)
    if spec.specials == "replace":
        specials = special_rows(source.tokenbytes, tokens, source.roles.as_dict(), roles.as_dict())
    if isinstance(source.model, ByteNgramForCausalLM):
        raise UserError(
            f"{source.source} reads n-grams of bytes, which another tokenizer has none of.",
            hint="Transfer the model that it was made from.",
        )
    old = input_weight(source.model).detach()
    model = source.model
    if copied:  # where only adapters or embeddings learn, all other tensors are held once
        model = copy.deepcopy(model) if spec.train == "full" else share(model)
    if spec.embeddings == "untie":
        untie(model)
    initialiser = INITIALISERS.create(spec.init)
    source_model = None
    if initialiser.text_source is not None:
        source_model = SourceModel(model, source.bos_id, load_texts(initialiser.text_source, "train", context.data))
    rows = transplant(model, initialiser, source.tokenbytes, tokens, specials, source_model=source_model)
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
