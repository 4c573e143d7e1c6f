"""New and old tokens of a student, their spelling by the parent, and printable bytes."""

from dataclasses import dataclass

import numpy as np

from crosstok.distill.embeddings.fvt import constituents
from crosstok.distill.tokenizers.tokenbytes import TokenBytes


@dataclass(frozen=True)
class VocabularyComparison:
    """The ordinary tokens of a student, split into new and old ones."""

    new: list[int]
    """Ids whose bytes are no token of the parent."""
    old: list[int]
    """Ids whose bytes are a token of the parent."""
    old_in_parent: list[int]
    """Parent ids of ``old``."""


def compare_vocabularies(student: TokenBytes, parent: TokenBytes) -> VocabularyComparison:
    """Split the student's tokens into new and old ones; special and unused ids are ignored."""
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
    return VocabularyComparison(new, old, there)


def spellings(parent: TokenBytes, student: TokenBytes, ids: list[int]) -> list[list[int]]:
    """Return the parent's ids for the bytes of each of ``ids``; an empty list if it lacks one of the bytes."""
    return [found for found, _ in constituents(parent, [student.table[index] or b"" for index in ids])]


def evenly_spaced(ids: list[int], count: int) -> list[int]:
    """Return at most ``count`` of ``ids``, evenly spaced, including the first and the last."""
    if len(ids) <= count:
        return list(ids)
    return [ids[place] for place in np.linspace(0, len(ids) - 1, count).round().astype(int)]


def printable(data: bytes | None) -> str:
    """Return bytes as text, with control characters and invalid UTF-8 escaped."""
    text = (data or b"").decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
