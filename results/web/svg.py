"""Figures as inline SVG: text stays text, and what is ink takes the colour of the page, so dark and light both work."""

import io
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from crosstok.fingerprint import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the page's own text colour until the drawing is done."""
DOT = "#2f7fd1"
BEST = "#d1662f"
COLOURS = (DOT, BEST, "#2a9d6a", "#a05bc0", "#b8901f", "#c94f7c")
_STYLE = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "crosstok",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def page_figure() -> "Iterator[Figure]":
    """Give an empty figure in the style of all pages, which holds while the context is open."""
    import matplotlib as mpl  # noqa: PLC0415  (only pages draw)
    from matplotlib.figure import Figure  # noqa: PLC0415

    settings: dict[Any, Any] = dict(_STYLE)
    with mpl.rc_context(settings):
        yield Figure(layout="constrained")


def as_svg(figure: "Figure", identity: list[Any]) -> str:
    """Return the figure as SVG whose ids cannot meet those of another drawing (``identity``) on the page."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    text = drawn.getvalue()
    own = fingerprint(identity)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}-", text[text.index("<svg") :])
    return text.replace(INK, "currentColor")
