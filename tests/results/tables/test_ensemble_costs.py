"""Costs of ensembles and their members, computed by hand: forward passes, bytes per second, operations."""

import math
from typing import Any

import pytest

from crosstok.results.store.records import Cell, Model, Progress, Run, Sample, Score, Task
from crosstok.results.store.store import Store
from crosstok.results.tables.blocks import layout
from crosstok.results.tables.frame import comparison_frame, render

COMPUTE = {"a": {"body": 1000, "head": 200, "context": 0}, "b": {"body": 3000, "head": 600, "context": 0}}
ENSEMBLES = {"same": ["a", "b"], "mined": ["a", "b"], "twice": ["b", "b"], "stranger": ["a", "elsewhere"]}
ANSWERS = [(40, 11), (20, 7)]  # bytes written, passes of one model


def members_of(name: str) -> list[str]:
    return ENSEMBLES.get(name, [name])


def fill(store: Store) -> None:
    models: dict[str, Any] = {name: {"source": "x"} for name in COMPUTE}
    models |= {name: {"ensemble": {"members": members}} for name, members in ENSEMBLES.items()}
    store.begin_run(Run(id="r", suite="s", config={"models": models}, environment={}, status=Progress.RUNNING))
    metrics = [{"name": "x", "unit": "fraction", "higher_is_better": True}]
    store.put_task(Task(fingerprint="t", name="t", version="1", settings={}, source={}, documents=2, metrics=metrics))
    both = {part: COMPUTE["a"][part] + COMPUTE["b"][part] for part in COMPUTE["a"]}
    for name in models:
        store.put_model(
            Model(
                fingerprint=name, label=name, spec={}, tokenizer="t", parameters=1, vocabulary=1, provenance={},
                build_s=0, compute=both if name == "same" else COMPUTE.get(name, {}),
            )
        )  # fmt: skip
        cell = Cell(fingerprint=f"c-{name}", model=name, task="t", seed=0, settings={}, status=Progress.RUNNING)
        store.begin_cell(cell, "r", name)
        tokens = 5 if name == "b" else 10  # b has tokens twice as long
        for place, (size, passes) in enumerate(ANSWERS):
            facts = {"passes": len(members_of(name)) * passes}
            at = {"cell": cell.fingerprint, "document": str(place)}
            store.add_samples(
                [Sample(**at, stop_reason="end", prompt_bytes=20, prompt_tokens=tokens, bytes=size, tokens=9,
                        seconds=len(members_of(name)) * 1.5, facts=facts)],
                [Score(**at, metric="x", value=1.0)],
            )  # fmt: skip
        store.end_cell(cell.fingerprint, Progress.COMPLETE)
    store.end_run("r", Progress.COMPLETE)


@pytest.fixture
def rows(store: Store) -> dict[str, dict[str, Any]]:
    fill(store)
    return {row["model"]: row for row in comparison_frame(store).to_dict("records")}


def test_forward_passes_and_bytes_per_second_of_an_ensemble_count_all_of_its_members(
    rows: dict[str, dict[str, Any]],
) -> None:
    assert rows["a"]["passes_per_byte"] == pytest.approx(18 / 60)
    assert rows["same"]["passes_per_byte"] == rows["mined"]["passes_per_byte"] == pytest.approx(36 / 60)
    assert rows["a"]["bytes_per_s"] == pytest.approx(60 / 3)
    assert rows["same"]["bytes_per_s"] == pytest.approx(60 / 6)


def test_the_operations_of_an_ensemble_are_those_of_its_members_each_in_its_own_tokens(
    rows: dict[str, dict[str, Any]],
) -> None:
    assert rows["a"]["flops_per_byte"] == 1200 / 2  # 20 bytes in 10 tokens
    assert rows["b"]["flops_per_byte"] == 3600 / 4
    assert rows["same"]["flops_per_byte"] == (1200 + 3600) / 2, "b moved to the tokens of a"
    assert rows["mined"]["flops_per_byte"] == 1200 / 2 + 3600 / 4
    assert rows["twice"]["flops_per_byte"] == 2 * 3600 / 4
    assert math.isnan(rows["stranger"]["flops_per_byte"]), "a member was not measured"


def test_the_table_shows_passes_per_byte_with_a_word_on_what_they_are(store: Store) -> None:
    fill(store)
    frame = comparison_frame(store)
    [block] = [block for block in layout(frame).blocks if block.title == "t: cost"]
    place = block.header.index("forward passes per byte")
    assert [line[place].text for line in block.rows] == ["0.300", "0.300", "0.600", "0.600", "0.600", "0.600"]
    assert "Forward passes per byte: per byte generated" in render(frame)


def test_passes_that_nobody_counted_have_no_column(store: Store, fill_store: Any) -> None:
    fill_store(store)
    frame = comparison_frame(store)
    assert frame["passes_per_byte"].isna().all()
    assert "asses/byte" not in render(frame)
