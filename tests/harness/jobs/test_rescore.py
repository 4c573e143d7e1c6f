"""Judging stored answers again: no model is asked, and what the verdicts become is what a fresh run would say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from crosstok.errors import UserError
from crosstok.harness.cli.app import app
from crosstok.harness.jobs.rescore import Outcome, lines, rescore
from crosstok.harness.jobs.run import run_suite
from crosstok.harness.jobs.students import Students
from crosstok.harness.plan.suite import check_suite
from crosstok.results.store.integrity import check
from crosstok.results.store.records import Progress, Score, Verdict
from crosstok.results.store.store import Store

Content = Callable[..., dict[str, Any]]
TESTS = "assert f(2) == 2"
RIGHT = "def f(x):\n    return x"
PROGRAMS = {
    "data": "rows.jsonl",
    "id": "{{name}}",
    "prompt": "{{name}}",
    "metric": "tests",
    "max_bytes": 24,
    "tests": "{{tests}}",
    "entry_point": "f",
    "reference": "{{reference}}",
}
ANSWERS = {"data": "answers.jsonl", "prompt": "{{q}}", "answer": "{{a}}", "metric": "exact", "max_bytes": 8}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def suite(suite_content: Content, tmp_path: Path) -> dict[str, Any]:
    """A model on a benchmark of two programs, one of answers and one text."""
    rows = [{"name": name, "tests": TESTS, "reference": RIGHT} for name in ("one", "two")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "answers.jsonl").write_text(json.dumps({"q": "1+1=", "a": "2"}) + "\n", encoding="utf-8")
    (tmp_path / "programs.yaml").write_text(yaml.safe_dump(PROGRAMS), encoding="utf-8")
    (tmp_path / "answers.yaml").write_text(yaml.safe_dump(ANSWERS), encoding="utf-8")
    content = suite_content()
    tasks = [{"name": name, "task": f"yaml:{tmp_path / name}.yaml"} for name in ("programs", "answers")]
    return suite_content(models={"base": content["models"]["base"]}, tasks=[*tasks, *content["tasks"][1:2]])


def first_run(suite: dict[str, Any], store: Store) -> str:
    return run_suite(check_suite(suite, "test"), store).run_id


def cell_of(store: Store, run: str, task: str) -> str:
    (found,) = (cell.cell.fingerprint for cell in store.cells(run) if cell.task == task)
    return found


def answer(store: Store, cell: str, document: str, text: str) -> None:
    """Put words into the model's mouth."""
    (sample,) = store.samples(cell, document)
    store.add_samples([sample.model_copy(update={"text": text, "bytes": len(text), "stop_reason": "end"})])


def again(store: Store, run: str | None = None, **options: Any) -> Outcome:
    return rescore(store, run, **options)


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(Students, "load", lambda *_: pytest.fail("a model was loaded"))


def test_verdicts_are_replaced_by_what_the_answers_deserve_and_no_model_is_loaded(
    suite: dict[str, Any], tmp_path: Path, no_model: Callable[[], None]
) -> None:
    store = Store(tmp_path / "s.db")
    run = first_run(suite, store)
    no_model()
    programs, answers = cell_of(store, run, "programs"), cell_of(store, run, "answers")
    answer(store, programs, "one", RIGHT)
    answer(store, answers, "0", "2")
    place = {"cell": programs, "document": "two"}
    store.add_verdicts(  # as a broken judge may have left it
        [Verdict(**place, status="passed", integrity="split", tier="t")], [Score(**place, metric="pass@1", value=1.0)]
    )
    outcome = again(store, run)
    assert (outcome.run_id, outcome.status) == (run, Progress.COMPLETE), "the same cells, so the same run"
    assert {score.document: score.value for score in store.scores(programs)} == {"one": 1.0, "two": 0.0}
    assert [score.value for score in store.scores(answers)] == [1.0]
    by_task = {cell.task: cell for cell in outcome.cells}
    assert set(by_task["programs"].changed) == {"one #0", "two #0"}
    assert by_task["programs"].changed["two #0"].startswith("passed -> ")
    assert by_task["answers"].changed == {"0 #0": "accuracy 0 -> accuracy 1"}
    assert check(store) == []


