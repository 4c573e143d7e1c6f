"""Mapping of members' vocabularies to that of an ensemble: one id of the member for each id of the ensemble.

| tokens | the member's id for a token | method |
|---|---|---|
| ``shared`` | the one with the same bytes | a common vocabulary with different special tokens |
| ``mined`` | the one at the smallest edit distance in bytes | MinED; several tokens may map to it (arXiv 2401.10491) |
| ``union`` | the same bytes, else the first piece of its spelling | union of top-k tokens (UniTE, arXiv 2410.03777) |

The ensemble has the vocabulary of its first member (the pivot, which is known to affect the results of MinED). UniTE's
union also contains tokens that only other members have. Here, such a token stands for the first piece of its spelling
by the pivot, so that every choice is a token of the ensemble.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from crosstok.distill.tokenizers.tokenbytes import Encoding, RoundTripError, TokenBytes
from crosstok.distill.tokenizers.vocabulary_map import nearest_tokens
from crosstok.errors import UserError

Tokens = Literal["same", "shared", "mined", "union"]
KINDS: tuple[Tokens, ...] = ("same", "shared", "mined", "union")
MAPS = "vocabularies.safetensors"
"""File with the maps of an ensemble, beside its config."""

Ids = npt.NDArray[np.int64]
NONE = -1


def token_maps(kind: Tokens, ensemble: TokenBytes, member: TokenBytes) -> dict[str, Ids]:
    """Return ``to_member [ids of the ensemble]`` and ``to_ensemble [ids of the member]``; -1 for no counterpart.

    Special tokens have none. Raises UserError for ``shared`` if a member splits text at other places than the ensemble.
    """
    if kind == "shared":
        _check_splits(ensemble, member)
        return {"to_member": _exact(ensemble, member), "to_ensemble": _exact(member, ensemble)}
    if kind == "mined":
        return {"to_member": _nearest(ensemble, member), "to_ensemble": _exact(member, ensemble)}
    return {"to_member": _first_pieces(ensemble, member), "to_ensemble": _first_pieces(member, ensemble)}


def encode_bytes(tokens: TokenBytes, data: bytes) -> Encoding:
    """Return ids and byte ends of ``data``, which may start or end inside a character.

    Invalid UTF-8, and text that the tokenizer does not preserve, is spelt by longest match from left to right; bytes
    without a token are skipped. Members must be able to read whatever the ensemble has written.
    """
    try:
        return tokens.encode(data.decode())
    except RoundTripError:
        return _spelt(tokens, data)
    except UnicodeDecodeError as error:
        head = encode_bytes(tokens, data[: error.start])
        broken = _spelt(tokens, data[error.start : error.end])
        tail = encode_bytes(tokens, data[error.end :])
        return Encoding(
            np.concatenate([head.ids, broken.ids, tail.ids]),
            np.concatenate([head.ends, broken.ends + error.start, tail.ends + error.end]),
            head.prefix,
        )


def _spelt(tokens: TokenBytes, data: bytes) -> Encoding:
    longest = int(tokens.lengths.max())
    ids: list[int] = []
    ends: list[int] = []
    start = 0
    while start < len(data):
        widths = range(min(longest, len(data) - start), 0, -1)
        width = next((width for width in widths if tokens.id_of(data[start : start + width]) is not None), 0)
        if width:
            ids.append(tokens.id_of(data[start : start + width]) or 0)
            ends.append(start + width)
        start += max(width, 1)
    return Encoding(np.array(ids, dtype=np.int32), np.array(ends, dtype=np.int64))


def _exact(source: TokenBytes, target: TokenBytes) -> Ids:
    """Return the id with the same bytes; several such ids (a letter and its ``<0xHH>``) are paired in order.

    If two ids were mapped to the same one, its probability would be counted twice.
    """
    found = np.full(source.size, NONE, dtype=np.int64)
    offered = _by_bytes(target)
    for data, ids in _by_bytes(source).items():
        for index, token in zip(ids, offered.get(data, ()), strict=False):
            found[index] = token
    return found


def _by_bytes(tokens: TokenBytes) -> dict[bytes, list[int]]:
    """Return all ids of each byte string, starting with the one used for encoding."""
    ids: dict[bytes, list[int]] = {}
    for index, data in enumerate(tokens.table):
        if data:
            ids.setdefault(data, []).append(index)
    for data, of_data in ids.items():
        of_data.sort(key=lambda index: (index != tokens.id_of(data), index))
    return ids


def _nearest(source: TokenBytes, target: TokenBytes) -> Ids:
    found = _exact(source, target)
    wanted = [index for index, data in enumerate(source.table) if data and found[index] == NONE]
    offered = [index for index, data in enumerate(target.table) if data]
    places, _ = nearest_tokens(
        [source.table[index] or b"" for index in wanted], [target.table[index] or b"" for index in offered]
    )
    found[wanted] = np.array(offered, dtype=np.int64)[places]
    return found


def _first_pieces(source: TokenBytes, target: TokenBytes) -> Ids:
    found = _exact(source, target)
    missing = [index for index, data in enumerate(source.table) if data and found[index] == NONE]
    for index in missing:
        pieces = encode_bytes(target, source.table[index] or b"").ids
        if len(pieces):
            found[index] = pieces[0]
    return found


def _check_splits(ensemble: TokenBytes, member: TokenBytes) -> None:
    """Raise UserError if a member splits text at other places, tested on the texts of the whole vocabulary."""
    words = _readable(ensemble.table)
    texts = [" ".join(words), "\n".join(words), *words]
    for text, ours, theirs in zip(texts, ensemble.try_encode_many(texts), member.try_encode_many(texts), strict=True):
        if isinstance(ours, RoundTripError):
            continue  # not representable in this vocabulary
        ends = np.empty(0, dtype=np.int64) if isinstance(theirs, RoundTripError) else theirs.ends
        if np.array_equal(ours.ends, ends):
            continue
        place = int(np.setxor1d(ours.ends, ends)[0])
        around = text.encode()[max(0, place - 20) : place + 20]
        raise UserError(
            f"The members split text at different places; the first difference is in the middle of {around!r}.",
            hint="Transfer one member to the other's tokenizer first, or use tokens: mined or union.",
        )


def _readable(table: Sequence[bytes | None]) -> list[str]:
    words = []
    for data in table:
        try:
            words.append((data or b"").decode())
        except UnicodeDecodeError:
            continue
    return words
