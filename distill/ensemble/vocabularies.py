"""How a member's vocabulary answers for the ensemble's: one id of the member's for each id of the ensemble's.

| tokens | the member's id for a token | what it is |
|---|---|---|
| ``shared`` | the one with the same bytes | one vocabulary, special tokens of their own |
| ``mined`` | the one the fewest byte edits away | the MinED baseline; several may share one (arXiv 2401.10491) |
| ``union`` | the same bytes, else the first piece of its spelling | a union of top-k tokens as in UniTE (2410.03777) |

The ensemble's vocabulary is that of its first member (the pivot, on which MinED is known to depend). UniTE's union also
has tokens that only other members know; here such a token stands for the first piece of the pivot's spelling of it, so
that every choice is a token of the ensemble's.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from crosstok.errors import UserError
from distill.tokenbytes import Encoding, TokenBytes
from distill.vocabulary_map import nearest_tokens

Tokens = Literal["same", "shared", "mined", "union"]
KINDS: tuple[Tokens, ...] = ("same", "shared", "mined", "union")
MAPS = "vocabularies.safetensors"
"""The maps of an ensemble, beside its config."""

Ids = npt.NDArray[np.int64]
NONE = -1


def token_maps(kind: Tokens, ensemble: TokenBytes, member: TokenBytes) -> dict[str, Ids]:
    """Return ``to_member [ids of the ensemble]`` and ``to_ensemble [ids of the member]``; -1 where there is none.

    Special tokens have none. Raises UserError where a member does not split text as the ensemble does (``shared``).
    """
    if kind == "shared":
        _check_splits(ensemble, member)
        return {"to_member": _exact(ensemble, member), "to_ensemble": _exact(member, ensemble)}
    if kind == "mined":
        return {"to_member": _nearest(ensemble, member), "to_ensemble": _exact(member, ensemble)}
    return {"to_member": _first_pieces(ensemble, member), "to_ensemble": _first_pieces(member, ensemble)}


def encode_bytes(tokens: TokenBytes, data: bytes) -> Encoding:
    """Return ids and byte ends of ``data``, which may end, or be cut, inside a character.

    What is no UTF-8 is spelt by tokens of single bytes, where there are any; bytes without a token are left out.
    """
    try:
        return tokens.encode(data.decode())
    except UnicodeDecodeError as error:
        head = tokens.encode(data[: error.start].decode())
        broken = data[error.start : error.end]
        singles = [(place, found) for place, byte in enumerate(broken, 1) if (found := tokens.id_of(bytes([byte])))]
        tail = encode_bytes(tokens, data[error.end :])
        return Encoding(
            np.concatenate([head.ids, np.array([found for _, found in singles], dtype=np.int32), tail.ids]),
            np.concatenate(
                [
                    head.ends,
                    np.array([place + error.start for place, _ in singles], dtype=np.int64),
                    tail.ends + error.end,
                ]
            ),
            head.prefix,
        )


def _exact(source: TokenBytes, target: TokenBytes) -> Ids:
    found = np.full(source.size, NONE, dtype=np.int64)
    for index, data in enumerate(source.table):
        if data and (token := target.id_of(data)) is not None:
            found[index] = token
    return found


def _nearest(source: TokenBytes, target: TokenBytes) -> Ids:
    wanted = [index for index, data in enumerate(source.table) if data]
    offered = [index for index, data in enumerate(target.table) if data]
    places, _ = nearest_tokens(
        [source.table[index] or b"" for index in wanted], [target.table[index] or b"" for index in offered]
    )
    found = np.full(source.size, NONE, dtype=np.int64)
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
    """Refuse a member that splits text in other places, with the first one; the text is the whole vocabulary's."""
    text = " ".join(_readable(ensemble.table))
    ours, theirs = ensemble.encode(text).ends, member.encode(text).ends
    if np.array_equal(ours, theirs):
        return
    place = int(np.setxor1d(ours, theirs)[0])
    around = text.encode()[max(0, place - 20) : place + 20]
    raise UserError(
        f"The members do not split text in the same places; the first difference is at the middle of {around!r}.",
        hint="Transfer one of them to the other's tokenizer first, or use tokens: mined or union.",
    )


def _readable(table: Sequence[bytes | None]) -> list[str]:
    words = []
    for data in table:
        try:
            words.append((data or b"").decode())
        except UnicodeDecodeError:
            continue
    return words
