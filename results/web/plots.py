"""Plots of runs and leaderboards, as inline SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from crosstok.results.compare.answers import Headline
from crosstok.results.compare.statistics import SIGNIFICANT, Difference, Estimate
from crosstok.results.store.records import FRACTION
from crosstok.results.tables.number_format import heading
from crosstok.results.web.labels import Mark, place
from crosstok.results.web.svg import BEST, COLOURS, DOT, INK, as_svg, page_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_MARKS = ("o", "s", "^", "D", "v", "P")
_CLOUD = (265.0, 165.0)  # approximate size of the axes of a scatter plot, in typographic points
_SMALL = 7.5
_NAMED = 12  # points of a scatter plot that are all labelled
_ROWS = 40  # maximum number of models in a plot
_KINDS = 12  # maximum number of distinguishable kinds


def intervals(rows: "pd.DataFrame", title: str) -> str:
    """Return a dot plot of one task with a 95 % interval per model, the first model on top.

    ``rows`` are the rows of one task out of ``crosstok.results.tables.frame.comparison_frame``; empty where none has a
    value.
    """
    shown = rows.dropna(subset=["value"])
    if shown.empty:
        return ""
    percent = bool((shown["unit"] == FRACTION).all())
    scale = 100.0 if percent else 1.0
    with page_figure() as figure:
        figure.set_size_inches(4.6, 0.75 + 0.27 * len(shown))
        axes = figure.add_subplot()
        for place, row in zip(range(len(shown), 0, -1), shown.to_dict("records"), strict=True):
            colour = BEST if row["standing"] == "best" else DOT
            low, high = (row["value"] if row[name] != row[name] else row[name] for name in ("low", "high"))
            axes.plot([scale * low, scale * high], [place, place], color=colour, linewidth=2.2, alpha=0.55)
            axes.plot([scale * row["value"]], [place], "o", color=colour, markersize=5, clip_on=False)
        _name_rows(axes, list(shown["model"]))
        if percent:
            axes.set_xlim(left=0)
        better = "higher" if bool(shown["higher_is_better"].iloc[0]) else "lower"
        unit = f"{shown['metric'].iloc[0]}, %" if percent else str(shown["unit"].iloc[0])
        axes.set_xlabel(f"{unit} ({better} is better)")
        axes.set_title(title, fontsize=10, loc="left")
        return as_svg(figure, [title])


def forest(differences: Sequence[tuple[str, Difference]], title: str, axis: str, scale: float = 1.0) -> str:
    """Return a forest plot of paired differences from a baseline, the first on top; empty where there is none.

    ``scale`` turns the stored unit into that of ``axis`` (100: fractions into points). Significant
    differences have the accent colour.
    """
    shown = [(name, found) for name, found in differences if not math.isnan(found.value)]
    if len(shown) > _ROWS:  # the most significant ones; the table has all
        strongest = sorted(shown, key=lambda one: one[1].p)[:_ROWS]
        shown = [one for one in shown if one in strongest]
        title = f"{title},\nthe {_ROWS} most significant"
    if not shown:
        return ""
    with page_figure() as figure:
        figure.set_size_inches(4.6, 0.75 + 0.27 * len(shown))
        axes = figure.add_subplot()
        for significant, colour in ((True, BEST), (False, DOT)):
            placed = zip(range(len(shown), 0, -1), shown, strict=True)
            rows = [(place, found) for place, (_, found) in placed if (found.p < SIGNIFICANT) == significant]
            heights = [place for place, _ in rows]
            low, high = (
                [scale * (found.value if math.isnan(end(found)) else end(found)) for _, found in rows]
                for end in (attrgetter("low"), attrgetter("high"))
            )
            axes.hlines(heights, low, high, color=colour, linewidth=2.2, alpha=0.55)
            axes.plot([scale * found.value for _, found in rows], heights, "o", color=colour, markersize=5)
        axes.axvline(0, color=INK, linewidth=0.8)
        _name_rows(axes, [name for name, _ in shown])
        axes.set_xlabel(axis)
        axes.set_title(title, fontsize=10, loc="left")
        return as_svg(figure, ["forest", title])


@dataclass(frozen=True, slots=True)
class Point:
    """Cost and score of a model on a task."""

    name: str
    cost: float
    value: float


@dataclass(frozen=True, slots=True)
class Trade:
    """Axes of a plot of score against cost, and their better directions."""

    cost: str
    less_cost_is_better: bool
    value: str
    higher_is_better: bool


def pareto(points: Sequence[Point], title: str, said: Trade, scale: float = 1.0) -> str:
    """Return a plot of score against cost; the line joins the Pareto-optimal models."""
    if len(points) < 2:
        return ""
    front = _unbeaten(points, said)
    with page_figure() as figure:
        figure.set_size_inches(4.6, 3.2)
        axes = figure.add_subplot()
        axes.plot([p.cost for p in front], [scale * p.value for p in front], color=BEST, linewidth=1, alpha=0.6)
        rest = [one for one in points if one not in front]
        for drawn, colour in ((rest, DOT), (front, BEST)):
            axes.plot([p.cost for p in drawn], [scale * p.value for p in drawn], "o", color=colour, markersize=5)
        costs = [one.cost for one in points]
        if max(costs) > 20 * min(costs) > 0:
            axes.set_xscale("log")
        axes.margins(0.14)
        _name_points(axes, [*front, *rest] if len(points) <= _NAMED else front, scale)
        axes.grid(color=INK, alpha=0.12)
        axes.set_xlabel(f"{said.cost} ({'less' if said.less_cost_is_better else 'more'} is better)")
        axes.set_ylabel(f"{said.value} ({'higher' if said.higher_is_better else 'lower'} is better)")
        axes.set_title(title, fontsize=10, loc="left")
        return as_svg(figure, ["pareto", said.cost, title])


def _name_points(axes: "Axes", points: Sequence[Point], scale: float) -> None:
    """Label the points as far as there is room."""
    axes.autoscale_view()  # matplotlib would do so only when it draws
    to_axes = axes.transData - axes.transAxes
    at = to_axes.transform([(one.cost, scale * one.value) for one in points])
    width, height = _CLOUD
    marks = [Mark(one.name, x * width, y * height) for one, (x, y) in zip(points, at.tolist(), strict=True)]
    for label in place(marks, width, _SMALL):
        one = points[label.of]
        axes.annotate(
            label.text, (one.cost, scale * one.value), (label.dx, label.dy), textcoords="offset points",
            fontsize=_SMALL, ha=label.side, va="bottom",
        )  # fmt: skip


def _unbeaten(points: Sequence[Point], said: Trade) -> list[Point]:
    """Return the Pareto-optimal points, ordered by cost."""
    cost, value = (-1 if said.less_cost_is_better else 1), (1 if said.higher_is_better else -1)

    def beaten(one: Point) -> bool:
        return any(
            cost * other.cost >= cost * one.cost
            and value * other.value >= value * one.value
            and (other.cost, other.value) != (one.cost, one.value)
            for other in points
        )

    return sorted((one for one in points if not beaten(one)), key=lambda one: one.cost)


def usage(shares: Mapping[str, Mapping[str, float]], title: str) -> str:
    """Return a plot of the share of new tokens in answers; ``shares[task][model]`` are fractions."""
    percent = {task: {name: 100 * share for name, share in of.items()} for task, of in shares.items()}
    return _marks(percent, title, "new tokens, % of generated tokens", from_zero=True)


def kinds(values: Mapping[str, Mapping[str, float]], title: str) -> str:
    """Return a plot of bits per byte: a row per model, a mark per kind of text; ``values[kind][model]``."""
    return _marks(values, title, "bits/byte (lower is better)")


def _marks(values: Mapping[str, Mapping[str, float]], title: str, axis: str, *, from_zero: bool = False) -> str:
    """Return a plot with a row per model and a mark per kind."""
    every = list(dict.fromkeys(name for of_kind in values.values() for name in of_kind))
    models = every[:_ROWS]
    if not models:
        return ""
    sizes = ((_ROWS, len(every)), (_KINDS, len(values)))
    left_out = [f"first {shown} of {known}" for shown, known in sizes if known > shown]
    title = f"{title}\n({', '.join(left_out)})" if left_out else title
    with page_figure() as figure:
        figure.set_size_inches(4.6, 1.1 + 0.27 * len(models))
        axes = figure.add_subplot()
        for number, (kind, of_kind) in enumerate(list(values.items())[:_KINDS]):
            known = [(of_kind[name], len(models) - place) for place, name in enumerate(models) if name in of_kind]
            axes.plot(
                [x for x, _ in known], [y for _, y in known], _MARKS[(number + number // len(COLOURS)) % len(_MARKS)],
                color=COLOURS[number % len(COLOURS)], markersize=5.5, label=kind,
            )  # fmt: skip
        _name_rows(axes, models)
        axes.set_xlabel(axis)
        if from_zero:
            axes.set_xlim(0, 1.06 * max(value for of_kind in values.values() for value in of_kind.values()) or 1)
        figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=8)
        axes.set_title(title, fontsize=10, loc="left")
        return as_svg(figure, ["marks", title])


@dataclass(frozen=True, slots=True)
class Step:
    """Score of a checkpoint on one task."""

    name: str
    estimate: Estimate


def steps(points: Sequence[Step], baseline: Estimate | None, title: str, headline: Headline) -> str:
    """Return a plot of the scores of checkpoints on one task; the baseline is a horizontal line."""
    shown = [one for one in points if not math.isnan(one.estimate.value)]
    if not shown:
        return ""
    scale = 100.0 if headline.is_fraction else 1.0
    places = range(len(shown))
    with page_figure() as figure:
        figure.set_size_inches(max(4.6, 1.5 + 0.32 * len(shown)), 3.0)
        axes = figure.add_subplot()
        if baseline is not None and not math.isnan(baseline.value):
            axes.axhline(scale * baseline.value, color=INK, linewidth=0.8, linestyle="--", label="baseline")
            axes.legend(frameon=False, fontsize=8)
        for place, one in zip(places, shown, strict=True):
            ends = (one.estimate.value if math.isnan(x) else x for x in (one.estimate.low, one.estimate.high))
            axes.plot([place, place], [scale * end for end in ends], color=DOT, linewidth=2.2, alpha=0.55)
        axes.plot(list(places), [scale * one.estimate.value for one in shown], "o-", color=DOT, markersize=5)
        axes.set_xticks(list(places), [one.name for one in shown], rotation=45, ha="right", fontsize=8)
        axes.grid(axis="y", color=INK, alpha=0.12)
        unit = heading(headline.name, headline.unit)
        axes.set_ylabel(f"{unit} ({'higher' if headline.higher_is_better else 'lower'} is better)")
        axes.set_title(title, fontsize=10, loc="left")
        return as_svg(figure, ["steps", title])


def curves(steps: Sequence[Mapping[str, Any]], title: str) -> str:
    """Return a plot of a training log: a panel per loss, over the bytes of text read.

    ``steps`` are the lines of the log: ``loss`` {name: value} and ``bytes``.
    """
    names = list(steps[0]["loss"]) if steps else []
    if not names:
        return ""
    read: list[float] = []
    for line in steps:
        read.append((read[-1] if read else 0.0) + line["bytes"] / 1e6)
    with page_figure() as figure:
        figure.set_size_inches(4.6, 0.6 + 1.5 * len(names))
        panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        for number, (panel, name) in enumerate(zip(panels, names, strict=True)):
            panel.plot(read, [line["loss"][name] for line in steps], color=COLOURS[number % len(COLOURS)], linewidth=1)
            panel.set_ylabel(name)
            panel.grid(color=INK, alpha=0.12)
        panels[0].set_title(title, fontsize=10, loc="left")
        panels[-1].set_xlabel("MB of text read")
        return as_svg(figure, ["curves", title])


def _name_rows(axes: "Axes", names: Sequence[str]) -> None:
    axes.set_yticks(list(range(len(names), 0, -1)), list(names))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(0.4, len(names) + 0.6)
    axes.grid(axis="x", color=INK, alpha=0.12)
