"""Page of a training run: scores of every checkpoint on every task, with intervals, compared with the baseline.

The page has no scripts. It and one SVG file per task are replaced atomically, so a browser that reloads never reads an
incomplete file.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from crosstok.errors import UserError
from crosstok.results.compare.answers import Headline
from crosstok.results.compare.contrast import Side
from crosstok.results.compare.statistics import Estimate
from crosstok.results.tables.number_format import value_with_interval
from crosstok.results.web.page import visible
from crosstok.results.web.templates import render_template, replace_file

_TEMPLATE = Path(__file__).parent / "site" / "curve.html.j2"


@dataclass(frozen=True)
class Curve:
    """Scores of a training run."""

    title: str
    baseline: Side
    checkpoints: tuple[Side, ...]
    """Ordered by training step."""


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    scores: list[str]


def write_curve(curve: Curve, folder: Path) -> Path:
    """Write ``index.html`` and ``TASK.svg`` for every task into ``folder``; return the page.

    Raises:
        UserError: the folder cannot be written.

    """
    from markupsafe import Markup  # only pages need it

    from crosstok.results.web import plots  # loads matplotlib

    tasks = list(dict.fromkeys(task for side in curve.checkpoints for task in side.cells))
    drawings = {}
    for task in tasks:
        known = [(side.name, _estimate(side, task)) for side in curve.checkpoints]
        points = [plots.Step(visible(name), found) for name, found in known if found]
        headline = _headline(curve, task)
        drawings[task] = plots.steps(points, _estimate(curve.baseline, task), visible(task), headline)
    rows = [_Row(side.name, [_text(curve, side, task) for task in tasks]) for side in curve.checkpoints]
    text = render_template(
        _TEMPLATE, title=curve.title, tasks=tasks, rows=rows, baseline=curve.baseline.name,
        reference=[_text(curve, curve.baseline, task) for task in tasks],
        # Our own SVG, in which matplotlib has escaped every name.
        drawings=[(task, Markup(drawing)) for task, drawing in drawings.items() if drawing],  # noqa: S704
    )  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for task, drawing in drawings.items():
            if drawing:
                replace_file(folder / f"{_file_name(task)}.svg", drawing.replace("currentColor", "#1b1f24"))
        replace_file(folder / "index.html", text)
    except OSError as error:
        raise UserError(f"The page in {folder} cannot be written: {error.strerror}.") from error
    return folder / "index.html"


def _headline(curve: Curve, task: str) -> Headline:
    return Headline.of(next(side for side in curve.checkpoints if task in side.cells).tasks[task])


def _estimate(side: Side, task: str) -> Estimate | None:
    if task not in side.cells:
        return None
    headline = Headline.of(side.tasks[task])
    answers = side.answers(task, headline.name)
    return answers.estimate(headline) if answers else None


def _text(curve: Curve, side: Side, task: str) -> str:
    """Return a score with its interval and, if it is incomplete, the reason."""
    estimate = _estimate(side, task)
    problem = side.problem(task).partition(": ")[2] if task in side.cells else "not measured"
    if estimate is None:
        return problem or "-"
    shown = value_with_interval(_headline(curve, task).unit, estimate.value, estimate.low, estimate.high)
    return f"{shown} ({problem})" if problem else shown


def _file_name(task: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", task).strip(".-") or "task"
