"""The leaderboard: one static folder with a page per model and per task, which opens from disk and from any host.

Nothing is fetched from elsewhere and nothing needs a server: tables are in the pages, so they can be read without any
script; sorting, filtering and the answers are one small script beside them. Answers lie in files of fifty, fetched when
they are asked for, so a store with a hundred thousand of them makes no page slow. A folder is built beside the old one
and takes its place only when it is whole.
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
from crosstok.results.compare.task_means import Mean
from crosstok.results.store.store import Store
from crosstok.results.tables.costs import VIEW_BYTES
from crosstok.results.tables.number_format import amount, difference_unit, heading, scale, with_interval
from crosstok.results.web import plots
from crosstok.results.web.answers import write_answers
from crosstok.results.web.leaderboard_data import Board, Column, Entrant, Place, board
from crosstok.results.web.page import visible
from crosstok.results.web.templates import render_template

MARK = ".crosstok-leaderboard"
"""A file that tells a leaderboard from a folder that must not be replaced."""
_COSTS = (
    ("bytes_per_s", "bytes per second", "speed", 1.0, False),
    ("flops_per_byte", "millions of operations per byte", "operations", 1e6, True),
)
"""Cost of a place, its name, the name in a title, its unit, and whether less of it is better."""
DRAWN = 3
"""Tasks whose plots stand on the first page too."""
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

    ``students`` is the folder that holds models by fingerprint; training curves are drawn of those that are there.
    ``tell`` is called after each page with how many are written, and of how many.

    Raises:
        UserError: nothing was measured, an unknown run or baseline, or ``out`` is something else or cannot be written.

    """
    if out.exists() and not (out / MARK).exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is no leaderboard.", hint="Name a new folder.")
    shown = board(store, runs, baseline)
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
    """The remarks of one page, each once."""

    def __init__(self) -> None:
        self.all: dict[str, _Note] = {}

    def of(self, place: Place) -> list[_Note]:
        return [self._note(text) for text in place.remarks]

    def _note(self, text: str) -> _Note:
        word = "≠" if text.startswith("not comparable") else "!" if ":" in text and "style" in text else "partial"
        return self.all.setdefault(text, _Note(len(self.all) + 1, word, visible(text)))


