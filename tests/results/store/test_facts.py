"""Facts of tokenizers, added up by hand and out of a store; and how an older store comes to have them."""

import sqlite3
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from crosstok.results.store.aggregates import SampleFacts
from crosstok.results.store.facts import FACT_COLUMNS, fact_columns, sum_facts
from crosstok.results.store.records import SCHEMA_VERSION, Cell, Model, Progress, Run, Sample, Score, Task
from crosstok.results.store.store import Store
from crosstok.results.tables.blocks import layout
from crosstok.results.tables.frame import comparison_frame, render

ANSWERS: list[tuple[str, int, int, dict[str, Any]]] = [  # stop reason, bytes, tokens, facts
    ("end", 40, 10, {"loop_bytes": 0, "invalid_utf8_bytes": 0, "straddled": False, "new_tokens": 2, "new_bytes": 12,
                     "new_ids": [7, 9], "new_ids_known": 5}),
    ("stop", 60, 10, {"loop_bytes": 64, "invalid_utf8_bytes": 5, "straddled": True, "new_tokens": 1, "new_bytes": 8,
                      "new_ids": [7], "new_ids_known": 5}),
    ("end", 0, 0, {"loop_bytes": 0, "invalid_utf8_bytes": 0, "straddled": None, "new_tokens": 0, "new_bytes": 0,
                   "new_ids": [], "new_ids_known": 5}),
    ("refused", 0, 0, {"refused": "why"}),
]  # fmt: skip
TEXTS: list[dict[str, Any]] = [
    {"mean_context_bytes": 100.0, "agreement": {"boundaries": 4, "bytes": 12, "top1": 3, "text": 2, "byte_kl": 1.0,
                                                "chunk_kl": 2.0}},
    {"mean_context_bytes": 300.0, "agreement": {"boundaries": 6, "bytes": 18, "top1": 4, "text": 3, "byte_kl": 4.0,
                                                "chunk_kl": 1.0}},
]  # fmt: skip
MEASURED = {
    "p_new": 0.25, "p_spelling": 0.125, "token_share": 0.1, "byte_share": 0.2, "distinct": 3.0, "unused": 2.0,
    "tokens_per_byte": 0.3, "tokens_per_byte_spelt": 0.4,
}  # fmt: skip


def fill(store: Store) -> None:
    config = {"models": {"grown": {}}, "tasks": [{"name": "answers"}, {"name": "texts"}], "agreement_with": "base"}
    store.begin_run(Run(id="r", suite="s", config=config, environment={}, status=Progress.RUNNING))
    model = Model(
        fingerprint="m", label="grown", spec={}, tokenizer="t", parameters=1, vocabulary=9,
        provenance={"metrics": {"new_tokens": MEASURED}}, build_s=0.0,
    )  # fmt: skip
    store.put_model(model)
    for name, size in (("answers", len(ANSWERS)), ("texts", len(TEXTS))):
        metrics = [{"name": "x", "unit": "fraction", "higher_is_better": True}]
        task = Task(fingerprint=name, name=name, version="1", settings={}, source={}, documents=size, metrics=metrics)
        store.put_task(task)
        cell = Cell(fingerprint=f"c-{name}", model="m", task=name, seed=0, settings={}, status=Progress.RUNNING)
        store.begin_cell(cell, "r", "grown")
    store.add_samples(
        Sample(cell="c-answers", document=str(n), stop_reason=stop, prompt_bytes=30, prompt_tokens=10, bytes=size,
               tokens=tokens, seconds=1.0, facts=facts)
        for n, (stop, size, tokens, facts) in enumerate(ANSWERS)
    )  # fmt: skip
    store.add_samples(
        Sample(cell="c-texts", document=str(n), bytes=10 + 20 * n, tokens=5, nats=1.0, seconds=1.0, facts=facts)
        for n, facts in enumerate(TEXTS)
    )
    for ended in ("c-answers", "c-texts"):
        store.add_scores([Score(cell=ended, document="0", metric="x", value=1.0)])
        store.end_cell(ended, Progress.COMPLETE)
    store.end_run("r", Progress.COMPLETE)


@pytest.fixture
def frame(store: Store) -> pd.DataFrame:
    fill(store)
    return comparison_frame(store)


def row(frame: pd.DataFrame, task: str) -> dict[str, Any]:
    (found,) = frame[frame["task"] == task].to_dict("records")
    return {str(name): value for name, value in found.items()}


