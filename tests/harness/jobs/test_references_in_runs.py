"""Published solutions decide what a run asks and how it judges."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from crosstok import sandbox
from crosstok.errors import UserError
from crosstok.harness.generation.generator import Generator
from crosstok.harness.jobs.run import run_suite
from crosstok.harness.plan.plan import make_plan
from crosstok.harness.plan.planned import PlannedCell
from crosstok.harness.plan.references import check_references
from crosstok.harness.plan.suite import check_suite
from crosstok.results.store.integrity import check
from crosstok.results.store.records import Progress
from crosstok.results.store.store import Store
from crosstok.results.tables.frame import comparison_frame
from crosstok.sandbox import Mode
from crosstok.tasks.task import CodeTask, Generated

Content = Callable[..., dict[str, Any]]
SPLIT = {"name": "split", "tests": "assert f(2) == 2", "reference": "def f(x):\n    return x"}
GUARDED = {
    "name": "guarded",
    "tests": "class Sub(f):\n    pass\nassert Sub().g() == 1",
    "reference": "class f:\n    def g(self):\n        return 1",
}
BROKEN = {"name": "broken", "tests": "assert f(2) == 2", "reference": "def f(x):\n    return 3"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def programs(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes a benchmark of programs and returns its name."""

    def write(*rows: dict[str, str]) -> str:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        declaration = {
            "data": "rows.jsonl",
            "id": "{{name}}",
            "prompt": "write {{name}}",
            "metric": "tests",
            "max_bytes": 24,
            "tests": "{{tests}}",
            "entry_point": "f",
            "reference": "{{reference}}",
        }
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(declaration), encoding="utf-8")
        return f"yaml:{tmp_path / 'own.yaml'}"

    return write


def content_of(suite_content: Content, kind: str, **changes: Any) -> dict[str, Any]:
    models = {"base": suite_content()["models"]["base"]}
    return suite_content(**{"models": models, "tasks": [{"name": "own", "task": kind}], **changes})


def run(content: dict[str, Any], store: Store) -> str:
    return run_suite(check_suite(content, "test"), store).run_id


def judged_cell(content: dict[str, Any]) -> tuple[PlannedCell, CodeTask]:
    draft = make_plan(check_suite(content, "test"))
    (task,) = draft.code_tasks
    with sandbox.open_pool(workers=1) as pool:
        found = check_references(task, pool)
    (cell,) = draft.with_references({task.name: found}).cells
    return cell, task


def test_a_document_whose_solution_fails_here_is_named_and_neither_asked_nor_scored(
    suite_content: Content, programs: Callable[..., str], tmp_path: Path
) -> None:
    store = Store(tmp_path / "s.db")
    run_id = run(content_of(suite_content, programs(SPLIT, BROKEN)), store)
    ((_, _, cell),) = store.cells(run_id)
    assert cell.status is Progress.COMPLETE
    assert cell.settings["excluded"] == ["broken"]
    samples = {sample.document: sample for sample in store.samples(cell.fingerprint)}
    assert samples["broken"].stop_reason == "excluded"
    assert samples["broken"].facts["excluded"].startswith("split: failed AssertionError")
    assert samples["broken"].prompt == ""
    assert [score.document for score in store.scores(cell.fingerprint)] == ["split"]
    assert [verdict.document for verdict in store.verdicts(cell.fingerprint)] == ["split"]
    frame = comparison_frame(store, run_id)
    assert frame["n"].tolist() == [1]
    assert any("own: 1 of 2 documents are excluded" in note and "broken" in note for note in frame.attrs["notes"])
    assert check(store) == []