class _Site:
    def __init__(self, store: Store, shown: Board, folder: Path, students: Path | None) -> None:
        self.store = store
        self.board = shown
        self.folder = folder
        self.students = students
        self.slugs = {one.name: _slug(one.name, one.fingerprint[:8]) for one in shown.entrants}
        self.task_slugs = {
            one.task.name: _slug(one.task.name, fingerprint([one.task.name])[:4]) for one in shown.columns
        }

    def write(self, tell: Callable[[int, int], None]) -> None:
        steps = len(self.board.columns) + len(self.board.entrants)
        done = count(1)
        (self.folder / MARK).write_text("crosstok\n", encoding="utf-8")
        for name in ("leaderboard.css", "leaderboard.js"):
            shutil.copyfile(_SITE / name, self.folder / name)
        (self.folder / "models").mkdir()
        (self.folder / "tasks").mkdir()
        drawn = {}
        for column in self.board.columns:
            drawn[column.task.name] = self._task_plots(column)
            self._task(column, drawn[column.task.name])
            tell(next(done), steps)
        for entrant in self.board.entrants:
            self._model(entrant)
            tell(next(done), steps)
        self._index(drawn)

    def _page(self, template: str, path: str, **content: Any) -> None:
        root = "../" if "/" in path else ""
        text = render_template(_SITE / template, root=root, baseline=self.board.baseline, **content)
        (self.folder / path).write_text(text, encoding="utf-8")

    def _index(self, drawn: dict[str, list[tuple[str, Any]]]) -> None:
        notes = _Notes()
        rows = []
        for entrant in self.board.entrants:
            places = [column.places.get(entrant.name) for column in self.board.columns]
            shown = [_shown(column, place, notes) for column, place in zip(self.board.columns, places, strict=True)]
            per_token = [p.cost["bytes_per_token"] for p in places if p and p.cost.get("bytes_per_token")]
            mean = sum(per_token) / len(per_token) if per_token else None
            flops = [p.cost["flops_per_byte"] / 1e6 for p in places if p and p.cost.get("flops_per_byte")]
            seconds = [p.cost["seconds"] for p in places if p and p.cost.get("seconds") is not None]
            model = entrant.model
            words = " ".join(
                [entrant.name, model.label if model else "", *(note.text for p in shown if p for note in p["notes"])]
            )
            rows.append(
                {
                    "name": entrant.name,
                    "slug": self.slugs[entrant.name],
                    "text": words.lower(),
                    "places": shown,
                    "means": [_mean(one, entrant.name) for one in self.board.means],
                    "figures": [
                        _figure(mean, "{:.2f}"),
                        _figure(sum(flops) / len(flops) if flops else None, "{:,.1f}"),
                        _figure(sum(seconds) if seconds else None, "{:,.1f}"),
                        _figure(model.vocabulary if model else None, "{:,}"),
                        _figure(model.parameters / 1e6 if model else None, "{:.1f}"),
                    ],
                    "label": visible(model.label) if model else "never made",
                }
            )
        tasks = [
            {
                "name": column.task.name,
                "slug": self.task_slugs[column.task.name],
                "small": _small(column),
                "first": "descending" if column.headline.higher_is_better else "ascending",
            }
            for column in self.board.columns
        ]
        first = [(name, drawn[name]) for name in (column.task.name for column in self.board.columns[:DRAWN])]
        self._page(
            "index.html.j2", "index.html", rows=rows, tasks=tasks, runs=self.board.runs,
            means=[_mean_head(one) for one in self.board.means], view=VIEW_BYTES,
            drawings=[*self._kinds(), *self._usage()], of_tasks=[one for one in first if one[1]],
            notes=list(notes.all.values()),
        )  # fmt: skip

    def _task(self, column: Column, drawings: list[tuple[str, Any]]) -> None:
        notes = _Notes()
        slug = self.task_slugs[column.task.name]
        rows = [
            _row(name, f"../models/{self.slugs[name]}.html#{slug}", column, place, notes)
            for name, place in column.places.items()
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

    def _model(self, entrant: Entrant) -> None:
        notes = _Notes()
        rows, answers = [], []
        for column in self.board.columns:
            place = column.places.get(entrant.name)
            if not place:
                continue
            name, slug = column.task.name, self.task_slugs[column.task.name]
            rows.append(_row(name, f"../tasks/{slug}.html", column, place, notes, _small(column)))
            cell = _slug(place.cell.fingerprint)
            pages = write_answers(self.store, place.cell.fingerprint, self.folder / "answers" / cell)
            if pages:
                answers.append({"name": name, "slug": slug, "cell": cell, "pages": pages})
        self._page(
            "model.html.j2", f"models/{self.slugs[entrant.name]}.html", name=entrant.name,
            label=visible(entrant.model.label) if entrant.model else "never made", rows=rows, answers=answers,
            facts=_model_facts(entrant), drawings=self._curves(entrant), notes=list(notes.all.values()),
        )  # fmt: skip

    def _task_plots(self, column: Column) -> list[tuple[str, Any]]:
        name = visible(column.task.name)
        factor = scale(column.headline.unit)
        differences = [(visible(key), place.difference) for key, place in column.places.items() if place.difference]
        metric = heading(column.headline.name, column.headline.unit)
        drawings = {
            f"{name}: paired differences from {self.board.baseline} with 95 % intervals, as in the table": plots.forest(
                differences,
                f"{name}: difference from {visible(self.board.baseline)}",
                difference_unit(column.headline.unit),
                factor,
            )
        }
        for key, said, short, one, less in _COSTS:
            points = [
                plots.Point(visible(model), place.cost[key] / one, place.estimate.value)
                for model, place in column.places.items()
                if place.comparable and place.estimate and place.cost.get(key)
            ]
            axes = plots.Trade(said, less, metric, column.headline.higher_is_better)
            drawings[f"{name}: score against {said}"] = plots.pareto(points, f"{name}: score and {short}", axes, factor)
        return _markup(drawings)

    def _kinds(self) -> list[tuple[str, Any]]:
        values = {
            visible(column.task.name): {
                visible(name): place.estimate.value
                for name, place in column.places.items()
                if place.comparable and place.estimate
            }
            for column in self.board.columns
            if column.headline.unit == "bits/byte"
        }
        drawing = plots.kinds({kind: found for kind, found in values.items() if found}, "Bits per byte by kind of text")
        return _markup({"Bits per byte of every model by kind of text, as in the table": drawing})

    def _usage(self) -> list[tuple[str, Any]]:
        shares = {
            visible(column.task.name): {
                visible(name): place.cost["new_token_share"]
                for name, place in column.places.items()
                if place.cost.get("new_token_share") is not None
            }
            for column in self.board.columns
        }
        drawing = plots.usage({task: found for task, found in shares.items() if found}, "Use of new tokens")
        return _markup({"Share of new tokens in what each model wrote, by task": drawing})

    def _curves(self, entrant: Entrant) -> list[tuple[str, Any]]:
        if not self.students:
            return []
        path = self.students / entrant.fingerprint / TRAINING_LOG
        if not path.is_file():
            return []
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0]  # a line that a kill cut short is left out
        drawing = plots.curves([json.loads(line) for line in whole.splitlines()], "Training")
        return _markup({f"Losses of {entrant.name} over the text that it was trained on": drawing})


