"""The running batch: rows leave the moment they end, waiting prompts take their place, and memory may run out.

A batch that runs until its slowest row ends spends most of its row-steps on answers that are finished (measured with
lm-eval on HumanEval: 8192 row-steps for 2086 useful tokens). Here every row is looked at after every step; one that has
ended gives up its place at once. ``Counts`` says what was spent; wasted row-steps are zero unless this is broken.

A prompt is read once, whatever the number of answers to it: its keys and values are copied into one row per answer. If
there are more answers than places, what was read is kept until the last of them has a place; as prompts are read only
while places are free, that is never more than one reading pass.

When memory runs out, the batch is halved for good. A pass over prompts is simply tried again with half of them. After a
failed step the cache is given up and its rows go back to waiting with what they have written: they are read again, half
as many side by side, and go on where they were. A row's next token depends on what it has written and on its seed, so
the answers are the same.
"""

import inspect
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from crosstok.harness.generation.answers import AnswerBytes, StopReason
from crosstok.harness.generation.healing import Healer
from crosstok.harness.generation.key_value_cache import ReadPrompts, RowCache
from crosstok.harness.generation.packed_weights import PackedWeights
from crosstok.harness.generation.prompts import Prompt
from crosstok.harness.generation.ragged_attention import attention_in
from crosstok.harness.generation.sampling import Uniforms, draw
from crosstok.harness.runtime.memory import attempt, too_large
from crosstok.harness.runtime.padding import of_like_length
from crosstok.tasks.task import Generate

if TYPE_CHECKING:
    from crosstok.distill.models.checkpoints import Checkpoint

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Counts:
    """What was spent, over all calls of one generator."""

    prompts_read: int = 0
    prompt_tokens_read: int = 0
    """Without padding; a prompt with many answers counts once."""
    row_steps: int = 0
    """Rows summed over all passes after the prompts."""
    wasted_row_steps: int = 0
    """Those of them spent on rows that had already ended."""
    columns: int = 0
    """Of keys that belong to the rows, summed over the same passes."""
    columns_read: int = 0
    """Columns that the runs of rows have, padding included (``crosstok.harness.generation.ragged_attention``)."""
    out_of_memory: int = 0
    """How often memory ran out and the batch was halved."""


@dataclass(slots=True)
class Room:
    """How much is done side by side; lowered for good when memory runs out."""

    rows: int
    prefill_tokens: int
    """Padded tokens of prompts that are read in one pass."""
    max_tokens: int | None
    """Of one answer."""


@dataclass(slots=True)
class Row:
    """An answer in the making."""

    index: int
    sample: int
    request: Generate
    prompt: Prompt
    answer: AnswerBytes
    uniforms: Uniforms
    heal: bytes
    """The bytes taken from the prompt's end that are still to be written again."""
    healed: int = 0
    """How many of them have been."""
    ids: list[int] = field(default_factory=list)
    tokens: int = 0
    steps: int = 0
    reads: int = 0
    """Passes that read its prompt, and once more what it had written where memory ran out."""
    seconds: float = 0.0
    stop_reason: StopReason | None = None

    def take(self, data: bytes) -> None:
        """Append the bytes of one token; those that belong to the prompt are not part of the answer."""
        again = min(len(self.heal), len(data))
        self.heal = self.heal[again:]
        self.healed += again
        self.tokens += 1
        self.answer.feed(data[again:])
        self.stop_reason = self.answer.stop_reason


@dataclass(slots=True)
class Reading:
    """A text that has to be read, and the rows that go on from it."""

    ids: list[int]
    rows: deque[Row]


