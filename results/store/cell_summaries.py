"""Summaries of finished cells: what tables need, as arrays and sums instead of rows.

Reading a million sample rows for a table takes about 15 s; reading a few hundred array columns takes 0.1 s. Ending a
cell therefore also stores, per metric, the documents with their summed scores, and the sums over samples and verdicts.
Summaries are written in the transaction that ends the cell and deleted in any transaction that changes its rows. A
cell without a summary is read row by row and gives the same values. ``crosstok store check`` recomputes summaries to
find rows that were changed by other programs.

A transaction that writes into a cell holds a lock on the row of the cell. Otherwise a server could summarize a cell
while the scores of another writer are not yet committed.
"""

import functools
import json
import zlib
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import sqlalchemy as sa

from crosstok.results.store.aggregates import DocumentScores, Names, SampleFacts, VerdictFacts, sum_by_document
from crosstok.results.store.facts import sum_facts
from crosstok.results.store.sql import CELLS, FACT_SUMMARIES, SAMPLES, SCORE_SUMMARIES, SCORES, VERDICTS

_AT_ONCE = 1000


def begin_change(connection: sa.Connection, cells: Iterable[str]) -> None:
    """Lock ``cells`` and delete their summaries, before any of their rows are written."""
    for cell in sorted(set(cells)):
        if connection.dialect.name == "postgresql":  # SQLite has only one writer at a time
            connection.execute(sa.select(CELLS.c.fingerprint).where(CELLS.c.fingerprint == cell).with_for_update())
        for table in (SCORE_SUMMARIES, FACT_SUMMARIES):
            connection.execute(sa.delete(table).where(table.c.cell == cell))


def summarize(connection: sa.Connection, cell: str) -> None:
    """Write the summary of a cell; the caller holds its lock."""
    begin_change(connection, [cell])
    for metric, found in count_scores(connection, cell).items():
        row = {
            "cell": cell, "metric": metric, "documents": _packed(found.document), "value": found.value.tobytes(),
            "weight": found.weight.tobytes(), "scores": found.scores.tobytes(),
        }  # fmt: skip
        connection.execute(sa.insert(SCORE_SUMMARIES), row)
    facts = {"samples": count_samples(connection, cell), "verdicts": count_verdicts(connection, cell)}
    connection.execute(sa.insert(FACT_SUMMARIES), {"cell": cell, **facts})


def summary_scores(connection: sa.Connection, cells: sa.Select[str]) -> Iterator[tuple[str, str, DocumentScores]]:
    """Yield cell, metric and scores of the summaries of ``cells``."""
    for cell, metric, documents, *columns in connection.execute(
        sa.select(SCORE_SUMMARIES).where(SCORE_SUMMARIES.c.cell.in_(cells))
    ):
        value, weight = (np.frombuffer(column, dtype="<f8") for column in columns[:2])
        yield cell, metric, DocumentScores(_unpacked(documents), value, weight, np.frombuffer(columns[2], dtype="<i8"))


def summary_facts(
    connection: sa.Connection, cells: sa.Select[str]
) -> dict[str, tuple[list[SampleFacts], list[VerdictFacts]]]:
    """Return the sums over samples and verdicts of those ``cells`` that have a summary."""
    rows = connection.execute(sa.select(FACT_SUMMARIES).where(FACT_SUMMARIES.c.cell.in_(cells)))
    return {
        cell: ([SampleFacts(*row) for row in samples], [VerdictFacts(*row) for row in verdicts])
        for cell, samples, verdicts in rows
    }


# Recomputing from rows

# In the order of the primary key. Most documents have one sample, so summing in the database would only cost time.
_SCORES_OF = (
    sa.select(SCORES.c.metric, SCORES.c.document, SCORES.c.value, SCORES.c.weight)
    .where(SCORES.c.cell == sa.bindparam("cell"))
    .order_by(SCORES.c.metric, SCORES.c.document, SCORES.c["index"])
)


def count_scores(connection: sa.Connection, cell: str) -> dict[str, DocumentScores]:
    """Return the scores of a cell by metric, computed from its rows."""
    found = {}
    for metric, rows in groupby(connection.execute(_SCORES_OF, {"cell": cell}).all(), itemgetter(0)):
        _, document, value, weight = zip(*rows, strict=True)
        found[metric] = sum_by_document(np.array(document, dtype=object), np.array(value), np.array(weight))
    return found


def count_samples(connection: sa.Connection, cell: str) -> list[SampleFacts]:
    """Return the sums over the samples of a cell per stop reason, computed from its rows."""
    columns = [SAMPLES.c[name] for name in ("bytes", "tokens", "prompt_bytes", "prompt_tokens", "seconds")]
    new = SAMPLES.c.facts["new_tokens"].as_float()
    checked = sa.case((new.is_not(None), SAMPLES.c.tokens))
    # PostgreSQL sums integers as decimals.
    sums = [sa.cast(sa.func.sum(column), column.type) for column in columns]
    sums += [sa.cast(sa.func.sum(new), sa.Double), sa.cast(sa.func.sum(checked), sa.BigInteger)]
    query = sa.select(SAMPLES.c.stop_reason, sa.func.count(), *sums).where(SAMPLES.c.cell == cell)
    query = query.group_by(SAMPLES.c.stop_reason).order_by(SAMPLES.c.stop_reason)
    counted = [SampleFacts(*row) for row in connection.execute(query)]
    further = {fact.stop_reason: _count_facts(connection, cell, fact.stop_reason) for fact in counted}
    return [fact._replace(facts=further[fact.stop_reason][0], new_ids=further[fact.stop_reason][1]) for fact in counted]


def _count_facts(connection: sa.Connection, cell: str, stop_reason: str) -> tuple[dict[str, float], list[int]]:
    """Return the sums over the facts of samples, added in key order so that they are reproducible."""
    query = sa.select(SAMPLES.c.bytes, SAMPLES.c.facts)
    query = query.where(SAMPLES.c.cell == cell, SAMPLES.c.stop_reason == stop_reason)
    query = query.order_by(SAMPLES.c.document, SAMPLES.c["index"])
    return sum_facts((row[0], row[1]) for row in connection.execute(query.execution_options(yield_per=_AT_ONCE)))


def count_verdicts(connection: sa.Connection, cell: str) -> list[VerdictFacts]:
    """Return the numbers of verdicts of a cell, computed from its rows."""
    keys = (VERDICTS.c.status, VERDICTS.c.integrity, VERDICTS.c.tier)
    query = sa.select(*keys, sa.func.count()).where(VERDICTS.c.cell == cell).group_by(*keys).order_by(*keys)
    return [VerdictFacts(*row) for row in connection.execute(query)]


def _packed(documents: Names) -> bytes:
    return zlib.compress(json.dumps(documents.tolist(), separators=(",", ":")).encode("ascii"))


@functools.lru_cache(maxsize=256)
def _unpacked(packed: bytes) -> Names:
    """Return the ids; cells of a task share one array, so comparing them is free."""
    found: Any = np.array(json.loads(zlib.decompress(packed)), dtype=object)
    found.setflags(write=False)
    return found  # type: ignore[no-any-return]  # numpy cannot type an array of objects
