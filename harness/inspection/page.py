"""The page of an inspection: one HTML file without script or network, every number with a sentence on what it means.

The sentences are the descriptions of the record's own fields, so data and page cannot say different things. Tokens are
untrusted text (a vocabulary can hold markup): the template escapes them, and a content security policy without scripts
stands behind that.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosstok.distill.inspection.records import Inspection, Layer, Matrix, Moment, NewToken, Record, Spread
from crosstok.errors import UserError
from crosstok.harness.inspection import data, plots
from crosstok.results.web.templates import render_template, replace_file

PAGE = "index.html"
_TEMPLATE = Path(__file__).parent / "inspection.html.j2"
_ABSENT = "n/a"


@dataclass(frozen=True, slots=True)
class Figure:
    """A number on the page."""

    name: str
    value: str
    about: str
    """What it means, a sentence or two."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A plot on the page."""

    label: str
    """What is seen, for those who do not see it, and as the caption."""
    svg: Any


_NAMES = {
    "norms": "norm",
    "effective_rank": "effective rank",
    "mean_cosine": "mean cosine among themselves",
    "matched_rank": "effective rank of as many old rows",
    "norm_ratio": "norm, new / old",
    "to_constituents": "cosine with the mean of the spelling",
    "to_centre": "cosine with the mean of all old rows",
    "between": "cosine of new with old rows",
    "nearest_is_part": "nearest old token is a part",
    "part_rank": "place of the nearest part",
    "old_moved": "old rows that moved",
}
_SHARES = frozenset({"nearest_is_part", "old_moved"})
_TITLES = {"input": "Input rows", "output": "Output rows", "both": "Rows (input and output are one matrix)"}


def write_inspection(inspection: Inspection, folder: Path) -> Path:
    """Write page and data into ``folder`` and return the page; what an earlier inspection wrote there is replaced.

    Raises:
        UserError: a file cannot be written.

    """
    written = {**data.files(inspection), PAGE: page(inspection)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in ("movement.csv", "layers.csv"):
            (folder / stale).unlink(missing_ok=True)
        for name, text in written.items():
            replace_file(folder / name, text)
    except OSError as error:
        raise UserError(
            f"The inspection cannot be written to {folder}: {error.strerror}.", hint="Choose another folder with --out."
        ) from error
    return folder / PAGE


def page(inspection: Inspection) -> str:
    """Return the page as HTML."""
    return render_template(
        _TEMPLATE,
        found=inspection,
        titles=_TITLES,
        figures={matrix.kind: list(_figures(matrix)) for matrix in inspection.matrices},
        projections={matrix.kind: _projection(inspection, matrix) for matrix in inspection.matrices},
        drawings={matrix.kind: list(_drawings(inspection.tokens, matrix)) for matrix in inspection.matrices},
        ways=[
            _drawing(plots.movement(found), f"{_TITLES[found.kind]}: median and nine of ten, over the training")
            for found in inspection.movement
        ],
        traces=[
            (found, _drawing(plots.trace(found), f"{found.text}, layer by layer, against its old spelling"))
            for found in inspection.traces
        ],
        about_moment=_about(Moment, ("distance", "to_start", "to_constituents", "norms")),
        about_layer=_about(Layer, ("layer", "cosine", "kl", "log_new", "log_old")),
        about_token=_about_tokens(),
    )


def summary(inspection: Inspection) -> Iterator[str]:
    """Yield the few lines that a terminal shows."""
    both = f"{inspection.old_tokens} that {inspection.parent} has too"
    yield f"{inspection.model}: {inspection.new_tokens} new tokens, {both}"
    for matrix in inspection.matrices:
        yield f"{_TITLES[matrix.kind]}:"
        for figure in _figures(matrix):
            yield f"  {figure.name:<42} {figure.value}"
    for note in inspection.notes:
        yield f"Note: {note}"


def _figures(matrix: Matrix) -> Iterator[Figure]:
    for whose, group in (("new", matrix.new), ("old", matrix.old)):
        for name, field in type(group).model_fields.items():
            yield Figure(f"{whose}: {_NAMES[name]}", _said(getattr(group, name)), field.description or "")
    for name, field in Matrix.model_fields.items():
        if name in _NAMES:
            value = getattr(matrix, name)
            said = f"{100 * value:.1f} %" if name in _SHARES and value is not None else _said(value)
            yield Figure(_NAMES[name], said, field.description or "")


def _said(value: Spread | float | None) -> str:
    if value is None:
        return _ABSENT
    if not isinstance(value, Spread):
        return _number(value)
    if value.median is None or value.low is None or value.high is None:
        return _ABSENT
    return f"{_number(value.median)} [{_number(value.low)}, {_number(value.high)}]"


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _projection(inspection: Inspection, matrix: Matrix) -> Drawing:
    moved = next((found for found in inspection.movement if found.kind == matrix.kind), None)
    svg = plots.projection(matrix, inspection.tokens, moved)
    return _drawing(svg, "Old and new rows on the principal axes (PCA) of the old ones")


def _drawings(tokens: list[NewToken], matrix: Matrix) -> Iterator[Drawing]:
    yield _drawing(plots.norms(matrix, tokens), "Norms of new rows against those of old ones")
    yield _drawing(plots.cosines(matrix, tokens), "Cosine of new rows with their parts and with the average row")
    yield _drawing(plots.ranks(matrix), "Effective rank: how many directions the rows use evenly")


def _drawing(svg: str, label: str) -> Drawing:
    from markupsafe import Markup  # noqa: PLC0415  (as jinja2)

    return Drawing(label, Markup(svg))  # noqa: S704  (matplotlib escapes the text in it)


def _about(record: type[Record], names: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name, record.model_fields[name].description or "") for name in names]


def _about_tokens() -> list[tuple[str, str]]:
    return [
        ("spelling", "How the parent spells the bytes of the token."),
        ("norm", "Length of its row (L2)."),
        ("parts", "Cosine with the mean row of its old spelling."),
        ("centre", "Cosine with the mean of all old rows."),
        ("place", "Place of its nearest constituent among all old tokens by cosine; 1 is the nearest."),
        ("nearest", "The old tokens with the largest cosine, the nearest first; constituents are in bold."),
    ]
