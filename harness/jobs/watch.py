"""Every new checkpoint of a folder is measured, judged and drawn as soon as it is completely written.

The suite says what is measured; its own models are measured first and are the baseline (the first of them). Every
checkpoint is a run of its own in the store, under the suite's name with ``-watch``. The store is the only memory: a
watch that is started again finds there what it has done, continues a checkpoint that was cut short, and still draws
those whose folders have been deleted since.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from crosstok.errors import CrosstokError, UserError
from crosstok.harness.jobs.checkpoint_folder import Arrivals, Signature, signature, step_and_name
from crosstok.harness.jobs.run import run_suite
from crosstok.harness.plan.suite import ModelSpec, Suite
from crosstok.progress import ProgressCallback
from crosstok.results.compare.contrast import Side, best_of, sides
from crosstok.results.gate import GateReport, Rule, gate
from crosstok.results.store.records import Run
from crosstok.results.store.store import Store
from crosstok.results.web.curve import Curve, write_curve


@dataclass(frozen=True)
class Judged:
    """A checkpoint that was looked at."""

    name: str
    report: GateReport | None
    """None where there is nothing to compare it with, or it could not be measured."""
    problem: str = ""
    """Why it could not be measured."""


@dataclass
class Watch:
    """Watches one folder; :meth:`follow` gives a checkpoint at a time."""

    arrivals: Arrivals
    suite: Suite
    store: Store
    out: Path
    """Folder of the curve."""
    progress: ProgressCallback | None = None
    data: Path | None = None
    against: str = "best"
    """``best`` (of the earlier checkpoints, task by task) or ``baseline`` (the first model of the suite)."""
    rules: tuple[Rule, ...] = ()
    say: Callable[[str], None] = print
    _done: dict[str, Signature] = field(default_factory=dict)

    def follow(self, *, every: float, idle: float | None) -> Iterator[Judged]:
        """Give every checkpoint when it has been measured and judged; end when nothing was new for ``idle`` seconds.

        ``every`` is the pause between two looks in seconds. A checkpoint that cannot be measured is given with its
        problem, and tried again when it changes.
        """
        baseline = self._baseline()
        self._draw(baseline)
        last = time.monotonic()
        while True:
            ready = self.arrivals.ready()
            new = [name for name, present in ready.items() if self._done.get(name) != present]
            for name in new:
                self._done[name] = ready[name]
                try:
                    side = self._measure(name, ready[name])
                except CrosstokError as error:
                    yield Judged(name, None, str(error))
                    continue
                last = time.monotonic()
                if side:
                    self._draw(baseline)
                    yield Judged(name, self._judge(side, baseline))
            if not new and idle is not None and time.monotonic() - last >= idle:
                for name, why in self.arrivals.waiting.items():
                    self.say(f"{name} was left out: {why}.")
                return
            if not new:
                time.sleep(every)

    def history(self) -> list[Side]:
        """Return the checkpoints of this folder that the store knows, each as it was measured last, by step."""
        found: dict[str, Side] = {}
        for run in reversed(self.store.runs()):  # the oldest first
            if run.suite == self._name and _parent(run) == str(self.arrivals.folder):
                for name, side in sides(self.store, run).items():
                    found.pop(name, None)
                    found[name] = side
        return sorted(found.values(), key=lambda side: step_and_name(side.name))

    @property
    def _name(self) -> str:
        return f"{self.suite.name}-watch"

    def _baseline(self) -> Side:
        outcome = run_suite(self.suite, self.store, progress=self.progress, data=self.data)
        found = sides(self.store, self.store.run(outcome.run_id))
        return found.get(next(iter(self.suite.models))) or next(iter(found.values()))

    def _measure(self, name: str, present: Signature) -> Side | None:
        """Measure a checkpoint; None where it was written to meanwhile, so that nobody knows what was measured."""
        source = self.arrivals.folder / name
        models = {name: ModelSpec(source=str(source))}
        suite = self.suite.model_copy(update={"name": self._name, "models": models})
        outcome = run_suite(suite, self.store, progress=self.progress, data=self.data)
        side = sides(self.store, self.store.run(outcome.run_id))[name]
        if not source.is_dir() or signature(source) == present:
            return side
        for cell in side.cells.values():
            self.store.forget(cell.fingerprint)
        del self._done[name]
        self.say(f"{name} changed while it was measured; it is measured again.")
        return None

    def _judge(self, side: Side, baseline: Side) -> GateReport | None:
        earlier = [one for one in self.history() if step_and_name(one.name) < step_and_name(side.name)]
        if self.against == "best" and not earlier:
            return None
        reference = baseline if self.against == "baseline" else best_of(earlier)
        return gate({side.name: side}, {side.name: reference}, self.rules)

    def _draw(self, baseline: Side) -> None:
        known = self.history()
        if known:
            write_curve(Curve(self._name, baseline, tuple(known)), self.out)


def _parent(run: Run) -> str:
    models = run.config.get("models", {})
    sources = [str(spec.get("source", "")) for spec in models.values()] if isinstance(models, dict) else []
    return str(Path(sources[0]).parent) if sources else ""


def open_watch(folder: Path, *, settle: float, marker: str | None) -> Arrivals:
    """Return the arrivals of ``folder``.

    Raises:
        UserError: there is no such folder.

    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.", hint="Name the folder that checkpoints are written into.")
    return Arrivals(folder.resolve(), settle, marker)
