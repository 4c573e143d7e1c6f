"""Chunk alignment of two tokenizations: the finest common partition of a text at token boundaries of both.

A chunk is a span of teacher tokens and a span of student tokens with the same bytes (ALM, arXiv 2503.20083, section
3.1). It ends at a byte offset at which tokens of both sides end, so the finest partition is the intersection of two
sorted sets, without dynamic programming, string comparison or decoding. It is found by marking the ends of one side in
an array of bytes and looking up those of the other side, in O(teacher + student + bytes) numpy operations.

The result is one chunk index per token. The usual 0/1 matrix of tokens by chunks grows with the square of the length
(67 MB for 64 sequences of 2048 bytes); with indices, sums over chunks are segment sums.

Special tokens have no bytes. They are aligned in groups by their role (beginning of sequence, end of turn and so on),
because one model family writes an end of turn as ``<|eot_id|>`` and another as ``<end_of_turn>`` and a newline. A group
without a counterpart belongs to no chunk.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ends = npt.NDArray[np.int64]
"""Byte offsets at which tokens end, from the start of the text, in non-decreasing order."""


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """The chunk of each token, for both sides."""

    teacher_chunks: npt.NDArray[np.int32]
    """Chunk of each teacher token, ``[n]``, non-decreasing; -1 for tokens in no chunk."""
    student_chunks: npt.NDArray[np.int32]
    """Chunk of each student token, ``[m]``."""
    ends: Ends
    """Byte offset at which each chunk ends, ``[K]``. A chunk of special tokens ends where the previous chunk ends."""

    def __len__(self) -> int:
        return len(self.ends)

    def transposed(self) -> "Alignment":
        """Return the alignment with teacher and student exchanged."""
        return Alignment(self.student_chunks, self.teacher_chunks, self.ends)

    def predicted(self) -> "Alignment":
        """Return the alignment without the chunk of each side's first token, which no logits predict.

        If both sides begin with a BOS, this is the chunk of the two. If a side has none, its first chunk of text is
        removed on both sides, as the other side's probability would have no counterpart.
        """
        starts = [chunks[0] for chunks in (self.teacher_chunks, self.student_chunks) if len(chunks)]
        if 0 not in starts:
            return self
        sides = [np.maximum(chunks - 1, -1) for chunks in (self.teacher_chunks, self.student_chunks)]
        return Alignment(sides[0], sides[1], self.ends[1:])


def align(teacher_ends: Ends, student_ends: Ends) -> Alignment:
    """Return the finest common chunks of two tokenizations of the same bytes.

    Tokens after the last common end get -1, so the tail of a side whose counterpart was truncated is in no chunk. A
    token without bytes (a dummy prefix space) belongs to the chunk that follows.
    """
    size = 1 + max(_last(teacher_ends), _last(student_ends))
    teacher_closes = _closes(teacher_ends, _line(student_ends, size))
    student_closes = _closes(student_ends, _line(teacher_ends, size))
    return Alignment(_chunks(teacher_closes), _chunks(student_closes), teacher_ends[teacher_closes])


def _last(ends: Ends) -> int:
    return int(ends[-1]) if len(ends) else 0


def _line(ends: Ends, size: int) -> npt.NDArray[np.bool_]:
    """Return a mask over byte offsets below ``size``: whether a token ends there."""
    line = np.zeros(size, dtype=np.bool_)
    line[ends] = True
    return line


def _closes(ends: Ends, other: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return whether each token closes a chunk: the other side ends there too, and the token has bytes."""
    closes = other[ends]
    closes &= np.diff(ends, prepend=0) > 0
    return closes


def _chunks(closes: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Return the chunk of each token: the number of chunks closed before it; -1 if none is closed after."""
    chunks = np.cumsum(closes, dtype=np.int32)
    count = chunks[-1] if len(chunks) else 0
    chunks -= closes
    chunks[chunks == count] = -1
    return chunks


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """A span of text as tokens."""

    ends: Ends
    """Byte offset within the span at which each token ends, ``[n]``; the last one is the length of the span."""

    def __len__(self) -> int:
        return len(self.ends)


@dataclass(frozen=True, slots=True)
class Special:
    """A group of special tokens with a common role, including white space that the chat template adds."""

    role: str
    count: int
    """Number of tokens."""

    def __len__(self) -> int:
        return self.count


Segment = Content | Special


def align_segments(teacher: Sequence[Segment], student: Sequence[Segment]) -> Alignment:
    """Align sequences with special tokens, such as rendered conversations.

    The text of all :class:`Content` segments is treated as continuous. A group of special tokens is matched with the
    group of the same role at the same text offset on the other side and forms a chunk; groups without a counterpart get
    -1. Text missing on one side because of truncation gets -1 as well.
    """
    sides = _Side.of(teacher), _Side.of(student)
    pairs = _pairs(sides[0].specials, sides[1].specials)
    content = align(sides[0].ends, sides[1].ends)
    # Merge content chunks and special chunks in text order; a special token precedes the text at its offset.
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
    """Bytes of text before the group."""
    first: int
    """Index of the first token."""
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """One sequence, with text and special tokens separated."""

    size: int
    positions: npt.NDArray[np.intp]
    """Index in the sequence of each content token."""
    ends: Ends
    """Byte end of each content token, over all spans."""
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
        """Return the chunk of each token of the sequence, with content chunks renumbered by ``content_chunks``."""
        chunks = np.full(self.size, -1, dtype=np.int32)
        inside = of_content >= 0
        chunks[self.positions[inside]] = content_chunks[of_content[inside]]
        for group, chunk in zip(groups, special_chunks, strict=True):
            chunks[group.first : group.first + group.count] = chunk
        return chunks


def _pairs(teacher: list[_Group], student: list[_Group]) -> list[tuple[_Group, _Group]]:
    """Return groups with equal role and offset, paired in order.

    Crossing pairs (two roles in different order at the same offset) are all dropped: neither is preferable, and the
    choice would depend on which side is the teacher.
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
    """Return role, offset and occurrence number (at this offset) of each group."""
    seen: Counter[tuple[str, int]] = Counter()
    keys = []
    for group in groups:
        keys.append((group.role, group.offset, seen[group.role, group.offset]))
        seen[group.role, group.offset] += 1
    return keys


def common_cut(teacher_ends: Ends, student_ends: Ends, teacher_limit: int, student_limit: int) -> tuple[int, int]:
    """Return the number of tokens to keep on each side so that both end at the same byte within their limits.

    This is the largest common end within both limits (in tokens). Truncating each side at its own limit would leave
    text on one side only, which alignment would silently drop.
    """
    common = align(teacher_ends, student_ends).ends
    counts = [np.searchsorted(ends, common, side="right") for ends in (teacher_ends, student_ends)]
    kept = np.flatnonzero((counts[0] <= teacher_limit) & (counts[1] <= student_limit))
    return (int(counts[0][kept[-1]]), int(counts[1][kept[-1]])) if len(kept) else (0, 0)