def test_likelihoods_stay_as_they_are(suite: dict[str, Any], tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    run = first_run(suite, store)
    (text,) = (found for found in store.cells(run) if found.task not in ("programs", "answers"))
    before = store.scores(text.cell.fingerprint)
    outcome = again(store)
    assert store.scores(text.cell.fingerprint) == before
    assert outcome.status is Progress.COMPLETE
    assert any("likelihoods need the model" in line for line in lines(outcome))


def test_another_limit_takes_the_answers_into_a_new_run_and_leaves_the_old_one(
    suite: dict[str, Any], tmp_path: Path, no_model: Callable[[], None]
) -> None:
    store = Store(tmp_path / "s.db")
    run = first_run(suite, store)
    no_model()
    old = cell_of(store, run, "programs")
    answer(store, old, "one", RIGHT)
    before = store.scores(old)
    outcome = again(store, run, timeout=7.5)
    assert outcome.run_id != run
    new = cell_of(store, outcome.run_id, "programs")
    assert new != old
    assert [sample.text for sample in store.samples(new)] == [sample.text for sample in store.samples(old)]
    assert {score.document: score.value for score in store.scores(new)}["one"] == 1.0
    assert store.scores(old) == before
    assert outcome.status is Progress.COMPLETE, "the other tasks are shared by both runs"


def test_a_run_of_the_same_suite_finds_the_new_cells_complete(
    suite: dict[str, Any], tmp_path: Path, no_model: Callable[[], None]
) -> None:
    store = Store(tmp_path / "s.db")
    first_run(suite, store)
    outcome = again(store, timeout=7.5)
    no_model()
    assert first_run({**suite, "sandbox": {"timeout": 7.5}}, store) == outcome.run_id


def test_answers_to_other_questions_are_not_taken_over(
    suite: dict[str, Any], tmp_path: Path, no_model: Callable[[], None]
) -> None:
    store = Store(tmp_path / "s.db")
    first_run(suite, store)
    no_model()
    (tmp_path / "programs.yaml").write_text(yaml.safe_dump({**PROGRAMS, "prompt": "do {{name}}"}), encoding="utf-8")
    outcome = again(store)
    assert outcome.status is Progress.PARTIAL
    (line,) = (line for line in lines(outcome) if "programs" in line)
    assert "2 requests have no stored answer" in line


def test_a_corrected_rule_judges_the_same_answers(
    suite: dict[str, Any], tmp_path: Path, no_model: Callable[[], None]
) -> None:
    store = Store(tmp_path / "s.db")
    run = first_run(suite, store)
    no_model()
    answer(store, cell_of(store, run, "answers"), "0", "it is 2")
    (tmp_path / "answers.yaml").write_text(yaml.safe_dump({**ANSWERS, "metric": "contains"}), encoding="utf-8")
    outcome = again(store, run)
    assert [score.value for score in store.scores(cell_of(store, outcome.run_id, "answers"))] == [1.0]
    assert [score.value for score in store.scores(cell_of(store, run, "answers"))] == [0.0]


def test_the_command_judges_one_task_and_says_what_changed(suite: dict[str, Any], tmp_path: Path) -> None:
    place = tmp_path / "s.db"
    with Store(place) as store:
        run = first_run(suite, store)
        answer(store, cell_of(store, run, "programs"), "one", RIGHT)
    found = CliRunner().invoke(app, ["rescore", run, "-t", "programs", "--store", str(place)], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    assert "base on programs: 2 rescored, 1 changed (1 x error -> passed): one #0" in found.output
    assert "base on answers: not rescored, not selected" in found.output


def test_an_unknown_task_is_one_line_with_the_closest_name(suite: dict[str, Any], tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    run = first_run(suite, store)
    with pytest.raises(UserError, match="Did you mean 'programs'"):
        again(store, run, tasks=["program"])


def test_a_model_evaluated_under_a_name_with_an_at_sign_is_shown_compared_gated_and_judged_again(
    suite: dict[str, Any], tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny@main"
    folder.symlink_to(tiny_folder)
    store = ["--store", str(tmp_path / "s.db")]

    def crosstok(*arguments: str) -> str:
        found = CliRunner().invoke(app, [*arguments, *store], catch_exceptions=False)
        assert found.exit_code == 0, found.output
        return found.output

    crosstok("eval", str(folder), "-t", suite["tasks"][1]["task"])
    assert "tiny@main on" in crosstok("rescore")
    assert "tiny@main" in crosstok("table")
    assert "tiny@main" in crosstok("compare", "tiny@main", "tiny@main")
    assert "Gate ok: eval-" in crosstok("gate", "eval", "--baseline", "eval")
    assert "tiny@main" in crosstok("table", "--seeds")
