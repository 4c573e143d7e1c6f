"""A store on PostgreSQL: the same tables as out of a file, and its own limits said in one line.

The tests of ``test_store.py`` and of the gate run on both databases; here is what only a server can show.
"""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from crosstok.errors import UserError
from crosstok.results.store.integrity import check
from crosstok.results.store.parquet import export_parquet, import_parquet
from crosstok.results.store.records import Run, Sample
from crosstok.results.store.store import Store
from crosstok.results.tables.frame import comparison_frame, render


def test_a_table_is_the_same_to_the_last_digit_as_out_of_a_file(
    database_url: str, filled: Path, tmp_path: Path
) -> None:
    with Store(filled, read_only=True) as store:
        table = render(comparison_frame(store))
        export_parquet(store, tmp_path / "all")
    with Store(database_url) as store:
        import_parquet(store, tmp_path / "all")
        assert render(comparison_frame(store)) == table
        assert check(store) == []


def test_nul_in_an_answer_becomes_its_picture_and_is_sealed_so(database_url: str) -> None:
    with Store(database_url) as store:
        store.add_samples(
            [Sample(cell="c", document="d", text="a\0b", facts={"x": "\0"}, bytes=3, tokens=1, seconds=0)]
        )
        (sample,) = store.samples("c")
        assert (sample.text, sample.facts) == ("a\u2400b", {"x": "\0"})
        assert not [finding for finding in check(store) if "altered" in finding.what]


def test_damage_is_found_on_a_server_too(database_url: str, fill_store: Callable[..., Run]) -> None:
    with Store(database_url) as store:
        fill_store(store)
        with store.database.write() as connection:
            connection.execute(sa.text("UPDATE samples SET text = 'x' WHERE document = 'HumanEval/7'"))
            connection.execute(sa.text("DELETE FROM verdicts WHERE document = 'HumanEval/8'"))
        found = {finding.what: finding.count for finding in check(store)}
    assert found == {
        "samples altered after they were stored": 5,
        "samples without a verdict in complete cells": 5,
        "cells that do not match their summary": 5,
    }


def test_a_store_of_the_first_schema_is_sealed_when_it_is_opened(
    database_url: str, fill_store: Callable[..., Run]
) -> None:
    with Store(database_url) as store:
        fill_store(store)
        with store.database.write() as connection:
            for change in ("TABLE seals", "TABLE tallies", "TABLE tally_facts"):
                connection.execute(sa.text(f"DROP {change}"))
            connection.execute(sa.text("ALTER TABLE models DROP COLUMN compute"))
            connection.execute(sa.text("ALTER TABLE cells DROP COLUMN spent"))
            for column in ("model", "seed"):
                connection.execute(sa.text(f"ALTER TABLE run_cells DROP COLUMN {column}"))
            connection.execute(sa.text("UPDATE store_schema SET version = 1"))
    with Store(database_url) as store:
        assert check(store) == []


def _open(url: str) -> None:
    Store(url).close()


def test_many_processes_may_make_the_same_store_at_once(database_url: str) -> None:
    processes = [multiprocessing.get_context("spawn").Process(target=_open, args=(database_url,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4


def test_a_server_that_does_not_answer_is_one_line_without_the_password() -> None:
    with pytest.raises(UserError) as caught:
        Store("postgresql+psycopg://me:secret@127.0.0.1:1/x")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
