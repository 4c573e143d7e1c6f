"""Spellings of added tokens: the sequence of old tokens that each token of an expanded BPE vocabulary stands for."""

from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError


def spellings(tokens: TokenBytes, first: int) -> tuple[tuple[int, ...], ...]:
    """Return, for each id from ``first`` on, the ids below ``first`` that it stands for, according to the merges.

    Raises UserError for an id without a merge: the tokenizer is not an expansion of one with ``first`` ids.
    """
    if tokens.size == first:
        return ()
    model = tokens.file().settings["model"]
    ids: dict[str, int] = model["vocab"] if model["type"] == "BPE" else {}
    pieces = {index: piece for piece, index in ids.items() if index >= first}
    parts = {left + right: (left, right) for left, right in model.get("merges", ()) if ids[left + right] >= first}
    known: dict[str, tuple[int, ...]] = {}

    def of(piece: str) -> tuple[int, ...]:
        if ids[piece] < first:
            return (ids[piece],)
        if piece not in known:
            left, right = parts[piece]
            known[piece] = of(left) + of(right)
        return known[piece]

    try:
        return tuple(of(pieces[index]) for index in range(first, tokens.size))
    except KeyError as error:
        raise UserError(
            f"The tokens from id {first} on are not merges of earlier tokens: no merge creates {error.args[0]!r}.",
            hint="Expand the vocabulary with `crosstok expand`.",
        ) from None
