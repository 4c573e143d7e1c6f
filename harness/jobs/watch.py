"""Watching a folder of checkpoints: each new one is evaluated, tested for regressions and added to the learning curve.

The models of the suite are evaluated first; the first one is the baseline. Each checkpoint is a run of its own in the
store, named after the suite with the suffix ``-watch``. All state is in the store: a restarted watch skips what is
done, continues an interrupted checkpoint, and still draws checkpoints whose folders were deleted.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from crosstok.errors import CrosstokError, UserError
from crosstok.harness.jobs.checkpoint_folder import CheckpointFolder, Signature, signature, step_and_name
from crosstok.harness.jobs.run import require_measured, run_suite
from crosstok.harness.plan.suite import ModelSpec, Suite
from crosstok.progress import ProgressCallback
from crosstok.results.compare.contrast import Side, best_of, sides
from crosstok.results.gate import GateReport, Rule, gate
from crosstok.results.store.records import Run
from crosstok.results.store.store import Store
from crosstok.results.web.curve import Curve, write_curve


@dataclass(frozen=True)
class Judged:
    """A checkpoint that was evaluated, or could not be."""

    name: str
    report: GateReport | None
    """Result of the gate; None without a reference or if the evaluation failed."""
    problem: str = ""
    """Reason why the evaluation failed."""


@dataclass
class Watch:
    """A watched folder; :meth:`follow` yields one checkpoint at a time."""

    checkpoints: CheckpointFolder
    suite: Suite
    store: Store
    out: Path
    """Output folder of the learning curve."""
    progress: ProgressCallback | None = None
    data: Path | None = None
    against: str = "best"
    """Reference: ``best`` (best earlier checkpoint on each task) or ``baseline`` (first model of the suite)."""
    rules: tuple[Rule, ...] = ()
    say: Callable[[str], None] = print
    _done: dict[str, Signature] = field(default_factory=dict)

    def follow(self, *, every: float, idle: float | None) -> Iterator[Judged]:
        """Yield every checkpoint after its evaluation; return after ``idle`` seconds without a new one.

        ``every`` is the polling interval in seconds. A checkpoint whose evaluation fails is yielded with its problem,
        and evaluated again when it changes.
        """
        baseline = self._baseline()
        self._draw(baseline)
        last = time.monotonic()
        while True:
            ready = self.checkpoints.ready()
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
                for name, why in self.checkpoints.waiting.items():
                    self.say(f"{name} was skipped: {why}.")
                return
            if not new:
                time.sleep(every)

    def history(self) -> list[Side]:
        """Return the latest results of every checkpoint of this folder in the store, ordered by step."""
        found: dict[str, Side] = {}
        for run in reversed(self.store.runs()):  # oldest first
            if run.suite == self._name and _parent(run) == str(self.checkpoints.folder):
                for name, side in sides(self.store, run).items():
                    found.pop(name, None)
                    found[name] = side
        return sorted(found.values(), key=lambda side: step_and_name(side.name))

    @property
    def _name(self) -> str:
        return f"{self.suite.name}-watch"

    def _baseline(self) -> Side:
        outcome = run_suite(self.suite, self.store, progress=self.progress, data=self.data)
        require_measured(outcome, self.store, next(iter(self.suite.models)))
        found = sides(self.store, self.store.run(outcome.run_id))
        return found.get(next(iter(self.suite.models))) or next(iter(found.values()))

    def _measure(self, name: str, present: Signature) -> Side | None:
        """Evaluate a checkpoint; return None if it changed in the meantime, which makes the results meaningless."""
        source = self.checkpoints.folder / name
        models = {name: ModelSpec(source=str(source))}
        suite = self.suite.model_copy(update={"name": self._name, "models": models})
        outcome = run_suite(suite, self.store, progress=self.progress, data=self.data)
        side = sides(self.store, self.store.run(outcome.run_id))[name]
        if not source.is_dir() or signature(source) == present:
            require_measured(outcome, self.store, name)
            return side
        for cell in side.cells.values():
            self.store.forget(cell.fingerprint)
        del self._done[name]
        self.say(f"{name} changed during its evaluation; it is evaluated again.")
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


def open_checkpoint_folder(folder: Path, *, settle: float, marker: str | None) -> CheckpointFolder:
    """Return the checkpoint folder at ``folder``.

    Raises:
        UserError: the folder does not exist.

    """
    if not folder.is_dir():
        raise UserError(
            f"The folder {folder} does not exist.", hint="Name the folder that the trainer writes checkpoints to."
        )
    return CheckpointFolder(folder.resolve(), settle, marker)
