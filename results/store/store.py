"""Store of results: writes measurements as they arrive, resumes interrupted cells, and reads without torch.

Every writing method is one transaction, so a killed process loses at most the current call. Every write is an upsert on
the natural key, so repeating it changes nothing. To resume, call :meth:`Store.begin_cell` for the status of a cell,
:meth:`Store.done_samples` for the samples that need no model call, and :meth:`Store.samples_without_verdict` for those
that still have to be judged.

Reading methods return the records of ``crosstok.results.store.records``, or sums computed by the database so that
tables never read sample texts. ``crosstok.results.tables.frame`` turns them into pandas frames.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from crosstok.errors import UserError, unknown_name
from crosstok.results.store.aggregates import DocumentScores, SampleFacts, VerdictFacts
from crosstok.results.store.cell_summaries import (
    begin_change,
    count_samples,
    count_scores,
    count_verdicts,
    summarize,
    summary_facts,
    summary_scores,
)
from crosstok.results.store.checksum import sample_checksum
from crosstok.results.store.database import Database
from crosstok.results.store.model_names import ModelName, name_from_old_store
from crosstok.results.store.records import Cell, Model, Progress, Record, Run, Sample, Score, Task, Verdict, now
from crosstok.results.store.sql import (
    CELLS,
    CHECKSUMS,
    FACT_SUMMARIES,
    MODELS,
    NAMES_SINCE,
    RUN_CELLS,
    RUN_MODELS,
    RUNS,
    SAMPLES,
    SCORE_SUMMARIES,
    SCORES,
    SUMMARIES_SINCE,
    TASKS,
    VERDICTS,
)

R = TypeVar("R", bound=Record)


class RunCell(NamedTuple):
    """A cell of a run."""

    model: str
    """Name of the model as shown in tables; :meth:`Store.model_names` has its parts."""
    task: str
    """Name of the task in the suite."""
    cell: Cell


class Store:
    """Connection to a store of results; also a context manager that closes it.

    Args:
        url_or_path: a file path (SQLite), ``sqlite:///PATH`` or ``postgresql+psycopg://...``.
        read_only: never create or change anything; the store may be on a read-only disk.

    Raises:
        UserError: the store cannot be opened, or a later call fails; the message says why.

    """

    def __init__(self, url_or_path: str | Path, *, read_only: bool = False) -> None:
        self.database = Database(url_or_path, read_only=read_only)
        """Database connection, for code that works on whole tables (integrity check, Parquet)."""
        self.name = self.database.name
        """Path or URL, without the password."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store, which cannot be used afterwards."""
        self.database.close()

    # Writing

    def begin_run(self, run: Run) -> Run:
        """Start ``run``, or continue it if its id exists; its first start time is kept."""
        with self.database.write() as connection:
            stored = connection.scalar(sa.select(RUNS.c.started).where(RUNS.c.id == run.id))
            fresh = run.model_copy(update={"status": Progress.RUNNING, "finished": None})
            if stored is not None:
                fresh = Run.model_validate(fresh.model_dump() | {"started": stored})
            _upsert(connection, RUNS, [fresh])
        return fresh

    def end_run(self, run: str, status: Progress) -> None:
        """Set the status of a run and its end time.

        Raises:
            KeyError: there is no such run.

        """
        change = {"status": status.value, "finished": now().isoformat()}
        with self.database.write() as connection:
            found = connection.execute(sa.update(RUNS).where(RUNS.c.id == run).values(change)).rowcount
        if not found:
            raise KeyError(run)

    def put_model(self, model: Model) -> None:
        """Store a model; one with the same fingerprint is replaced."""
        with self.database.write() as connection:
            _upsert(connection, MODELS, [model])

    def put_task(self, task: Task) -> None:
        """Store a task; one with the same fingerprint is replaced."""
        with self.database.write() as connection:
            _upsert(connection, TASKS, [task])

    def begin_cell(self, cell: Cell, run: str, model: str, seed: int | None = None) -> Cell:
        """Add ``cell`` to ``run`` and return it as stored.

        ``model`` is the name of the model in the suite; ``seed`` is given if the suite makes it once per seed.
        A complete cell stays complete. Any other cell is running from now on and keeps the seconds of earlier sessions.
        """
        with self.database.write() as connection:
            query = sa.select(CELLS).where(CELLS.c.fingerprint == cell.fingerprint).with_for_update()
            row = connection.execute(query).mappings().one_or_none()
            stored = Cell.model_validate(dict(row)) if row else cell
            if row is None or stored.status is not Progress.COMPLETE:
                kept = {"seconds": stored.seconds, "spent": stored.spent} if row else {"seconds": 0.0, "spent": {}}
                stored = cell.model_copy(update={"status": Progress.RUNNING, "error": "", **kept})
                _upsert(connection, CELLS, [stored])
            name = ModelName(model, seed)
            _link(connection, RUN_MODELS, {"run": run, "name": str(name)}, {"model": cell.model})
            key = {"run": run, "name": str(name), "cell": cell.fingerprint}
            _link(connection, RUN_CELLS, key, name._asdict())
        return stored

    def end_cell(
        self,
        fingerprint: str,
        status: Progress,
        error: str = "",
        seconds: float = 0.0,
        spent: Mapping[str, float] | None = None,
    ) -> None:
        """Set the status of a cell, add the wall time of this session and its parts in seconds, and summarize it.

        Raises:
            KeyError: there is no such cell.

        """
        change: dict[str, Any] = {"status": status.value, "error": error, "seconds": CELLS.c.seconds + seconds}
        with self.database.write() as connection:
            if spent:
                known = sa.select(CELLS.c.spent).where(CELLS.c.fingerprint == fingerprint).with_for_update()
                before = connection.scalar(known) or {}
                change["spent"] = {name: before.get(name, 0.0) + spent.get(name, 0.0) for name in {**before, **spent}}
            query = sa.update(CELLS).where(CELLS.c.fingerprint == fingerprint).values(change)
            found = connection.execute(query).rowcount
            if found:
                summarize(connection, fingerprint)
        if not found:
            raise KeyError(fingerprint)

    def add_samples(self, samples: Iterable[Sample], scores: Iterable[Score] = ()) -> None:
        """Store samples and their scores in one transaction."""
        self._add((SAMPLES, samples), (SCORES, scores))

    def add_verdicts(self, verdicts: Iterable[Verdict], scores: Iterable[Score] = ()) -> None:
        """Store verdicts and their scores in one transaction."""
        self._add((VERDICTS, verdicts), (SCORES, scores))

    def add_scores(self, scores: Iterable[Score]) -> None:
        """Store scores."""
        self._add((SCORES, scores))

    def _add(self, *batches: tuple[sa.Table, Iterable[Sample | Verdict | Score]]) -> None:
        given = [(table, list(records)) for table, records in batches]
        with self.database.write() as connection:
            begin_change(connection, (record.cell for _, records in given for record in records))
            for table, records in given:
                kept = [_storable(record, connection) for record in records]
                _upsert(connection, table, kept)
                if table is SAMPLES:
                    upsert_rows(
                        connection, CHECKSUMS, [_checksum_row(record) for record in kept if isinstance(record, Sample)]
                    )

    def forget(self, cell: str) -> int:
        """Remove the samples, verdicts and scores of a cell, so that it is measured again; return the row count."""
        removed = 0
        with self.database.write() as connection:
            for table in (SCORE_SUMMARIES, FACT_SUMMARIES, SAMPLES, CHECKSUMS, VERDICTS, SCORES):
                removed += connection.execute(sa.delete(table).where(table.c.cell == cell)).rowcount
            change = {
                "status": Progress.PARTIAL.value,
                "error": "removed by `crosstok store forget`",
                "seconds": 0.0,
                "spent": {},
            }
            removed += connection.execute(sa.update(CELLS).where(CELLS.c.fingerprint == cell).values(change)).rowcount
        return removed

    # Progress

    def cell(self, fingerprint: str) -> Cell | None:
        """Return a cell, or None if it is not in the store."""
        found = self._records(Cell, sa.select(*self.database.columns(CELLS)).where(CELLS.c.fingerprint == fingerprint))
        return found[0] if found else None

    def done_samples(self, cell: str) -> set[tuple[str, int]]:
        """Return (document, index) of every sample of a cell."""
        query = sa.select(SAMPLES.c.document, SAMPLES.c["index"]).where(SAMPLES.c.cell == cell)
        with self.database.read() as connection:
            return {(document, index) for document, index in connection.execute(query)}

    def done_documents(self, cell: str) -> set[str]:
        """Return the ids of the documents of a cell that have at least one sample."""
        return {document for document, _ in self.done_samples(cell)}

    def samples_without_verdict(self, cell: str) -> list[Sample]:
        """Return the samples of a cell that have no verdict, or only a ``sandbox_error``."""
        same = [SAMPLES.c[name] == VERDICTS.c[name] for name in ("cell", "document", "index")]
        judged = sa.select(VERDICTS.c.cell).where(*same, VERDICTS.c.status != "sandbox_error").exists()
        return self._records(Sample, _in_cell(SAMPLES, cell).where(~judged))

    # Reading

    def runs(self) -> list[Run]:
        """Return all runs, latest start first."""
        return self._records(Run, sa.select(RUNS).order_by(RUNS.c.started.desc(), RUNS.c.id))

    def latest_run(self) -> Run:
        """Return the run with the latest start.

        Raises:
            UserError: the store is empty.

        """
        runs = self.runs()
        if not runs:
            raise UserError(f"The store {self.name} contains no runs.", hint="Start one with `crosstok run SUITE`.")
        return runs[0]

    def run(self, name: str | None = None) -> Run:
        """Return the run with this id, else the latest of this suite, else the latest whose id starts with ``name``.

        Without a name, return the latest run. The suite takes precedence over the start of an id, because runs of the
        gate are named after the suite of their baseline with the suffix ``-gate``.

        Raises:
            UserError: no run matches; the message suggests the closest one.

        """
        latest = self.latest_run()
        if name is None:
            return latest
        runs = self.runs()
        for fits in (lambda run: run.id == name, lambda run: run.suite == name, lambda run: run.id.startswith(name)):
            for run in filter(fits, runs):
                return run
        raise unknown_name("run", name, (run.id for run in runs))

    def models(self, run: str) -> dict[str, Model]:
        """Return the models of a run by shown name, in the order in which they were added."""
        query = sa.select(RUN_MODELS.c.name, *self.database.columns(MODELS))
        query = query.join(MODELS, MODELS.c.fingerprint == RUN_MODELS.c.model)
        query = query.where(RUN_MODELS.c.run == run).order_by(RUN_MODELS.c.position)
        with self.database.read() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        return {row.pop("name"): Model.model_validate(row) for row in rows}

    def model_names(self, run: str) -> dict[str, ModelName]:
        """Return the name in the suite and the seed of each model of a run, by shown name, in the order of addition."""
        with self.database.read() as connection:
            if self.database.version < NAMES_SINCE:
                config = connection.scalar(sa.select(RUNS.c.config).where(RUNS.c.id == run)) or {}
                query = sa.select(RUN_CELLS.c.name).where(RUN_CELLS.c.run == run).order_by(RUN_CELLS.c.position)
                return {name: name_from_old_store(name, config) for name in connection.scalars(query)}
            columns = (RUN_CELLS.c.name, RUN_CELLS.c.model, RUN_CELLS.c.seed)
            query_ = sa.select(*columns).where(RUN_CELLS.c.run == run).order_by(RUN_CELLS.c.position)
            return {name: ModelName(model, seed) for name, model, seed in connection.execute(query_)}

    def tasks(self, run: str) -> dict[str, Task]:
        """Return the tasks of a run by name, in the order in which they were added."""
        return {task.name: task for task in self._tasks(run).values()}

    def cells(self, run: str) -> list[RunCell]:
        """Return the cells of a run, in the order in which they were added."""
        names = {fingerprint: task.name for fingerprint, task in self._tasks(run).items()}
        query = sa.select(RUN_CELLS.c.name, *self.database.columns(CELLS)).join(
            CELLS, CELLS.c.fingerprint == RUN_CELLS.c.cell
        )
        query = query.where(RUN_CELLS.c.run == run).order_by(RUN_CELLS.c.position)
        with self.database.read() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        found = [(row.pop("name"), Cell.model_validate(row)) for row in rows]
        return [RunCell(model, names.get(cell.task, cell.task), cell) for model, cell in found]

    def _tasks(self, run: str) -> dict[str, Task]:
        first = sa.func.min(RUN_CELLS.c.position)
        query = sa.select(CELLS.c.task).join(RUN_CELLS, RUN_CELLS.c.cell == CELLS.c.fingerprint)
        query = query.where(RUN_CELLS.c.run == run).group_by(CELLS.c.task).order_by(first)
        with self.database.read() as connection:
            order = list(connection.scalars(query))
        found = self._records(Task, sa.select(TASKS).where(TASKS.c.fingerprint.in_(order)))
        return {task.fingerprint: task for task in sorted(found, key=lambda task: order.index(task.fingerprint))}

    def samples(self, cell: str, document: str | None = None) -> list[Sample]:
        """Return the samples of a cell (of one document), ordered by document and index."""
        return self._records(Sample, _in_cell(SAMPLES, cell, document))

    def verdicts(self, cell: str, document: str | None = None) -> list[Verdict]:
        """Return the verdicts of a cell (of one document), ordered by document and index."""
        return self._records(Verdict, _in_cell(VERDICTS, cell, document))

    def scores(self, cell: str) -> list[Score]:
        """Return the scores of a cell, ordered by document and index."""
        return self._records(Score, _in_cell(SCORES, cell))

    def document_scores(self, run: str) -> dict[tuple[str, str], DocumentScores]:
        """Return the scores of a run by document, under (cell, metric), ordered by document."""
        found: dict[tuple[str, str], DocumentScores] = {}
        with self.database.read() as connection:
            summarized: set[str] = set()
            if self.database.version >= SUMMARIES_SINCE:
                summarized.update(
                    connection.scalars(sa.select(FACT_SUMMARIES.c.cell).where(_in_run(FACT_SUMMARIES, run)))
                )
                for cell, metric, scores in summary_scores(connection, _cells_of(run)):
                    found[cell, metric] = scores
            for cell in connection.scalars(_cells_of(run)).all():
                if cell not in summarized:
                    counted = count_scores(connection, cell)
                    found |= {(cell, metric): scores for metric, scores in counted.items()}
        return found

    def sample_facts(self, run: str) -> dict[str, list[SampleFacts]]:
        """Return sums over the samples of each cell of a run, one per stop reason."""
        return {cell: samples for cell, (samples, _) in self._facts(run).items() if samples}

    def verdict_facts(self, run: str) -> dict[str, list[VerdictFacts]]:
        """Return the numbers of verdicts of each cell of a run."""
        return {cell: verdicts for cell, (_, verdicts) in self._facts(run).items() if verdicts}

    def _facts(self, run: str) -> dict[str, tuple[list[SampleFacts], list[VerdictFacts]]]:
        with self.database.read() as connection:
            found = summary_facts(connection, _cells_of(run)) if self.database.version >= SUMMARIES_SINCE else {}
            for cell in connection.scalars(_cells_of(run)).all():
                if cell not in found:
                    found[cell] = (count_samples(connection, cell), count_verdicts(connection, cell))
        return found

    def _records(self, record: type[R], query: sa.Select[Any]) -> list[R]:
        with self.database.read() as connection:
            return [record.model_validate(dict(row)) for row in connection.execute(query).mappings()]


