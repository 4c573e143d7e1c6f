"""Training windows: batches of text that cover the same bytes for teacher and student.

A window is a span of one document measured in bytes, so a byte-level student and a teacher with a large vocabulary read
the same text. Windows are split before white space where possible, which is a token boundary for nearly every
tokenizer, and each tokenizer then encodes the window by itself. Both sides therefore begin and end at the same byte, no
tail is lost to a token limit, and no chunk crosses documents. Splitting by token count, as is common, lets the two
sides cover different text.

With ``pack``, short windows share a row to reduce padding. They remain independent: positions restart at each window,
attention stays within it, its first token is not predicted, and no chunk crosses into the next one.

Opening a corpus only splits it; windows are tokenised when a step needs them. Each epoch visits the windows in a
permutation that depends only on the seed. The windows of a step are thus known without replaying the steps before it,
which makes a run resumable.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from crosstok.distill.readings.batch import AlignedBatch, Side
from crosstok.distill.tokenizers.alignment import align
from crosstok.distill.tokenizers.tokenbytes import RoundTripError, TokenBytes
from crosstok.errors import UserError

if TYPE_CHECKING:
    from crosstok.corpora import Texts

log = logging.getLogger(__name__)

_PROBE = 64  # number of windows encoded before training starts, to reject tokenizers that do not preserve the corpus


@dataclass(frozen=True)
class Window:
    """A span of one document."""

    document: str
    text: str


class Tokens(NamedTuple):
    """The tokens of a window for one tokenizer."""

    ids: NDArray[np.int64]
    """Token ids ``[n]``, special tokens first."""
    ends: NDArray[np.int64]
    """Byte offset at which each content token ends, ``[n - special]``."""
    special: int
    """Number of leading special tokens."""


@dataclass(frozen=True)
class Encoder:
    """Encodes windows for one model: its tokenizer, and its BOS if it was trained with one."""

    tokens: TokenBytes
    bos_id: int | None

    def encode_many(self, texts: Sequence[str]) -> list[Tokens | RoundTripError]:
        """Return the tokens of each text, or the error for a text that the tokenizer does not preserve."""
        front = [] if self.bos_id is None else [self.bos_id]
        return [
            encoding
            if isinstance(encoding, RoundTripError)
            else Tokens(np.concatenate([front, encoding.ids]).astype(np.int64), encoding.ends, len(front))
            for encoding in self.tokens.try_encode_many(texts)
        ]


Row = tuple[str, Tokens, Tokens]
"""The text of a window, its tokens for the teacher, its tokens for the student."""


def cut(text: str, size: int) -> Iterator[str]:
    """Split ``text`` into consecutive spans of at most ``size`` UTF-8 bytes.

    A span ends before the last white space of its second half, or else after its last complete character.
    """
    data = text.encode("utf-8", "surrogatepass")  # lone surrogates are rejected by the tokenizer
    start = 0
    while len(data) - start > size:
        stop = start + size
        while data[stop] & 0xC0 == 0x80:  # continuation byte of a UTF-8 character
            stop -= 1
        middle = start + size // 2
        spaces = (data.rfind(mark, middle, stop) for mark in (b"\n", b" "))
        stop = next((space for space in spaces if space > middle), stop)
        yield data[start:stop].decode("utf-8", "surrogatepass")
        start = stop
    if start < len(data):
        yield data[start:].decode("utf-8", "surrogatepass")


class Windows:
    """The windows of a corpus in training order, and the batches built from them."""

    def __init__(
        self, texts: "Texts", teacher: Encoder, student: Encoder, *, size: int, seed: int, pack: bool = False
    ) -> None:
        self.teacher = teacher
        self.student = student
        self.size = size
        self.seed = seed
        self.pack = pack
        self.refused = 0
        """Number of windows left out because a tokenizer did not preserve them byte for byte."""
        self.windows = self._cut(texts)
        if not self.windows:
            raise UserError(f"The corpus {texts.name!r} contains no text.", hint="Choose another corpus.")
        self._probe(texts.name)

    def __len__(self) -> int:
        return len(self.windows)

    def at_step(self, step: int, batch: int) -> list[Window]:
        """Return the windows of optimizer step ``step`` (from 0), longest first to reduce padding."""
        first = step * batch
        chosen = [
            self.windows[self._order(place // len(self))[place % len(self)]] for place in range(first, first + batch)
        ]
        return sorted(chosen, key=lambda window: (-len(window.text), window.text))

    def batch(self, windows: Sequence[Window]) -> AlignedBatch:
        """Tokenise and align ``windows``; windows that do not survive the round trip are counted in ``refused``."""
        pairs, problems = self._encode(windows)
        self.refused += len(problems)
        for problem in problems:
            log.info("skipped a window of %s", problem)
        return stack(packed(pairs, self.size) if self.pack else [[pair] for pair in pairs])

    def _cut(self, texts: "Texts") -> list[Window]:
        return [Window(text.id, part) for text in texts.documents for part in cut(text.text, self.size)]

    def _encode(self, windows: Sequence[Window]) -> tuple[list["AlignedWindow"], list[str]]:
        texts = [window.text for window in windows]
        pairs: list[AlignedWindow] = []
        problems = []
        sides = zip(windows, self.teacher.encode_many(texts), self.student.encode_many(texts), strict=True)
        for window, teacher, student in sides:
            if isinstance(teacher, RoundTripError):
                problems.append(f"{window.document}: {teacher.message} (teacher)")
            elif isinstance(student, RoundTripError):
                problems.append(f"{window.document}: {student.message} (student)")
            else:
                pairs.append(align_window((window.text, teacher, student)))
        return pairs, problems

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if getattr(self, "_epoch", None) != epoch:
            self._epoch = epoch
            self._permutation = np.random.default_rng([self.seed, epoch]).permutation(len(self))
        return self._permutation

    def _probe(self, corpus: str) -> None:
        """Raise UserError before the first step if a tokenizer does not preserve most of the corpus."""
        probed = [self.windows[place] for place in self._order(0)[:_PROBE]]
        _, problems = self._encode(probed)
        if 2 * len(problems) > len(probed):
            raise UserError(
                f"{len(problems)} of {len(probed)} windows of {corpus!r} are not preserved byte for byte by both"
                f" tokenizers, for example {problems[0]}.",
                hint="A tokenizer that normalises text cannot be aligned with one that does not; use another one.",
            )


class WindowSide(NamedTuple):
    """A window as one side of a batch, ``[n]`` each; see the fields of ``Side``."""

    ids: NDArray[np.int64]
    chunks: NDArray[np.int64]
    counted: NDArray[np.bool_]
    lengths: NDArray[np.int64]


@dataclass(frozen=True)
class AlignedWindow:
    """A window as both sides of a batch."""

    text: str
    teacher: WindowSide
    student: WindowSide
    count: int
    """Number of chunks."""


def align_window(row: Row) -> AlignedWindow:
    """Align the two sides of a window."""
    text, teacher, student = row
    found = align(teacher.ends, student.ends)
    return AlignedWindow(
        text, _window_side(teacher, found.teacher_chunks), _window_side(student, found.student_chunks), len(found)
    )


def _window_side(tokens: Tokens, chunks: NDArray[np.int32]) -> WindowSide:
    none = np.zeros(tokens.special, dtype=np.int64)
    return WindowSide(
        ids=tokens.ids,
        chunks=np.concatenate([none - 1, chunks]),
        counted=np.arange(len(tokens.ids)) >= tokens.special,
        lengths=np.concatenate([none, np.diff(tokens.ends, prepend=0)]),
    )


def packed(pairs: Sequence[AlignedWindow], size: int) -> list[list[AlignedWindow]]:
    """Pack windows into rows of at most ``size`` bytes, first fit."""
    rows: list[list[AlignedWindow]] = []
    room: list[int] = []
    for pair in pairs:
        needed = len(pair.text.encode())
        place = next((place for place, left in enumerate(room) if left >= needed), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(size)
        rows[place].append(pair)
        room[place] -= needed
    return rows


def collate(rows: Sequence[Row]) -> AlignedBatch:
    """Build a batch from windows, one per row."""
    return stack([[align_window(row)] for row in rows])


def stack(rows: Sequence[Sequence[AlignedWindow]]) -> AlignedBatch:
    """Build a batch from rows of windows. Without rows, it holds one padding token, which scores nothing."""
    counts = [[pair.count for pair in row] for row in rows]
    return AlignedBatch(
        teacher=_side([[pair.teacher for pair in row] for row in rows], counts),
        student=_side([[pair.student for pair in row] for row in rows], counts),
        count=max(map(sum, counts), default=0),
        texts=tuple("".join(pair.text for pair in row) for row in rows),
    )


def _side(rows: Sequence[Sequence[WindowSide]], counts: Sequence[Sequence[int]]) -> Side:
    height, width = max(1, len(rows)), max((sum(len(sides.ids) for sides in row) for row in rows), default=1)
    ids, attention, lengths, positions = (np.zeros((height, width), dtype=np.int64) for _ in range(4))
    chunks = np.full((height, width), -1, dtype=np.int64)
    counted = np.zeros((height, width), dtype=np.bool_)
    attention[:, 0] = 1  # attention over a fully masked row is undefined
    for place, (row, of_row) in enumerate(zip(rows, counts, strict=True)):
        first = chunk = 0
        for sides, count in zip(row, of_row, strict=True):
            here = place, slice(first, first + len(sides.ids))
            ids[here], attention[here], lengths[here], counted[here] = sides.ids, 1, sides.lengths, sides.counted
            chunks[here] = np.where(sides.chunks >= 0, sides.chunks + chunk, -1)
            positions[here] = np.arange(len(sides.ids))
            first, chunk = first + len(sides.ids), chunk + count
    side = Side(*(torch.from_numpy(array) for array in (ids, attention, chunks, counted, lengths)))
    return replace(side, positions=torch.from_numpy(positions)) if any(len(row) > 1 for row in rows) else side