def _markup(drawings: dict[str, str]) -> list[tuple[str, Any]]:
    from markupsafe import Markup  # noqa: PLC0415

    # Drawings are our own SVG, in which matplotlib has escaped every name.
    return [(label, Markup(drawing)) for label, drawing in drawings.items() if drawing]  # noqa: S704


def _shown(column: Column, place: Place | None, notes: _Notes) -> dict[str, Any] | None:
    if place is None:
        return None
    estimate = place.estimate
    unit = column.headline.unit
    value, interval, sort = "-", "", ""
    if estimate and estimate.value == estimate.value:
        value, sort = amount(unit, estimate.value), repr(estimate.value)
        if estimate.low == estimate.low:
            interval = f"{amount(unit, estimate.low)} to {amount(unit, estimate.high)}"
        if estimate.n != column.task.documents:
            interval = f"{interval}, n={estimate.n}".lstrip(", ")
    return {"value": value, "interval": interval, "sort": sort, "standing": place.standing, "notes": notes.of(place)}


def _row(  # noqa: PLR0917
    name: str, href: str, column: Column, place: Place, notes: _Notes, small: str = ""
) -> dict[str, Any]:
    found = place.difference
    cost = {**_NO_COST, **place.cost}
    flops = cost["flops_per_byte"]
    change, _, interval = with_interval(column.headline.unit, found).partition(" [") if found else ("", "", "")
    return {
        "name": name,
        "href": href,
        "unit": small,
        "place": _shown(column, place, notes),
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
    """Return what a comparison that found nothing could not have seen."""
    if found.p < 0.05 or found.detectable != found.detectable or not found.detectable:
        return ""
    return f"misses below {amount(column.headline.unit, found.detectable)}"


def _model_facts(entrant: Entrant) -> list[tuple[str, str]]:
    model = entrant.model
    if not model:
        return [("fingerprint", entrant.fingerprint)]
    facts = [
        ("vocabulary", f"{model.vocabulary:,} ids"),
        ("parameters", f"{model.parameters:,}"),
        ("seconds to make", f"{model.build_s:.1f}"),
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
    """Return the mean of an entrant; a dash where it lacks one of the tasks."""
    found = one.of_model.get(name)
    unit = one.headline.unit
    if found is None:
        return {"value": "-", "sort": "", "interval": ""}
    interval = f"{amount(unit, found.low)} to {amount(unit, found.high)}" if found.low == found.low else ""
    return {"value": amount(unit, found.value), "sort": repr(found.value), "interval": interval}


def _figure(value: float | None, form: str) -> dict[str, Any]:
    return {"shown": "-" if value is None else form.format(value), "value": value}


def _slug(name: str, suffix: str = "") -> str:
    """Return a file name that every system and address can bear."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:60] or "unnamed"
    return f"{plain}-{suffix}" if suffix else plain
