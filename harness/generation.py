"""Greedy generation with continuous batching: rows leave the moment they end, waiting prompts take their place.

A batch that runs until its slowest row ends spends most of its row-steps on answers that are finished (measured with
lm-eval on HumanEval: 8192 row-steps for 2086 useful tokens). Here every row is looked at after every step, byte by
byte: a stop string, the byte budget or an end token ends it, its place in the batch is given up, and the next prompt is
read. ``row_steps`` and ``wasted_row_steps`` count what was spent; the second one is zero unless this module is broken.

Everything that decides is in bytes of the answer: room for it, stops, the cut at the end. The answer is put together
from the bytes of its ids, never by decoding text, so leading spaces survive and special tokens contribute nothing.
Prompts are never truncated: one that leaves the model no room is answered with nothing and ``context_full``.

Rows are padded on the left with exact masks and positions, and the logits are compared in fp32, so a row's answer in
fp32 does not depend on its neighbours (below fp32 rounding may flip a near tie, whoever computes it).
"""

import inspect
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from crosstok.errors import UserError
from distill.tokenbytes import RoundTripError
from harness.key_value_cache import RowCache
from harness.model_input import context_tokens
from harness.prompts import Prompt, encode_prompt
from harness.stops import StopMatcher
from tasks.task import Generate

if TYPE_CHECKING:
    from distill.checkpoints import Checkpoint

StopReason = Literal["stop", "end", "byte_budget", "token_cap", "context_full", "refused"]
_UTF8_LENGTH = 4  # bytes of the longest character


@dataclass(frozen=True, slots=True)
class Generation:
    """The answer to one :class:`Generate` request."""

    index: int
    """Position of the request among those that were passed in."""
    data: bytes
    """The answer, without the stop that ended it; at most ``max_bytes`` bytes, cut between two characters."""
    text: str
    """``data`` as text; what is no UTF-8 is shown as U+FFFD."""
    tokens: int
    """Tokens generated, specials excluded."""
    steps: int
    """Passes through the model that this row took part in after its prompt."""
    prompt_text: str
    prompt_bytes: int
    prompt_tokens: int
    """What was read; tokens include specials."""
    stop_reason: StopReason
    seconds: float
    """This row's share of the wall time of its batches."""
    refused: str = ""
    """Why the model was not asked: the tokenizer cannot write the prompt byte for byte."""


@dataclass(slots=True)
class _Row:
    """An answer in the making."""

    index: int
    request: Generate
    prompt: Prompt
    matcher: StopMatcher
    output: bytearray = field(default_factory=bytearray)
    next_id: int = -1
    sampled: int = 0
    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    stop_reason: StopReason | None = None

    def take(self, data: bytes) -> None:
        """Append the bytes of one token; end the row on the first byte that ends it."""
        room = self.request.max_bytes - len(self.output)
        # Bytes past the budget are not looked at: a tokenizer with long tokens must not see a stop behind it.
        match = self.matcher.feed(data[:room])
        self.output += data[:room]
        if match is not None:
            del self.output[match.start :]
            self.stop_reason = "stop"
        elif len(self.output) >= self.request.max_bytes:
            del self.output[whole_characters(self.output) :]
            self.stop_reason = "byte_budget"


