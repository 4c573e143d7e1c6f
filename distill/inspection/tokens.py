"""Which tokens of a student are new, how the parent spells them, and how bytes are shown."""

from dataclasses import dataclass

import numpy as np

from crosstok.distill.embeddings.fvt import constituents
from crosstok.distill.tokenizers.tokenbytes import TokenBytes


@dataclass(frozen=True)
class Vocabulary:
    """The ordinary tokens of a student, told apart by its parent."""

    new: list[int]
    """Ids whose bytes are no token of the parent's."""
    old: list[int]
    """Ids whose bytes are one."""
    old_in_parent: list[int]
    """The parent's ids of ``old``."""


def compare(student: TokenBytes, parent: TokenBytes) -> Vocabulary:
    """Tell new from old tokens; special and unused ids are neither."""
    new, old, there = [], [], []
    for index, data in enumerate(student.table):
        if not data:
            continue
        found = parent.id_of(data)
        if found is None:
            new.append(index)
        else:
            old.append(index)
            there.append(found)
    return Vocabulary(new, old, there)


def spellings(parent: TokenBytes, student: TokenBytes, ids: list[int]) -> list[list[int]]:
    """Return the parent's ids for the bytes of each of ``ids``; an empty list where it lacks a byte of them."""
    return [found for found, _ in constituents(parent, [student.table[index] or b"" for index in ids])]


def spaced(ids: list[int], count: int) -> list[int]:
    """Return at most ``count`` of ``ids``, evenly spaced, the first and the last among them."""
    if len(ids) <= count:
        return list(ids)
    return [ids[place] for place in np.linspace(0, len(ids) - 1, count).round().astype(int)]


def shown(data: bytes | None) -> str:
    """Return bytes as text in which every control character and every byte that is no UTF-8 can be seen."""
    text = (data or b"").decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
