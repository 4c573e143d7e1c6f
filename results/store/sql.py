"""Tables of the store: one per record class of ``crosstok.results.store.records``, and those that link them.

Each table has a column per field of its record, under the record's natural key: writing a record twice changes one row
and never adds a second one. The key (cell, document, index) clusters the rows of a cell, so reading one cell touches
one range of pages however large the store is.
"""

import types
from typing import Any, Union, get_args, get_origin

import sqlalchemy as sa

from crosstok.results.store import records

METADATA = sa.MetaData()
STORE_SCHEMA = sa.Table("store_schema", METADATA, sa.Column("version", sa.Integer, primary_key=True))

# Sorted by code point, as in SQLite and Python, so that both databases give the same tables.
_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_COLUMN_TYPES: dict[type, type[sa.types.TypeEngine[Any]]] = {
    bool: sa.Boolean,
    int: sa.BigInteger,
    float: sa.Double,
    dict: sa.JSON,
    list: sa.JSON,
}


def _column_type(annotation: Any) -> type[sa.types.TypeEngine[Any]] | sa.types.TypeEngine[Any]:
    """Return the column type of a field; all but numbers and structures are text (times in ISO 8601)."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(kind for kind in get_args(annotation) if kind is not types.NoneType)
    return _COLUMN_TYPES.get(get_origin(annotation) or annotation, _TEXT)


def _table(name: str, record: type[records.Record], *key: str) -> sa.Table:
    columns: list[sa.Column[Any]] = []
    for field, info in record.model_fields.items():
        nullable = types.NoneType in get_args(info.annotation)
        columns.append(sa.Column(field, _column_type(info.annotation), primary_key=field in key, nullable=nullable))
    return sa.Table(name, METADATA, *columns, sqlite_with_rowid=name == "samples")


RUNS = _table("runs", records.Run, "id")
MODELS = _table("models", records.Model, "fingerprint")
TASKS = _table("tasks", records.Task, "fingerprint")
CELLS = _table("cells", records.Cell, "fingerprint")
SAMPLES = _table("samples", records.Sample, "cell", "document", "index")
VERDICTS = _table("verdicts", records.Verdict, "cell", "document", "index")
SCORES = _table("scores", records.Score, "cell", "metric", "document", "index")
CHECKSUMS = sa.Table(
    "seals",
    METADATA,
    *(sa.Column(key, SAMPLES.c[key].type, primary_key=True) for key in ("cell", "document", "index")),
    sa.Column("sha256", sa.Text, nullable=False),
    comment="Checksum of each sample as it was stored.",
)
RUN_MODELS = sa.Table(
    "run_models",
    METADATA,
    sa.Column("run", _TEXT, primary_key=True),
    sa.Column("name", _TEXT, primary_key=True),
    sa.Column("model", _TEXT, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    comment="Models of a run by shown name, in the order in which they were added.",
)
RUN_CELLS = sa.Table(
    "run_cells",
    METADATA,
    sa.Column("run", _TEXT, primary_key=True),
    sa.Column("name", _TEXT, primary_key=True),
    sa.Column("cell", _TEXT, primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("model", _TEXT, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=True),
    comment="The cells of a run. `model` is the name in the suite, `seed` is null where a model is made only once, and "
    "`name` is both as shown in tables (see crosstok.results.store.model_names).",
)
SCORE_SUMMARIES = sa.Table(
    "tallies",
    METADATA,
    sa.Column("cell", _TEXT, primary_key=True),
    sa.Column("metric", _TEXT, primary_key=True),
    *(sa.Column(name, sa.LargeBinary, nullable=False) for name in ("documents", "value", "weight", "scores")),
    comment="Scores of a finished cell as arrays; see crosstok.results.store.cell_summaries.",
)
FACT_SUMMARIES = sa.Table(
    "tally_facts",
    METADATA,
    sa.Column("cell", _TEXT, primary_key=True),
    sa.Column("samples", sa.JSON, nullable=False),
    sa.Column("verdicts", sa.JSON, nullable=False),
    comment="Sums over the samples and verdicts of a finished cell.",
)
# Covering index: sums over the samples of a cell do not read the texts.
sa.Index(
    "samples_facts",
    *(
        SAMPLES.c[name]
        for name in ("cell", "stop_reason", "bytes", "tokens", "prompt_bytes", "prompt_tokens", "seconds")
    ),
)
ADDED_IN = {("models", "compute"): 3, ("cells", "spent"): 4, ("run_cells", "model"): 6, ("run_cells", "seed"): 6}
"""Schema version that added a column, by table and column; version 1 if not listed."""
NAMES_SINCE = 6
"""First schema version in which the cells of a run have model and seed."""
SUMMARIES_SINCE = 5
"""First schema version whose summaries contain everything that tables need; older ones are ignored."""
sa.Index("verdicts_facts", VERDICTS.c.cell, VERDICTS.c.status, VERDICTS.c.integrity, VERDICTS.c.tier)
