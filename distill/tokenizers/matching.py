"""Matching of two vocabularies: special tokens by role, ordinary tokens by their bytes."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crosstok.distill.tokenizers.tokenbytes import TokenBytes

Origin = Literal["special", "exact", "mean", "bytes", "approximated", "fallback"]
"""Origin of a token's row. Matching yields ``special`` and ``exact``; ``fallback`` means no match."""


def match(
    source: TokenBytes, target: TokenBytes, specials: Mapping[int, int]
) -> tuple[NDArray[np.int64], list[Origin]]:
    """Return for each target id the source id to copy (-1: none), and the origins so far.

    Ids with the same bytes (``a`` and ``<0x61>``) are paired in order, starting with the one used for encoding, so that
    matching a vocabulary with itself is the identity. Ids without a match have the origin ``fallback``.
    """
    copied = np.full(target.size, -1, dtype=np.int64)
    origins: list[Origin] = ["fallback"] * target.size
    for token, row in specials.items():
        copied[token], origins[token] = row, "special"
    there, here = _by_bytes(source), _by_bytes(target)
    for data, tokens in here.items():
        rows = there.get(data)
        if rows is None:
            continue
        for rank, token in enumerate(tokens):
            if origins[token] != "special":
                copied[token], origins[token] = rows[rank] if rank < len(rows) else rows[0], "exact"
    return copied, origins


def _by_bytes(tokens: TokenBytes) -> dict[bytes, list[int]]:
    found: defaultdict[bytes, list[int]] = defaultdict(list)
    for token, data in enumerate(tokens.table):
        if data:
            found[data].append(token)
    for data, same in found.items():
        if len(same) > 1:
            preferred = tokens.id_of(data)
            same.sort(key=lambda token: token != preferred)
    return dict(found)
