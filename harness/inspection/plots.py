"""Plots of an inspection, as SVG."""

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from crosstok.distill.inspection.records import Matrix, Moment, Movement, NewToken, Spread, Trace
from crosstok.results.web.svg import BEST, COLOURS, DOT, INK, as_svg, page_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 24
_SMALL = 7.5
_FLAT = 0.002
"""Minimum range of the y axis in plots of training trajectories."""
_LABEL = 16
"""Maximum characters of a token label."""


def norms(matrix: Matrix, tokens: Sequence[NewToken]) -> str:
    """Return a histogram of the norms of new rows over the 5th to 95th percentile of old rows."""
    with page_figure() as figure:
        figure.set_size_inches(4.6, 2.7)
        axes = figure.add_subplot()
        old = matrix.old.norms
        if old.low is not None and old.high is not None and old.median is not None:
            axes.axvspan(old.low, old.high, color=INK, alpha=0.1, label="old tokens, 5th to 95th percentile")
            axes.axvline(old.median, color=INK, linewidth=0.9, linestyle="--", label="old tokens, median")
        _histogram(axes, [token.rows[matrix.kind].norm for token in tokens], "new tokens", DOT)
        axes.set_xlabel("L2 norm of row")
        axes.legend(frameon=False, fontsize=_SMALL)
        return as_svg(figure, ["norms", matrix.kind])


def cosines(matrix: Matrix, tokens: Sequence[NewToken]) -> str:
    """Return histograms of the cosine of new rows with the mean of their old spelling and with that of all old rows."""
    rows = [token.rows[matrix.kind] for token in tokens]
    with page_figure() as figure:
        figure.set_size_inches(4.6, 2.7)
        axes = figure.add_subplot()
        to_parts = [row.to_constituents for row in rows if row.to_constituents is not None]
        to_centre = [row.to_centre for row in rows]
        ends = min([*to_centre, *to_parts]), max([*to_centre, *to_parts])
        _histogram(axes, to_centre, "with mean of all old rows", BEST, ends)
        _histogram(axes, to_parts, "with mean of old spelling", DOT, ends)
        axes.set_xlabel("cosine of a new row")
        axes.legend(frameon=False, fontsize=_SMALL)
        return as_svg(figure, ["cosines", matrix.kind])


def ranks(matrix: Matrix) -> str:
    """Return bars of the effective rank of new rows, of the same number of old rows, and of all old rows."""
    named = (
        (f"{matrix.new.norms.n} new", matrix.new.effective_rank, DOT),
        ("old, same number", matrix.matched_rank, BEST),
        ("old, all", matrix.old.effective_rank, BEST),
    )
    with page_figure() as figure:
        figure.set_size_inches(4.6, 1.6)
        axes = figure.add_subplot()
        places = range(len(named), 0, -1)
        bars = axes.barh(
            list(places), [rank for _, rank, _ in named], color=[colour for *_, colour in named], alpha=0.8
        )
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
        axes.margins(x=0.14)
        axes.set_yticks(list(places), [name for name, *_ in named])
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"effective rank (width {matrix.width})")
        return as_svg(figure, ["ranks", matrix.kind])


def projection(matrix: Matrix, tokens: Sequence[NewToken], movement: Movement | None) -> str:
    """Return old and new rows on two principal components of the old rows, with trajectories of some new rows."""
    with page_figure() as figure:
        figure.set_size_inches(8.0, 4.6)
        axes = figure.add_subplot()
        axes.scatter(*_columns(matrix.old_places), s=4, color=INK, alpha=0.18, linewidths=0, label="old tokens")
        places = [token.rows[matrix.kind].place for token in tokens]
        axes.scatter(*_columns(places), s=11, color=DOT, alpha=0.75, linewidths=0, label="new tokens")
        for text, path in (movement.paths if movement else {}).items():
            axes.plot(*_columns(path), color=BEST, linewidth=1.1)
            axes.annotate(_short(text), path[-1], (3, 3), textcoords="offset points", fontsize=_SMALL)
        if movement and movement.paths:
            axes.plot([], [], color=BEST, linewidth=1.1, label="trajectory of a new row")
        axes.legend(frameon=False, fontsize=_SMALL, loc="upper left", bbox_to_anchor=(1, 1))
        for number, name in enumerate(("x", "y")):
            label = f"PC {number + 1} ({100 * matrix.axes[number]:.1f} % of variance of old rows)"
            axes.set(**{f"{name}label": label})
        with warnings.catch_warnings():
            # Text stays text in the SVG; the browser has the glyphs that the font of matplotlib lacks.
            warnings.filterwarnings("ignore", message="Glyph")
            return as_svg(figure, ["projection", matrix.kind])


