"""Leaderboard of a store: a static folder with a page per model and per task, which opens from disk or any web server.

Pages load nothing from other sites. Tables are plain HTML and readable without scripts; one small script adds sorting,
filtering and answers, which it loads on demand in files of fifty. The folder is built next to an existing one and
replaces it when complete.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from crosstok.errors import UserError
from crosstok.fingerprint import fingerprint
from crosstok.results.compare.statistics import SIGNIFICANT
from crosstok.results.compare.task_means import Mean
from crosstok.results.store.store import Store
from crosstok.results.tables.costs import VIEW_BYTES
from crosstok.results.tables.number_format import amount, difference_unit, heading, scale, with_interval
from crosstok.results.web import plots
from crosstok.results.web.answers import write_answers
from crosstok.results.web.leaderboard_data import Column, Leaderboard, RankedModel, Result, load_leaderboard
from crosstok.results.web.page import visible
from crosstok.results.web.templates import render_template

MARK = ".crosstok-leaderboard"
"""File that marks a folder as a leaderboard, which may be replaced."""
_COSTS = (
    ("bytes_per_s", "bytes per second", "speed", 1.0, False),
    ("flops_per_byte", "MFLOP per byte", "operations", 1e6, True),
)
"""Column of a cost, its name, its name in titles, its unit, and whether less is better."""
DRAWN = 3
"""Number of tasks whose plots are also on the first page."""
TRAINING_LOG = "training.jsonl"
_NO_COST = {
    "bytes_per_token": None, "flops_per_byte": None, "bytes_per_s": None, "seconds": None, "stops": "", "verdicts": "",
}  # fmt: skip
_SITE = Path(__file__).parent / "site"


def write_leaderboard(
    store: Store,
    out: Path,
    *,
    runs: Sequence[str] = (),
    baseline: str | None = None,
    students: Path | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the leaderboard of ``runs`` (default: all of the store) into the folder ``out`` and return its first page.

    ``students`` is a folder of models by fingerprint, whose training curves are plotted.
    ``tell`` is called after each page with the number of written pages and their total.

    Raises:
        UserError: nothing was measured, a run or the baseline is unknown, or ``out`` is no leaderboard or not writable.

    """
    if out.exists() and not (out / MARK).exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not a leaderboard.", hint="Choose a new folder.")
    shown = load_leaderboard(store, runs, baseline)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished.mkdir()
        try:
            _Site(store, shown, unfinished, students).write(tell or (lambda *_: None))
            if out.exists():
                shutil.rmtree(out)
            unfinished.replace(out)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise UserError(f"The leaderboard {out} cannot be written: {error.strerror}.") from error
    return out / "index.html"


@dataclass(frozen=True, slots=True)
class _Note:
    number: int
    word: str
    text: str


class _Notes:
    """Notes of a page, each of them once."""

    def __init__(self) -> None:
        self.all: dict[str, _Note] = {}

    def of(self, result: Result) -> list[_Note]:
        return [self._note(text) for text in result.remarks]

    def _note(self, text: str) -> _Note:
        word = "≠" if text.startswith("not comparable") else "!" if ":" in text and "style" in text else "partial"
        return self.all.setdefault(text, _Note(len(self.all) + 1, word, visible(text)))


