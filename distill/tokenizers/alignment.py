"""Chunks: the shortest stretches of text that two tokenizations both cut out.

A chunk is a span of teacher tokens and a span of student tokens that spell the same bytes (ALM, arXiv 2503.20083,
section 3.1). Its ends are the byte offsets at which both sides have a token end, so the finest partition is an
intersection of two sorted sets: no dynamic programming, no comparison of strings, no decoding. It is found by marking
one side's ends on a line of bytes and looking the other side's up there, in O(teacher + student + bytes) numpy
operations.

The result is one chunk index per token. The usual 0/1 matrix of tokens by chunks grows with the square of the length
(67 MB for 64 sequences of 2048 bytes); sums over chunks are segment sums over these indices instead.

Special tokens have no bytes. They are aligned by the role that they play (beginning of sequence, end of turn and so
on), a group of tokens at a time, since one family writes an end of turn as ``<|eot_id|>`` and another one as
``<end_of_turn>`` and a newline. A group that only one side has belongs to no chunk.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ends = npt.NDArray[np.int64]
"""Byte offsets at which tokens end, never falling, counted from the first byte of the text."""


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """Which chunk each token of either side belongs to."""

    teacher_chunks: npt.NDArray[np.int32]
    """Chunk of each teacher token, ``[n]``, never falling but for the -1 of tokens that are in no chunk."""
    student_chunks: npt.NDArray[np.int32]
    """Chunk of each student token, ``[m]``."""
    ends: Ends
    """Byte offset at which each chunk ends, ``[K]``. A chunk of special tokens ends where the one before it ends."""

    def __len__(self) -> int:
        return len(self.ends)

    def transposed(self) -> "Alignment":
        """Return the alignment with the sides exchanged."""
        return Alignment(self.student_chunks, self.teacher_chunks, self.ends)

    def predicted(self) -> "Alignment":
        """Return the alignment without the chunk that holds the first token of a side, which no logits predict.

        Where both sides begin with a beginning-of-sequence token that is the chunk of these two; where a side has none,
        its first chunk of text has to go on both sides, for the other side's probability would be compared to nothing.
        """
        starts = [chunks[0] for chunks in (self.teacher_chunks, self.student_chunks) if len(chunks)]
        if 0 not in starts:
            return self
        sides = [np.maximum(chunks - 1, -1) for chunks in (self.teacher_chunks, self.student_chunks)]
        return Alignment(sides[0], sides[1], self.ends[1:])


def align(teacher_ends: Ends, student_ends: Ends) -> Alignment:
    """Return the finest common chunks of two tokenizations of the same bytes.

    Tokens past the last common end get -1: a side that was truncated does not pull the other one's tail into a chunk. A
    token without bytes (a dummy space) belongs to the chunk that follows it.
    """
    size = 1 + max(_last(teacher_ends), _last(student_ends))
    teacher_closes = _closes(teacher_ends, _line(student_ends, size))
    student_closes = _closes(student_ends, _line(teacher_ends, size))
    return Alignment(_chunks(teacher_closes), _chunks(student_closes), teacher_ends[teacher_closes])


def _last(ends: Ends) -> int:
    return int(ends[-1]) if len(ends) else 0


def _line(ends: Ends, size: int) -> npt.NDArray[np.bool_]:
    """Return for each byte offset below ``size`` whether a token ends there."""
    line = np.zeros(size, dtype=np.bool_)
    line[ends] = True
    return line


def _closes(ends: Ends, other: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return for each token whether it closes a chunk: the other side ends there too, and it has bytes."""
    closes = other[ends]
    closes &= np.diff(ends, prepend=0) > 0
    return closes


