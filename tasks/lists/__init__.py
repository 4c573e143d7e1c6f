"""Published lists of the documents of a collection, with content hashes and isolation modes.

A list has one row per document: benchmark, id, hash of the document's fields, and the isolation mode (``split`` or
``guarded``) in which its reference solution passes. The lists are part of the repository, so "code2k" always means the
same documents.
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
    """Return the documents of a published list, in order."""
    if name not in LISTS:
        raise unknown_name("list", name, LISTS)
    text = (files(__package__) / f"{name}.tsv").read_text(encoding="utf-8")
    return tuple(Listed(*row) for row in csv.reader(text.splitlines()[1:], delimiter="\t"))


def differing(set_name: str, documents: Iterable[Document]) -> list[str]:
    """Return the ids of documents that differ from the published list: changed, additional or missing ones.

    Nothing differs for a benchmark that is on no list.
    """
    listed = {row.id: row.hash for row in published() if row.set == set_name}
    if not listed:
        return []
    found = {document.id: fingerprint(dict(document.fields)) for document in documents}
    return sorted(name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name))


@cache
def listed_modes(set_name: str) -> dict[str, str]:
    """Return the isolation mode of each document of a benchmark whose mode is not ``split``."""
    return {row.id: row.mode for row in published() if row.set == set_name and row.mode != "split"}
