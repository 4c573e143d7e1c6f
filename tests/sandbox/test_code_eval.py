import importlib

import evaluate
import pytest

from crosstok.sandbox import Program
from crosstok.sandbox.metrics import CODE_EVAL, code_eval_is_sandboxed


@pytest.fixture(scope="module")
def metric() -> evaluate.Metric:
    return evaluate.load(str(CODE_EVAL))


def test_the_metric_loads_from_a_local_path_and_counts_as_the_original_does(metric: evaluate.Metric) -> None:
    candidates = [["def add(a,b): return a*b", "def add(a, b): return a+b"]]
    scores, results = metric.compute(
        references=["assert add(2, 3)==5"], predictions=candidates, k=[1, 2], num_workers=2
    )
    assert scores == {"pass@1": 0.5, "pass@2": 1.0}
    assert [row["passed"] for _, row in results[0]] == [False, True]
    assert [completion for completion, _ in results[0]] == [0, 1]
    assert results[0][1][1]["result"] == "passed"


def test_a_candidate_that_kills_its_parent_only_fails(metric: evaluate.Metric) -> None:
    candidate = "import os\nos.kill(os.getppid(), 9)\nos._exit(0)\n"
    scores, _ = metric.compute(references=["assert add(2, 3)==5"], predictions=[[candidate]], k=[1], num_workers=1)
    assert scores == {"pass@1": 0.0}


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_lm_eval_gets_the_sandboxed_metric(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    with code_eval_is_sandboxed():
        utils = importlib.import_module(f"lm_eval.tasks.{name}.utils")
    loaded = utils.compute_ if name == "humaneval" else utils.pass_at_k
    assert type(loaded).__name__ == "CodeEval"


def test_references_of_humaneval_pass_through_the_metric(metric: evaluate.Metric, references: list[Program]) -> None:
    chosen = references[::16]
    scores, _ = metric.compute(
        references=[f"{program.tests}\ncheck({program.entry_point})" for program in chosen],
        predictions=[[program.candidate] for program in chosen],
        k=[1],
        num_workers=2,
    )
    assert scores == {"pass@1": 1.0}
