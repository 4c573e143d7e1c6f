"""Matching of two vocabularies: special tokens by role, ordinary tokens by their bytes."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crosstok.distill.tokenizers.tokenbytes import TokenBytes

Origin = Literal["special", "exact", "mean", "bytes", "approximated", "fallback"]
"""Where the row of a token comes from. Matching gives ``special`` and ``exact``; ``fallback`` stands for no match."""


def match(
    source: TokenBytes, target: TokenBytes, specials: Mapping[int, int]
) -> tuple[NDArray[np.int64], list[Origin]]:
    """Return for each target id the source id whose row is copied (-1: none), and the origins so far.

    Ids that share their bytes (``a`` and ``<0x61>``) are paired in order, the one that encoding would choose first, so
    that a vocabulary matched with itself is the identity. Ids without an origin yet say ``fallback``.
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
