"""Sums over the rows of a cell, computed by the store so that tables never read sample texts."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Names = npt.NDArray[np.object_]


class DocumentScores(NamedTuple):
    """Scores of a cell on one metric, summed over the samples of each document; arrays of shape [n]."""

    document: Names
    """Document ids, unique and sorted."""
    value: Floats
    weight: Floats
    scores: Counts
    """Number of samples per document."""


class SampleFacts(NamedTuple):
    """Sums over the samples of a cell with the same stop reason."""

    stop_reason: str
    samples: int
    bytes: int
    tokens: int
    prompt_bytes: int
    prompt_tokens: int
    seconds: float
    new_tokens: float | None
    """Generated tokens that are not in the vocabulary of the model's source; None if they were not counted."""
    checked_tokens: int | None
    """Tokens of the samples in which new tokens were counted."""
    facts: Mapping[str, float] = {}
    """Further sums by name; see ``crosstok.results.store.facts``."""
    new_ids: Sequence[int] = ()
    """Distinct ids among the new tokens."""


class VerdictFacts(NamedTuple):
    """Number of verdicts of a cell with the same status, integrity and tier."""

    status: str
    integrity: str
    tier: str
    verdicts: int


def sum_by_document(document: Names, value: Floats, weight: Floats) -> DocumentScores:
    """Return the sums over the samples of each document; equal ids must be adjacent."""
    fresh = np.append(True, document[1:] != document[:-1])
    if fresh.all():
        return DocumentScores(document, value, weight, np.ones(len(document), dtype=np.int64))
    place = np.cumsum(fresh) - 1
    values, weights = (np.bincount(place, weights=column).astype(np.float64) for column in (value, weight))
    return DocumentScores(document[fresh], values, weights, np.bincount(place).astype(np.int64))
