"""Measuring one cell: ask the model, judge the answers, store each as it arrives.

Only what the store lacks is asked for, so a cell that was interrupted continues where it stopped; an answer without a
verdict is judged and not generated again. Programs run in the sandbox while the next answers are being generated.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from crosstok.errors import UserError
from crosstok.harness.generation.answer_facts import AnswerFacts
from crosstok.harness.generation.answers import AnswerSource, Generation
from crosstok.harness.likelihood.agreement import Agreement, facts_of
from crosstok.harness.likelihood.rolling import Scorer
from crosstok.harness.measure.judging import Judge, Judging
from crosstok.harness.measure.pending_requests import ASKED, EXCLUDED, PendingRequest, asked, pending_requests
from crosstok.harness.plan.planned import PlannedCell
from crosstok.progress import Advance
from crosstok.results.compare.statistics import pass_at_k
from crosstok.results.store.records import Sample, Score
from crosstok.results.store.store import Store
from crosstok.tasks import task as task_types
from crosstok.tasks.sampling import pass_at, sampling_of
from crosstok.tasks.task import AnswerTask, CodeTask, Document, Generated, Rolling, Scored, TextTask

PACK_BYTES = 1 << 16
"""Texts are scored in packs of this size, cut over all documents of a task."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Where the time of a cell went, in seconds of this session."""

    generation: float = 0.0
    """The model wrote; programs ran beside it."""
    execution: float = 0.0
    """Nothing but programs ran."""
    rest: float = 0.0
    """Questions were put together, answers were stored."""
    programs: float = 0.0
    """What all programs took together, beside the model or not."""
    undecided: int = 0
    """Programs that the sandbox could not judge."""

    def __str__(self) -> str:
        parts = (
            f"generation {self.generation:.1f} s, waiting for programs {self.execution:.1f} s, rest {self.rest:.1f} s"
        )
        beside = max(self.programs - self.execution, 0.0)
        return f"{parts}; programs took {self.programs:.1f} s, {beside:.1f} s of it beside the model"

    @property
    def parts(self) -> dict[str, float]:
        """As the store keeps them, in seconds: the first three are the wall time, the last one ran beside them."""
        return {
            "generation": self.generation,
            "execution": self.execution,
            "rest": self.rest,
            "programs": self.programs,
        }

    def __add__(self, other: "Spent") -> "Spent":
        sums = {name: getattr(self, name) + getattr(other, name) for name in (*self.parts, "undecided")}
        return Spent(**sums)


def measure_text(  # noqa: PLR0917
    cell: PlannedCell,
    task: TextTask,
    scorer: Scorer,
    store: Store,
    advance: Advance,
    agreement: Agreement | None = None,
) -> None:
    """Score the likelihood of every document that the store lacks, and its agreement with the cell's teacher.

    A text that the model's tokenizer cannot represent byte for byte is stored as refused, with the reason: it is
    counted and shown, never shortened. Documents are scored in packs that do not depend on what is done already: a
    pack of which anything is missing is scored whole, so that an interrupted run has the same numbers to the last bit.
    """
    done = store.done_documents(cell.fingerprint)
    documents = task.documents()
    advance(sum(document.id in done for document in documents), "")
    requests = [_rolling(task, document, cell) for document in documents]
    for pack in packs([len(request.text.encode()) for request in requests]):
        if all(documents[number].id in done for number in pack):
            continue
        for answer in scorer.rolling([requests[number] for number in pack]):
            document = documents[pack[answer.index]]
            if document.id in done:
                continue
            refused = answer.refused
            facts = {**answer.facts, **({"refused": refused} if refused else {})}
            if agreement is not None and cell.teacher is not None and not refused:
                facts |= facts_of(agreement, cell.teacher.name, requests[pack[answer.index]])
            sample = Sample(
                cell=cell.fingerprint,
                document=document.id,
                stop_reason="refused" if refused else "",
                bytes=answer.bytes,
                tokens=answer.tokens,
                nats=None if refused else answer.nats,
                seconds=answer.seconds,
                facts=facts,
            )
            scores = [] if refused else task.score(document, Scored(answer.nats, answer.bytes))
            store.add_samples([sample], [_score(cell, document, score) for score in scores])
            advance(1, "")


def packs(sizes: Sequence[int], size: int = PACK_BYTES) -> Iterator[range]:
    """Cut documents of ``sizes`` bytes into runs of at least ``size`` bytes together, but for the last one."""
    first, total = 0, 0
    for number, length in enumerate(sizes):
        total += length
        if total >= size:
            yield range(first, number + 1)
            first, total = number + 1, 0
    if first < len(sizes):
        yield range(first, len(sizes))