class Batch:
    """Answers rows with one model, each of ``readings`` read once."""

    def __init__(
        self,
        checkpoint: "Checkpoint",
        readings: Iterable[Reading],
        *,
        room: Room,
        counts: Counts,
        context: int | None,
        healer: Healer | None,
    ) -> None:
        self._checkpoint = checkpoint
        self._model = checkpoint.model
        self._weights = PackedWeights(checkpoint.model)
        self._last_only = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        self._room = room
        self._counts = counts
        self._context = context
        self._healer = healer
        self._waiting: deque[Reading] = deque()
        self._queue(readings)
        self._open(sum(len(reading.rows) for reading in self._waiting))

    def run(self) -> Iterator[Row]:
        """Yield each row when it has ended."""
        while self._waiting or self._running or self._shelf:
            free = self._slots - len(self._running)
            if self._shelf is not None and free:
                done = attempt(self._place)
            elif self._waiting and free >= min(self._refill, self._waiting_rows()):
                done = self._read(self._next_group(free))
            else:
                done = attempt(self._step)
            if done is None:
                self._halve()
            yield from self._leave()

    def _open(self, rows: int) -> None:
        """Begin with an empty cache."""
        self._slots = max(1, min(self._room.rows, rows))
        self._refill = max(1, self._slots // 8)  # reading a few prompts together costs less than reading each alone
        self._cache = RowCache(self._slots)
        self._running: list[Row] = []
        self._shelf: tuple[ReadPrompts, torch.Tensor, list[Reading]] | None = None

    def _queue(self, readings: Iterable[Reading]) -> None:
        # Longest first: prompts of one pass are then of like length, and later ones never widen the running batch.
        self._waiting = deque(sorted([*self._waiting, *readings], key=lambda reading: -len(reading.ids)))

    def _waiting_rows(self) -> int:
        """Return how many rows wait, counted no further than decides whether to read."""
        return sum(len(reading.rows) for reading in islice(self._waiting, self._refill))

    def _leave(self) -> Iterator[Row]:
        for position in reversed(range(len(self._running))):
            row = self._running[position]
            if row.stop_reason is not None:
                for to, origin in self._cache.drop(position):
                    self._running[to] = self._running[origin]
                self._running.pop()
                yield row

    # --- reading prompts ---

    def _next_group(self, free: int) -> list[Reading]:
        """Take the next prompts for one pass, at least one: they fit, find a place, and are of like length."""
        count = of_like_length((len(reading.ids) for reading in self._waiting), self._room.prefill_tokens)
        group = [self._waiting.popleft()]
        rows = len(group[0].rows)
        while len(group) < count and rows < free:
            group.append(self._waiting.popleft())
            rows += len(group[-1].rows)
        return group

    def _read(self, group: list[Reading]) -> bool | None:
        """Read the prompts and place their rows; return None where memory ran out with nothing left to halve here."""
        began = time.perf_counter()
        lengths = [len(reading.ids) for reading in group]
        read = attempt(lambda: self._prefill(group, lengths))
        if read is None:
            self._queue(group)
            if len(group) == 1:
                return None
            self._note_memory(f"{len(group)} prompts", f"{len(group) // 2}")
            self._room.prefill_tokens = len(group) // 2 * max(lengths)
            return True
        self._counts.prompts_read += len(group)
        self._counts.prompt_tokens_read += sum(lengths)
        elapsed = time.perf_counter() - began
        for reading in group:
            for row in reading.rows:
                row.reads += 1
                row.seconds += elapsed * len(reading.ids) / sum(lengths) / len(reading.rows)
        self._shelf = (*read, group)
        return attempt(self._place)

    @torch.inference_mode()
    def _prefill(self, group: list[Reading], lengths: list[int]) -> tuple[ReadPrompts, torch.Tensor]:
        width = max(lengths)
        ids = torch.zeros(len(group), width, dtype=torch.long)
        for position, reading in enumerate(group):
            ids[position, width - lengths[position] :] = torch.tensor(reading.ids)
        logits, cache = self._forward(ids, lengths, None)
        return ReadPrompts(cache, lengths), logits

    @torch.inference_mode()
    def _place(self) -> bool:
        """Give rows whose prompt has been read their places, as many as there are, and draw their first tokens."""
        if self._shelf is None:
            return True
        began = time.perf_counter()
        read, logits, group = self._shelf
        places = ((position, reading) for position, reading in enumerate(group) for _ in reading.rows)
        chosen = list(islice(places, self._slots - len(self._running)))
        positions = [position for position, _ in chosen]
        self._cache.insert(read, positions)
        rows = [reading.rows.popleft() for _, reading in chosen]
        self._running.extend(rows)
        if not group[-1].rows:
            self._shelf = None
        self._extend(rows, logits[positions])
        self._share(rows, began)
        return True

    # --- steps ---

    @torch.inference_mode()
    def _step(self) -> bool:
        began = time.perf_counter()
        running = self._running
        ids = torch.tensor([[row.ids[-1]] for row in running])
        lengths = [length + 1 for length in self._cache.lengths]
        with attention_in(self._cache.runs, self._model, self._cache.cache):
            logits, _ = self._forward(ids, lengths, self._cache.cache)
        self._counts.columns += sum(lengths)
        self._counts.columns_read += sum(
            (end - first) * (max(lengths) - start) for first, end, start in self._cache.runs
        )
        self._cache.advance()
        self._counts.row_steps += len(running)
        self._counts.wasted_row_steps += sum(row.stop_reason is not None for row in running)
        for row in running:
            row.steps += 1
        self._extend(running, logits)
        self._share(running, began)
        return True

    def _forward(self, ids: torch.Tensor, lengths: Sequence[int], cache: Any) -> tuple[torch.Tensor, Any]:
        """Return the logits ``[rows, V]`` behind the last column, valid rows of the vocabulary only, and the cache.

        ``lengths`` counts each row's real columns, those in ``ids`` included; the columns left of them are padding.
        """
        device = self._model.device
        columns = ids.shape[1] if cache is None else max(lengths)
        position = torch.arange(columns) - (columns - torch.tensor(lengths))[:, None]
        arguments: dict[str, Any] = {"logits_to_keep": 1} if self._last_only else {}
        with self._weights.used():
            output = self._model(
                input_ids=ids.to(device),
                attention_mask=(position >= 0).long().to(device),
                position_ids=position[:, -ids.shape[1] :].clamp(min=0).to(device),
                past_key_values=cache,
                use_cache=True,
                **arguments,
            )
        return output.logits[:, -1, : self._checkpoint.valid_rows].float(), output.past_key_values

    def _extend(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        """Draw the next id of each row."""
        if self._healer is not None:
            for position, row in enumerate(rows):
                if row.heal:
                    forbidden = torch.ones(logits.shape[1], dtype=torch.bool)
                    forbidden[self._healer.allowed(row.heal)] = False
                    logits[position, forbidden.to(logits.device)] = -torch.inf
        uniforms = [0.0 if row.request.sampling.greedy else row.uniforms.at(len(row.ids)) for row in rows]
        chosen = draw(logits, [row.request.sampling for row in rows], uniforms)
        for row, number in zip(rows, chosen, strict=True):
            self._append(row, number)

    def _append(self, row: Row, number: int) -> None:
        row.ids.append(number)
        if number in self._checkpoint.stop_ids:
            row.stop_reason = "end"
            return
        data = self._checkpoint.tokenbytes.table[number]
        if data is not None:
            row.take(data)
        if row.stop_reason is not None:
            return
        if len(row.ids) >= (self._room.max_tokens or row.request.max_bytes):
            row.stop_reason = "token_cap"
        elif self._context is not None and len(row.prompt.ids) + len(row.ids) >= self._context:
            row.stop_reason = "context_full"

    def _share(self, rows: Sequence[Row], began: float) -> None:
        elapsed = time.perf_counter() - began
        for row in rows:
            row.seconds += elapsed / len(rows)

    # --- out of memory ---

    def _halve(self) -> None:
        """Give up the cache and half of the places; what was running waits to be read again."""
        if self._slots == 1:
            raise too_large("a single answer in the making", "leave its longest prompts out")
        slots = max(1, (len(self._running) or self._slots) // 2)
        self._note_memory(f"{self._slots} rows", f"{slots}")
        self._room.rows = slots
        unplaced = [reading for reading in (self._shelf[2] if self._shelf else []) if reading.rows]
        self._queue(_readings_of(self._running, unplaced))
        self._open(slots)

    def _note_memory(self, many: str, fewer: str) -> None:
        self._counts.out_of_memory += 1
        logger.warning("Out of memory with %s at a time; going on with %s.", many, fewer)


def _readings_of(running: Iterable[Row], unplaced: Iterable[Reading]) -> list[Reading]:
    """Return what has to be read for rows that lost their places; rows with the same text so far share it."""
    found = {tuple(reading.ids): reading for reading in unplaced}
    for row in running:
        ids = (*row.prompt.ids, *row.ids)
        found.setdefault(ids, Reading(list(ids), deque())).rows.append(row)
    return list(found.values())
