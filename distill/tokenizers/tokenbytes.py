"""The bytes of every token, and encoding of text with the byte offset at which each token ends.

Bytes are all that two tokenizers have in common, so every comparison between models (alignment, shared vocabulary,
initialisation, bits per byte) uses this module. It follows three rules.

*A table, not a decoder.* Decoding a single id to text loses information: part of a character becomes U+FFFD, a leading
space disappears. The bytes of an id are therefore read from the tokenizer's pieces: GPT-2's printable alphabet is
inverted for byte-level vocabularies; for SentencePiece, U+2581 becomes a space and ``<0xHH>`` a byte. Offsets are
cumulative sums over this table.

*Content is encoded without special tokens.* A benchmark text may contain a literal ``<unk>`` or ``<|im_end|>``. Parsed
as a special token, it changes what the model reads, and has reversed the order of two models (WikiText). The encoder is
the tokenizer without special tokens, post-processor, truncation and padding. Added tokens that are *not* special (such
as Gemma's runs of newlines) are ordinary vocabulary and kept.

*Every text is verified.* Byte-level vocabularies without all bytes drop some, normalisers rewrite characters, and added
tokens may absorb spaces. A text whose tokens do not spell its UTF-8 bytes raises :class:`RoundTripError`.

SentencePiece models of the Llama 2 kind add a dummy prefix space unless the text begins with a space, so ``"x"`` and
``" x"`` get the same ids. The dummy space is not part of the text: it is subtracted from the length of the first token
(and ``Encoding.prefix`` is 1), which may leave that token without bytes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from crosstok.distill.tokenizers.tokenizer_file import TokenizerFile
from crosstok.errors import UserError


class RoundTripError(UserError):
    """A text that the tokenizer does not preserve: its tokens spell other bytes.

    ``position`` is the UTF-8 byte offset of the first difference; ``expected`` and ``found`` are the next bytes of the
    text and of the tokens (up to 8).
    """

    def __init__(self, position: int, expected: bytes, found: bytes, *, index: int | None = None) -> None:
        which = "The text" if index is None else f"Text {index}"
        super().__init__(
            f"{which} does not survive the tokenizer: at byte {position} it has {expected!r}, its tokens {found!r}.",
            hint="The vocabulary lacks bytes or the normaliser rewrites text; use another text or tokenizer.",
        )
        self.position = position
        self.expected = expected
        self.found = found


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """A text as tokens."""

    ids: npt.NDArray[np.int32]
    """Token ids, ``[n]``, without special tokens."""
    ends: npt.NDArray[np.int64]
    """UTF-8 byte offset at which each token ends, ``[n]``, non-decreasing; the last one is the length of the text."""
    prefix: int = 0
    """1 if the first token begins with a dummy space that is not in the text, else 0."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenBytes:
    """A tokenizer as a map between ids and bytes; create it with :meth:`from_tokenizer`."""

    table: tuple[bytes | None, ...] = field(repr=False)
    """Bytes of each id; None for special and unused ids."""
    lengths: npt.NDArray[np.int32] = field(repr=False)
    """Number of bytes of each id, ``[size]``; 0 for special and unused ids."""
    specials: dict[int, str] = field(repr=False)
    """Special ids and their names."""
    fingerprint: str
    """Hash of ids, bytes, merges or scores, normaliser, splits and special tokens."""
    dummy_prefix: bool
    """Whether the tokenizer adds a dummy prefix space."""
    _encoder: Tokenizer = field(repr=False)
    _ids: dict[bytes, int] = field(repr=False)

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase | Tokenizer) -> Self:
        """Read the table of a fast tokenizer; takes about 4 s for 262,144 ids.

        Raises UserError for slow tokenizers and for types other than BPE and Unigram (WordPiece drops white space, so
        no text with a newline would be preserved).
        """
        if isinstance(tokenizer, Tokenizer):
            file = TokenizerFile.parse(tokenizer.to_str())
        else:
            file = TokenizerFile.parse(_backend(tokenizer).to_str(), tokenizer.all_special_tokens)
        table = file.table()
        encoder = file.content_encoder()
        probe = encoder.encode("a", add_special_tokens=False).ids
        return cls(
            table=table,
            lengths=np.array([len(data or b"") for data in table], dtype=np.int32),
            specials=file.specials,
            fingerprint=file.fingerprint(table),
            dummy_prefix=b"".join(table[index] or b"" for index in probe) == b" a",
            _encoder=encoder,
            _ids=file.inverse(table),
        )

    @property
    def size(self) -> int:
        """Largest id + 1: the number of embedding rows that the tokenizer can address."""
        return len(self.table)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that have a role (beginning, end of turn, padding and so on) instead of bytes."""
        return frozenset(self.specials)

    def encode(self, text: str) -> Encoding:
        """Return the ids and byte ends of ``text``. Raises RoundTripError if the tokens spell other bytes."""
        answer = self.try_encode_many([text])[0]
        if isinstance(answer, RoundTripError):
            raise answer
        return answer

    def encode_many(self, texts: Sequence[str]) -> list[Encoding]:
        """Encode several texts in parallel. Raises the first RoundTripError, with the index of the text."""
        answers = self.try_encode_many(texts)
        for index, answer in enumerate(answers):
            if isinstance(answer, RoundTripError):
                raise RoundTripError(answer.position, answer.expected, answer.found, index=index)
        return [answer for answer in answers if isinstance(answer, Encoding)]

    def try_encode_many(self, texts: Sequence[str]) -> list[Encoding | RoundTripError]:
        """Encode several texts; a text that is not preserved gives its error, for the caller to count."""
        data = [_utf8(text) for text in texts]
        valid = [text for text, encoded in zip(texts, data, strict=True) if isinstance(encoded, bytes)]
        batches = iter(self._encoder.encode_batch_fast(valid, add_special_tokens=False))
        return [
            self._checked(encoded, next(batches).ids) if isinstance(encoded, bytes) else encoded for encoded in data
        ]

    def _checked(self, data: bytes, ids: list[int]) -> Encoding | RoundTripError:
        spelt = b"".join(self.table[index] or b"" for index in ids)
        prefix = int(self.dummy_prefix and len(spelt) == len(data) + 1)
        if spelt != b" " * prefix + data:
            return _difference(data, spelt[int(self.dummy_prefix and not data.startswith(b" ")) :])
        array = np.array(ids, dtype=np.int32)
        return Encoding(array, np.cumsum(self.lengths[array], dtype=np.int64) - prefix, prefix)

    def decode(self, ids: Iterable[int]) -> bytes:
        """Return the concatenated bytes of ``ids``; special and unused ids contribute none.

        A dummy space is kept (``decode(encoding.ids)[encoding.prefix:]`` is the text), so the bytes of a sequence are
        those of its parts, wherever it is split. Raises IndexError for an unknown id.
        """
        known = list(ids)
        if known and min(known) < 0:
            raise IndexError(f"Token ids are never negative: {min(known)}.")
        return b"".join(self.table[index] or b"" for index in known)

    def file(self) -> TokenizerFile:
        """Return a new backend tokenizer with the rules that encode content (no special tokens, no post-processor)."""
        return TokenizerFile.parse(self._encoder.to_str())

    def id_of(self, data: bytes) -> int | None:
        """Return the id whose bytes are exactly ``data``, or None.

        Of several ids, ordinary pieces are preferred to added tokens, these to ``<0xHH>`` pieces, then the lowest id.
        """
        return self._ids.get(data)


def _backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(
            f"The tokenizer {type(tokenizer).__name__} has no tokenizer.json.",
            hint="Save it as a fast tokenizer (AutoTokenizer with use_fast=True) and name that folder.",
        )
    return tokenizer.backend_tokenizer


def first_differences(left: TokenBytes, right: TokenBytes, n: int = 5) -> list[tuple[int, str, str]]:
    """Return the first ``n`` ids with different meanings in two tokenizers, and both meanings."""
    found = []
    for index in range(max(left.size, right.size)):
        meanings = _meaning(left, index), _meaning(right, index)
        if meanings[0] != meanings[1]:
            found.append((index, *meanings))
            if len(found) == n:
                break
    return found


def _meaning(tokenbytes: TokenBytes, index: int) -> str:
    if index in tokenbytes.specials:
        return f"special {tokenbytes.specials[index]}"
    data = tokenbytes.table[index] if index < tokenbytes.size else None
    return "unused" if data is None else repr(data)


def _utf8(text: str) -> bytes | RoundTripError:
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # lone surrogates are not text
        position = len(text[: error.start].encode())
        return RoundTripError(position, text[error.start : error.end].encode("utf-8", "surrogatepass"), b"")


def _difference(expected: bytes, found: bytes) -> RoundTripError:
    shared = zip(expected, found, strict=False)
    position = next((i for i, (left, right) in enumerate(shared) if left != right), min(len(expected), len(found)))
    return RoundTripError(position, expected[position : position + 8], found[position : position + 8])
