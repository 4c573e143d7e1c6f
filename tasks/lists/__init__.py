"""The published lists: which documents a collection has, what they were, and how each is judged.

One row per document: set, id, hash of what it asks and how it is judged, and the mode (``split`` or ``guarded``) in
which its published solution passes. The list is part of the repository, so that "code2k" means the same documents
everywhere and for good.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from crosstok.errors import unknown_name
from crosstok.fingerprint import fingerprint
from crosstok.tasks.task import Document

LISTS = ("code2k",)


@dataclass(frozen=True, slots=True)
class Listed:
    """One document of a published list."""

    set: str
    id: str
    hash: str
    mode: str


@cache
def published(name: str = "code2k") -> tuple[Listed, ...]:
    """Return the documents of a published list, in its order."""
    if name not in LISTS:
        raise unknown_name("list", name, LISTS)
    text = (files(__package__) / f"{name}.tsv").read_text(encoding="utf-8")
    return tuple(Listed(*row) for row in csv.reader(text.splitlines()[1:], delimiter="\t"))


def differing(set_name: str, documents: Iterable[Document]) -> list[str]:
    """Return the ids of documents that the published list has otherwise, or not at all, and of those it has besides.

    Nothing differs in a set that is on no list.
    """
    listed = {row.id: row.hash for row in published() if row.set == set_name}
    if not listed:
        return []
    found = {document.id: fingerprint(dict(document.fields)) for document in documents}
    return sorted(name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name))


@cache
def listed_modes(set_name: str) -> dict[str, str]:
    """Return the mode of each document of a set that is judged otherwise than split."""
    return {row.id: row.mode for row in published() if row.set == set_name and row.mode != "split"}
