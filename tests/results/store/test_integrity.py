"""Integrity: every kind of damage is found, named with an example and a cure; an undamaged store is clean."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from crosstok.results.store.checksum import sample_checksum
from crosstok.results.store.integrity import check
from crosstok.results.store.records import Progress, Run, Sample
from crosstok.results.store.store import Store
from crosstok.results.tables.frame import comparison_frame


@pytest.fixture
def path(fill_store: Callable[..., Run], tmp_path: Path) -> Path:
    with Store(tmp_path / "s.db") as store:
        fill_store(store, missing={("sft", "humaneval"): 11})
    return tmp_path / "s.db"


def test_a_store_as_crosstok_writes_it_is_clean_even_if_unfinished(path: Path) -> None:
    with Store(path, read_only=True) as store:
        assert check(store) == []


CELL = "quickstart-base-humaneval"
FIELDS = "prompt, text, stop_reason, prompt_bytes, prompt_tokens, bytes, tokens, nats, seconds, facts"
EXTRA = (
    f"INSERT INTO samples (cell, document, 'index', {FIELDS}) SELECT cell, 'extra', 0, {FIELDS} FROM samples "
    f"WHERE cell = '{CELL}' AND document = 'HumanEval/7'"
)
TWIN = (
    "INSERT INTO cells SELECT 'twin', model, task, seed, settings, status, error, seconds, spent FROM cells "
    f"WHERE fingerprint = '{CELL}'; "
    "INSERT INTO run_cells VALUES ('quickstart-1a2b3c4d', 'base', 'twin', 99, 'base', NULL)"
)
DAMAGE = [
    (f"UPDATE samples SET text = 'return 1' WHERE cell = '{CELL}' AND document = 'HumanEval/7'", "altered after"),
    (f"UPDATE samples SET tokens = tokens + 1 WHERE cell = '{CELL}' AND document = 'HumanEval/7'", "altered after"),
    (f"DELETE FROM samples WHERE cell = '{CELL}' AND document = 'HumanEval/7'", "missing samples"),
    (f"DELETE FROM samples WHERE cell = '{CELL}' AND document = 'HumanEval/7'", "verdicts without a sample"),
    (f"DELETE FROM verdicts WHERE cell = '{CELL}' AND document = 'HumanEval/7'", "without a verdict"),
    (f"DELETE FROM scores WHERE cell = '{CELL}' AND document = 'HumanEval/7'", "without a score"),
    (f"DELETE FROM cells WHERE fingerprint = '{CELL}'", "samples without a cell"),
    (f"DELETE FROM run_cells WHERE cell = '{CELL}'", "cells without a run"),
    ("DELETE FROM tasks WHERE name = 'humaneval'", "cells without a task"),
    ("DELETE FROM models WHERE fingerprint = 'model-alm'", "models without a record"),
    (f"UPDATE scores SET value = 1 - value WHERE cell = '{CELL}' AND document = 'HumanEval/7'", "contradict"),
    (f"UPDATE scores SET value = 9 WHERE cell = '{CELL}' AND document = 'HumanEval/7'", "do not match their summary"),
    (
        f"UPDATE verdicts SET tier = 'better' WHERE cell = '{CELL}' AND document = 'HumanEval/7'",
        "do not match their summary",
    ),
    (EXTRA, "more documents than their task"),
    (EXTRA, "without a checksum"),
    (TWIN, "measured twice"),
    ("UPDATE run_cells SET seed = 1 WHERE name = 'alm'", "contradicts suite and seed"),
]


@pytest.mark.parametrize(("statement", "said"), DAMAGE, ids=[said for _, said in DAMAGE])
def test_damage_is_found_and_named(path: Path, statement: str, said: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript(statement)
    with Store(path, read_only=True) as store:
        found = [str(finding) for finding in check(store)]
    named = [line for line in found if said in line]
    assert len(named) == 1, found
    assert "crosstok" in named[0], "says what to do"


def test_a_cell_that_is_set_aside_is_clean_and_measured_again(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE samples SET text = '' WHERE cell = '{CELL}'")
    with Store(path) as store:
        assert check(store)
        assert store.forget(CELL) > 41
        assert check(store) == []
        cell = store.cell(CELL)
        assert cell is not None
        assert cell.status is Progress.PARTIAL
        assert store.begin_cell(cell, "quickstart-1a2b3c4d", "base").status is Progress.RUNNING
        assert store.done_samples(CELL) == set()
        assert store.forget("nothing") == 0


def test_a_store_of_the_first_schema_is_read_as_it_is_and_gets_checksums_when_it_is_written(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "DROP TABLE seals; DROP TABLE tallies; DROP TABLE tally_facts;"
            "ALTER TABLE models DROP COLUMN compute; ALTER TABLE cells DROP COLUMN spent;"
            "ALTER TABLE run_cells DROP COLUMN model; ALTER TABLE run_cells DROP COLUMN seed;"
            "UPDATE store_schema SET version = 1"
        )
    with Store(path, read_only=True) as store:
        before = store.samples(CELL)
        assert before
        shown = comparison_frame(store)
    with Store(path) as store:
        assert store.samples(CELL) == before
        assert check(store) == []
        assert comparison_frame(store).equals(shown)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version FROM store_schema").fetchall() == [(6,)]
        assert connection.execute("SELECT count(*) FROM tally_facts").fetchone() == (15,)
        connection.execute(f"UPDATE samples SET text = 'x' WHERE cell = '{CELL}' AND document = 'HumanEval/7'")
    with Store(path) as store:
        assert len(check(store)) == 1


def test_a_checksum_depends_on_every_field() -> None:
    sample = Sample(cell="c", document="d", bytes=1, tokens=1, seconds=0.5)
    changes = {
        "cell": "x", "document": "x", "index": 1, "prompt": "x", "text": "x", "stop_reason": "x", "prompt_bytes": 1,
        "prompt_tokens": 1, "bytes": 2, "tokens": 2, "nats": 0.0, "seconds": 0.25, "facts": {"a": 1},
    }  # fmt: skip
    assert set(changes) == set(Sample.model_fields)
    seals = {sample_checksum(sample.model_copy(update={name: value})) for name, value in changes.items()}
    assert len(seals | {sample_checksum(sample)}) == len(changes) + 1
