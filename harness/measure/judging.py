"""Judgement of programs in the sandbox while the model generates the next answers.

The sandbox pool lives in one thread for the whole run, because the kernel ends its workers together with the thread
that started them. Programs reach the thread through a queue, and the thread stores the verdicts, so neither side waits
for the other. The time that remains to be waited at the end of a cell is measured and reported.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from crosstok import sandbox
from crosstok.harness.measure.pending_requests import DocumentRequests
from crosstok.harness.measure.samples import EXCLUDED
from crosstok.harness.measure.scoring import Judging, Scoring
from crosstok.harness.plan.planned import PlannedCell
from crosstok.harness.plan.references import References, check_references, known_references
from crosstok.results.store.records import Sample, Score, Verdict
from crosstok.results.store.store import Store
from crosstok.tasks.task import PASS_AT_1, CodeTask, Generated, Request


@dataclass(frozen=True)
class Judge:
    """A sandbox pool, and the one thread that uses it."""

    pool: sandbox.Pool
    thread: ThreadPoolExecutor

    def known(self, task: CodeTask) -> References | None:
        """Return what an earlier run on this host found of the reference solutions of ``task``."""
        return known_references(task, self.pool.tier)

    def check(self, task: CodeTask, progress: Callable[[int], None]) -> References:
        """Run the reference solutions of ``task``; the judge's thread calls ``progress``."""
        interrupted = threading.Event()

        def look(done: int) -> None:
            if interrupted.is_set():
                raise InterruptedError
            progress(done)

        checking = self.thread.submit(check_references, task, self.pool, progress=look)
        try:
            return checking.result()
        except BaseException:
            interrupted.set()
            raise


@contextmanager
def open_judge(backend: str, *, workers: int, unsafe: bool) -> Iterator[Judge]:
    """Open a sandbox pool in a thread of its own; raises what :func:`sandbox.open_pool` raises."""
    with ThreadPoolExecutor(1, "judge") as thread:
        pool = thread.submit(sandbox.open_pool, backend, workers=workers, unsafe=unsafe).result()
        thread.submit(pool.__enter__).result()
        try:
            yield Judge(pool, thread)
        finally:
            thread.submit(pool.__exit__, None, None, None).result()


def judging_of(
    cell: PlannedCell,
    requests: Sequence[DocumentRequests[Request]],
    judge: Judge | None,
    store: Store,
    *,
    again: bool = False,
) -> Judging:
    """Return the judgement of the answers to ``requests``: in the sandbox for programs, by the task's scores otherwise.

    With ``again``, answers that have a verdict or a score are judged anew.
    """
    if isinstance(cell.task, CodeTask) and judge is not None:
        return ProgramJudging(cell, cell.task, judge, store, again=again)
    return Scoring(cell, requests, store, again=again)


class ProgramJudging:
    """Judgement of one cell's programs in the sandbox. With ``again``, stored verdicts are replaced."""

    def __init__(self, cell: PlannedCell, task: CodeTask, judge: Judge, store: Store, *, again: bool = False) -> None:
        self.undecided = 0
        self.program_s = 0.0
        self.waited_s = 0.0
        self._cell = cell
        self._task = task
        self._store = store
        self._again = again
        self._documents = {document.id: document for document in cell.documents}
        self._samples: dict[str, Sample] = {}
        self._programs = sandbox.ProgramQueue()
        known = [] if again else store.verdicts(cell.fingerprint)
        self._judged = len(known)
        self._passed = sum(verdict.status == "passed" for verdict in known)
        self._verdicts = judge.thread.submit(self._store_verdicts, judge.pool.run(self._programs))

    def unjudged(self) -> list[Sample]:
        """Return the stored answers without a verdict, or all of them (``again``)."""
        cell = self._cell.fingerprint
        samples = self._store.samples(cell) if self._again else self._store.samples_without_verdict(cell)
        return [one for one in samples if one.stop_reason != EXCLUDED and one.document in self._documents]

    def judge(self, sample: Sample) -> None:
        """Queue an answer; its verdict is stored when it is ready."""
        document = self._documents[sample.document]
        answer = Generated(sample.text, sample.stop_reason)
        program = self._cell.limited(self._task.program(document, answer, self._cell.model.style))
        name = f"{sample.document} #{sample.index}"
        self._samples[name] = sample
        self._programs.put(replace(program, id=name))

    def close(self) -> None:
        """Wait for the verdicts on all queued answers."""
        began = time.monotonic()
        self._programs.close()
        self._verdicts.result()
        self.waited_s = time.monotonic() - began

    def __str__(self) -> str:
        return f"{self._passed} passed of {self._judged}"

    def _store_verdicts(self, verdicts: Iterator[sandbox.Verdict]) -> None:
        for verdict in verdicts:
            self._keep(verdict, self._samples.pop(verdict.id))

    def _keep(self, verdict: sandbox.Verdict, sample: Sample) -> None:
        if verdict.status is sandbox.Status.SANDBOX_ERROR:
            self.undecided += 1
            return
        self._judged += 1
        self._passed += verdict.passed
        self.program_s += verdict.wall_s
        place: dict[str, Any] = {"cell": sample.cell, "document": sample.document, "index": sample.index}
        stored = Verdict(
            **place,
            status=verdict.status.value,
            integrity=verdict.integrity,
            tier=verdict.tier,
            error=verdict.error,
            wall_s=verdict.wall_s,
            cpu_s=verdict.cpu_s,
            peak_memory_bytes=verdict.peak_memory_bytes,
            stderr_tail=verdict.stderr_tail,
        )
        self._store.add_verdicts([stored], [Score(**place, metric=PASS_AT_1.name, value=float(verdict.passed))])