class _Site:
    def __init__(self, store: Store, shown: Leaderboard, folder: Path, students: Path | None) -> None:
        self.store = store
        self.leaderboard = shown
        self.folder = folder
        self.students = students
        self.slugs = {one.name: _slug(one.name, one.fingerprint[:8]) for one in shown.models}
        self.task_slugs = {
            one.task.name: _slug(one.task.name, fingerprint([one.task.name])[:4]) for one in shown.columns
        }

    def write(self, tell: Callable[[int, int], None]) -> None:
        steps = len(self.leaderboard.columns) + len(self.leaderboard.models)
        done = count(1)
        (self.folder / MARK).write_text("crosstok\n", encoding="utf-8")
        for name in ("leaderboard.css", "leaderboard.js"):
            shutil.copyfile(_SITE / name, self.folder / name)
        (self.folder / "models").mkdir()
        (self.folder / "tasks").mkdir()
        drawn = {}
        for column in self.leaderboard.columns:
            drawn[column.task.name] = self._task_plots(column)
            self._task(column, drawn[column.task.name])
            tell(next(done), steps)
        for ranked_model in self.leaderboard.models:
            self._model(ranked_model)
            tell(next(done), steps)
        self._index(drawn)

    def _page(self, template: str, path: str, **content: Any) -> None:
        root = "../" if "/" in path else ""
        text = render_template(_SITE / template, root=root, baseline=self.leaderboard.baseline, **content)
        (self.folder / path).write_text(text, encoding="utf-8")

    def _index(self, drawn: dict[str, list[tuple[str, Any]]]) -> None:
        notes = _Notes()
        rows = []
        for ranked_model in self.leaderboard.models:
            results = [column.results.get(ranked_model.name) for column in self.leaderboard.columns]
            shown = [
                _shown(column, result, notes) for column, result in zip(self.leaderboard.columns, results, strict=True)
            ]
            per_token = [p.cost["bytes_per_token"] for p in results if p and p.cost.get("bytes_per_token")]
            mean = sum(per_token) / len(per_token) if per_token else None
            flops = [p.cost["flops_per_byte"] / 1e6 for p in results if p and p.cost.get("flops_per_byte")]
            seconds = [p.cost["seconds"] for p in results if p and p.cost.get("seconds") is not None]
            model = ranked_model.record
            words = " ".join(
                [
                    ranked_model.name,
                    model.label if model else "",
                    *(note.text for p in shown if p for note in p["notes"]),
                ]
            )
            rows.append(
                {
                    "name": ranked_model.name,
                    "slug": self.slugs[ranked_model.name],
                    "text": words.lower(),
                    "results": shown,
                    "means": [_mean(one, ranked_model.name) for one in self.leaderboard.means],
                    "figures": [
                        _figure(mean, "{:.2f}"),
                        _figure(sum(flops) / len(flops) if flops else None, "{:,.1f}"),
                        _figure(sum(seconds) if seconds else None, "{:,.1f}"),
                        _figure(model.vocabulary if model else None, "{:,}"),
                        _figure(model.parameters / 1e6 if model else None, "{:.1f}"),
                    ],
                    "label": visible(model.label) if model else "not built",
                }
            )
        tasks = [
            {
                "name": column.task.name,
                "slug": self.task_slugs[column.task.name],
                "small": _small(column),
                "first": "descending" if column.headline.higher_is_better else "ascending",
            }
            for column in self.leaderboard.columns
        ]
        first = [(name, drawn[name]) for name in (column.task.name for column in self.leaderboard.columns[:DRAWN])]
        self._page(
            "index.html.j2", "index.html", rows=rows, tasks=tasks, runs=self.leaderboard.runs,
            means=[_mean_head(one) for one in self.leaderboard.means], view=VIEW_BYTES,
            drawings=[*self._kinds(), *self._usage()], of_tasks=[one for one in first if one[1]],
            notes=list(notes.all.values()),
        )  # fmt: skip

    def _task(self, column: Column, drawings: list[tuple[str, Any]]) -> None:
        notes = _Notes()
        slug = self.task_slugs[column.task.name]
        rows = [
            _row(name, f"../models/{self.slugs[name]}.html#{slug}", column, result, notes)
            for name, result in column.results.items()
        ]
        task = column.task
        facts = [
            ("version", task.version),
            ("documents", str(task.documents) + (f" of {task.available}" if task.available else "")),
            ("options", visible(json.dumps(task.settings, ensure_ascii=False))),
            *((key, visible(str(value))) for key, value in task.source.items() if value),
            ("fingerprint", task.fingerprint),
        ]
        self._page(
            "task.html.j2", f"tasks/{slug}.html", name=task.name, small=_small(column), rows=rows, facts=facts,
            drawings=drawings, notes=list(notes.all.values()),
        )  # fmt: skip

    def _model(self, ranked_model: RankedModel) -> None:
        notes = _Notes()
        rows, answers = [], []
        for column in self.leaderboard.columns:
            result = column.results.get(ranked_model.name)
            if not result:
                continue
            name, slug = column.task.name, self.task_slugs[column.task.name]
            rows.append(_row(name, f"../tasks/{slug}.html", column, result, notes, _small(column)))
            cell = _slug(result.cell.fingerprint)
            pages = write_answers(self.store, result.cell.fingerprint, self.folder / "answers" / cell)
            if pages:
                answers.append({"name": name, "slug": slug, "cell": cell, "pages": pages})
        self._page(
            "model.html.j2", f"models/{self.slugs[ranked_model.name]}.html", name=ranked_model.name,
            label=visible(ranked_model.record.label) if ranked_model.record else "not built", rows=rows,
            answers=answers,
            facts=_model_facts(ranked_model), drawings=self._curves(ranked_model), notes=list(notes.all.values()),
        )  # fmt: skip

    def _task_plots(self, column: Column) -> list[tuple[str, Any]]:
        name = visible(column.task.name)
        factor = scale(column.headline.unit)
        differences = [(visible(key), result.difference) for key, result in column.results.items() if result.difference]
        metric = heading(column.headline.name, column.headline.unit)
        baseline = self.leaderboard.baseline
        title, axis = f"{name}: difference from {visible(baseline)}", difference_unit(column.headline.unit)
        label = f"{name}: paired differences from {baseline} with 95 % intervals, as in the table"
        drawings = {label: plots.forest(differences, title, axis, factor)}
        for key, said, short, one, less in _COSTS:
            points = [
                plots.Point(visible(model), result.cost[key] / one, result.estimate.value)
                for model, result in column.results.items()
                if result.comparable and result.estimate and result.cost.get(key)
            ]
            axes = plots.Trade(said, less, metric, column.headline.higher_is_better)
            drawings[f"{name}: score against {said}"] = plots.pareto(points, f"{name}: score and {short}", axes, factor)
        return _markup(drawings)

    def _kinds(self) -> list[tuple[str, Any]]:
        values = {
            visible(column.task.name): {
                visible(name): result.estimate.value
                for name, result in column.results.items()
                if result.comparable and result.estimate
            }
            for column in self.leaderboard.columns
            if column.headline.unit == "bits/byte"
        }
        drawing = plots.kinds({kind: found for kind, found in values.items() if found}, "Bits per byte by kind of text")
        return _markup({"Bits per byte of every model by kind of text, as in the table": drawing})

    def _usage(self) -> list[tuple[str, Any]]:
        shares = {
            visible(column.task.name): {
                visible(name): result.cost["new_token_share"]
                for name, result in column.results.items()
                if result.cost.get("new_token_share") is not None
            }
            for column in self.leaderboard.columns
        }
        drawing = plots.usage({task: found for task, found in shares.items() if found}, "Use of new tokens")
        return _markup({"Share of new tokens in the answers of each model, by task": drawing})

    def _curves(self, ranked_model: RankedModel) -> list[tuple[str, Any]]:
        if not self.students:
            return []
        path = self.students / ranked_model.fingerprint / TRAINING_LOG
        if not path.is_file():
            return []
        # A killed process may leave an incomplete last line.
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
        drawing = plots.curves([json.loads(line) for line in whole.splitlines()], "Training")
        return _markup({f"Losses of {ranked_model.name} over the training text": drawing})


