"""Measuring one cell of a benchmark of lm-eval's: our engine answers, lm-eval judges, each document is stored."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from lm_eval.api.instance import Instance

from crosstok.harness.generation.answers import AnswerSource, Generation
from crosstok.harness.likelihood.continuations import ContinuationScore
from crosstok.harness.likelihood.rolling import Scorer
from crosstok.harness.lm_eval.requests import by_context, gathered
from crosstok.harness.lm_eval.task import LmEvalTask
from crosstok.harness.measure.choices import choice_sample, stored_score
from crosstok.harness.measure.engines import Engine
from crosstok.harness.plan.planned import PlannedCell
from crosstok.progress import Advance
from crosstok.results.store import records as schema
from crosstok.results.store.store import Store
from crosstok.tasks.task import Continuations, Document, Likelihoods, Rolling


def measure_lm_eval(cell: PlannedCell, task: LmEvalTask, engine: Engine, store: Store, advance: Advance) -> None:
    """Ask and judge every document that the store lacks; one that a tokenizer cannot write is stored as refused."""
    done = store.done_documents(cell.fingerprint)
    waiting = [document for document in task.documents() if document.id not in done]
    advance(len(task.documents()) - len(waiting), "")
    if not waiting:
        return
    asked = [task.instances(document, cell.model.style) for document in waiting]
    kind = asked[0][0].request_type
    judge = _Judge(cell, task, store, advance)
    if kind == "generate_until":
        _generate(judge, waiting, asked, engine.generator)
    elif kind == "loglikelihood_rolling":
        _roll(judge, waiting, asked, engine.scorer)
    else:
        _choose(judge, waiting, asked, engine.scorer)


@dataclass
class _Judge:
    """Stores each document with its scores, and counts the headline metric."""

    cell: PlannedCell
    task: LmEvalTask
    store: Store
    advance: Advance
    judged: int = 0
    value: float = 0.0

    def keep(
        self,
        document: Document,
        instances: Sequence[Instance],
        samples: Sequence[schema.Sample],
        beside: Likelihoods | None = None,
    ) -> None:
        """Score ``instances``, whose answers are complete, and store everything; a refused document has no scores."""
        refused = any(sample.stop_reason == "refused" for sample in samples)
        scores = [] if refused else self.task.scores(document, instances, beside)
        self.store.add_samples(samples, [stored_score(self.cell, document.id, score) for score in scores])
        self.judged, self.value = self.judged + 1, self.value + (scores[0].value if scores else 0.0)
        self.advance(1, f"{self.value:g} of {self.judged}")


@dataclass
class _Asked:
    """The requests of one document: its pairs of context and continuation, by context."""

    requests: list[Continuations]
    places: list[list[int]]
    """For each request, the instances that its continuations answer."""
    answers: dict[int, ContinuationScore] = field(default_factory=dict)


def _choose(judge: _Judge, documents: Sequence[Document], asked: Sequence[Sequence[Instance]], scorer: Scorer) -> None:
    open_documents = []
    owners: list[tuple[int, int]] = []
    for number, (document, instances) in enumerate(zip(documents, asked, strict=True)):
        pairs = [(instance.args[0], instance.args[1]) for instance in instances]
        requests, places = by_context(pairs, judge.task.unconditional(document))
        open_documents.append(_Asked(requests, places))
        owners += [(number, part) for part in range(len(requests))]
    everything = [request for one in open_documents for request in one.requests]
    for answer in scorer.continuations(everything):
        number, part = owners[answer.index]
        one = open_documents[number]
        one.answers[part] = answer
        if len(one.answers) < len(one.requests):
            continue
        parts = [one.answers[index] for index in range(len(one.requests))]
        for found, own in zip(parts, one.places, strict=True):
            for place, nats, greedy in zip(own, found.likelihoods.nats, found.likelihoods.greedy, strict=False):
                asked[number][place].resps = [(-nats, greedy)]
        sample = choice_sample(judge.cell, documents[number].id, parts[0], one.requests[0])
        if len(parts) > 1:  # the choices stand in the contexts
            sample = _of_contexts(sample, parts)
        multiple_choice = judge.task.unconditional(documents[number]) is not None or len(parts[0].bytes) > 1
        judge.keep(documents[number], asked[number], [sample], parts[0].likelihoods if multiple_choice else None)


def _of_contexts(sample: schema.Sample, parts: Sequence[ContinuationScore]) -> schema.Sample:
    nats = [value for part in parts for value in part.likelihoods.nats]
    refused = any(part.refused for part in parts)
    return sample.model_copy(
        update={
            "stop_reason": "refused" if refused else "",
            "bytes": sum(sum(part.bytes) for part in parts),
            "tokens": sum(sum(part.tokens) for part in parts),
            "seconds": sum(part.seconds for part in parts),
            "nats": None if refused else min(nats),
            "facts": {**sample.facts, "choices": nats},
        }
    )


def _roll(judge: _Judge, documents: Sequence[Document], asked: Sequence[Sequence[Instance]], scorer: Scorer) -> None:
    options = judge.task.options
    requests = [Rolling(one[0].args[0], options.window_bytes, options.stride_bytes) for one in asked]
    for answer in scorer.rolling(requests):
        asked[answer.index][0].resps = [-answer.nats]
        sample = schema.Sample(
            cell=judge.cell.fingerprint,
            document=documents[answer.index].id,
            stop_reason="refused" if answer.refused else "",
            bytes=answer.bytes,
            tokens=answer.tokens,
            nats=None if answer.refused else answer.nats,
            seconds=answer.seconds,
            facts={**answer.facts, **({"refused": answer.refused} if answer.refused else {})},
        )
        judge.keep(documents[answer.index], asked[answer.index], [sample])


def _generate(
    judge: _Judge, documents: Sequence[Document], asked: Sequence[Sequence[Instance]], generator: AnswerSource
) -> None:
    requests = [judge.task.generation(one[0]) for one in asked]
    for index, answers in gathered(generator.generate(requests), [len(request.seeds) for request in requests]):
        asked[index][0].resps = [answer.text for answer in answers]
        samples = [_generated(judge.cell, documents[index], answer) for answer in answers]
        judge.keep(documents[index], asked[index], samples)


def _generated(cell: PlannedCell, document: Document, answer: Generation) -> schema.Sample:
    return schema.Sample(
        cell=cell.fingerprint,
        document=document.id,
        index=answer.sample,
        prompt=answer.prompt_text,
        text=answer.text,
        stop_reason=answer.stop_reason,
        prompt_bytes=answer.prompt_bytes,
        prompt_tokens=answer.prompt_tokens,
        bytes=len(answer.data),
        tokens=answer.tokens,
        seconds=answer.seconds,
        facts={"refused": answer.refused} if answer.refused else {},
    )
