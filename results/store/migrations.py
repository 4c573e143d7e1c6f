"""Schema migrations of the store: one function per version, run in order when an older store is opened for writing.

Statements go through alembic, which knows how each database alters tables. The version changes in the same transaction
as the tables, so an interrupted migration leaves the store as it was. Reading needs no migration: every version so far
only added tables and columns, and ``Database.columns`` knows which of them exist.
"""

from collections.abc import Callable, Mapping

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from crosstok.results.store.cell_summaries import summarize
from crosstok.results.store.checksum import sample_checksum
from crosstok.results.store.model_names import name_from_old_store
from crosstok.results.store.records import SCHEMA_VERSION, Sample
from crosstok.results.store.sql import (
    CELLS,
    CHECKSUMS,
    FACT_SUMMARIES,
    MODELS,
    RUN_CELLS,
    RUNS,
    SAMPLES,
    SCORE_SUMMARIES,
    STORE_SCHEMA,
)

_AT_ONCE = 1000


def migrate(connection: sa.Connection, version: int) -> None:
    """Migrate a store from ``version`` to the current one, in the transaction of the caller."""
    operations = Operations(MigrationContext.configure(connection))
    for step in range(version + 1, SCHEMA_VERSION + 1):
        _STEPS[step](connection, operations)
    connection.execute(sa.update(STORE_SCHEMA).values(version=SCHEMA_VERSION))


def _add_checksums(connection: sa.Connection, operations: Operations) -> None:
    """Version 2: samples have checksums; existing samples are taken as they are."""
    _create(operations, CHECKSUMS)
    rows = connection.execute(sa.select(SAMPLES)).mappings()
    while batch := rows.fetchmany(_AT_ONCE):
        checksums = [
            {
                **{key: row[key] for key in ("cell", "document", "index")},
                "sha256": sample_checksum(Sample.model_validate(dict(row))),
            }
            for row in batch
        ]
        connection.execute(sa.insert(CHECKSUMS), checksums)


def _add_summaries(connection: sa.Connection, operations: Operations) -> None:  # noqa: ARG001  (as the others)
    """Version 3: models have the compute cost of a token (unknown for existing ones), and cells have summaries."""
    operations.add_column(MODELS.name, sa.Column("compute", sa.JSON, nullable=False, server_default="{}"))
    for table in (SCORE_SUMMARIES, FACT_SUMMARIES):
        _create(operations, table)


def _add_spent(connection: sa.Connection, operations: Operations) -> None:  # noqa: ARG001  (as the others)
    """Version 4: cells record where their time was spent (unknown for existing ones)."""
    operations.add_column(CELLS.name, sa.Column("spent", sa.JSON, nullable=False, server_default="{}"))


def _summarize_facts(connection: sa.Connection, operations: Operations) -> None:  # noqa: ARG001  (as the others)
    """Version 5: summaries include tokenization facts; existing ones are recomputed from the rows."""
    for cell in connection.scalars(sa.select(CELLS.c.fingerprint)).all():
        summarize(connection, cell)


def _add_model_and_seed(connection: sa.Connection, operations: Operations) -> None:
    """Version 6: the cells of a run have columns for the model's name in the suite and for its seed."""
    operations.add_column(RUN_CELLS.name, sa.Column("model", sa.Text, nullable=False, server_default=""))
    operations.add_column(RUN_CELLS.name, sa.Column("seed", sa.BigInteger, nullable=True))
    configs = {row.id: row.config for row in connection.execute(sa.select(RUNS.c.id, RUNS.c.config))}
    for run, name in connection.execute(sa.select(RUN_CELLS.c.run, RUN_CELLS.c.name).distinct()).all():
        of_model = sa.and_(RUN_CELLS.c.run == run, RUN_CELLS.c.name == name)
        parts = name_from_old_store(name, configs.get(run, {}))
        connection.execute(sa.update(RUN_CELLS).where(of_model).values(parts._asdict()))


def _create(operations: Operations, table: sa.Table) -> None:
    operations.create_table(table.name, *(column._copy() for column in table.columns))  # noqa: SLF001  (no public copy)


_STEPS: Mapping[int, Callable[[sa.Connection, Operations], None]] = {
    2: _add_checksums,
    3: _add_summaries,
    4: _add_spent,
    5: _summarize_facts,
    6: _add_model_and_seed,
}