def _markup(drawings: dict[str, str]) -> list[tuple[str, Any]]:
    from markupsafe import Markup

    # The plots are SVG from matplotlib, which escapes every name.
    return [(label, Markup(drawing)) for label, drawing in drawings.items() if drawing]  # noqa: S704


def _shown(column: Column, result: Result | None, notes: _Notes) -> dict[str, Any] | None:
    if result is None:
        return None
    estimate = result.estimate
    unit = column.headline.unit
    value, interval, sort = "-", "", ""
    if estimate and estimate.value == estimate.value:
        value, sort = amount(unit, estimate.value), repr(estimate.value)
        if estimate.low == estimate.low:
            interval = f"{amount(unit, estimate.low)} to {amount(unit, estimate.high)}"
        if estimate.n != column.task.documents:
            interval = f"{interval}, n={estimate.n}".lstrip(", ")
    return {"value": value, "interval": interval, "sort": sort, "standing": result.standing, "notes": notes.of(result)}


def _row(  # noqa: PLR0917
    name: str, href: str, column: Column, result: Result, notes: _Notes, small: str = ""
) -> dict[str, Any]:
    found = result.difference
    cost = {**_NO_COST, **result.cost}
    flops = cost["flops_per_byte"]
    change, _, interval = with_interval(column.headline.unit, found).partition(" [") if found else ("", "", "")
    return {
        "name": name,
        "href": href,
        "unit": small,
        "result": _shown(column, result, notes),
        "difference": f"{change} {difference_unit(column.headline.unit)}" if found else "-",
        "difference_interval": interval.rstrip("]").replace(",", " to"),
        "difference_value": found.value if found and found.value == found.value else None,
        "p": _p(found.p) if found else "-",
        "p_limit": _limit(column, found) if found else "",
        "p_value": found.p if found else None,
        "figures": [
            _figure(cost["bytes_per_token"], "{:.2f}"),
            _figure(flops / 1e6 if flops else None, "{:,.1f}"),
            _figure(cost["bytes_per_s"], "{:,.0f}"),
            _figure(cost["seconds"], "{:.1f}"),
        ],
        "cost": cost,
    }


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 0.0001 else "<0.0001"


