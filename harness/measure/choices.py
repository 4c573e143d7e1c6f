"""Measuring one cell of a multiple-choice task: ask the model, compare the choices, store each as it arrives."""

from crosstok.harness.likelihood.continuations import ContinuationScore
from crosstok.harness.likelihood.rolling import Scorer
from crosstok.harness.plan.planned import PlannedCell
from crosstok.progress import Advance
from crosstok.results.store import records as schema
from crosstok.results.store.store import Store
from crosstok.tasks.task import ChoiceTask, Continuations, Score


def measure_choices(cell: PlannedCell, task: ChoiceTask, scorer: Scorer, store: Store, advance: Advance) -> None:
    """Score the choices of every document that the store lacks.

    A document that the model's tokenizer cannot write byte for byte is stored as refused, with the reason.
    """
    done = store.done_documents(cell.fingerprint)
    waiting = [document for document in task.documents() if document.id not in done]
    advance(len(task.documents()) - len(waiting), "")
    requests = []
    for document in waiting:
        request = task.request(document, cell.model.style)
        if not isinstance(request, Continuations):
            raise TypeError(f"the choice task {task.name!r} may only ask for Continuations, not {request!r}")
        requests.append(request)
    judged, value = 0, 0.0
    for answer in scorer.continuations(requests):
        document = waiting[answer.index]
        scores = [] if answer.refused else task.score(document, answer.likelihoods)
        stored = [stored_score(cell, document.id, score) for score in scores]
        store.add_samples([choice_sample(cell, document.id, answer, requests[answer.index])], stored)
        judged, value = judged + 1, value + (scores[0].value if scores else 0.0)
        advance(1, f"{value:g} of {judged}")


def choice_sample(cell: PlannedCell, document: str, answer: ContinuationScore, request: Continuations) -> schema.Sample:
    """Return the record of one document: the choice that the model holds most likely, and the nats of all of them."""
    nats = answer.likelihoods.nats
    chosen = min(range(len(nats)), key=nats.__getitem__) if nats else None
    facts = {**answer.facts, "choices": list(nats)}
    if answer.likelihoods.unconditional is not None:
        facts["unconditional"] = list(answer.likelihoods.unconditional)
    return schema.Sample(
        cell=cell.fingerprint,
        document=document,
        prompt=request.context,
        text="" if chosen is None else request.continuations[chosen],
        stop_reason="refused" if answer.refused else "",
        prompt_bytes=answer.context_bytes,
        bytes=sum(answer.bytes),
        tokens=sum(answer.tokens),
        nats=None if chosen is None else nats[chosen],
        seconds=answer.seconds,
        facts=facts,
    )


def stored_score(cell: PlannedCell, document: str, score: Score) -> schema.Score:
    """Return a task's score as the store keeps it."""
    return schema.Score(
        cell=cell.fingerprint, document=document, metric=score.metric, value=score.value, weight=score.weight
    )
