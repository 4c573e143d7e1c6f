"""Changes of the store's schema, one function per version, run in order when an older store is opened for writing.

Statements go through alembic, which knows how each database alters a table. The version lies in the store itself and
changes in the same transaction as the tables, so a migration that is interrupted has not happened. Reading needs no
migration: every version so far only added tables and columns, and ``Database.columns`` knows which are there.
"""

from collections.abc import Callable, Mapping

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from crosstok.results.store.cell_summaries import tally
from crosstok.results.store.checksum import seal
from crosstok.results.store.model_names import name_from_old_store
from crosstok.results.store.records import SCHEMA_VERSION, Sample
from crosstok.results.store.sql import (
    CELLS,
    MODELS,
    RUN_CELLS,
    RUNS,
    SAMPLES,
    SEALS,
    STORE_SCHEMA,
    TALLIES,
    TALLY_FACTS,
)

_AT_ONCE = 1000


def migrate(connection: sa.Connection, version: int) -> None:
    """Bring a store from ``version`` to the present one, inside the caller's transaction."""
    operations = Operations(MigrationContext.configure(connection))
    for step in range(version + 1, SCHEMA_VERSION + 1):
        _STEPS[step](connection, operations)
    connection.execute(sa.update(STORE_SCHEMA).values(version=SCHEMA_VERSION))


def _add_seals(connection: sa.Connection, operations: Operations) -> None:
    """Version 2: samples are sealed; those that are there are taken as they are."""
    _create(operations, SEALS)
    rows = connection.execute(sa.select(SAMPLES)).mappings()
    while batch := rows.fetchmany(_AT_ONCE):
        sealed = [
            {
                **{key: row[key] for key in ("cell", "document", "index")},
                "sha256": seal(Sample.model_validate(dict(row))),
            }
            for row in batch
        ]
        connection.execute(sa.insert(SEALS), sealed)


def _add_tallies(connection: sa.Connection, operations: Operations) -> None:  # noqa: ARG001  (as the others)
    """Version 3: models say what a token costs them (unknown of those that are there), and cells can be tallied."""
    operations.add_column(MODELS.name, sa.Column("compute", sa.JSON, nullable=False, server_default="{}"))
    for table in (TALLIES, TALLY_FACTS):
        _create(operations, table)


def _add_spent(connection: sa.Connection, operations: Operations) -> None:  # noqa: ARG001  (as the others)
    """Version 4: cells say where their time went (unknown of those that are there)."""
    operations.add_column(CELLS.name, sa.Column("spent", sa.JSON, nullable=False, server_default="{}"))


def _tally_facts(connection: sa.Connection, operations: Operations) -> None:  # noqa: ARG001  (as the others)
    """Version 5: tallies sum up what tokenizers did; those that are there are made again, out of the rows."""
    for cell in connection.scalars(sa.select(CELLS.c.fingerprint)).all():
        tally(connection, cell)


def _add_model_and_seed(connection: sa.Connection, operations: Operations) -> None:
    """Version 6: the cells of a run state the model's name in the suite and its seed, instead of both in one text."""
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
    2: _add_seals,
    3: _add_tallies,
    4: _add_spent,
    5: _tally_facts,
    6: _add_model_and_seed,
}
