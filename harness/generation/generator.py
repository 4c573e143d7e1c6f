"""Generator: text generation with one local model.

Budgets, stops and the final cut are in bytes of the answer (``crosstok.harness.generation.answers``). Answers are
assembled from the bytes of their ids, not decoded, so leading spaces survive and special tokens contribute nothing.
Prompts are never truncated: a prompt that fills the context gets an empty answer with stop reason ``context_full``.

Rows are padded on the left with exact masks and positions, and logits are compared in fp32, so in fp32 an answer does
not depend on the other rows of its batch. In lower precision, rounding can flip a near tie, as in every engine; see
``crosstok.harness.jobs.batch_check``. Scheduling of rows is the subject of ``crosstok.harness.generation.batching``.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from crosstok.distill.tokenizers.tokenbytes import RoundTripError
from crosstok.harness.generation.answers import (
    AnswerBytes,
    AnswerSource,
    Generation,
    StopReason,
    check_request,
    refusals,
)
from crosstok.harness.generation.batching import Batch, BatchLimits, Counts, Prefill, Row
from crosstok.harness.generation.healing import Healer
from crosstok.harness.generation.prompts import Prompt, encode_prompt
from crosstok.harness.generation.sampling import Uniforms
from crosstok.harness.runtime.model_input import context_tokens
from crosstok.tasks.task import Generate

if TYPE_CHECKING:
    from crosstok.distill.models.checkpoints import Checkpoint

__all__ = ["AnswerSource", "Generation", "Generator", "StopReason"]


class Generator:
    """Answers :class:`Generate` requests with one model.

    ``max_batch_rows`` bounds the rows of the batch, ``max_prefill_tokens`` the padded tokens of a prefill pass; both
    are reduced, with a warning, when memory runs out. ``max_tokens`` caps the tokens of an answer; the default is its
    byte budget, which only a model that keeps emitting special tokens can reach. ``heal`` enables token healing
    (``crosstok.harness.generation.healing``).
    """

    def __init__(
        self,
        checkpoint: "Checkpoint",
        *,
        max_batch_rows: int = 32,
        max_prefill_tokens: int = 4096,
        max_tokens: int | None = None,
        heal: bool = False,
    ) -> None:
        self.counts = Counts()
        self.limits = BatchLimits(max_batch_rows, max_prefill_tokens, max_tokens)
        self._checkpoint = checkpoint
        self._context = context_tokens(checkpoint)
        self._healer = Healer(checkpoint.tokenbytes) if heal else None

    def generate(self, requests: Sequence[Generate]) -> Iterator[Generation]:
        """Answer every request once per seed; yields answers in order of completion.

        A prompt that the tokenizer cannot encode losslessly is refused, not altered. Raises :class:`UserError` for
        invalid requests (byte budget, seeds, sampling), for chat requests to a model without a usable chat template,
        and if memory does not suffice for a single answer.
        """
        prefills: list[Prefill] = []
        for request in requests:
            check_request(request)
        for index, request in enumerate(requests):
            try:
                prompt = encode_prompt(self._checkpoint, request)
            except RoundTripError as error:
                yield from refusals(index, request, str(error))
                continue
            rows = self._rows(index, request, prompt)
            if self._context is not None and len(prompt.ids) >= self._context:
                yield from (self._generation(row, "context_full") for row in rows)
            else:
                prefills.append(Prefill(rows[0].prompt.ids, deque(rows)))
        batch = Batch(
            self._checkpoint,
            prefills,
            limits=self.limits,
            counts=self.counts,
            context=self._context,
            healer=self._healer,
        )
        for row in batch.run():
            yield self._generation(row, row.stop_reason or "end")

    def _rows(self, index: int, request: Generate, prompt: Prompt) -> list[Row]:
        ids, removed = (prompt.ids, b"") if self._healer is None else self._healer.back_up(request, prompt.ids)
        return [
            Row(index, sample, request, Prompt(prompt.text, ids), AnswerBytes(request), Uniforms(seed), removed)
            for sample, seed in enumerate(request.seeds)
        ]

    def _generation(self, row: Row, stop_reason: StopReason) -> Generation:
        data = bytes(row.answer.data)
        return Generation(
            index=row.index,
            sample=row.sample,
            data=data,
            text=data.decode(errors="replace"),
            tokens=row.tokens,
            steps=row.steps,
            prompt_text=row.prompt.text,
            prompt_bytes=len(row.prompt.text.encode()),
            prompt_tokens=len(row.prompt.ids),
            stop_reason=stop_reason,
            seconds=row.seconds,
            ids=tuple(row.ids),
            healed_bytes=None if self._healer is None else row.healed,
            passes=self._checkpoint.members * (row.prefills + row.steps),
        )
