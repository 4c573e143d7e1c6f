"""Rows that were measured otherwise stand in the table with the reason and enter no test, mean or ranking."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from crosstok.results.compare.comparability import Measurement, mismatch, mixed_versions
from crosstok.results.compare.comparison import compare
from crosstok.results.compare.seeds import method_rows
from crosstok.results.store.aggregates import VerdictFacts
from crosstok.results.store.model_names import ModelName
from crosstok.results.store.records import Cell, Model, Progress, Run, Sample, Score, Task
from crosstok.results.store.store import Store
from crosstok.results.tables.frame import comparison_frame, render
from crosstok.results.tables.seeds_table import method_layout

OPTIONS = {"max_bytes": 512, "fewshot": 0, "limit": 40}
SOURCE = {"kind": "file", "location": "a.jsonl", "revision": "", "sha256": "1" * 8}
SETTINGS = {"dtype": "float32", "sandbox": "auto", "cpu_limit": "3 s"}


def measurement(
    settings: Mapping[str, Any] | None = None,
    trust: tuple[tuple[str, str], ...] = (("split", "namespaces"),),
    **task: Any,
) -> Measurement:
    record = Task(
        **{
            "fingerprint": repr(task), "name": "code", "version": "1", "settings": OPTIONS, "source": SOURCE,
            "documents": 40, "metrics": [{"name": "pass@1", "unit": "fraction", "higher_is_better": True}], **task,
        }
    )  # fmt: skip
    cell = Cell(
        fingerprint="c", model="m", task=record.fingerprint, seed=0, settings={**SETTINGS, **(settings or {})},
        status=Progress.COMPLETE,
    )  # fmt: skip
    return Measurement(record, cell, [VerdictFacts("passed", integrity, tier, 20) for integrity, tier in trust])


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (measurement(version="2"), "version of the task: 1 and 2"),
        (measurement(fingerprint="other"), "the task's documents differ"),
        (measurement(trust=(("split", "process"),)), "verdicts: split namespaces and split process"),
        (measurement(trust=(("guarded", "namespaces"),)), "verdicts: split namespaces and guarded namespaces"),
        (measurement({"guarded": ["a", "b"]}), "guarded documents: 0 and 2"),
        (measurement({"cpu_limit": "10 s"}), "cpu_limit: 3 s and 10 s"),
        (measurement({"dtype": "bfloat16"}), "dtype: float32 and bfloat16"),
        (measurement(source={**SOURCE, "sha256": "2" * 8}), "source of the task: a.jsonl"),
        (measurement(documents=41), "documents of the task: 40 and 41"),
    ],
    ids=["version", "documents", "tier", "integrity", "guarded", "limit", "dtype", "data", "number"],
)  # fmt: skip
def test_whatever_decides_a_score_beside_the_model_makes_rows_incomparable(other: Measurement, reason: str) -> None:
    assert reason in mismatch(measurement(), other)[0]


@pytest.mark.parametrize(("option", "value"), [("max_bytes", 1024), ("fewshot", 4), ("limit", 20)])
def test_a_budget_or_few_shot_option_is_named_alone(option: str, value: int) -> None:
    other = Task.model_copy(measurement().task, update={"settings": {**OPTIONS, option: value}, "fingerprint": "o"})
    cell = measurement().cell.model_copy(update={"task": "o"})
    found, remark = mismatch(measurement(), Measurement(other, cell, measurement().verdicts))
    assert found == f"option {option} of the task: {OPTIONS[option]} and {value}"
    assert remark == ""


def test_style_seed_and_documents_that_were_not_asked_are_only_remarked() -> None:
    first = measurement({"style": "raw", "seed": 0, "excluded": []})
    found = mismatch(first, measurement({"style": "chat", "seed": 1, "excluded": ["a"]}))
    assert found == ("", "excluded documents: 0 and 1; seed: 0 and 1; style: raw and chat")
    assert mismatch(first, first) == ("", "")


def test_a_cell_that_has_not_come_to_its_guarded_documents_yet_is_comparable() -> None:
    both = (("split", "namespaces"), ("guarded", "namespaces"))
    planned = {"guarded": ["a"]}
    assert mismatch(measurement(planned, both), measurement(planned)) == ("", "")
    assert mismatch(measurement(trust=both), measurement())[0]


def test_runs_of_other_versions_are_told_apart() -> None:
    old = Run(id="a", suite="s", config={}, status=Progress.COMPLETE,
              environment={"crosstok": "0.1", "device": "cpu", "packages": {"torch": "2.1", "scipy": "1"}})  # fmt: skip
    environment = {"crosstok": "0.2", "device": "cpu", "packages": {"torch": "2.2", "scipy": "2"}}
    new = old.model_copy(update={"id": "b", "environment": environment})
    assert mixed_versions(old, new) == "crosstok: 0.1 and 0.2; torch: 2.1 and 2.2"
    assert mixed_versions(old, old) == ""
    assert mixed_versions(old, new.model_copy(update={"environment": {}})) != ""


def fill(store: Store, dtypes: Mapping[ModelName, str]) -> Run:
    """Write bits per byte of models that differ more from row to row than from document to document."""
    run = Run(
        id="r",
        suite="s",
        config={"models": {name.model: None for name in dtypes}},
        environment={},
        status=Progress.RUNNING,
    )
    store.begin_run(run)
    metrics = [{"name": "bits_per_byte", "unit": "bits/byte", "higher_is_better": False}]
    store.put_task(Task(fingerprint="t", name="t", version="1", settings={}, source={}, documents=30, metrics=metrics))
    for place, (model, dtype) in enumerate(dtypes.items()):
        name = str(model)
        store.put_model(
            Model(fingerprint=name, label=name, spec={}, tokenizer="t", parameters=1, vocabulary=1, provenance={},
                  build_s=0)
        )  # fmt: skip
        cell = Cell(fingerprint=f"c-{name}", model=name, task="t", seed=0, settings={"dtype": dtype},
                    status=Progress.RUNNING)  # fmt: skip
        store.begin_cell(cell, "r", *model)
        for document in range(30):
            at: dict[str, Any] = {"cell": cell.fingerprint, "document": f"d{document:02}"}
            bits = 2.0 - place * 0.2 + 0.01 * (document % (place + 2))
            store.add_samples(
                [Sample(**at, bytes=1, tokens=1, seconds=0.1)], [Score(**at, metric="bits_per_byte", value=bits)]
            )
        store.end_cell(cell.fingerprint, Progress.COMPLETE)
    store.end_run("r", Progress.COMPLETE)
    return run


def test_in_the_table_of_one_run_such_a_row_is_marked_tested_against_none_and_never_best(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        run = fill(store, {ModelName(name): "float32" if name < "c" else "bfloat16" for name in "abcd"})
        found = compare(store, run)
        frame = comparison_frame(store)
    assert list(found.tasks[0].differences) == [("a", "b")]
    assert found.comparisons == 1
    standings = dict(zip(frame["model"], frame["standing"], strict=True))
    assert standings == {"a": "", "b": "best", "c": "", "d": ""}  # d has the lowest figure
    notes = dict(zip(frame["model"], frame["note"], strict=True))
    assert notes["a"] == notes["b"] == ""
    assert notes["c"] == notes["d"] == "not comparable with a: dtype: float32 and bfloat16"
    assert "not comparable" in render(frame)


def test_a_seed_that_was_measured_otherwise_is_left_out_of_its_methods_mean_and_named(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        run = fill(
            store,
            {ModelName("a"): "float32", **{ModelName("m", n): "bfloat16" if n == 2 else "float32" for n in range(3)}},
        )
        rows = {row.method: row for row in method_rows(store, run)}
        shown = method_layout(run, list(rows.values()))
    assert rows["m"].seeds == (0, 1)
    assert "m@2: not comparable with a, left out: dtype: float32 and bfloat16" in rows["m"].problems
    assert any("left out" in note for note in shown.notes)


def test_methods_are_ranked_and_ties_with_the_best_are_marked(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        run = fill(
            store, dict.fromkeys([ModelName("a"), *(ModelName(name, n) for name in "bc" for n in (0, 1))], "float32")
        )
        rows = {row.method: row.standing for row in method_rows(store, run)}
    assert rows["c"] == "best"
    assert rows["a"] in ("", "tied")
