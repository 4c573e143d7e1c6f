"""Integrity check of a store: damaged pages, orphaned, missing, contradictory and altered rows, each with a remedy.

Every row must have its parent, every complete cell a sample (and, for programs, a verdict) per document, and every
score must agree with its verdict. Altered samples no longer match their checksum, which is written in the same
transaction; altered scores and verdicts no longer match the summary of their cell.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from crosstok.results.store.aggregates import DocumentScores
from crosstok.results.store.cell_summaries import (
    count_samples,
    count_scores,
    count_verdicts,
    summary_facts,
    summary_scores,
)
from crosstok.results.store.checksum import sample_checksum
from crosstok.results.store.database import Database
from crosstok.results.store.model_names import ModelName
from crosstok.results.store.records import Progress, Sample
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
    SCORES,
    SUMMARIES_SINCE,
    TASKS,
    VERDICTS,
)
from crosstok.results.store.store import Store

LISTED = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of damage, with examples."""

    what: str
    count: int
    examples: tuple[str, ...]
    cure: str

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{self.what}: {self.count} ({', '.join(self.examples)}{more}). {self.cure}"


AGAIN = "Remove the cell with `crosstok store forget CELL`; `crosstok run` then measures it again."
RESUME = "`crosstok run` with the same suite continues it."


def check(store: Store) -> list[Finding]:
    """Return all problems found in ``store``; an empty list if there are none."""
    database = store.database
    found = list(_file(database))
    for search in (_orphans, _misnamed, _duplicates, _missing, _contradictions, _altered, _wrong_summaries):
        found += search(database)
    return found


def _file(database: Database) -> Iterator[Finding]:
    if database.path is None:
        return
    with database.read() as connection:
        said = [row[0] for row in connection.exec_driver_sql("PRAGMA integrity_check(10)")]
    if said != ["ok"]:
        cure = "Restore the file from a backup, or recover its contents with `sqlite3 FILE .recover`."
        yield Finding("damaged pages", len(said), tuple(str(line) for line in said[:LISTED]), cure)


def _orphans(database: Database) -> Iterator[Finding]:
    """Find rows without their parent."""
    same = ("cell", "document", "index")
    links: list[tuple[str, sa.Table, sa.Table, dict[str, str], str]] = [
        ("cells without a task", CELLS, TASKS, {"task": "fingerprint"}, RESUME),
        ("samples without a cell", SAMPLES, CELLS, {"cell": "fingerprint"}, AGAIN),
        ("verdicts without a sample", VERDICTS, SAMPLES, dict(zip(same, same, strict=True)), AGAIN),
        ("scores without a sample", SCORES, SAMPLES, dict(zip(same, same, strict=True)), AGAIN),
        ("checksums without a sample", CHECKSUMS, SAMPLES, dict(zip(same, same, strict=True)), AGAIN),
        ("cells without a run", CELLS, RUN_CELLS, {"fingerprint": "cell"}, RESUME),
        ("run entries without a cell", RUN_CELLS, CELLS, {"cell": "fingerprint"}, RESUME),
        ("run entries without a run", RUN_CELLS, RUNS, {"run": "id"}, RESUME),
    ]
    for what, child, parent, keys, cure in links:
        match = sa.and_(*(child.c[mine] == parent.c[theirs] for mine, theirs in keys.items()))
        there = sa.select(parent.c[next(iter(keys.values()))]).where(match).exists()
        yield from _found(database, what, child, ~there, cure)
    complete = sa.select(CELLS.c.fingerprint).where(
        CELLS.c.model == RUN_MODELS.c.model, CELLS.c.status == Progress.COMPLETE.value
    )
    record = sa.select(MODELS.c.fingerprint).where(MODELS.c.fingerprint == RUN_MODELS.c.model)
    lost = sa.and_(complete.exists(), ~record.exists())
    yield from _found(database, "measured models without a record", RUN_MODELS, lost, RESUME)


def _misnamed(database: Database) -> Iterator[Finding]:
    """Find cells of a run whose shown name differs from the model's name in the suite and its seed."""
    if database.version < NAMES_SINCE:
        return
    columns = (RUN_CELLS.c.run, RUN_CELLS.c.name, RUN_CELLS.c.model, RUN_CELLS.c.seed)
    with database.read() as connection:
        rows = connection.execute(sa.select(*columns).distinct()).all()
    wrong = sorted(f"{run} {name}" for run, name, model, seed in rows if name != str(ModelName(model, seed)))
    if wrong:
        yield Finding("models with a name that contradicts suite and seed", len(wrong), tuple(wrong[:LISTED]), RESUME)


