"""Dry run: what a run would do, from plan, cache and store alone."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from crosstok.distill.models import checkpoints
from crosstok.errors import UserError
from crosstok.harness.cli.app import app
from crosstok.harness.jobs.dry_run import forecast
from crosstok.harness.jobs.run import run_suite
from crosstok.harness.plan.suite import check_suite
from crosstok.results.store.store import Store

Content = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("a dry run loaded a model")

    monkeypatch.setattr(checkpoints, "load", refuse)
    monkeypatch.setattr(checkpoints, "load_model", refuse)


def test_before_a_run_all_is_still_to_do_and_the_dry_run_makes_nothing(
    suite_content: Content, cache: Path, tmp_path: Path, without_weights: None
) -> None:
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite_content(), sort_keys=False), encoding="utf-8")
    store = tmp_path / "runs" / "s.db"
    result = CliRunner().invoke(app, ["run", str(tmp_path / "suite.yaml"), "--dry-run", "--store", str(store)])
    assert result.exception is None
    words = [line.split() for line in result.output.splitlines()]
    assert [words[2][0], *words[2][-2:]] == ["base", "source", "-"]
    assert [words[3][0], *words[3][-4:]] == ["fvt", "to", "make", "5", "s"]
    assert ["base", "humaneval", "3", "0", "to", "measure", "6", "s"] in words
    assert "humaneval (3)" in result.output, "its published solutions are to be run first"
    assert "Run: 1 of 2 models to make, 4 of 4 cells to measure" in result.output
    assert "an initial guess" in result.output
    assert not store.exists()
    assert not (cache / "students").exists()


def test_after_a_run_everything_is_there_under_the_same_name(
    suite_content: Content, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    suite = check_suite(suite_content(), "test")
    with Store(tmp_path / "s.db") as store:
        outcome = run_suite(suite, store)
        request.getfixturevalue("without_weights")
        found = forecast(suite, store)
    assert found.run_id == outcome.run_id
    assert {model.name: model.state for model in found.models} == {"base": "source", "fvt": "ready"}
    assert {cell.state for cell in found.cells} == {"complete"}
    assert found.references == {}
    assert found.seconds == 0
    assert f"Run {outcome.run_id}: 0 of 2 models to make, 0 of 4 cells to measure" in str(found)


def test_a_student_whose_cells_are_complete_is_not_needed_and_one_of_an_open_ensemble_is(
    suite_content: Content, cache: Path, tmp_path: Path
) -> None:
    content = suite_content(tasks=suite_content()["tasks"][1:])
    with Store(tmp_path / "s.db") as store:
        run_suite(check_suite(content, "test"), store)
        shutil.rmtree(cache / "students")
        found = forecast(check_suite(content, "test"), store)
        assert {model.name: (model.state, model.seconds) for model in found.models}["fvt"] == ("not needed", 0)
        content["models"] = {
            **content["models"],
            "again": {"transfer": {"from": "base", "tokenizer": "bytes", "init": "mean", "steps": 0}},
            "pair": {"ensemble": {"members": ["fvt", "again"]}},
        }
        states = {model.name: model.state for model in forecast(check_suite(content, "test"), store).models}
    assert states == {"base": "source", "fvt": "to make", "again": "to make", "pair": "to make"}


def test_what_is_left_is_estimated_from_what_the_store_has(suite_content: Content, tmp_path: Path) -> None:
    content = suite_content()
    content["tasks"] = content["tasks"][1:]
    alone = {**content, "models": {"base": content["models"]["base"]}}
    with Store(tmp_path / "s.db") as store:
        run = run_suite(check_suite(alone, "test"), store).run_id
        ((_, _, measured),) = store.cells(run)
        found = forecast(check_suite(content, "test"), store)
    base, fvt = found.cells
    assert (base.state, fvt.state) == ("complete", "to measure")
    assert fvt.timed
    assert fvt.seconds == pytest.approx(measured.seconds), "as many documents of the same task"


def test_a_cell_that_was_interrupted_is_partial_and_only_the_rest_is_counted(
    suite_content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = check_suite(suite_content(tasks=suite_content()["tasks"][1:]), "test")
    store = Store(tmp_path / "s.db")
    add = store.add_samples
    calls: list[int] = []

    def interrupt(*arguments: Any, **options: Any) -> None:
        add(*arguments, **options)
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "add_samples", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_suite(suite, store)
    found = forecast(suite, store).cells[0]
    assert found.documents == 4
    assert 1 <= found.stored < 4
    assert found.state == "partial"
    assert 0 < found.seconds < forecast(suite).cells[0].seconds


def test_what_would_end_a_run_ends_the_dry_run(suite_content: Content) -> None:
    suite = check_suite(suite_content(models={"a": {"source": "./nowhere"}}), "test")
    with pytest.raises(UserError, match="nowhere"):
        forecast(suite)
