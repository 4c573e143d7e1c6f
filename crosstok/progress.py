"""Progress of long jobs: what a job reports, and the estimate of the time that is left.

A job reports to one callback, ``progress(event)``, and needs no console. It works in stages. Each stage gives in
advance the number of its units and the seconds that it is likely to take, so that the time left is an estimate from the
first stage on; the speed of the stages that are done corrects it.

    def progress(event: ProgressEvent) -> None:
        print(event.stage, event.done, event.total, event.state)

    crosstok.run("suite.yaml", progress=progress)
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Self

PRIOR_S = 60.0
"""Weight of the estimate made in advance against the speed observed so far, in seconds of work."""

Advance = Callable[[float, str], None]
"""Called by a stage with the units done since the last call, and a few words on its state (empty: as before)."""

_StageEvent = Literal["started", "advanced", "finished"]

Count = Callable[[int, int], None]
"""Called by a stage with the number of units done so far, and the number of all."""


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """A report of a running job."""

    kind: Literal["started", "advanced", "finished", "message", "closed"]
    """A stage started, advanced or finished; a message; or the job is over, whether or not it succeeded."""
    stage: str = ""
    """Title of the stage, as ``alm on humaneval``; empty for a message and at the end."""
    done: float = 0.0
    """Units of the stage that are done: documents, optimiser steps, programs."""
    total: float | None = None
    """Units of the stage; None where they are not known yet."""
    state: str = ""
    """A few words on the stage, as ``loss 1.234``; the text of a message."""
    elapsed_s: float = 0.0
    """Seconds since the stage started."""
    share: float = 0.0
    """Share of the whole job that is done, from 0 to 1, by the estimate."""
    left_s: float = 0.0
    """Estimate of the seconds that are left for the whole job."""


ProgressCallback = Callable[[ProgressEvent], None]
"""Takes the reports of a job; called in the thread that does the work."""


class Reporter:
    """Reports the stages of one job to a callback; use it as a context manager around the whole job."""

    def __init__(self, progress: ProgressCallback | None = None) -> None:
        self._progress = progress or _ignore
        self._expected_s = 0.0
        self._done_s = 0.0
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress(ProgressEvent("closed", share=self._share(), left_s=self._left_s()))

    def expect(self, seconds: float) -> None:
        """Set the likely seconds of all stages that are still to come."""
        self._expected_s = self._done_s + max(seconds, 0.0)

    def say(self, line: str) -> None:
        """Report a message."""
        self._progress(ProgressEvent("message", state=line, share=self._share(), left_s=self._left_s()))

    @contextmanager
    def stage(self, title: str, total: float, expected_s: float) -> Iterator[Advance]:
        """Open a stage of ``total`` units that is likely to take ``expected_s`` seconds."""
        done = 0.0
        with self._stage(title, total, expected_s) as update:

            def advance(amount: float, state: str) -> None:
                nonlocal done
                done += amount
                update(done, total, state)

            yield advance

    @contextmanager
    def counted(self, title: str, expected_s: float = 1.0) -> Iterator[Count]:
        """Open a stage whose number of units is known only once it runs."""
        with self._stage(title, None, expected_s) as update:
            yield lambda done, total: update(done, total, "")

    @contextmanager
    def _stage(
        self, title: str, total: float | None, expected_s: float
    ) -> Iterator[Callable[[float, float | None, str], None]]:
        began, before = time.monotonic(), self._done_s
        last = ProgressEvent("started", title)

        def report(kind: _StageEvent, done: float, total: float | None, state: str) -> None:
            nonlocal last
            share = 1.0 if kind == "finished" or total == 0 else min(done / total, 1.0) if total else 0.0
            self._done_s = before + share * expected_s
            elapsed = time.monotonic() - began
            state = state or last.state
            last = ProgressEvent(kind, title, done, total, state, elapsed, self._share(), self._left_s())
            self._progress(last)

        report("started", 0.0, total, "")
        try:
            yield lambda done, total, state: report("advanced", done, total, state)
        finally:
            report("finished", last.done, last.total, "")

    def _share(self) -> float:
        return min(self._done_s / self._expected_s, 1.0) if self._expected_s else 0.0

    def _left_s(self) -> float:
        remaining = max(self._expected_s - self._done_s, 0.0)
        elapsed = time.monotonic() - self._began
        pace = (elapsed + PRIOR_S) / (self._done_s + PRIOR_S)  # the prior keeps a slow start from promising hours
        return remaining * pace


def _ignore(_event: ProgressEvent) -> None:
    """Take a report and do nothing."""