def _cells_of(run: str) -> sa.Select[str]:
    return sa.select(RUN_CELLS.c.cell).where(RUN_CELLS.c.run == run)


def _in_run(table: sa.Table, run: str) -> sa.ColumnElement[bool]:
    return table.c.cell.in_(_cells_of(run))


def _in_cell(table: sa.Table, cell: str, document: str | None = None) -> sa.Select[Any]:
    query = sa.select(table).where(table.c.cell == cell).order_by(table.c.document, table.c["index"])
    return query if document is None else query.where(table.c.document == document)


def _storable(record: R, connection: sa.Connection) -> R:
    """Return a record that the database can store: PostgreSQL text has no NUL, which becomes U+2400."""
    if connection.dialect.name != "postgresql":
        return record
    texts = {name: value for name, value in record if isinstance(value, str) and "\0" in value}
    return record.model_copy(update={name: value.replace("\0", "\u2400") for name, value in texts.items()})


def _checksum_row(sample: Sample) -> dict[str, Any]:
    return {"cell": sample.cell, "document": sample.document, "index": sample.index, "sha256": sample_checksum(sample)}


def _upsert(connection: sa.Connection, table: sa.Table, records: Sequence[Record]) -> None:
    """Insert ``records`` or replace the rows of the same primary key."""
    upsert_rows(connection, table, [record.model_dump(mode="json") for record in records])


def upsert_rows(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert ``rows`` of column values, or replace those of the same primary key."""
    if not rows:
        return
    statement: Any = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
    rest = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
    connection.execute(statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=rest), list(rows))


def _link(connection: sa.Connection, table: sa.Table, key: Mapping[str, str], values: Mapping[str, Any]) -> None:
    """Add a model or cell to a run, at the end unless it is there already."""
    here = sa.and_(*(table.c[name] == value for name, value in key.items()))
    position = connection.scalar(sa.select(table.c.position).where(here))
    if position is None:
        highest = connection.scalar(sa.select(sa.func.max(table.c.position)).where(table.c.run == key["run"]))
        position = 0 if highest is None else highest + 1
    upsert_rows(connection, table, [{**key, **values, "position": position}])
