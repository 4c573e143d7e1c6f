"""``expand`` gives a model more tokens and teaches them by what it knows already.

After Rehman Linder (arXiv 2508.15807), whose idea and claims are public and whose details are not: choice of tokens,
form of the divergence, schedule and all else here are our reconstruction.

A model with the old vocabulary is the teacher of itself with the new one. **Stage 1** (``train: new_rows``, the
default) trains the rows of the new tokens and nothing else, so every old number of the model is afterwards what it was,
bit for bit. **Stage 2** lets the model adapt to its new tokens; it is ``distil`` with the stage-1 student as ``from``,
the original as ``teacher``, ``loss: [kl]`` or ``[sft]`` and ``train: full`` or ``lora``, so that each stage is a model
of its own, measured and kept. ``train: full``, ``lora`` or ``embeddings`` here skips the first stage.

Where text holds no new token, the stage-1 student reads the old ids and computes the old logits of them. The one thing
that differs is that the new tokens have logits too. Scored over the old ids alone the text gets the source's numbers
bit for bit; over all ids each token costs ``-ln(1 - mass of the new ids)`` more, which is what training keeps small.
"""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from crosstok.corpora import load_texts
from crosstok.distill.embeddings import INITIALISERS, Rows, SourceModel
from crosstok.distill.embeddings.transplant import transplant
from crosstok.distill.expansion.cached import FILE, expansion_of
from crosstok.distill.expansion.selection import Expansion, strings
from crosstok.distill.expansion.tokens_spec import TokensSpec
from crosstok.distill.expansion.uptake import uptake
from crosstok.distill.models import checkpoints
from crosstok.distill.models.byte_ngrams import ByteNgramForCausalLM
from crosstok.distill.models.checkpoints import Checkpoint
from crosstok.distill.models.lora import share
from crosstok.distill.models.weights import is_tied
from crosstok.distill.recipes.student import BuildContext, BuiltStudent, Choice, StudentSpec, name_of
from crosstok.errors import UserError
from crosstok.fingerprint import file_sha256

RECONSTRUCTION = "after arXiv 2508.15807, details reconstructed"


class ExpandSpec(StudentSpec):
    """Everything that decides a student with more tokens."""

    kind: ClassVar[str] = "expand"
    adds_tokens: ClassVar[bool] = True

    tokens: TokensSpec = Field(description="The new tokens: list, train_bpe or frequency.")
    init: Choice = Field(default="fvt", description="How the rows of the new tokens are made.")
    loss: tuple[Choice, ...] = Field(default=("kl",), description="What they are trained on: kl, sft or both.")
    train: Literal["full", "lora", "embeddings", "new_rows"] = Field(
        default="new_rows", description="Which parameters learn: the new rows alone, or as in other recipes."
    )

    @property
    def init_name(self) -> str:
        """The initialiser's name."""
        return name_of(self.init)

    @property
    def label(self) -> str:
        """Tokens, initialiser, losses and what is trained."""
        trained = f"{'+'.join(self.loss_names)} on {self.train.replace('_', ' ')}" if self.steps else "not trained"
        return f"{self.tokens.label}, {self.init_name}, {trained} ({RECONSTRUCTION})"

    def corpora(self) -> list[str]:
        """Return the text to train on, that which tokens are learnt from, and that of an initialiser that reads."""
        named = super().corpora()
        if (read := INITIALISERS.create(self.init).text_source) is not None:
            named.append(read)
        if self.tokens.text is not None:
            named.append(self.tokens.text.corpus)
        return sorted(set(named))

    def check(self) -> None:
        """Raise UserError for methods, or options of methods, that do not exist, and for an empty list of tokens."""
        INITIALISERS.create(self.init)
        if self.tokens.list is not None and not strings(self.tokens.list):
            raise UserError("The expansion is empty: no token is listed.", hint="List tokens that the model lacks.")
        super().check()

    def foreign_code(self) -> dict[str, str]:
        """Return the hash of foreign losses and initialisers, of a donor, and of a list of tokens in a file."""
        found = super().foreign_code()
        if code := INITIALISERS.code(self.init_name):
            found[self.init_name] = code
        if (donor := INITIALISERS.create(self.init).model_source) is not None:
            found[donor] = checkpoints.identify(donor)
        if isinstance(self.tokens.list, str):
            strings(self.tokens.list)  # says what is wrong with the file
            found[self.tokens.list] = file_sha256(Path(self.tokens.list))
        return found

    def build(self, source: Checkpoint, context: BuildContext) -> BuiltStudent:
        """Add the tokens, then train against the model as it was."""
        losses = self.losses() if self.steps else []
        expansion = expansion_of(source.tokenizer, source.tokenbytes, self.tokens, context.data)
        student, rows = self._initialise(source, expansion, context, copied=any(loss.of_teacher for loss in losses))
        new_from = expansion.first if self.train == "new_rows" else None
        measured = context.train(student, source, losses, self, new_from=new_from)
        content = {"first": expansion.first, "report": expansion.report, "table": expansion.table}
        if held_out := context.held_out(self.corpus):
            measured["new_tokens"] = uptake(student, expansion.first, held_out)
        (context.folder / FILE).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
        return BuiltStudent(student, self._record(source, student, expansion, rows) | {"metrics": measured}, (FILE,))

    def _initialise(
        self, source: Checkpoint, expansion: Expansion, context: BuildContext, *, copied: bool
    ) -> tuple[Checkpoint, Rows]:
        """Return the untrained student and where its rows came from; ``copied`` leaves the source's model as it is."""
        if isinstance(source.model, ByteNgramForCausalLM):
            raise UserError(f"{source.source} reads n-grams of bytes, which new tokens would have none of.")
        model = source.model
        if copied:  # where only rows, adapters or embeddings learn, all other tensors are held once
            model = copy.deepcopy(model) if self.train == "full" else share(model)
        initialiser = INITIALISERS.create(self.init)
        source_model = None
        if initialiser.text_source is not None:
            source_model = SourceModel(model, source.bos_id, load_texts(initialiser.text_source, "train", context.data))
        old = source.tokenbytes
        kept = {token: token for token, data in enumerate(old.table) if not data}  # specials, and ids without a use
        rows = transplant(model, initialiser, old, expansion.tokens, kept, source_model=source_model)
        student = dataclasses.replace(source, model=model, tokenizer=expansion.tokenizer, tokenbytes=expansion.tokens)
        return student, rows

    def _record(self, source: Checkpoint, student: Checkpoint, expansion: Expansion, rows: Rows) -> dict[str, Any]:
        old = expansion.first
        made = dataclasses.replace(rows, origins=rows.origins[old:])
        return {
            "source_tokenizer": source.tokenbytes.fingerprint,
            "target_tokenizer": student.tokenbytes.fingerprint,
            "tokenizer_source": f"the source's, {self.tokens.label}",
            "initialiser": {**INITIALISERS.create(self.init).describe(), "rows": made.counts(), **rows.metrics},
            "expansion": {
                "first": old,
                "count": expansion.count,
                "tokens": self.tokens.model_dump(mode="json", exclude_none=True),
                **expansion.report,
                "method": RECONSTRUCTION,
            },
            "specials": "the source's",
            "tied": is_tied(student.model),
            "rows": rows.matrices["input"].shape[0],
            "valid_rows": student.valid_rows,
        }
