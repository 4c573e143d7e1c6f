"""Figures as inline SVG with selectable text, in the text colour of the page (light and dark)."""

import io
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from crosstok.fingerprint import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

INK = "#010203"
"""Placeholder that is replaced by the text colour of the page."""
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
    """Yield an empty figure; the style applies until the context ends."""
    import matplotlib as mpl  # only pages draw
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = dict(_STYLE)
    with mpl.rc_context(settings):
        yield Figure(layout="constrained")


def as_svg(figure: "Figure", identity: list[Any]) -> str:
    """Return the figure as SVG; ``identity`` makes its element ids unique on the page."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    text = drawn.getvalue()
    own = fingerprint(identity)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}-", text[text.index("<svg") :])
    return text.replace(INK, "currentColor")