def measure_code(  # noqa: PLR0917
    cell: PlannedCell,
    task: CodeTask,
    generator: AnswerSource,
    judge: Judge,
    store: Store,
    advance: Advance,
    facts: AnswerFacts,
) -> Spent:
    """Generate the answers that the store lacks, and judge every answer that has no verdict."""
    began = time.monotonic()
    store.add_samples(excluded_samples(cell))
    waiting = pending_requests(cell, store.done_samples(cell.fingerprint))
    n = sampling_of(task).n
    advance(len(cell.documents) - sum(len(one.indices) for one in waiting) / n, "")
    judging = Judging(cell, task, judge, store)
    generation = 0.0
    try:
        for sample in store.samples_without_verdict(cell.fingerprint):
            if sample.stop_reason != EXCLUDED:
                judging.judge(sample)
        answers = generator.generate([one.request for one in waiting])
        while True:
            asking = time.monotonic()
            answer = next(answers, None)
            generation += time.monotonic() - asking
            if answer is None:
                break
            sample = _sample(cell, waiting[answer.index], answer, facts)
            store.add_samples([sample])
            judging.judge(sample)
            advance(1 / n, str(judging))
    finally:
        judging.close()
    add_pass_at_k(cell, store)
    advance(0, str(judging))
    rest = time.monotonic() - began - generation - judging.waited_s
    return Spent(generation, judging.waited_s, rest, judging.program_s, judging.undecided)


def measure_answers(  # noqa: PLR0917
    cell: PlannedCell,
    task: AnswerTask,
    generator: AnswerSource,
    store: Store,
    advance: Advance,
    facts: AnswerFacts,
) -> None:
    """Generate and judge the answers that the store lacks."""
    judge_answers(cell, task, store)
    waiting = pending_requests(cell, store.done_samples(cell.fingerprint))
    n = sampling_of(task).n
    advance(len(cell.documents) - sum(len(one.indices) for one in waiting) / n, "")
    judged, value = 0, 0.0
    for answer in generator.generate([one.request for one in waiting]):
        one = waiting[answer.index]
        sample = _sample(cell, one, answer, facts)
        scores = answer_scores(cell, task, one.document, sample)
        store.add_samples([sample], scores)
        judged, value = judged + 1, value + scores[0].value
        advance(1 / n, f"{value:g} of {judged}")
    add_pass_at_k(cell, store)


def judge_answers(cell: PlannedCell, task: AnswerTask, store: Store, *, again: bool = False) -> int:
    """Score the stored answers that have no score, or all of them again; return how many."""
    documents = {document.id: document for document in cell.documents}
    known = set() if again else {(score.document, score.index) for score in store.scores(cell.fingerprint)}
    waiting = [one for one in store.samples(cell.fingerprint) if (one.document, one.index) not in known]
    for sample in waiting:
        store.add_scores(answer_scores(cell, task, documents[sample.document], sample))
    return len(waiting)


def answer_scores(cell: PlannedCell, task: AnswerTask, document: Document, sample: Sample) -> list[Score]:
    """Return the scores of one answer."""
    scores = task.score(document, Generated(sample.text, sample.stop_reason), cell.model.style)
    return [_score(cell, document, score, sample.index) for score in scores]


def add_pass_at_k(cell: PlannedCell, store: Store) -> None:
    """Store pass@k for k above 1 of every document all of whose samples are judged."""
    options = sampling_of(cell.task)
    if options.k == (1,):
        return
    headline = pass_at(1) if isinstance(cell.task, CodeTask) else cell.task.metrics[0].name
    values: dict[str, list[float]] = {}
    for score in store.scores(cell.fingerprint):
        if score.metric == headline:
            values.setdefault(score.document, []).append(score.value)
    whole = {document: sum(found) for document, found in values.items() if len(found) == options.n}
    for k in options.k:
        if k > 1:
            chances = pass_at_k(options.n, list(whole.values()), k)
            store.add_scores(
                Score(cell=cell.fingerprint, document=document, metric=pass_at(k), value=float(chance))
                for document, chance in zip(whole, chances, strict=True)
            )


def excluded_samples(cell: PlannedCell) -> list[Sample]:
    """Return a record of every document that is not asked, with the reason."""
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


def _sample(cell: PlannedCell, one: PendingRequest, answer: Generation, facts: AnswerFacts) -> Sample:
    return Sample(
        cell=cell.fingerprint,
        document=one.document.id,
        index=one.indices[answer.sample],
        prompt=answer.prompt_text,
        text=answer.text,
        stop_reason=answer.stop_reason,
        prompt_bytes=answer.prompt_bytes,
        prompt_tokens=answer.prompt_tokens,
        bytes=len(answer.data),
        tokens=answer.tokens,
        seconds=answer.seconds,
        facts={ASKED: asked(one.request, answer.sample), **facts.of(answer)},
    )


def _rolling(task: TextTask, document: Document, cell: PlannedCell) -> Rolling:
    request = task.request(document, cell.model.style)
    if not isinstance(request, Rolling):
        raise UserError(f"The text task {task.name!r} may only ask for Rolling, not {type(request).__name__}.")
    return request


def _score(cell: PlannedCell, document: Document, score: task_types.Score, index: int = 0) -> Score:
    return Score(
        cell=cell.fingerprint,
        document=document.id,
        index=index,
        metric=score.metric,
        value=score.value,
        weight=score.weight,
    )
