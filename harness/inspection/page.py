"""Web page of an inspection: one HTML file without scripts or network access, with an explanation of every number.

The explanations are the field descriptions of the records. Tokens are untrusted text (a vocabulary can contain markup):
the template escapes them, and the content security policy forbids scripts.
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
    """Explanation in a sentence or two."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A plot on the page."""

    label: str
    """Caption and text alternative."""
    svg: Any


_NAMES = {
    "norms": "norm",
    "effective_rank": "effective rank",
    "mean_cosine": "mean cosine between rows",
    "matched_rank": "effective rank, old rows (same number)",
    "norm_ratio": "norm ratio, new / old",
    "to_constituents": "cosine with mean of old spelling",
    "to_centre": "cosine with mean of all old rows",
    "between": "mean cosine, new with old rows",
    "nearest_is_part": "nearest old token is a piece",
    "part_rank": "rank of the nearest piece",
    "old_moved": "old rows changed",
}
_SHARES = frozenset({"nearest_is_part", "old_moved"})
_TITLES = {
    "input": "Input embedding rows",
    "output": "Output embedding rows",
    "both": "Embedding rows (input and output tied)",
}


def write_inspection(inspection: Inspection, folder: Path) -> Path:
    """Write page and data files to ``folder`` and return the path of the page; earlier files are replaced.

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
            _drawing(plots.movement(found), f"{_TITLES[found.kind]}: median and 5th to 95th percentile during training")
            for found in inspection.movement
        ],
        traces=[
            (found, _drawing(plots.trace(found), f"{found.text} across layers, compared with its old spelling"))
            for found in inspection.traces
        ],
        about_moment=_about(Moment, ("distance", "to_start", "to_constituents", "norms")),
        about_layer=_about(Layer, ("layer", "cosine", "kl", "log_new", "log_old")),
        about_token=_about_tokens(),
    )


def summary(inspection: Inspection) -> Iterator[str]:
    """Yield the lines of a summary for the terminal."""
    both = f"{inspection.old_tokens} shared with {inspection.parent}"
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
    return _drawing(svg, "Old and new rows, projected on the first two principal components of the old rows")


def _drawings(tokens: list[NewToken], matrix: Matrix) -> Iterator[Drawing]:
    yield _drawing(plots.norms(matrix, tokens), "Norms of new rows, compared with old rows")
    yield _drawing(
        plots.cosines(matrix, tokens),
        "Cosine of new rows with the mean of their old spelling and with the mean of all old rows",
    )
    yield _drawing(plots.ranks(matrix), "Effective rank of new and old rows")


def _drawing(svg: str, label: str) -> Drawing:
    from markupsafe import Markup

    return Drawing(label, Markup(svg))  # noqa: S704  (matplotlib escapes the text in it)


def _about(record: type[Record], names: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name, record.model_fields[name].description or "") for name in names]


def _about_tokens() -> list[tuple[str, str]]:
    return [
        ("spelling", "The parent's tokens for the bytes of the token."),
        ("norm", "L2 norm of the row."),
        ("pieces", "Cosine with the mean of the rows of its old spelling."),
        ("mean", "Cosine with the mean of all old rows."),
        ("rank", "Rank by cosine of its nearest piece among all old tokens; 1 is the nearest."),
        ("nearest", "Old tokens with the largest cosine, nearest first; pieces of the token are in bold."),
    ]
