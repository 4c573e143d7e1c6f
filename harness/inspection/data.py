"""Data files of an inspection: everything as JSON, and tables as CSV.

| file | one row per |
|---|---|
| `inspection.json` | everything, as ``crosstok.distill.inspection.records.Inspection`` |
| `tokens.csv` | new token and matrix |
| `neighbours.csv` | new token, matrix and neighbouring old token |
| `movement.csv` | matrix and training step; only with row snapshots |
| `layers.csv` | traced token and layer; only with traced tokens |
"""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from crosstok.distill.inspection.records import Inspection, Spread

_Table = Iterable[dict[str, Any]]


def files(inspection: Inspection) -> dict[str, str]:
    """Return the content of every file by name; empty tables are omitted."""
    tables = {
        "tokens.csv": _tokens(inspection),
        "neighbours.csv": _neighbours(inspection),
        "movement.csv": _movement(inspection),
        "layers.csv": _layers(inspection),
    }
    written = {name: _csv(list(table)) for name, table in tables.items()}
    found = {name: text for name, text in written.items() if text}
    return {"inspection.json": inspection.model_dump_json(indent=1) + "\n", **found}


def _tokens(inspection: Inspection) -> Iterator[dict[str, Any]]:
    for token in inspection.tokens:
        for kind, row in token.rows.items():
            yield {
                "id": token.id,
                "text": token.text,
                "pieces": "|".join(token.pieces),
                "matrix": kind,
                "norm": row.norm,
                "to_constituents": row.to_constituents,
                "to_centre": row.to_centre,
                "part_rank": row.part_rank,
                "x": row.place[0],
                "y": row.place[1],
            }


def _neighbours(inspection: Inspection) -> Iterator[dict[str, Any]]:
    for token in inspection.tokens:
        for kind, row in token.rows.items():
            for place, near in enumerate(row.neighbours, 1):
                yield {"id": token.id, "text": token.text, "matrix": kind, "place": place} | {
                    f"old_{name}" if name in {"id", "text"} else name: value for name, value in near
                }


def _movement(inspection: Inspection) -> Iterator[dict[str, Any]]:
    for movement in inspection.movement:
        for moment in movement.moments:
            row: dict[str, Any] = {"matrix": movement.kind, "step": moment.step}
            for name, value in moment:
                if isinstance(value, Spread):
                    row |= {f"{name}_{part}": number for part, number in value}
            yield row


def _layers(inspection: Inspection) -> Iterator[dict[str, Any]]:
    for trace in inspection.traces:
        for layer in trace.layers:
            guesses = {"student": layer.student[0].text, "parent": layer.parent[0].text}
            yield {"id": trace.id, "text": trace.text} | layer.model_dump(exclude={"student", "parent"}) | guesses


def _csv(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
