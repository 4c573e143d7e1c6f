"""Tokenization facts of a cell: sums over the facts stored with each sample, and the table columns made from them.

The facts are recorded by ``crosstok.harness.generation.answer_facts``, ``crosstok.harness.likelihood.rolling`` and
``crosstok.harness.likelihood.agreement``. A share is always relative to the samples for which its fact was recorded;
facts that were not recorded are absent, never zero.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from crosstok.results.store.aggregates import SampleFacts

AGREEMENT = "agreement"
"""Name of the fact that compares a sample with the teacher; its sums are named ``agreement.NAME``."""

Sums = dict[str, float]


def sum_facts(rows: Iterable[tuple[int, Mapping[str, Any]]]) -> tuple[Sums, list[int]]:
    """Return the sums over samples, given as (bytes, facts), and the distinct new token ids in them.

    Facts that no sample has are left out.
    """
    sums: Sums = {}
    new_ids: set[int] = set()

    def add(name: str, value: float) -> None:
        sums[name] = sums.get(name, 0) + value

    for size, facts in rows:
        for name, value in _of_answer(size, facts):
            add(name, value)
        straddled = facts.get("straddled", bool(facts.get("straddled_bytes")) if "choices" in facts else None)
        if straddled is not None:
            add("borders", 1)
            add("straddled", bool(straddled))
        if facts.get("mean_context_bytes") is not None:
            add("context_of_bytes", size)
            add("context_bytes", facts["mean_context_bytes"] * size)
        if "new_bytes" in facts:
            add("checked_bytes", size)
            add("new_bytes", facts["new_bytes"])
        if "new_ids_known" in facts:  # a property of the model, equal in all answers
            sums["new_ids_known"] = max(sums.get("new_ids_known", 0), facts["new_ids_known"])
        new_ids.update(facts.get("new_ids", ()))
        for name, value in facts.get(AGREEMENT, {}).items():
            if not isinstance(value, str):
                add(f"{AGREEMENT}.{name}", value)
    return sums, sorted(new_ids)


def _of_answer(size: int, facts: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the terms that one answer adds to the sums."""
    if "loop_bytes" in facts:
        yield "answers", 1
        yield "answer_bytes", size
        yield "looped", bool(facts["loop_bytes"])
        yield "invalid_utf8_bytes", facts.get("invalid_utf8_bytes", 0)
    if "passes" in facts:
        yield "passes", facts["passes"]
        yield "bytes_of_passes", size


FACT_COLUMNS = (
    "answer_bytes_per_token",
    "straddled_share",
    "round_trip_share",
    "context_bytes",
    "invalid_utf8_share",
    "loop_share",
    "new_byte_share",
    "new_ids_used",
    "new_ids_unused",
    "agreement_top1",
    "agreement_text",
    "agreement_byte_kl",
    "agreement_chunk_kl",
    "agreement_token_kl",
    "agreement_boundaries",
    "agreement_bytes",
)
"""Columns returned by :func:`fact_columns`, in the order of the frame."""


def fact_columns(facts: Iterable[SampleFacts]) -> dict[str, float | None]:
    """Return the tokenization statistics of a cell; None where they were not recorded.

    Shares are between 0 and 1. ``agreement_*`` compare the model with the teacher named in the suite at common token
    boundaries (see ``crosstok.harness.likelihood.agreement``): KL in nats per boundary, ``agreement_bytes`` in bytes
    per boundary, and the others as shares of boundaries.
    """
    asked = [fact for fact in facts if fact.stop_reason != "excluded"]
    samples = sum(fact.samples for fact in asked)
    refused = sum(fact.samples for fact in asked if fact.stop_reason == "refused")
    total: Sums = {}
    used: set[int] = set()
    for fact in asked:
        used.update(fact.new_ids)
        for name, value in fact.facts.items():
            total[name] = max(total.get(name, 0), value) if name == "new_ids_known" else total.get(name, 0) + value

    def per(name: str, of: str) -> float | None:
        return total.get(name, 0) / total[of] if total.get(of) else None

    def at_boundaries(name: str) -> float | None:
        return per(f"{AGREEMENT}.{name}", f"{AGREEMENT}.boundaries") if f"{AGREEMENT}.{name}" in total else None

    known = total.get("new_ids_known")
    generated = [fact for fact in asked if fact.prompt_tokens and fact.stop_reason]
    tokens = sum(fact.tokens for fact in generated)
    return {
        "answer_bytes_per_token": sum(fact.bytes for fact in generated) / tokens if tokens else None,
        "straddled_share": per("straddled", "borders"),
        "round_trip_share": 1 - refused / samples if samples else None,
        "context_bytes": per("context_bytes", "context_of_bytes"),
        "invalid_utf8_share": per("invalid_utf8_bytes", "answer_bytes"),
        "loop_share": per("looped", "answers"),
        "new_byte_share": per("new_bytes", "checked_bytes"),
        "new_ids_used": None if known is None else float(len(used)),
        "new_ids_unused": None if known is None else known - len(used),
        "agreement_top1": at_boundaries("top1"),
        "agreement_text": at_boundaries("text"),
        "agreement_byte_kl": at_boundaries("byte_kl"),
        "agreement_chunk_kl": at_boundaries("chunk_kl"),
        "agreement_token_kl": at_boundaries("token_kl"),
        "agreement_boundaries": total.get(f"{AGREEMENT}.boundaries"),
        "agreement_bytes": at_boundaries("bytes"),
    }
