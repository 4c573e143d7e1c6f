"""What the store sums up for tables, so that they never read a sample's text."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Names = npt.NDArray[np.object_]


class DocumentScores(NamedTuple):
    """One metric of a cell, summed over the samples of each document; four columns of equal length."""

    document: Names
    """Ids, each once, in the order of the key."""
    value: Floats
    weight: Floats
    scores: Counts
    """How many samples went into the sums."""


class SampleFacts(NamedTuple):
    """Sums over the samples of a cell that ended for the same reason."""

    stop_reason: str
    samples: int
    bytes: int
    tokens: int
    prompt_bytes: int
    prompt_tokens: int
    seconds: float
    new_tokens: float | None
    """Generated tokens that the source's vocabulary did not have; None where nobody counted them."""
    checked_tokens: int | None
    """Tokens of the samples in which they were counted."""
    facts: Mapping[str, float] = {}
    """Further sums by name; see ``crosstok.results.store.facts``."""
    new_ids: Sequence[int] = ()
    """The distinct ids among the new tokens."""


class VerdictFacts(NamedTuple):
    """How many verdicts of a cell are alike."""

    status: str
    integrity: str
    tier: str
    verdicts: int


def sum_by_document(document: Names, value: Floats, weight: Floats) -> DocumentScores:
    """Return the sums over the samples of each document; equal ids stand next to each other."""
    fresh = np.append(True, document[1:] != document[:-1])
    if fresh.all():
        return DocumentScores(document, value, weight, np.ones(len(document), dtype=np.int64))
    place = np.cumsum(fresh) - 1
    values, weights = (np.bincount(place, weights=column).astype(np.float64) for column in (value, weight))
    return DocumentScores(document[fresh], values, weights, np.bincount(place).astype(np.int64))
