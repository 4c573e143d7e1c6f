"""Measurement of a cell: request the answers that the store lacks, judge them, and store each one as it arrives.

One loop serves every kind of task. It never requests a stored answer again, so an interrupted cell continues where it
stopped; a stored answer without a verdict or score is judged without asking the model. Programs run in the sandbox
while the model generates the next answers.
"""

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from crosstok.harness.likelihood.agreement import Agreement, facts_of
from crosstok.harness.measure.engines import Engine
from crosstok.harness.measure.judging import Judge, judging_of
from crosstok.harness.measure.pending_requests import cell_requests, of_type, pending_requests
from crosstok.harness.measure.samples import choices_sample, excluded_samples, generated_sample, text_sample
from crosstok.harness.measure.scoring import Judging, Scoring, add_pass_at_k
from crosstok.harness.measure.time_spent import TimeSpent
from crosstok.harness.plan.planned import PlannedCell
from crosstok.progress import Advance
from crosstok.results.store.records import Sample
from crosstok.results.store.store import Store
from crosstok.tasks.task import Answer, Continuations, Document, Generate, Rolling, Scored

if TYPE_CHECKING:
    from crosstok.harness.likelihood.continuations import ContinuationScore

T = TypeVar("T")

PACK_BYTES = 1 << 16
"""Minimum size of a pack of texts that are scored together."""


def measure(
    cell: PlannedCell,
    engine: Engine,
    store: Store,
    advance: Advance,
    *,
    judge: Judge | None = None,
    agreement: Agreement | None = None,
) -> TimeSpent:
    """Measure what the store lacks of ``cell``, and return the time it took.

    A document that the model's tokenizer cannot represent byte for byte is stored as refused, with the reason.

    Args:
        cell: The model and the task.
        engine: Answers the requests.
        store: Keeps every answer with its verdict or scores.
        advance: Reports progress, in documents.
        judge: The sandbox; required for tasks that need one.
        agreement: Comparison of scored texts with the cell's teacher.

    Raises:
        UserError: The task makes requests that cannot be answered (see :func:`cell_requests`), or the engine cannot
            answer them.

    """
    return _Measurement(cell, engine, store, advance, judge, agreement).run()


class _Measurement:
    def __init__(  # noqa: PLR0917  (the arguments of measure)
        self,
        cell: PlannedCell,
        engine: Engine,
        store: Store,
        advance: Advance,
        judge: Judge | None,
        agreement: Agreement | None,
    ) -> None:
        self._cell = cell
        self._engine = engine
        self._store = store
        self._advance = advance
        self._judge = judge
        self._agreement = agreement
        self._requests = cell_requests(cell)
        self._scoring = Scoring(cell, self._requests, store)
        self._model_s = 0.0

    def run(self) -> TimeSpent:
        began = time.monotonic()
        cell, store = self._cell, self._store
        if excluded := excluded_samples(cell):
            store.add_samples(excluded)
        done = store.done_samples(cell.fingerprint)
        judging = judging_of(cell, self._requests, self._judge, store)
        try:
            for sample in judging.unjudged():
                judging.judge(sample)
            self._generate(judging, done)
            self._score_choices(done)
            self._score_texts(done)
        finally:
            judging.close()
        add_pass_at_k(cell, store)
        self._advance(0, str(judging) or str(self._scoring))
        rest = time.monotonic() - began - self._model_s - judging.waited_s
        return TimeSpent(self._model_s, judging.waited_s, rest, judging.program_s, judging.undecided)

    def _generate(self, judging: Judging, done: set[tuple[str, int]]) -> None:
        """Generate the missing answers, and judge each one."""
        documents = of_type(self._requests, Generate)
        pending = pending_requests(self._requests, done)
        share = {one.document.id: 1 / one.answers for one in documents}
        missing = sum(share[one.document.id] * len(one.indices) for one in pending)
        self._advance(len(documents) - missing, "")
        if not pending:
            return
        for answer in self._timed(self._engine.generator.generate([one.request for one in pending])):
            one = pending[answer.index]
            sample = generated_sample(self._cell, one, answer, self._engine.facts)
            self._store.add_samples([sample])
            judging.judge(sample)
            self._advance(share[one.document.id], str(judging))

    def _score_choices(self, done: set[tuple[str, int]]) -> None:
        """Score the continuations of every document that the store lacks."""
        documents = of_type(self._requests, Continuations)
        waiting = [one for one in documents if (one.document.id, 0) not in done]
        self._advance(len(documents) - len(waiting), "")
        if not waiting:
            return
        owners = [(one, number) for one in waiting for number in range(len(one.requests))]
        answers: dict[str, dict[int, ContinuationScore]] = {}
        for answer in self._timed(self._engine.scorer.continuations([one.requests[at] for one, at in owners])):
            one, at = owners[answer.index]
            found = answers.setdefault(one.document.id, {})
            found[at] = answer
            if len(found) == len(one.requests):
                whole = [found[number] for number in sorted(found)]
                del answers[one.document.id]
                sample = choices_sample(self._cell, one, whole)
                self._store_likelihoods(one.document, sample, [part.likelihoods for part in whole])

    def _score_texts(self, done: set[tuple[str, int]]) -> None:
        """Score the likelihood of every text that the store lacks, and its agreement with the cell's teacher.

        Texts are scored in packs that do not depend on what is done already. A pack with a missing text is scored as a
        whole, so an interrupted run has the same numbers to the last bit.
        """
        texts = [(one.document, one.requests[0]) for one in of_type(self._requests, Rolling)]
        self._advance(sum((document.id, 0) in done for document, _ in texts), "")
        for pack in packs([len(request.text.encode(errors="replace")) for _, request in texts]):
            if all((texts[number][0].id, 0) in done for number in pack):
                continue
            for answer in self._timed(self._engine.scorer.rolling([texts[number][1] for number in pack])):
                document, request = texts[pack[answer.index]]
                if (document.id, 0) in done:
                    continue
                agreement = {} if answer.refused else self._agreement_facts(request)
                sample = text_sample(self._cell, document.id, answer, agreement)
                self._store_likelihoods(document, sample, [Scored(answer.nats, answer.bytes)])

    def _store_likelihoods(self, document: Document, sample: Sample, answers: Sequence[Answer]) -> None:
        """Store a document with its scores at once; a refused one has no scores."""
        scores = [] if sample.nats is None else self._scoring.likelihood_scores(document, answers)
        self._store.add_samples([sample], scores)
        self._advance(1, str(self._scoring))

    def _agreement_facts(self, request: Rolling) -> dict[str, Any]:
        if self._agreement is None or self._cell.teacher is None:
            return {}
        return facts_of(self._agreement, self._cell.teacher.name, request)

    def _timed(self, answers: Iterator[T]) -> Iterator[T]:
        """Yield ``answers``, and add up the seconds that the engine takes."""
        while True:
            began = time.monotonic()
            answer = next(answers, None)
            self._model_s += time.monotonic() - began
            if answer is None:
                return
            yield answer


def packs(sizes: Sequence[int], size: int = PACK_BYTES) -> Iterator[range]:
    """Cut texts of ``sizes`` bytes into consecutive runs of at least ``size`` bytes; the last may be smaller."""
    first, total = 0, 0
    for number, length in enumerate(sizes):
        total += length
        if total >= size:
            yield range(first, number + 1)
            first, total = number + 1, 0
    if first < len(sizes):
        yield range(first, len(sizes))
