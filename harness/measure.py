"""Measuring one cell: ask the model, judge the answers, store each as it arrives.

Only what the store lacks is asked for, so a cell that was interrupted continues where it stopped; an answer without a
verdict is judged and not generated again. Programs run in the sandbox while the next answers are being generated.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import sandbox
from crosstok.errors import UserError
from harness.generation import Generation, Generator
from harness.likelihood import Scorer
from harness.plan import PlannedCell
from harness.progress import Advance
from results.schema import Sample, Score, Verdict
from results.store import Store
from sandbox.program import Program
from tasks import task as task_types
from tasks.task import AnswerTask, CodeTask, Document, Generate, Generated, Rolling, Scored, TextTask


def measure_text(cell: PlannedCell, task: TextTask, scorer: Scorer, store: Store, advance: Advance) -> None:
    """Score the likelihood of every document that the store lacks.

    A text that the model's tokenizer cannot represent byte for byte is stored as refused, with the reason: it is
    counted and shown, never shortened.
    """
    done = store.done_documents(cell.fingerprint)
    waiting = [document for document in task.documents() if document.id not in done]
    advance(len(task.documents()) - len(waiting), "")
    requests = [_rolling(task, document, cell) for document in waiting]
    for answer in scorer.rolling(requests):
        document = waiting[answer.index]
        refused = answer.refused
        sample = Sample(
            cell=cell.fingerprint,
            document=document.id,
            stop_reason="refused" if refused else "",
            bytes=answer.bytes,
            tokens=answer.tokens,
            nats=None if refused else answer.nats,
            seconds=answer.seconds,
            facts={**answer.facts, **({"refused": refused} if refused else {})},
        )
        scores = [] if refused else task.score(document, Scored(answer.nats, answer.bytes))
        store.add_samples([sample], [_score(cell, document, score) for score in scores])
        advance(1, "")


@dataclass(frozen=True)
class Court:
    """Where programs are judged while the model goes on: a sandbox, and the one thread that ever talks to it.

    It has to be one thread for the whole run: workers are told by the kernel to end with the thread that started them.
    """

    pool: sandbox.Pool
    thread: ThreadPoolExecutor


@contextmanager
def open_court(backend: str, *, workers: int, unsafe: bool) -> Iterator[Court]:
    """Open a sandbox in a thread of its own; see :func:`sandbox.open_pool` for what it raises."""
    with ThreadPoolExecutor(1, "court") as thread:
        pool = thread.submit(sandbox.open_pool, backend, workers=workers, unsafe=unsafe).result()
        thread.submit(pool.__enter__).result()
        try:
            yield Court(pool, thread)
        finally:
            thread.submit(pool.__exit__, None, None, None).result()


def measure_code(  # noqa: PLR0917
    cell: PlannedCell, task: CodeTask, generator: Generator, court: Court, store: Store, advance: Advance
) -> int:
    """Generate an answer to every document that the store lacks, and judge every answer that has no verdict.

    Returns the number of programs that the sandbox could not judge; they get no verdict and are judged again next time.
    """
    documents = {document.id: document for document in task.documents()}
    done = store.done_documents(cell.fingerprint)
    waiting = [document for document in documents.values() if document.id not in done]
    advance(len(documents) - len(waiting), "")
    programs = sandbox.Inlet()
    for sample in store.samples_without_verdict(cell.fingerprint):
        programs.put(_program(task, documents[sample.document], sample, cell))
    judge = _Judge(cell, store)
    judging = court.thread.submit(judge.judge, court.pool.run(programs))
    try:
        for answer in generator.generate([_generate(task, document, cell) for document in waiting]):
            document = waiting[answer.index]
            sample = _sample(cell, document, answer)
            store.add_samples([sample])
            programs.put(_program(task, document, sample, cell))
            advance(1, f"{judge.passed} passed of {judge.judged}")
    finally:
        programs.close()
        judging.result()
    advance(0, f"{judge.passed} passed of {judge.judged}")
    return judge.undecided


def measure_answers(cell: PlannedCell, task: AnswerTask, generator: Generator, store: Store, advance: Advance) -> None:
    """Generate and judge an answer to every document that the store lacks."""
    documents = task.documents()
    done = store.done_documents(cell.fingerprint)
    waiting = [document for document in documents if document.id not in done]
    advance(len(documents) - len(waiting), "")
    judged, value = 0, 0.0
    for answer in generator.generate([_generate(task, document, cell) for document in waiting]):
        document = waiting[answer.index]
        scores = task.score(document, Generated(answer.text, answer.stop_reason), cell.model.style)
        store.add_samples([_sample(cell, document, answer)], [_score(cell, document, score) for score in scores])
        judged, value = judged + 1, value + scores[0].value
        advance(1, f"{value:g} of {judged}")


class _Judge:
    """Stores the verdicts of a cell as they come, and counts them."""

    def __init__(self, cell: PlannedCell, store: Store) -> None:
        self._cell = cell
        self._store = store
        verdicts = store.verdicts(cell.fingerprint)
        self.judged = len(verdicts)
        self.passed = sum(verdict.status == "passed" for verdict in verdicts)
        self.undecided = 0

    def judge(self, verdicts: Iterator[sandbox.Verdict]) -> None:
        """Keep every verdict."""
        for verdict in verdicts:
            self._keep(verdict)

    def _keep(self, verdict: sandbox.Verdict) -> None:
        cell = self._cell.fingerprint
        if verdict.status is sandbox.Status.SANDBOX_ERROR:
            self.undecided += 1  # judged again when the run is started again
            return
        self.judged += 1
        self.passed += verdict.passed
        stored = Verdict(
            cell=cell,
            document=verdict.id,
            status=verdict.status.value,
            integrity=verdict.integrity,
            tier=verdict.tier,
            error=verdict.error,
            wall_s=verdict.wall_s,
            cpu_s=verdict.cpu_s,
            peak_memory_bytes=verdict.peak_memory_bytes,
            stderr_tail=verdict.stderr_tail,
        )
        passed = Score(cell=cell, document=verdict.id, metric="pass@1", value=float(verdict.passed))
        self._store.add_verdicts([stored], [passed])


def _sample(cell: PlannedCell, document: Document, answer: Generation) -> Sample:
    return Sample(
        cell=cell.fingerprint,
        document=document.id,
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


def _rolling(task: TextTask, document: Document, cell: PlannedCell) -> Rolling:
    request = task.request(document, cell.model.style)
    if not isinstance(request, Rolling):
        raise UserError(f"The text task {task.name!r} may only ask for Rolling, not {type(request).__name__}.")
    return request


def _generate(task: CodeTask | AnswerTask, document: Document, cell: PlannedCell) -> Generate:
    request = task.request(document, cell.model.style)
    if not isinstance(request, Generate):
        raise UserError(f"The task {task.name!r} may only ask for Generate, not {type(request).__name__}.")
    return request


def _program(task: CodeTask, document: Document, sample: Sample, cell: PlannedCell) -> Program:
    return task.program(document, Generated(sample.text, sample.stop_reason), cell.model.style)


def _score(cell: PlannedCell, document: Document, score: task_types.Score) -> Score:
    return Score(
        cell=cell.fingerprint, document=document.id, metric=score.metric, value=score.value, weight=score.weight
    )
