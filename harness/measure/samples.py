"""Records of answers, as the store keeps them: generated text, scored choices, scored texts, excluded documents."""

from collections.abc import Mapping, Sequence
from typing import Any

from crosstok.harness.generation.answer_facts import AnswerFacts
from crosstok.harness.generation.answers import Generation
from crosstok.harness.likelihood.continuations import ContinuationScore
from crosstok.harness.likelihood.rolling import RollingScore
from crosstok.harness.measure.pending_requests import ASKED, DocumentRequests, PendingRequest, asked
from crosstok.harness.plan.planned import PlannedCell
from crosstok.results.store.records import Sample
from crosstok.tasks.task import Continuations

EXCLUDED = "excluded"
"""Stop reason of a document that no model is asked, because this host cannot judge it."""
REFUSED = "refused"
"""Stop reason of a document that the model's tokenizer cannot represent byte for byte."""


def generated_sample(cell: PlannedCell, pending: PendingRequest, answer: Generation, facts: AnswerFacts) -> Sample:
    """Return the record of one generated answer to ``pending``."""
    return Sample(
        cell=cell.fingerprint,
        document=pending.document.id,
        index=pending.indices[answer.sample],
        prompt=answer.prompt_text,
        text=answer.text,
        stop_reason=answer.stop_reason,
        prompt_bytes=answer.prompt_bytes,
        prompt_tokens=answer.prompt_tokens,
        bytes=len(answer.data),
        tokens=answer.tokens,
        seconds=answer.seconds,
        facts={ASKED: asked(pending.request, answer.sample), **facts.of(answer)},
    )


def choices_sample(
    cell: PlannedCell, one: DocumentRequests[Continuations], answers: Sequence[ContinuationScore]
) -> Sample:
    """Return the record of a multiple-choice document: its most likely choice, and the nats of all choices.

    Some benchmarks put the choices into the context, so that a document has one request per choice. Bytes, tokens and
    seconds are then sums over the requests, and ``choices`` lists the nats in the order of the requests.
    """
    request, answer = one.requests[0], answers[0]
    own = answer.likelihoods.nats
    nats = [value for each in answers for value in each.likelihoods.nats]
    refused = any(each.refused for each in answers)
    facts: dict[str, Any] = {**answer.facts, "choices": nats}
    if answer.likelihoods.unconditional is not None:
        facts["unconditional"] = list(answer.likelihoods.unconditional)
    return Sample(
        cell=cell.fingerprint,
        document=one.document.id,
        prompt=request.context,
        text=request.continuations[own.index(min(own))] if own else "",
        stop_reason=REFUSED if refused else "",
        prompt_bytes=answer.context_bytes,
        bytes=sum(sum(each.bytes) for each in answers),
        tokens=sum(sum(each.tokens) for each in answers),
        nats=None if refused or not nats else min(nats),
        seconds=sum(each.seconds for each in answers),
        facts=facts,
    )


def text_sample(cell: PlannedCell, document: str, answer: RollingScore, agreement: Mapping[str, Any]) -> Sample:
    """Return the record of a scored text, with the facts of its ``agreement`` with a teacher."""
    refused = {"refused": answer.refused} if answer.refused else {}
    return Sample(
        cell=cell.fingerprint,
        document=document,
        stop_reason=REFUSED if answer.refused else "",
        bytes=answer.bytes,
        tokens=answer.tokens,
        nats=None if answer.refused else answer.nats,
        seconds=answer.seconds,
        facts={**answer.facts, **refused, **agreement},
    )


def excluded_samples(cell: PlannedCell) -> list[Sample]:
    """Return a record of every excluded document, with the reason."""
    return [
        Sample(
            cell=cell.fingerprint,
            document=document,
            stop_reason=EXCLUDED,
            bytes=0,
            tokens=0,
            seconds=0.0,
            facts={EXCLUDED: reason},
        )
        for document, reason in cell.excluded.items()
    ]