def movement(found: Movement) -> str:
    """Return training trajectories of rows: median and 5th to 95th percentile, one panel per measure."""
    measures = (
        ("distance", "distance from initial row / norm"),
        ("to_start", "cosine with initial row"),
        ("to_constituents", "cosine with old spelling"),
        ("norms", "norm"),
    )
    with page_figure() as figure:
        figure.set_size_inches(6.4, 4.0)
        panels = figure.subplots(2, 2, sharex=True).flatten()
        for panel, (measure, label), colour in zip(panels, measures, COLOURS, strict=False):
            _band(panel, found.moments, measure, colour)
            panel.set_ylabel(label)
            panel.grid(color=INK, alpha=0.12)
        for panel in panels[2:]:
            panel.set_xlabel("optimizer steps")
        return as_svg(figure, ["movement", found.kind])


def trace(found: Trace) -> str:
    """Return a token across layers: cosine of states, KL of next-token distributions, log-probability of the token."""
    layers = [layer.layer for layer in found.layers]
    with page_figure() as figure:
        figure.set_size_inches(7.6, 2.5)
        alike, apart, due = figure.subplots(1, 3)
        alike.plot(layers, [layer.cosine for layer in found.layers], "o-", color=DOT, markersize=3)
        alike.set_title("cosine of hidden states", fontsize=9, loc="left")
        apart.plot(layers, [layer.kl for layer in found.layers], "o-", color=DOT, markersize=3)
        apart.set_title("KL of next token, nats", fontsize=9, loc="left")
        apart.set_ylim(bottom=0)
        due.plot(layers, [layer.log_new for layer in found.layers], "o-", color=DOT, markersize=3, label="new token")
        due.plot(
            layers, [layer.log_old for layer in found.layers], "s-", color=BEST, markersize=3, label="old spelling"
        )
        due.set_title("log-probability, nats", fontsize=9, loc="left")
        due.legend(frameon=False, fontsize=_SMALL)
        for panel in (alike, apart, due):
            panel.set_xlabel("layer")
            panel.grid(color=INK, alpha=0.12)
        return as_svg(figure, ["trace", found.id])


def _histogram(
    axes: "Axes", values: list[float], label: str, colour: str, ends: tuple[float, float] | None = None
) -> None:
    """Draw a histogram; histograms on the same axes need the same ``ends`` to be comparable."""
    if values:
        axes.hist(values, bins=_BINS, range=ends, color=colour, alpha=0.65, label=label)
    axes.set_ylabel("tokens")


def _band(panel: "Axes", moments: Sequence[Moment], measure: str, colour: str) -> None:
    spreads: list[Spread] = [getattr(moment, measure) for moment in moments]
    steps = [moment.step for moment in moments]
    low, middle, high = (
        [math.nan if value is None else value for value in (getattr(one, end) for one in spreads)]
        for end in ("low", "median", "high")
    )
    panel.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    panel.plot(steps, middle, "o-", color=colour, markersize=3)
    # Draw frozen rows as a flat line instead of magnified rounding errors.
    bottom, top = panel.get_ylim()
    if top - bottom < _FLAT:
        centre = (bottom + top) / 2
        panel.set_ylim(centre - _FLAT / 2, centre + _FLAT / 2)


def _columns(places: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in places], [y for _, y in places]


def _short(text: str) -> str:
    return text if len(text) <= _LABEL else f"{text[:_LABEL]}…"
