"""The code benchmarks: what is asked, how an answer becomes a program, and that the programs judge."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from crosstok import sandbox
from crosstok.errors import UserError
from crosstok.harness.plan.references import check_references
from crosstok.sandbox import Mode
from crosstok.tasks.code import libraries, unittests
from crosstok.tasks.code.answers import before_stop, complete_code, fenced_code
from crosstok.tasks.collections import COLLECTIONS, expand
from crosstok.tasks.lists import differing
from crosstok.tasks.registry import build_task
from crosstok.tasks.task import CodeTask, Generate, Generated, PromptStyle

SETS = {
    "mbpp": 8,
    "odex": 3,
    "classeval": 1,
    "exercism": 2,
    "bigcodebench_hard": 1,
    "bigcodebench": 1,
    "humaneval_plus": 1,
    "mbpp_plus": 3,
    "quixbugs": 1,
    "humanevalpack": 1,
    "cruxeval": 1,
}


def _task(name: str, data: Path, **options: object) -> CodeTask:
    task = build_task(name, options, data=data)
    assert isinstance(task, CodeTask)
    return task


@pytest.fixture(scope="module")
def pool() -> Iterator[sandbox.Pool]:
    with sandbox.open_pool(workers=1) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", SETS)
def test_every_published_solution_passes_in_the_sandbox(name: str, data: Path, pool: sandbox.Pool) -> None:
    found = check_references(_task(name, data), pool)
    assert found.calibration.excluded == {}
    assert found.passed == found.documents == SETS[name]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("style", ["raw", "chat"])
def test_an_empty_answer_passes_nowhere(name: str, style: PromptStyle, data: Path, pool: sandbox.Pool) -> None:
    task = _task(name, data)
    programs = [task.program(document, Generated("", "end"), style) for document in task.documents()]
    assert not any(verdict.passed for verdict in pool.run(programs))


@pytest.mark.parametrize("name", ["quixbugs", "humanevalpack"])
def test_the_published_wrong_programs_are_run_and_fail(name: str, data: Path, pool: sandbox.Pool) -> None:
    found = check_references(_task(name, data), pool)
    assert found.controls == SETS[name]
    assert found.unruly == ()


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("style", ["raw", "chat"])
def test_requests_have_room_stops_and_one_form(name: str, style: PromptStyle, data: Path) -> None:
    task = _task(name, data, max_bytes=77)
    request = task.request(task.documents()[0], style)
    assert isinstance(request, Generate)
    assert request.max_bytes == 77
    assert request.stops
    assert (request.messages is None) == (style == "raw")
    assert bool(request.prompt) == (style == "raw")


def test_what_is_found_is_kept_for_this_host(data: Path, pool: sandbox.Pool) -> None:
    task = _task("mbpp", data)
    first = check_references(task, pool)
    began = time.monotonic()
    assert check_references(task, pool) == first
    assert time.monotonic() - began < 0.2
    assert first.calibration.requirements["MBPP/11"].expected_calls == 3


def test_tests_that_patch_the_candidate_are_judged_guarded(data: Path, pool: sandbox.Pool) -> None:
    found = check_references(_task("exercism", data), pool).calibration
    assert found.guarded == ["exercism/reader"]
    assert found.requirements["exercism/doubling"].mode is Mode.SPLIT


def test_three_other_problems_are_shown_before_an_mbpp_problem(data: Path) -> None:
    task = _task("mbpp", data)
    for document in task.documents():
        request = task.request(document, "raw")
        assert isinstance(request, Generate)
        shots = request.prompt.split("[DONE]")[:-1]
        assert len(shots) == 3
        assert "\r" not in request.prompt
        assert not any(document.fields["text"] in shot for shot in shots), "never the problem itself"
        assert request.prompt.endswith("[BEGIN]\n")


def test_the_test_split_of_mbpp_is_an_option(data: Path) -> None:
    assert [document.id for document in _task("mbpp", data, split="test").documents()] == ["MBPP/11", "MBPP/12"]


def test_the_plus_sets_judge_by_more_tests_than_they_show(data: Path, pool: sandbox.Pool) -> None:
    task = _task("mbpp_plus", data)
    (document,) = (one for one in task.documents() if one.id == "MBPP/11")
    memorised = "def times(x):\n    return 22\n"  # right on the assert that is shown
    answers = {"right": document.fields["code"], "memorised": memorised}
    programs = [
        replace(task.program(document, Generated(text, "end"), "raw"), id=name) for name, text in answers.items()
    ]
    passed = {verdict.id: verdict.passed for verdict in pool.run(programs)}
    assert passed == {"right": True, "memorised": False}
    assert "[DONE]" in task.request(document, "raw").prompt, "MBPP's own solved problems in front"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["mbpp", "mbpp_plus"])
def test_where_a_model_was_trained_on_mbpp_its_test_split_alone_is_left(name: str, data: Path) -> None:
    task = _task(name, data)
    trained = ["stdlib", "benchmark:google-research-datasets/mbpp/full#text+code"]
    assert task.unseen(["stdlib"]) == {}
    assert task.unseen(trained) == {"split": "test"}
    kept = _task(name, data, **task.unseen(trained)).documents()
    assert {document.id for document in kept} <= {f"MBPP/{number}" for number in range(11, 511)}
    assert kept


def test_asking_mbpps_training_split_of_a_model_trained_on_it_is_refused(data: Path) -> None:
    with pytest.raises(UserError, match="split 'train', and a model was trained on benchmark:google"):
        _task("mbpp", data, split="train").unseen(["benchmark:google-research-datasets/mbpp/full"])


def test_challenge_tests_are_added_and_not_shown(data: Path) -> None:
    task = _task("mbpp", data, split="test", challenge=True)
    document = task.documents()[0]
    request = task.request(document, "raw")
    assert isinstance(request, Generate)
    assert "times_11(-1)" in task.reference(document).tests
    assert "times_11(-1)" not in request.prompt


def test_requests_of_odex_with_several_solutions_are_numbered(data: Path) -> None:
    assert [document.id for document in _task("odex", data).documents()] == ["ODEX/7.0", "ODEX/7.1", "ODEX/8.0"]


@pytest.mark.parametrize("answer", [" '\\n'.join(words)", "'\\n'.join(words)", " '\\n'.join(words)\n\nprint('more')"])
def test_the_blank_before_an_odex_answer_is_the_models(answer: str, data: Path, pool: sandbox.Pool) -> None:
    task = _task("odex", data)
    document = task.documents()[0]
    request = task.request(document, "raw")
    assert isinstance(request, Generate)
    assert request.prompt.endswith("\treturn")
    (verdict,) = pool.run([task.program(document, Generated(answer, "stop"), "raw")])
    assert verdict.passed


@pytest.mark.parametrize(
    ("answer", "passes"),
    [(" ['a', 'a']", True), ("['a'] * 2", True), (" ['a', 'b']", False), (" f('a')", False), (") or (True", False)],
)
def test_a_predicted_output_is_compared_by_value(answer: str, passes: bool, data: Path, pool: sandbox.Pool) -> None:
    task = _task("cruxeval", data)
    (verdict,) = pool.run([task.program(task.documents()[0], Generated(answer, "stop"), "raw")])
    assert verdict.passed is passes


def test_a_document_whose_library_is_missing_is_excluded_by_name(
    data: Path, pool: sandbox.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = _task("bigcodebench_hard", data)
    document = task.documents()[0]
    monkeypatch.setattr(type(task), "requires", lambda self, document: ("no_such_library",))
    assert "no_such_library" in check_references(task, pool).calibration.excluded[document.id]


def test_declared_packages_bring_what_they_load_on_demand() -> None:
    assert libraries.needed("import os\nimport pandas as pd\nfrom numpy.linalg import norm\nfrom . import x") == (
        "numpy",
        "pandas",
    )
    assert libraries.visible(("pandas",))[0] == "pandas"
    assert "matplotlib" in libraries.visible(("pandas",))  # for its plots, which it does not require
    assert libraries.missing(("pandas", "no_such_library")) == ["no_such_library"]


def test_unittest_cases_must_have_run(pool: sandbox.Pool) -> None:
    tests = unittests.runnable("import unittest\nclass T(unittest.TestCase):\n    pass\nvalue = one()\n")
    program = sandbox.Program("x", "def one():\n    return 1\n", tests, "one")
    assert not any(verdict.passed for verdict in pool.run([program, replace(program, mode=Mode.GUARDED)]))


def test_imports_of_the_candidate_become_its_names() -> None:
    tests = "from mine import a, b as c\nimport mine\npatch('mine.open')\n'mine is mine'\n"
    assert unittests.without_imports_of(tests, "mine") == (
        "c = b\nimport solution as mine\npatch('solution.open')\n'mine is mine'\n"
    )
    assert unittests.imported_from(tests, "mine") == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1\n", "x = 1\n"),
        ("Sure:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```\nx = 1\n", "x = 1\n"),
        ("```python\n```\n```py\ny = 2\n```", "y = 2\n"),
        ("~~~\nx = '```'\n~~~\n", "x = '```'\n"),
        ("````\n```\nin\n```\n````", "```\nin\n```\n"),
    ],
)
def test_the_first_block_that_is_not_empty_is_taken(text: str, code: str) -> None:
    assert fenced_code(text) == code


def test_an_unfinished_last_statement_is_left_out_with_its_decorators() -> None:
    whole = "import math\n\n\ndef f(x):\n    return x\n\n\n"
    assert complete_code(whole + "@cache\ndef g(x:\n") == whole
    assert complete_code("def f(x:\n    return") == "def f(x:\n    return", "nothing complete: it fails as it is"
    assert complete_code(whole) == whole


def test_the_first_stop_ends_an_answer() -> None:
    assert before_stop("ab\nc", ("c", "b")) == "a"
    assert before_stop("ab", ("x",)) == "ab"


def test_two_thousand_lines_are_taken_apart_in_fifty_milliseconds() -> None:
    body = "".join(f"def f{n}(x):\n    return x + {n}\n" for n in range(1000))
    text = f"Here:\n```python\n{body}def broken(\n```\n"
    taken = []
    for _ in range(5):
        began = time.process_time()
        assert complete_code(fenced_code(text)) == body
        taken.append(time.process_time() - began)
    assert min(taken) < 0.05


def test_a_collection_becomes_its_sets() -> None:
    assert expand(["code-core", "text_bpb"]) == ["humaneval", "mbpp", "text_bpb"]
    assert expand([{"name": "code-core", "limit": 3}]) == [
        {"name": "humaneval", "limit": 3},
        {"name": "mbpp", "limit": 3},
    ]
    assert len(expand(["code2k"])) == 7
    assert expand(["code2k", {"name": "mbpp", "split": "test"}]).count("mbpp") == 0
    assert len(expand(["code2k", "code-core"])) == 7


def test_documents_that_are_not_the_published_ones_are_named(data: Path) -> None:
    changed = differing("quixbugs", _task("quixbugs", data).documents())
    assert "QuixBugs/pairs" in changed
    assert "QuixBugs/gcd" in changed, "missing ones count too"
    assert differing("cruxeval", _task("cruxeval", data).documents()) == [], "on no list"
    assert differing("humaneval", build_task("humaneval", {}).documents()) == []


@pytest.mark.skipif(not os.environ.get("CROSSTOK_DATA"), reason="CROSSTOK_DATA is unset: no real benchmark data here")
@pytest.mark.parametrize("name", COLLECTIONS["code2k"][1])
def test_the_data_at_hand_is_that_of_the_published_list(name: str) -> None:
    assert differing(name, build_task(name, {}).documents()) == []


def test_a_collection_keeps_its_name() -> None:
    with pytest.raises(UserError, match="code2k"):
        expand([{"name": "code2k", "task": "mbpp"}])
