"""Aligned batches: rows of text, tokenised for the teacher and for the student, as every loss reads them.

Tokens of the two sides are matched by one chunk id per token, never by a token-by-chunk matrix, so the memory of an
alignment is linear in the number of tokens. The rule for what is scored is defined here for all losses. A token counts
if the model predicts it (it is not the first of its window) and if it is content rather than padding, a special token
or a masked prompt. A chunk counts if all of its tokens count, on both sides.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Side:
    """One tokenisation of the batch, right-padded to ``n`` tokens."""

    ids: Tensor
    """``[b, n]`` int64 token ids."""
    attention: Tensor
    """``[b, n]`` int64, 1 for a real token and 0 for padding."""
    chunks: Tensor
    """``[b, n]`` int64 chunk id of each token within its row; -1 for tokens in no chunk."""
    counted: Tensor
    """``[b, n]`` bool: content to train on (no padding, no special token, no prompt)."""
    lengths: Tensor
    """``[b, n]`` int64 bytes of each token; 0 for special tokens and padding."""
    positions: Tensor | None = None
    """``[b, n]`` int64 position of each token in its window, if windows share a row; None with one window per row."""

    def to(self, device: torch.device | str) -> Self:
        """Return the side on another device."""
        values = {field: getattr(self, field) for field in self.__dataclass_fields__}
        return replace(self, **{field: value.to(device) for field, value in values.items() if value is not None})

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Keyword arguments for a Hugging Face model.

        In packed rows, positions restart at each window, from which transformers infers that attention must not cross
        windows. It then requires that no mask is passed; none is needed, since causal attention never reaches padding
        on the right.
        """
        if self.positions is None:
            return {"input_ids": self.ids, "attention_mask": self.attention}
        return {"input_ids": self.ids, "position_ids": self.positions}

    @property
    def begins(self) -> Tensor:
        """``[b, n]`` bool: the first token of each window."""
        if self.positions is not None:
            return (self.positions == 0) & (self.attention == 1)
        first = torch.zeros_like(self.counted)
        first[:, 0] = True
        return first

    @property
    def predicted(self) -> Tensor:
        """``[b, n]`` bool: the counted tokens that are predicted, i.e. not the first of their window."""
        return self.counted & ~self.begins

    def window_ends(self, count: int) -> Tensor:
        """``[b, count]`` bool: chunks followed by another window in the same row."""
        windows = self.begins.long().cumsum(dim=1)
        of_chunk = windows.gather(1, self.chunk_ends(count).clamp(min=0))
        return torch.nn.functional.pad(of_chunk[:, 1:] > of_chunk[:, :-1], (0, 1))

    def windows(self) -> list[tuple[int, int, int]]:
        """Return row, first token and last token + 1 of each window."""
        found: list[tuple[int, int, int]] = []
        lengths = self.attention.sum(dim=1).tolist()
        for row, first in self.begins.nonzero().tolist():
            if found and found[-1][0] == row:
                found[-1] = (row, found[-1][1], first)
            found.append((row, first, lengths[row]))
        return found

    def sum_by_chunk(self, values: Tensor, count: int) -> Tensor:
        """Sum per-token ``values [b, n]`` over each of ``count`` chunks: ``[b, count]``, in O(n)."""
        sums = values.new_zeros(values.shape[0], count + 1)
        return sums.scatter_add(1, _bucket(self.chunks, count), values)[:, :count]

    def chunk_ends(self, count: int) -> Tensor:
        """Return the position of the last token of each chunk, ``[b, count]`` int64; -1 for an empty chunk."""
        position = torch.arange(self.ids.shape[1], device=self.ids.device).expand_as(self.ids)
        ends = torch.full((self.ids.shape[0], count + 1), -1, dtype=torch.int64, device=self.ids.device)
        return ends.scatter_reduce(1, _bucket(self.chunks, count), position, "amax")[:, :count]

    def whole_chunks(self, count: int) -> Tensor:
        """``[b, count]`` bool: non-empty chunks all of whose tokens are predicted."""
        tokens = self.sum_by_chunk(torch.ones_like(self.ids), count)
        return (tokens > 0) & (self.sum_by_chunk(self.predicted.long(), count) == tokens)

    def regroup(self, groups: Tensor) -> Self:
        """Return the side with chunk ``k`` renamed to ``groups[:, k]``; chunks with the same new id are merged."""
        inside = self.chunks >= 0
        renamed = groups.gather(1, self.chunks.clamp(min=0)) if groups.shape[1] else self.chunks
        return replace(self, chunks=torch.where(inside, renamed, self.chunks))


@dataclass(frozen=True)
class AlignedBatch:
    """The same bytes as tokens of the teacher and of the student."""

    teacher: Side
    student: Side
    count: int
    """Upper bound of the chunk ids: the largest number of chunks of a row."""
    texts: tuple[str, ...] = ()
    """Text of each row, for messages and for the file written when a step fails."""

    def to(self, device: torch.device | str) -> Self:
        """Return the batch on another device."""
        return replace(self, teacher=self.teacher.to(device), student=self.student.to(device))

    @property
    def scored(self) -> Tensor:
        """``[b, count]`` bool: chunks that count on both sides."""
        return self.teacher.whole_chunks(self.count) & self.student.whole_chunks(self.count)

    def regroup(self, groups: Tensor) -> Self:
        """Return the batch with its chunks merged by ``groups [b, count]``, on both sides."""
        return replace(self, teacher=self.teacher.regroup(groups), student=self.student.regroup(groups))


def _bucket(chunks: Tensor, count: int) -> Tensor:
    return torch.where(chunks >= 0, chunks, count)
