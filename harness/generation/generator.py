"""Generation with one model: requests in, answers out, whatever the number of rows that run side by side.

Everything that decides is in bytes of the answer (``crosstok.harness.generation.answers``): room for it, stops, the cut
at the end. The answer is put together from the bytes of its ids, never by decoding text, so leading spaces survive and
special tokens contribute nothing. Prompts are never truncated: one that leaves the model no room is answered with
nothing and ``context_full``.

Rows are padded on the left with exact masks and positions, and the logits are compared in fp32, so a row's answer in
fp32 does not depend on its neighbours (below fp32 rounding may flip a near tie, whoever computes it; see
``crosstok.harness.jobs.batch_check``). How rows come and go is the business of
``crosstok.harness.generation.batching``.
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
from crosstok.harness.generation.batching import Batch, Counts, Reading, Room, Row
from crosstok.harness.generation.healing import Healer
from crosstok.harness.generation.prompts import Prompt, encode_prompt
from crosstok.harness.generation.sampling import Uniforms
from crosstok.harness.runtime.model_input import context_tokens
from crosstok.tasks.task import Generate

if TYPE_CHECKING:
    from crosstok.distill.models.checkpoints import Checkpoint

__all__ = ["AnswerSource", "Generation", "Generator", "StopReason"]


class Generator:
    """Answer :class:`Generate` requests with one model.

    ``max_batch_rows`` bounds the rows that run side by side, ``max_prefill_tokens`` the padded tokens of prompts read
    in one pass; both are lowered, with a warning, where memory runs out. ``max_tokens`` caps the tokens of an answer;
    by default that many as it may have bytes, which only a model that keeps writing special tokens can reach. ``heal``
    lets the model write the last tokens of a prompt anew (``crosstok.harness.generation.healing``).
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
        self.room = Room(max_batch_rows, max_prefill_tokens, max_tokens)
        self._checkpoint = checkpoint
        self._context = context_tokens(checkpoint)
        self._healer = Healer(checkpoint.tokenbytes) if heal else None

    def generate(self, requests: Sequence[Generate]) -> Iterator[Generation]:
        """Answer every request once per seed, in the order in which the answers are ready.

        A prompt that the tokenizer cannot write is refused, not changed. Raises :class:`UserError` for a chat request
        to a model without a usable chat template, for a request that cannot be answered as it is put (a byte budget
        below 1, a sampling that makes no sense), and where memory does not suffice for a single answer.
        """
        readings: list[Reading] = []
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
                readings.append(Reading(rows[0].prompt.ids, deque(rows)))
        batch = Batch(
            self._checkpoint,
            readings,
            room=self.room,
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
            passes=self._checkpoint.members * (row.reads + row.steps),
        )
