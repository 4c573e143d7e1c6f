"""Names of models: the suite's name and the seed are kept apart, and no ``@`` in a name is taken for a seed."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from crosstok.errors import UserError
from crosstok.results.compare.comparison import compare
from crosstok.results.compare.contrast import sides
from crosstok.results.compare.seeds import method_rows
from crosstok.results.store.integrity import check
from crosstok.results.store.model_names import ModelName, name_from_old_store
from crosstok.results.store.parquet import export_parquet, import_parquet
from crosstok.results.store.records import Cell, Model, Progress, Run, Sample, Score, Task
from crosstok.results.store.store import Store
from crosstok.results.tables.frame import comparison_frame

METRICS = [{"name": "acc", "unit": "fraction", "higher_is_better": True}]
NAMES = (ModelName("tiny@main"), ModelName("alm", 0), ModelName("alm", 1), ModelName("pair", 0), ModelName("pair", 1))
CONFIG = {
    "models": {"tiny@main": {}, "alm": {}, "pair": {"ensemble": {"members": ["tiny@main", "alm"]}}, "absent@2": {}},
    "seeds": [0, 1],
}


def fill(store: Store) -> None:
    """Write a run of a model with ``@`` in its name, a student and an ensemble under two seeds."""
    store.begin_run(Run(id="r", suite="r", config=CONFIG, environment={}, status=Progress.RUNNING))
    task = Task(fingerprint="t", name="qa", version="1", settings={}, source={}, documents=8, metrics=METRICS)
    store.put_task(task)
    for number, (model, seed) in enumerate(NAMES):
        fingerprint = f"m{number}"
        store.put_model(
            Model(
                fingerprint=fingerprint, label="", spec={}, tokenizer="", parameters=1, vocabulary=1, provenance={},
                build_s=0,
            )
        )  # fmt: skip
        cell = Cell(
            fingerprint=f"c{number}", model=fingerprint, task="t", seed=seed or 0, settings={}, status=Progress.RUNNING
        )
        store.begin_cell(cell, "r", model, seed)
        places = [{"cell": cell.fingerprint, "document": f"d{index}"} for index in range(8)]
        store.add_samples(
            [Sample(**place, bytes=1, tokens=1, seconds=0.1) for place in places],
            [
                Score(**place, metric="acc", value=float((index + number) % 3 == 0))
                for index, place in enumerate(places)
            ],
        )
        store.end_cell(cell.fingerprint, Progress.COMPLETE)
    store.end_run("r", Progress.COMPLETE)


def make_old(path: Path) -> None:
    """Turn a store into one of schema version 5, which kept nothing but the name that is shown."""
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "ALTER TABLE run_cells DROP COLUMN model; ALTER TABLE run_cells DROP COLUMN seed;"
            "UPDATE store_schema SET version = 5"
        )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Store(tmp_path / "s.db") as store:
        fill(store)
    return tmp_path / "s.db"


def test_a_run_states_name_and_seed_of_its_models(path: Path) -> None:
    with Store(path, read_only=True) as store:
        assert store.model_names("r") == {str(name): name for name in NAMES}
        assert [(one.model, one.seed) for one in sides(store, store.run("r")).values()] == [tuple(one) for one in NAMES]
        assert check(store) == []


def test_seeds_are_grouped_and_other_names_are_left_whole(path: Path) -> None:
    with Store(path, read_only=True) as store:
        rows = method_rows(store, store.run("r"))
        frame = comparison_frame(store)
    assert [(row.method, row.seeds) for row in rows] == [("tiny@main", (None,)), ("alm", (0, 1)), ("pair", (0, 1))]
    assert frame["model"].tolist() == ["tiny@main", "alm@0", "alm@1", "pair@0", "pair@1", "absent@2"]
    assert frame["method"].tolist() == ["tiny@main", "alm", "alm", "pair", "pair", "absent@2"]
    assert frame["seed"].dropna().tolist() == [0, 1, 0, 1]


def test_an_ensemble_has_the_members_of_its_own_seed(path: Path) -> None:
    with Store(path, read_only=True) as store:
        (task,) = compare(store, store.run("r")).tasks
    assert {name: oracle.members for name, oracle in task.oracles.items()} == {
        "pair@0": ("tiny@main", "alm@0"),
        "pair@1": ("tiny@main", "alm@1"),
    }


def test_a_store_of_schema_5_is_read_as_it_is_and_gets_model_and_seed_when_it_is_written(path: Path) -> None:
    with Store(path, read_only=True) as store:
        shown = comparison_frame(store)
    make_old(path)
    with Store(path, read_only=True) as store:
        assert store.model_names("r") == {str(name): name for name in NAMES}
        assert comparison_frame(store).equals(shown)
        assert check(store) == []
    with Store(path) as store:
        assert store.model_names("r") == {str(name): name for name in NAMES}
        assert comparison_frame(store).equals(shown)
        assert check(store) == []
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT name, model, seed FROM run_cells ORDER BY position").fetchall()
    assert found == [(str(name), *name) for name in NAMES]


@pytest.mark.parametrize(
    ("shown", "config", "expected"),
    [
        ("alm@1", CONFIG, ModelName("alm", 1)),
        ("alm@2", CONFIG, ModelName("alm@2")),  # no seed of the suite
        ("tiny@main", CONFIG, ModelName("tiny@main")),
        ("other@1", CONFIG, ModelName("other@1")),  # no model of the suite
        ("alm@1", {"models": {"alm": {}}, "seeds": [1]}, ModelName("alm@1")),  # one seed is not repeated
        ("alm@1", {"models": {"alm": {}, "alm@1": {}}, "seeds": [0, 1]}, ModelName("alm@1")),
        ("a@b@1", {"models": {"a@b": {}}, "seeds": [0, 1]}, ModelName("a@b", 1)),
        ("alm@1", {}, ModelName("alm@1")),  # imported
    ],
)
def test_an_old_name_is_split_only_where_the_suite_says_so(
    shown: str, config: dict[str, Any], expected: ModelName
) -> None:
    assert name_from_old_store(shown, config) == expected


def test_export_and_merge_keep_model_and_seed(path: Path, tmp_path: Path) -> None:
    with Store(path, read_only=True) as store:
        export_parquet(store, tmp_path / "all")
    with Store(tmp_path / "other.db") as store:
        import_parquet(store, tmp_path / "all")
        import_parquet(store, tmp_path / "all")
        assert store.model_names("r") == {str(name): name for name in NAMES}
        assert check(store) == []


def test_an_old_store_that_is_only_read_cannot_be_exported_and_says_what_to_do(path: Path, tmp_path: Path) -> None:
    make_old(path)
    with (
        Store(path, read_only=True) as store,
        pytest.raises(UserError, match=r"has schema version 5; an export needs version 6\..*upgrades it"),
    ):
        export_parquet(store, tmp_path / "all")
    assert not (tmp_path / "all").exists()
