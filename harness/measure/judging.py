"""The sandbox beside a model: programs are judged while the next answers are being generated.

The pool lives in one thread of its own for the whole run, because workers are told by the kernel to end with the thread
that started them. Answers reach it through a queue and verdicts are stored from its thread, so that neither side ever
waits for the other; what was waited for at the end of a cell is measured and said.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from crosstok import sandbox
from crosstok.harness.plan.planned import PlannedCell
from crosstok.harness.plan.references import References, check_references, known_references
from crosstok.results.store.records import Sample, Score, Verdict
from crosstok.results.store.store import Store
from crosstok.tasks.sampling import pass_at
from crosstok.tasks.task import CodeTask, Generated


@dataclass(frozen=True)
class Judge:
    """Where programs are judged while the model goes on: a sandbox, and the one thread that ever talks to it."""

    pool: sandbox.Pool
    thread: ThreadPoolExecutor

    def known(self, task: CodeTask) -> References | None:
        """Return what an earlier run on this host found of the published solutions of ``task``."""
        return known_references(task, self.pool.tier)

    def check(self, task: CodeTask, progress: Callable[[int], None]) -> References:
        """Run the published solutions of ``task``; ``progress`` is called from the judge's thread."""
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
    """Open a sandbox in a thread of its own; see :func:`sandbox.open_pool` for what it raises."""
    with ThreadPoolExecutor(1, "judge") as thread:
        pool = thread.submit(sandbox.open_pool, backend, workers=workers, unsafe=unsafe).result()
        thread.submit(pool.__enter__).result()
        try:
            yield Judge(pool, thread)
        finally:
            thread.submit(pool.__exit__, None, None, None).result()


class Judging:
    """One cell before the judge: answers go in as they are generated, verdicts are stored as they come.

    ``again``: what was judged before is not counted, because it is judged anew.
    """

    def __init__(self, cell: PlannedCell, task: CodeTask, judge: Judge, store: Store, *, again: bool = False) -> None:
        self._cell = cell
        self._task = task
        self._store = store
        self._documents = {document.id: document for document in cell.documents}
        self._samples: dict[str, Sample] = {}
        self._programs = sandbox.ProgramQueue()
        known = [] if again else store.verdicts(cell.fingerprint)
        self.judged = len(known)
        self.passed = sum(verdict.status == "passed" for verdict in known)
        self.undecided = 0
        """Programs that the sandbox could not judge; they have no verdict and are judged again next time."""
        self.program_s = 0.0
        """Seconds that programs took, side by side or not."""
        self.waited_s = 0.0
        """Seconds that passed between the last answer and the last verdict."""
        self._judging = judge.thread.submit(self._judge, judge.pool.run(self._programs))

    def judge(self, sample: Sample) -> None:
        """Have an answer judged."""
        document = self._documents[sample.document]
        answer = Generated(sample.text, sample.stop_reason)
        program = self._cell.limited(self._task.program(document, answer, self._cell.model.style))
        name = f"{sample.document} #{sample.index}"
        self._samples[name] = sample
        self._programs.put(replace(program, id=name))

    def close(self) -> None:
        """Wait for the verdicts on all that was heard."""
        began = time.monotonic()
        self._programs.close()
        self._judging.result()
        self.waited_s = time.monotonic() - began

    def __str__(self) -> str:
        return f"{self.passed} passed of {self.judged}"

    def _judge(self, verdicts: Iterator[sandbox.Verdict]) -> None:
        for verdict in verdicts:
            self._keep(verdict, self._samples.pop(verdict.id))

    def _keep(self, verdict: sandbox.Verdict, sample: Sample) -> None:
        if verdict.status is sandbox.Status.SANDBOX_ERROR:
            self.undecided += 1
            return
        self.judged += 1
        self.passed += verdict.passed
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
        self._store.add_verdicts([stored], [Score(**place, metric=pass_at(1), value=float(verdict.passed))])