def test_shares_are_of_the_samples_in_which_a_fact_was_looked_for(frame: pd.DataFrame) -> None:
    found = row(frame, "answers")
    assert found["answer_bytes_per_token"] == pytest.approx(100 / 20)
    assert found["straddled_share"] == pytest.approx(1 / 2)
    assert found["round_trip_share"] == pytest.approx(3 / 4)
    assert found["invalid_utf8_share"] == pytest.approx(5 / 100)
    assert found["loop_share"] == pytest.approx(1 / 3)
    assert found["new_byte_share"] == pytest.approx(20 / 100)
    assert found["new_token_share"] == pytest.approx(3 / 20)
    assert (found["new_ids_used"], found["new_ids_unused"]) == (2, 3)
    assert pd.isna(found["agreement_top1"])
    assert pd.isna(found["context_bytes"])


def test_agreement_is_per_common_boundary_and_context_per_byte(frame: pd.DataFrame) -> None:
    found = row(frame, "texts")
    assert found["context_bytes"] == pytest.approx((10 * 100 + 30 * 300) / 40)
    assert found["agreement_boundaries"] == 10
    assert found["agreement_bytes"] == pytest.approx(3.0)
    assert found["agreement_top1"] == pytest.approx(0.7)
    assert found["agreement_text"] == pytest.approx(0.5)
    assert found["agreement_byte_kl"] == pytest.approx(0.5)
    assert found["agreement_chunk_kl"] == pytest.approx(0.3)
    assert pd.isna(found["agreement_token_kl"])
    assert pd.isna(found["straddled_share"])


def test_what_the_record_of_an_expanded_model_says_of_its_new_tokens_stands_in_the_frame(frame: pd.DataFrame) -> None:
    found = row(frame, "texts")
    assert (found["p_new"], found["p_spelling"]) == (0.25, 0.125)
    assert (found["held_out_new_ids"], found["held_out_unused_ids"]) == (3, 2)
    assert (found["tokens_per_byte_before"], found["tokens_per_byte"]) == (0.4, 0.3)


def test_tables_show_agreement_and_new_tokens_and_on_demand_all_facts(frame: pd.DataFrame) -> None:
    text = render(frame)
    for expected in ("agreement with base", "| grown |             70.0 |", "new tokens in answers", "p(new"):
        assert expected in text
    assert ": tokenization" not in text
    full = {block.title: block for block in layout(frame, facts=True).blocks}
    block = full["answers: tokenization"]
    shown = dict(zip(block.header, (entry.text for entry in block.rows[0]), strict=True))
    assert shown == {
        "model": "grown", "bytes/token, prompt": "3.00", "bytes/token, answer": "5.00", "straddling (%)": "50.0",
        "round trip (%)": "75.0", "invalid UTF-8 (%)": "5.00", "loops (%)": "33.3",
    }  # fmt: skip
    for form in ("latex", "html"):
        assert "answers: tokenization" in render(frame, form, facts=True)


def test_a_frame_without_facts_shows_none_of_their_blocks(filled: Path) -> None:
    with Store(filled, read_only=True) as store:
        found = comparison_frame(store)
    assert found["agreement_top1"].isna().all()
    assert "agreement with" not in render(found)
    assert "held-out" not in render(found)


def test_nothing_counted_is_absent_and_not_zero() -> None:
    assert sum_facts([(5, {})]) == ({}, [])
    empty = fact_columns([SampleFacts("", 1, 5, 2, 0, 0, 1.0, None, None)])
    assert list(empty) == list(FACT_COLUMNS)
    assert {name for name, value in empty.items() if value is not None} == {"round_trip_share"}


def test_a_choice_straddles_where_bytes_of_its_context_are_charged_to_it() -> None:
    sums, _ = sum_facts([(5, {"choices": [1.0], "straddled_bytes": 2}), (5, {"choices": [1.0]})])
    assert (sums["straddled"], sums["borders"]) == (1, 2)


def test_a_store_of_the_fourth_schema_is_read_out_of_its_rows_and_summarized_again_when_written(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with Store(path) as store:
        fill(store)
        expected = comparison_frame(store)
    old = '[["end", 1, 1, 1, 1, 1, 1.0, null, null]]'  # as that version wrote it, and wrong, so that its use would show
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE tally_facts SET samples = ?", (old,))
        connection.executescript("ALTER TABLE run_cells DROP COLUMN model; ALTER TABLE run_cells DROP COLUMN seed")
        connection.execute("UPDATE store_schema SET version = 4")
    with Store(path, read_only=True) as store:
        assert comparison_frame(store).equals(expected)
    with Store(path) as store:
        assert store.database.version == SCHEMA_VERSION
        assert comparison_frame(store).equals(expected)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM tally_facts WHERE samples = ?", (old,)).fetchone() == (0,)
