"""What tokenizers did to the samples of a cell: sums over the facts that are stored with every sample.

The facts themselves are written by ``crosstok.harness.generation.answer_facts``,
``crosstok.harness.likelihood.rolling`` and ``crosstok.harness.likelihood.agreement``. Here they are added up, so that a
table reads a few numbers per cell, and turned into the columns that tables show. A share is always of the samples in
which its fact was looked for: whatever was not looked for is absent and never zero.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from crosstok.results.store.aggregates import SampleFacts

AGREEMENT = "agreement"
"""The fact that holds the comparison with a named teacher; its sums are kept under ``agreement.NAME``."""

Sums = dict[str, float]


def sum_facts(rows: Iterable[tuple[int, Mapping[str, Any]]]) -> tuple[Sums, list[int]]:
    """Return the sums over samples, given as bytes and facts, and the distinct new ids that they wrote.

    A sum that nothing was added to is left out.
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
        if "new_ids_known" in facts:  # of the model, and so the same in every answer
            sums["new_ids_known"] = max(sums.get("new_ids_known", 0), facts["new_ids_known"])
        new_ids.update(facts.get("new_ids", ()))
        for name, value in facts.get(AGREEMENT, {}).items():
            if not isinstance(value, str):
                add(f"{AGREEMENT}.{name}", value)
    return sums, sorted(new_ids)


def _of_answer(size: int, facts: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield what one answer adds to the sums."""
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
"""The columns that :func:`fact_columns` gives, in the order of the frame."""


def fact_columns(facts: Iterable[SampleFacts]) -> dict[str, float | None]:
    """Return what the tokenizer did to the texts of a cell; None where it was not looked for.

    Shares lie between 0 and 1. ``agreement_*`` compare the model with the teacher that the suite names at the byte
    offsets at which both have a token end (see ``crosstok.harness.likelihood.agreement``): KL in nats and the rest as
    shares per such boundary, ``agreement_bytes`` in bytes of text per boundary.
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
