"""Summaries: a finished cell reads the same with them and without, and they never outlive what they were made of."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from crosstok.results.store.aggregates import DocumentScores, sum_by_document
from crosstok.results.store.records import Cell, Progress, Run, Sample, Score, Verdict
from crosstok.results.store.sql import FACT_SUMMARIES, SCORE_SUMMARIES
from crosstok.results.store.store import Store
from crosstok.results.tables.frame import comparison_frame

CELL = Cell(fingerprint="c", model="m", task="t", seed=0, settings={}, status=Progress.RUNNING)


def summarized(store: Store) -> int:
    with store.database.read() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(FACT_SUMMARIES)) or 0


def drop_summaries(store: Store) -> None:
    with store.database.write() as connection:
        for table in (SCORE_SUMMARIES, FACT_SUMMARIES):
            connection.execute(sa.delete(table))


def a_cell(store: Store, *, samples: int = 2) -> None:
    """Write and end a cell of three documents with several samples of two metrics each."""
    store.begin_cell(CELL, "r", "m")
    places = [{"cell": "c", "document": name, "index": k} for name in ("b", "a", "ü") for k in range(samples)]
    stops = ["stop", "end"]
    store.add_samples(
        Sample(**place, bytes=10, tokens=3, seconds=0.1, stop_reason=stops[n % 2], facts={"new_tokens": 1} if n else {})
        for n, place in enumerate(places)
    )
    scores = [
        Score(**place, metric=metric, value=0.1 * n, weight=3.0)
        for metric in ("x", "y")
        for n, place in enumerate(places)
    ]
    verdicts = [Verdict(**place, status="passed", integrity="split", tier="namespaces") for place in places]
    store.add_verdicts(verdicts, scores)
    store.end_cell("c", Progress.COMPLETE)


def seen(store: Store) -> tuple[object, ...]:
    scores = {key: [column.tolist() for column in found] for key, found in store.document_scores("r").items()}
    return scores, store.sample_facts("r"), store.verdict_facts("r")


def test_a_summary_says_what_the_rows_say(store: Store) -> None:
    a_cell(store)
    assert summarized(store) == 1
    with_summaries = seen(store)
    drop_summaries(store)
    assert seen(store) == with_summaries
    facts = {fact.stop_reason: fact for fact in store.sample_facts("r")["c"]}
    assert (facts["stop"].new_tokens, facts["stop"].checked_tokens) == (2.0, 6)
    assert (facts["end"].new_tokens, facts["end"].checked_tokens) == (3.0, 9)


def test_a_table_is_the_same_without_summaries(tmp_path: Path, fill_store: Callable[..., Run]) -> None:
    with Store(tmp_path / "s.db") as store:
        fill_store(store)
        before = comparison_frame(store)
        assert summarized(store) == 15
        drop_summaries(store)
        assert comparison_frame(store).equals(before)


@pytest.mark.parametrize("change", ["samples", "verdicts", "scores"])
def test_whatever_is_written_into_a_cell_drops_its_summary_until_it_ends_again(store: Store, change: str) -> None:
    a_cell(store)
    place = {"cell": "c", "document": "a", "index": 0}
    if change == "samples":
        store.add_samples([Sample(**place, bytes=11, tokens=3, seconds=0.1, stop_reason="end")])
    elif change == "verdicts":
        store.add_verdicts([Verdict(**place, status="failed", integrity="split", tier="namespaces")])
    else:
        store.add_scores([Score(**place, metric="x", value=7.0)])
    assert summarized(store) == 0
    by_row = seen(store)
    store.end_cell("c", Progress.COMPLETE)
    assert summarized(store) == 1
    assert seen(store) == by_row
    store.forget("c")
    assert summarized(store) == 0
    assert seen(store)[0] == {}


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-9, 9), st.floats(0.1, 9)), min_size=1))
def test_sums_are_those_of_plain_addition_in_order(rows: list[tuple[int, float, float]]) -> None:
    rows.sort(key=lambda row: row[0])
    columns = [np.array(column) for column in zip(*((f"d{d}", v, w) for d, v, w in rows), strict=True)]
    found = sum_by_document(columns[0].astype(object), columns[1], columns[2])
    assert isinstance(found, DocumentScores)
    for name, value, weight, number in zip(*found, strict=True):
        mine = [row for row in rows if f"d{row[0]}" == name]
        total, size = 0.0, 0.0
        for _, v, w in mine:
            total, size = total + v, size + w
        assert (value, weight, number) == (total, size, len(mine))