class Generator:
    """Answer :class:`Generate` requests with one model.

    ``max_batch_rows`` bounds the rows that run side by side, ``max_prefill_tokens`` the padded tokens of prompts read
    in one pass. ``max_tokens`` caps the tokens of an answer; by default that many as it may have bytes, which only a
    model that keeps writing special tokens can reach.
    """

    def __init__(
        self,
        checkpoint: "Checkpoint",
        *,
        max_batch_rows: int = 32,
        max_prefill_tokens: int = 4096,
        max_tokens: int | None = None,
    ) -> None:
        self.row_steps = 0
        """Rows summed over all passes after the prompts."""
        self.wasted_row_steps = 0
        """Those of them spent on rows that had already ended."""
        self._checkpoint = checkpoint
        self._model = checkpoint.model
        self._max_rows = max_batch_rows
        self._max_prefill_tokens = max_prefill_tokens
        self._max_tokens = max_tokens
        self._context = context_tokens(checkpoint)
        self._last_only = "logits_to_keep" in inspect.signature(self._model.forward).parameters

    def generate(self, requests: Sequence[Generate]) -> Iterator[Generation]:
        """Answer every request once, in the order in which the answers are ready.

        A prompt that the tokenizer cannot write is refused, not changed. Raises :class:`UserError` for a chat request
        to a model without a usable chat template, and for a byte budget below 1.
        """
        rows: list[_Row] = []
        for index, request in enumerate(requests):
            if request.max_bytes < 1:
                raise UserError(f"max_bytes must be at least 1, not {request.max_bytes}.")
            try:
                prompt = encode_prompt(self._checkpoint, request)
            except RoundTripError as error:
                yield _refusal(index, request, str(error))
                continue
            row = _Row(index, request, prompt, StopMatcher(request.stops))
            if self._context is not None and len(prompt.ids) >= self._context:
                yield _answer(row, "context_full")
            else:
                rows.append(row)
        # Longest first: prompts of one pass are then of like length, and later ones never widen the running batch.
        yield from self._run(deque(sorted(rows, key=lambda row: -len(row.prompt.ids))))

    def _run(self, waiting: deque[_Row]) -> Iterator[Generation]:
        slots = min(self._max_rows, len(waiting))
        refill = max(1, slots // 8)  # reading a few prompts together costs less than reading each alone
        cache = RowCache(slots)
        running: list[_Row] = []
        while waiting or running:
            free = slots - len(running)
            if waiting and free >= min(refill, len(waiting)):
                group = self._next_group(waiting, free)
                running.extend(self._read_prompts(cache, group))
            else:
                self._step(cache, running)
            for position in reversed(range(len(running))):
                row = running[position]
                if row.stop_reason is not None:
                    cache.drop(position)
                    running[position] = running[-1]
                    running.pop()
                    yield _answer(row, row.stop_reason)

    def _next_group(self, waiting: deque[_Row], free: int) -> list[_Row]:
        """Take the next prompts that fit into one pass, at least one."""
        group = [waiting.popleft()]
        widest = len(group[0].prompt.ids)
        while waiting and len(group) < free and (len(group) + 1) * widest <= self._max_prefill_tokens:
            group.append(waiting.popleft())
        return group

    @torch.inference_mode()
    def _read_prompts(self, cache: RowCache, group: list[_Row]) -> list[_Row]:
        began = time.perf_counter()
        lengths = [len(row.prompt.ids) for row in group]
        width = max(lengths)
        ids = torch.zeros(len(group), width, dtype=torch.long)
        for position, row in enumerate(group):
            ids[position, width - lengths[position] :] = torch.tensor(row.prompt.ids)
        logits, prefilled = self._forward(ids, lengths, None)
        cache.insert(prefilled, lengths)
        self._take_best(group, logits)
        elapsed = time.perf_counter() - began
        for row, length in zip(group, lengths, strict=True):
            row.seconds += elapsed * length / sum(lengths)
        return group

    @torch.inference_mode()
    def _step(self, cache: RowCache, running: list[_Row]) -> None:
        began = time.perf_counter()
        self.row_steps += len(running)
        self.wasted_row_steps += sum(row.stop_reason is not None for row in running)
        ids = torch.tensor([[row.next_id] for row in running])
        logits, _ = self._forward(ids, [length + 1 for length in cache.lengths], cache.cache)
        cache.advance()
        for row in running:
            row.steps += 1
        self._take_best(running, logits)
        elapsed = time.perf_counter() - began
        for row in running:
            row.seconds += elapsed / len(running)

    def _forward(self, ids: torch.Tensor, lengths: Sequence[int], cache: Any) -> tuple[torch.Tensor, Any]:
        """Return the logits ``[rows, V]`` behind the last column and the cache.

        ``lengths`` counts each row's real columns, those in ``ids`` included; the columns left of them are padding.
        """
        device = self._model.device
        columns = ids.shape[1] if cache is None else max(lengths)
        position = torch.arange(columns) - (columns - torch.tensor(lengths))[:, None]
        arguments: dict[str, Any] = {"logits_to_keep": 1} if self._last_only else {}
        output = self._model(
            input_ids=ids.to(device),
            attention_mask=(position >= 0).long().to(device),
            position_ids=position[:, -ids.shape[1] :].clamp(min=0).to(device),
            past_key_values=cache,
            use_cache=True,
            **arguments,
        )
        return output.logits[:, -1], output.past_key_values

    def _take_best(self, rows: Sequence[_Row], logits: torch.Tensor) -> None:
        """Extend each row by its most probable id."""
        best = logits[:, : self._checkpoint.valid_rows].float().argmax(dim=-1).tolist()
        table = self._checkpoint.tokenbytes.table
        for row, number in zip(rows, best, strict=True):
            row.next_id = number
            row.sampled += 1
            if number in self._checkpoint.stop_ids:
                row.stop_reason = "end"
                continue
            data = table[number]
            if data is not None:
                row.tokens += 1
                row.take(data)
            if row.stop_reason is not None:
                continue
            if row.sampled >= (self._max_tokens or row.request.max_bytes):
                row.stop_reason = "token_cap"
            elif self._context is not None and len(row.prompt.ids) + row.sampled >= self._context:
                row.stop_reason = "context_full"


def _refusal(index: int, request: Generate, reason: str) -> Generation:
    text = "\n".join(message["content"] for message in request.messages or ()) or request.prompt
    return Generation(index, b"", "", 0, 0, text, len(text.encode()), 0, "refused", 0.0, reason)


def _answer(row: _Row, stop_reason: StopReason) -> Generation:
    data = bytes(row.output)
    return Generation(
        index=row.index,
        data=data,
        text=data.decode(errors="replace"),
        tokens=row.tokens,
        steps=row.steps,
        prompt_text=row.prompt.text,
        prompt_bytes=len(row.prompt.text.encode()),
        prompt_tokens=len(row.prompt.ids),
        stop_reason=stop_reason,
        seconds=row.seconds,
    )


def whole_characters(data: bytes | bytearray) -> int:
    """Return how many bytes of ``data`` are left when a character that it cuts off at its end is taken away.

    Bytes that could not be the beginning of a character are no reason to cut.
    """
    for back in range(1, min(_UTF8_LENGTH, len(data) + 1)):
        lead = data[-back]
        if lead & 0xC0 == 0x80:  # inside a character: look further back
            continue
        length = 2 if lead >> 5 == 0b110 else 3 if lead >> 4 == 0b1110 else 4 if lead >> 3 == 0b11110 else 1
        return len(data) - back if length > back else len(data)
    return len(data)