def _limit(column: Column, found: Any) -> str:
    """Return the minimum detectable effect of a difference that is not significant."""
    if found.p < SIGNIFICANT or found.detectable != found.detectable or not found.detectable:
        return ""
    return f"MDE {amount(column.headline.unit, found.detectable)}"


def _model_facts(ranked_model: RankedModel) -> list[tuple[str, str]]:
    model = ranked_model.record
    if not model:
        return [("fingerprint", ranked_model.fingerprint)]
    facts = [
        ("vocabulary", f"{model.vocabulary:,} ids"),
        ("parameters", f"{model.parameters:,}"),
        ("build time (s)", f"{model.build_s:.1f}"),
        ("tokenizer", model.tokenizer),
        ("fingerprint", model.fingerprint),
    ]
    return facts + [(key.replace("_", " "), _plain(value)) for key, value in model.provenance.items()]


def _plain(value: Any) -> str:
    return visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _small(column: Column) -> str:
    headline = column.headline
    metric = heading(headline.name, headline.unit)
    return f"{metric} {'↑' if headline.higher_is_better else '↓'} n={column.task.documents}"


def _mean_head(one: Mean) -> dict[str, str]:
    headline = one.headline
    metric = heading(headline.name, headline.unit)
    return {
        "name": f"mean {headline.name}",
        "small": f"{metric} {'↑' if headline.higher_is_better else '↓'} over {len(one.tasks)} tasks",
        "first": "descending" if headline.higher_is_better else "ascending",
    }


def _mean(one: Mean, name: str) -> dict[str, Any]:
    """Return the mean of a model, or a dash where it lacks one of the tasks."""
    found = one.of_model.get(name)
    unit = one.headline.unit
    if found is None:
        return {"value": "-", "sort": "", "interval": ""}
    interval = f"{amount(unit, found.low)} to {amount(unit, found.high)}" if found.low == found.low else ""
    return {"value": amount(unit, found.value), "sort": repr(found.value), "interval": interval}


def _figure(value: float | None, form: str) -> dict[str, Any]:
    return {"shown": "-" if value is None else form.format(value), "value": value}


def _slug(name: str, suffix: str = "") -> str:
    """Return a file name that is safe on every file system and in URLs."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:60] or "unnamed"
    return f"{plain}-{suffix}" if suffix else plain