def test_a_program_is_judged_in_the_mode_and_limits_of_its_solution(
    suite_content: Content, programs: Callable[..., str], tmp_path: Path
) -> None:
    cell, task = judged_cell(content_of(suite_content, programs(SPLIT, GUARDED)))
    candidates = {
        document.id: cell.limited(task.program(document, Generated("", "end"), "raw")) for document in cell.documents
    }
    assert {name: program.mode for name, program in candidates.items()} == {
        "split": Mode.SPLIT,
        "guarded": Mode.GUARDED,
    }
    assert candidates["split"].expected_calls == 1
    assert {program.limits.cpu_s for program in candidates.values()} == {1.0}, "five times next to nothing"
    store = Store(tmp_path / "s.db")
    run_id = run(content_of(suite_content, programs(SPLIT, GUARDED)), store)
    ((_, _, stored),) = store.cells(run_id)
    assert stored.settings["guarded"] == ["guarded"]
    assert stored.settings["cpu_limit"] == "5 x reference, at least 1 s"
    assert {verdict.document: verdict.integrity for verdict in store.verdicts(stored.fingerprint)} == {
        "split": "split",
        "guarded": "guarded",
    }
    (note,) = comparison_frame(store, run_id)["note"]
    assert "1 verdicts on programs that shared a process with their tests" in note


def test_a_suite_may_give_every_program_the_same_seconds(suite_content: Content, programs: Callable[..., str]) -> None:
    content = content_of(suite_content, programs(SPLIT), sandbox={"timeout": 7.5})
    cell, task = judged_cell(content)
    program = cell.limited(task.program(cell.documents[0], Generated("", "end"), "raw"))
    assert program.limits.cpu_s == 7.5
    assert program.limits.wall_s > 7.5
    assert cell.settings["cpu_limit"] == "7.5 s"


def test_what_this_host_cannot_judge_is_part_of_what_a_cell_is(
    suite_content: Content, programs: Callable[..., str]
) -> None:
    kind = programs(SPLIT, BROKEN)
    calibrated, _ = judged_cell(content_of(suite_content, kind))
    fixed, _ = judged_cell(content_of(suite_content, kind, sandbox={"timeout": 3}))
    (unknown,) = make_plan(check_suite(content_of(suite_content, kind), "test")).cells
    assert len({calibrated.fingerprint, fixed.fingerprint, unknown.fingerprint}) == 3


def test_a_benchmark_whose_solutions_all_fail_is_one_line_before_any_model_is_loaded(
    suite_content: Content, programs: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Generator, "__init__", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(
        UserError, match=r"Every published solution of own fails on this host \(broken: split: failed"
    ) as found:
        run(content_of(suite_content, programs(BROKEN)), Store(tmp_path / "s.db"))
    assert "\n" not in str(found.value)


def test_solutions_are_run_once_per_host_whatever_the_options_of_a_task(
    suite_content: Content, programs: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = programs(SPLIT)
    judged_cell(content_of(suite_content, kind))
    monkeypatch.setattr("crosstok.harness.plan.references._check", lambda *_: pytest.fail("a solution was run again"))
    tasks = [{"name": "other", "task": kind, "n": 3, "temperature": 0.7}]
    cell, _ = judged_cell(content_of(suite_content, kind, tasks=tasks))
    assert cell.references is not None
    assert cell.references.task == "other"


def test_the_findings_on_published_solutions_change_the_cells_of_their_task_and_nothing_else_of_a_plan(
    suite_content: Content, programs: Callable[..., str]
) -> None:
    content = content_of(suite_content, programs(SPLIT, BROKEN))
    content["tasks"] = [*content["tasks"], {"name": "text_bpb", "source": "stdlib", "limit": 1}]
    draft = make_plan(check_suite(content, "test"))
    (task,) = draft.code_tasks
    with sandbox.open_pool(workers=1) as pool:
        plan = draft.with_references({task.name: check_references(task, pool)})
    assert [cell.task.name for cell in plan.cells if cell in draft.cells] == ["text_bpb"]
    assert plan.cells[0].fingerprint != draft.cells[0].fingerprint
    assert plan.run_id != draft.run_id
    assert plan.models is draft.models
