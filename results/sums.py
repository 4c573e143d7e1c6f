"""What the store sums up for tables, so that they never read a sample's text."""

from typing import NamedTuple


class DocumentScores(NamedTuple):
    """One metric of a cell, summed over the samples of each document; four columns of equal length."""

    document: tuple[str, ...]
    value: tuple[float, ...]
    weight: tuple[float, ...]
    scores: tuple[int, ...]
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


class VerdictFacts(NamedTuple):
    """How many verdicts of a cell are alike."""

    status: str
    integrity: str
    tier: str
    verdicts: int


def sum_by_document(document: tuple[str, ...], value: tuple[float, ...], weight: tuple[float, ...]) -> DocumentScores:
    """Return the sums over the samples of each document, in the order given."""
    if len(set(document)) == len(document):
        return DocumentScores(document, value, weight, (1,) * len(document))
    sums: dict[str, tuple[float, float, int]] = {}
    for name, numerator, denominator in zip(document, value, weight, strict=True):
        before = sums.get(name, (0.0, 0.0, 0))
        sums[name] = (before[0] + numerator, before[1] + denominator, before[2] + 1)
    return DocumentScores(tuple(sums), *zip(*sums.values(), strict=True))