def _chunks(closes: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Return the chunk of each token, which is the number of chunks closed before it; -1 where none is closed after."""
    chunks = np.cumsum(closes, dtype=np.int32)
    count = chunks[-1] if len(chunks) else 0
    chunks -= closes
    chunks[chunks == count] = -1
    return chunks


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """A stretch of text as tokens."""

    ends: Ends
    """Byte offset of each token's end inside this stretch, ``[n]``; the last one is the length of the stretch."""

    def __len__(self) -> int:
        return len(self.ends)


@dataclass(frozen=True, slots=True)
class Special:
    """Special tokens that play one role together, with the white space that a chat template writes behind them."""

    role: str
    count: int
    """Number of tokens."""

    def __len__(self) -> int:
        return self.count


Segment = Content | Special


def align_segments(teacher: Sequence[Segment], student: Sequence[Segment]) -> Alignment:
    """Align sequences that hold special tokens, such as rendered conversations.

    The text of all :class:`Content` runs on over the special tokens between. A group of special tokens on one side is
    matched with the one of the same role at the same offset of the text on the other side and makes a chunk of its own;
    its tokens on a side that is alone with it get -1. Text that a side was truncated out of gets -1 as well.
    """
    sides = _Side.of(teacher), _Side.of(student)
    pairs = _pairs(sides[0].specials, sides[1].specials)
    content = align(sides[0].ends, sides[1].ends)
    # Chunks of text and of specials, in the order of the text: a special stands before the text that follows it.
    offsets = np.array([left.offset for left, _ in pairs], dtype=np.int64)
    before = np.searchsorted(content.ends, offsets, side="right")
    ends = np.insert(content.ends, before, offsets)
    special_chunks = before + np.arange(len(pairs))
    content_chunks = np.delete(np.arange(len(ends)), special_chunks)
    return Alignment(
        sides[0].chunks(content.teacher_chunks, content_chunks, [left for left, _ in pairs], special_chunks),
        sides[1].chunks(content.student_chunks, content_chunks, [right for _, right in pairs], special_chunks),
        ends,
    )


@dataclass(frozen=True, slots=True)
class _Group:
    role: str
    offset: int
    """Bytes of text before it."""
    first: int
    """Index of its first token."""
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """One sequence, its text and its special tokens apart."""

    size: int
    positions: npt.NDArray[np.intp]
    """Index in the sequence of each token of text."""
    ends: Ends
    """Byte end of each token of text, over all stretches."""
    specials: list[_Group]

    @classmethod
    def of(cls, segments: Sequence[Segment]) -> "_Side":
        positions: list[npt.NDArray[np.intp]] = [np.empty(0, dtype=np.intp)]
        ends: list[Ends] = [np.empty(0, dtype=np.int64)]
        specials: list[_Group] = []
        first = offset = 0
        for segment in segments:
            if isinstance(segment, Special):
                specials.append(_Group(segment.role, offset, first, segment.count))
            else:
                positions.append(np.arange(first, first + len(segment)))
                ends.append(segment.ends + offset)
                offset += _last(segment.ends)
            first += len(segment)
        return cls(first, np.concatenate(positions), np.concatenate(ends), specials)

    def chunks(
        self,
        of_content: npt.NDArray[np.int32],
        content_chunks: npt.NDArray[np.intp],
        groups: list[_Group],
        special_chunks: npt.NDArray[np.intp],
    ) -> npt.NDArray[np.int32]:
        """Put the chunks of text (renumbered by ``content_chunks``) and those of special tokens in their places."""
        chunks = np.full(self.size, -1, dtype=np.int32)
        inside = of_content >= 0
        chunks[self.positions[inside]] = content_chunks[of_content[inside]]
        for group, chunk in zip(groups, special_chunks, strict=True):
            chunks[group.first : group.first + group.count] = chunk
        return chunks


def _pairs(teacher: list[_Group], student: list[_Group]) -> list[tuple[_Group, _Group]]:
    """Return the groups of equal role and offset, the first with the first, the second with the second and so on.

    Pairs that cross (two roles in another order at one place) are all left out: neither is better than the other, and
    a choice between them would depend on which side is called the teacher.
    """
    places = {key: place for place, key in enumerate(_numbered(student))}
    matched = [(group, places[key]) for group, key in zip(teacher, _numbered(teacher), strict=True) if key in places]
    found = [place for _, place in matched]
    before = [-1, *itertools.accumulate(found, max)]
    after = list(itertools.accumulate([len(student), *reversed(found)], min))[::-1]
    return [
        (group, student[place]) for rank, (group, place) in enumerate(matched) if before[rank] < place < after[rank + 1]
    ]


def _numbered(groups: list[_Group]) -> list[tuple[str, int, int]]:
    """Return role, offset and the how-manieth of its role at its offset for each group."""
    seen: Counter[tuple[str, int]] = Counter()
    keys = []
    for group in groups:
        keys.append((group.role, group.offset, seen[group.role, group.offset]))
        seen[group.role, group.offset] += 1
    return keys


def common_cut(teacher_ends: Ends, student_ends: Ends, teacher_limit: int, student_limit: int) -> tuple[int, int]:
    """Return how many tokens of each side to keep so that both are cut at the same byte within their limits.

    It is the largest common end that both sides reach in time (in tokens); cutting each side at its own limit covers
    different text, whose tail would be lost to alignment without a word.
    """
    common = align(teacher_ends, student_ends).ends
    counts = [np.searchsorted(ends, common, side="right") for ends in (teacher_ends, student_ends)]
    kept = np.flatnonzero((counts[0] <= teacher_limit) & (counts[1] <= student_limit))
    return (int(counts[0][kept[-1]]), int(counts[1][kept[-1]])) if len(kept) else (0, 0)
