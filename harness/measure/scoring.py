"""Scoring of answers by their task, and pass@k over several answers to a document."""

from collections.abc import Sequence
from typing import Protocol

from crosstok.harness.measure.pending_requests import DocumentRequests, of_type
from crosstok.harness.measure.samples import REFUSED
from crosstok.harness.plan.planned import PlannedCell
from crosstok.results.compare.statistics import pass_at_k
from crosstok.results.store.records import Sample, Score
from crosstok.results.store.store import Store
from crosstok.tasks.sampling import pass_at, sampling_of
from crosstok.tasks.task import PASS_AT_1, Answer, Document, Generate, Generated, Request


class Judging(Protocol):
    """Judgement of the generated answers of one cell."""

    undecided: int
    """Answers that could not be judged; a later run judges them."""
    program_s: float
    """Seconds that programs ran, in parallel or not."""
    waited_s: float
    """Seconds between the last answer and the last verdict."""

    def unjudged(self) -> list[Sample]:
        """Return the stored answers that are to be judged."""
        ...

    def judge(self, sample: Sample) -> None:
        """Judge a stored answer and store the result, now or later."""
        ...

    def close(self) -> None:
        """Wait until everything is judged and stored."""
        ...


class Scoring:
    """Judgement by the task's own ``score_answers``. With ``again``, stored scores are replaced."""

    def __init__(
        self, cell: PlannedCell, requests: Sequence[DocumentRequests[Request]], store: Store, *, again: bool = False
    ) -> None:
        self.undecided = 0
        self.program_s = 0.0
        self.waited_s = 0.0
        self._cell = cell
        self._store = store
        self._again = again
        self._requests = {one.document.id: one for one in of_type(requests, Generate)}
        self._incomplete: dict[str, dict[int, Sample]] = {}
        self._headline = cell.task.metrics[0]
        self._scored = 0
        self._value = 0.0

    def unjudged(self) -> list[Sample]:
        """Return the stored answers without a score, or all of them (``again``)."""
        known = set() if self._again else {self._place(one) for one in self._store.scores(self._cell.fingerprint)}
        samples = self._store.samples(self._cell.fingerprint) if self._requests else []
        return [one for one in samples if one.document in self._requests and self._place(one) not in known]

    def judge(self, sample: Sample) -> None:
        """Score an answer, or its document once all of its answers are there."""
        one = self._requests[sample.document]
        if self._cell.task.scores_each_answer:
            self._store.add_scores(self._scores(one.document, [sample]))
            return
        found = self._incomplete.setdefault(sample.document, {})
        found[sample.index] = sample
        if len(found) == one.answers:
            answers = self._incomplete.pop(sample.document)
            self._store.add_scores(self._scores(one.document, [answers[index] for index in sorted(answers)]))

    def likelihood_scores(self, document: Document, answers: Sequence[Answer]) -> list[Score]:
        """Return the scores of a document from its likelihoods."""
        return self._counted(document, answers, 0)

    def close(self) -> None:
        """Do nothing: every answer was judged at once."""

    def __str__(self) -> str:
        return f"{self._value:g} of {self._scored}" if self._headline.unit == "fraction" and self._scored else ""

    def _place(self, one: Sample | Score) -> tuple[str, int]:
        return one.document, one.index if self._cell.task.scores_each_answer else 0

    def _scores(self, document: Document, samples: Sequence[Sample]) -> list[Score]:
        each = self._cell.task.scores_each_answer
        if not each and any(sample.stop_reason == REFUSED for sample in samples):
            return []
        answers = [Generated(sample.text, sample.stop_reason) for sample in samples]
        return self._counted(document, answers, samples[0].index)

    def _counted(self, document: Document, answers: Sequence[Answer], index: int) -> list[Score]:
        cell = self._cell
        scores = cell.task.score_answers(document, answers, cell.model.style)
        self._scored += 1
        self._value += scores[0].value if scores else 0.0
        return [
            Score(
                cell=cell.fingerprint,
                document=document.id,
                index=index,
                metric=score.metric,
                value=score.value,
                weight=score.weight,
            )
            for score in scores
        ]


def add_pass_at_k(cell: PlannedCell, store: Store) -> None:
    """Store pass@k for k > 1 for every document whose answers are all judged."""
    options = sampling_of(cell.task)
    if options.k == (1,):
        return
    headline = PASS_AT_1.name if cell.task.needs_sandbox else cell.task.metrics[0].name
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
