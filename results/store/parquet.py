"""Parquet export and import of a whole store, one file per table: for notebooks, archives and merging stores.

Structured columns are JSON text. Import is an upsert on the natural keys, so merging two stores never duplicates rows
that both have.
"""

import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from crosstok.errors import UserError
from crosstok.results.store.cell_summaries import summarize
from crosstok.results.store.records import SCHEMA_VERSION
from crosstok.results.store.sql import CELLS, FACT_SUMMARIES, METADATA, SCORE_SUMMARIES, STORE_SCHEMA
from crosstok.results.store.store import Store, upsert_rows

_AT_ONCE = 5000


def export_parquet(store: Store, folder: Path) -> list[Path]:
    """Write every table of ``store`` to ``folder``, which must be new or empty, and return the files.

    Raises:
        UserError: the store has an older schema, or the folder is not empty or cannot be written.

    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if store.database.version < SCHEMA_VERSION:
        raise UserError(
            f"{store.name} has schema version {store.database.version}; an export needs version {SCHEMA_VERSION}.",
            hint="A command that writes, such as `crosstok rescore`, upgrades it.",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} already exists and is not empty.", hint="Choose a new folder.")
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with store.database.read() as connection:
            for table in _tables():
                schema = pa.schema(
                    [(c.name, _arrow_type(c, pa)) for c in table.columns], {"crosstok": str(SCHEMA_VERSION)}
                )
                rows = connection.execution_options(yield_per=_AT_ONCE).execute(sa.select(table)).mappings()
                path = folder / f"{table.name}.parquet"
                with pq.ParquetWriter(path, schema, compression="zstd") as writer:
                    while batch := rows.fetchmany(_AT_ONCE):
                        content = [{c.name: _flat(row[c.name]) for c in table.columns} for row in batch]
                        writer.write_table(pa.Table.from_pylist(content, schema=schema))
                written.append(path)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}.") from error
    return written


def import_parquet(store: Store, folder: Path) -> int:
    """Import the files of :func:`export_parquet` into ``store`` and return the number of rows.

    Raises:
        UserError: a file is missing, damaged, or of another schema version.

    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    with store.database.write() as connection:
        for table in _tables():
            path = folder / f"{table.name}.parquet"
            try:
                with pq.ParquetFile(path) as file:
                    version = (file.schema_arrow.metadata or {}).get(b"crosstok", b"").decode()
                    if version != str(SCHEMA_VERSION):
                        raise UserError(
                            f"{path} has schema version {version or 'none'}; version {SCHEMA_VERSION} is required."
                        )
                    for batch in file.iter_batches(_AT_ONCE):
                        rows = [{c.name: _deep(c, row[c.name]) for c in table.columns} for row in batch.to_pylist()]
                        upsert_rows(connection, table, rows)
                        count += len(rows)
            except (OSError, pa.ArrowException, KeyError) as error:
                raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}.") from error
        for cell in connection.scalars(sa.select(CELLS.c.fingerprint)).all():
            summarize(connection, cell)
    return count


def _tables() -> list[sa.Table]:
    return [table for table in METADATA.sorted_tables if table not in (STORE_SCHEMA, SCORE_SUMMARIES, FACT_SUMMARIES)]


def _arrow_type(column: sa.Column[Any], pa: Any) -> Any:
    if isinstance(column.type, sa.Integer):
        return pa.int64()
    if isinstance(column.type, sa.Double):
        return pa.float64()
    return pa.bool_() if isinstance(column.type, sa.Boolean) else pa.string()


def _flat(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=True) if isinstance(value, (dict, list)) else value


def _deep(column: sa.Column[Any], value: Any) -> Any:
    return json.loads(value) if isinstance(column.type, sa.JSON) and value is not None else value