def _missing(database: Database) -> Iterator[Finding]:
    """Find complete cells that lack samples, verdicts or scores."""
    documents = sa.select(sa.func.count(sa.distinct(SAMPLES.c.document))).where(SAMPLES.c.cell == CELLS.c.fingerprint)
    asked = sa.select(TASKS.c.documents).where(TASKS.c.fingerprint == CELLS.c.task)
    done = CELLS.c.status == Progress.COMPLETE.value
    few = documents.scalar_subquery() < asked.scalar_subquery()
    many = documents.scalar_subquery() > asked.scalar_subquery()
    yield from _found(database, "complete cells with missing samples", CELLS, sa.and_(done, few), AGAIN)
    yield from _found(database, "cells with more documents than their task", CELLS, many, AGAIN)
    of_complete = sa.select(CELLS.c.fingerprint).where(CELLS.c.fingerprint == SAMPLES.c.cell, done).exists()
    same = [("cell", "cell"), ("document", "document"), ("index", "index")]

    def lacks(table: sa.Table) -> Any:
        return ~sa.select(table.c.cell).where(*(SAMPLES.c[a] == table.c[b] for a, b in same)).exists()

    judged = sa.select(VERDICTS.c.cell).where(VERDICTS.c.cell == SAMPLES.c.cell).exists()
    asked_of_model = SAMPLES.c.stop_reason != "excluded"
    unjudged = sa.and_(of_complete, judged, asked_of_model, lacks(VERDICTS))
    yield from _found(database, "samples without a verdict in complete cells", SAMPLES, unjudged, AGAIN)
    # A task scores each answer by itself, or a document once: then only the sample with index 0 has scores.
    each = sa.select(SCORES.c.cell).where(SCORES.c["index"] > 0).distinct()
    has_scores = sa.or_(SAMPLES.c["index"] == 0, SAMPLES.c.cell.in_(each))
    scored = sa.and_(asked_of_model, SAMPLES.c.stop_reason != "refused", has_scores)
    unscored = sa.and_(of_complete, scored, lacks(SCORES))
    yield from _found(database, "samples without a score in complete cells", SAMPLES, unscored, AGAIN)
    cure = f"Another program wrote them. {AGAIN}"
    yield from _found(database, "samples without a checksum", SAMPLES, lacks(CHECKSUMS), cure)


def _duplicates(database: Database) -> Iterator[Finding]:
    """Find models that a run has measured twice on a task."""
    keys = (RUN_CELLS.c.run, RUN_CELLS.c.name, TASKS.c.name.label("task"))
    query = sa.select(*keys).join(CELLS, CELLS.c.fingerprint == RUN_CELLS.c.cell)
    query = query.join(TASKS, TASKS.c.fingerprint == CELLS.c.task).group_by(*keys).having(sa.func.count() > 1)
    with database.read() as connection:
        rows = [" ".join(row) for row in connection.execute(query)]
    if rows:
        cure = "Remove the older cell with `crosstok store forget CELL`, or run the suite under another name."
        yield Finding("models measured twice on a task of a run", len(rows), tuple(sorted(rows)[:LISTED]), cure)


def _contradictions(database: Database) -> Iterator[Finding]:
    """Find pass scores that contradict their verdict."""
    verdict = sa.select(VERDICTS.c.cell).where(
        *(VERDICTS.c[name] == SCORES.c[name] for name in ("cell", "document", "index")),
        (VERDICTS.c.status == "passed") != (SCORES.c.value > 0),
    )
    wrong = sa.and_(SCORES.c.metric == "pass@1", verdict.exists())
    yield from _found(database, "scores that contradict their verdict", SCORES, wrong, AGAIN)


def _altered(database: Database) -> Iterator[Finding]:
    same = [SAMPLES.c[name] == CHECKSUMS.c[name] for name in ("cell", "document", "index")]
    query = sa.select(SAMPLES, CHECKSUMS.c.sha256.label("checksum")).join(CHECKSUMS, sa.and_(*same))
    wrong: list[str] = []
    with database.read() as connection:
        for row in connection.execution_options(yield_per=1000).execute(query).mappings():
            values = dict(row)
            checksum = values.pop("checksum")
            if sample_checksum(Sample.model_validate(values)) != checksum:
                wrong.append(_name(values))
    if wrong:
        yield Finding("samples altered after they were stored", len(wrong), tuple(sorted(wrong)[:LISTED]), AGAIN)


def _wrong_summaries(database: Database) -> Iterator[Finding]:
    """Find cells whose rows no longer match the summary written when the cell ended."""
    if database.version < SUMMARIES_SINCE:
        return
    wrong: list[str] = []
    with database.read() as connection:
        for cell in connection.scalars(sa.select(FACT_SUMMARIES.c.cell)).all():
            one = sa.select(sa.literal(cell))
            samples, verdicts = summary_facts(connection, one)[cell]
            scores = {metric: found for _, metric, found in summary_scores(connection, one)}
            same = (
                _same_scores(scores, count_scores(connection, cell))
                and verdicts == count_verdicts(connection, cell)
                and [fact[:6] for fact in samples] == [fact[:6] for fact in count_samples(connection, cell)]
            )
            if not same:
                wrong.append(cell)
    if wrong:
        yield Finding("cells that do not match their summary", len(wrong), tuple(sorted(wrong)[:LISTED]), AGAIN)


def _same_scores(first: dict[str, DocumentScores], second: dict[str, DocumentScores]) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(mine, theirs)
        for metric, columns in first.items()
        for mine, theirs in zip(columns, second[metric], strict=True)
    )


def _found(database: Database, what: str, table: sa.Table, condition: Any, cure: str) -> Iterator[Finding]:
    with database.read() as connection:
        count = connection.scalar(sa.select(sa.func.count()).select_from(table).where(condition)) or 0
        if count:
            keys = list(table.primary_key)
            rows = connection.execute(sa.select(*keys).where(condition).order_by(*keys).limit(LISTED)).mappings()
            yield Finding(what, count, tuple(_name(dict(row)) for row in rows), cure)


def _name(row: dict[str, Any]) -> str:
    parts = [str(row[key]) for key in ("run", "fingerprint", "name", "cell", "document") if row.get(key)]
    text = " ".join(parts) + (f" #{row['index']}" if row.get("index") else "")
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
