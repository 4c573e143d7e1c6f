"""Comparable positions: those at which both models predict from the same bytes.

Logits at token i predict token i + 1. At the first token of a chunk, both models have read the same bytes, so their
next-token distributions answer the same question over different vocabularies. If the chunk is one token on both sides,
the actual tokens spell the same bytes too.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from crosstok.distill.readings.batch import AlignedBatch, Side
from crosstok.distill.readings.outputs import Outputs


@dataclass(frozen=True)
class Places:
    """Pairs of predicted tokens, ``[p]`` int64 each."""

    rows: Tensor
    """Row in the batch."""
    chunks: Tensor
    """Chunk in the row."""
    teacher: Tensor
    """Index of the predicted token on the teacher's side."""
    student: Tensor
    """Index of the predicted token on the student's side."""

    def __len__(self) -> int:
        return len(self.rows)


def one_to_one(batch: AlignedBatch) -> Places:
    """Return the scored chunks that are a single token on both sides.

    Tokens without bytes (SentencePiece's dummy prefix space) are not counted.
    """
    sides = (batch.teacher, batch.student)
    single = [side.sum_by_chunk((side.lengths > 0).long(), batch.count) == 1 for side in sides]
    rows, chunks = (batch.scored & single[0] & single[1]).nonzero(as_tuple=True)
    return Places(rows, chunks, *(side.chunk_ends(batch.count)[rows, chunks] for side in sides))


def starts(batch: AlignedBatch) -> Places:
    """Return the first token of every scored chunk."""
    rows, chunks = batch.scored.nonzero(as_tuple=True)
    first = [chunk_starts(side, batch.count)[rows, chunks] for side in (batch.teacher, batch.student)]
    return Places(rows, chunks, *first)


def token_counts(side: Side, count: int) -> Tensor:
    """Return the number of tokens of each chunk, ``[b, count]``."""
    return side.sum_by_chunk(torch.ones_like(side.ids), count)


def chunk_starts(side: Side, count: int) -> Tensor:
    """Return the position of the first token of each chunk, ``[b, count]``; undefined for an empty chunk."""
    return side.chunk_ends(count) - token_counts(side, count) + 1


def predictions(outputs: Outputs, rows: Tensor, tokens: Tensor) -> Tensor:
    """Return the logits ``[p, valid_rows]`` that predict token ``tokens[i]`` of row ``rows[i]``."""
    return outputs.logits[rows, tokens - 1]


def touch(outputs: Outputs) -> Tensor:
    """Return 0 with a gradient path to every reading, so that a batch without anything to score can be trained on."""
    return torch.stack([reading[..., :0].sum() for reading in outputs.readings.values()]).sum()
