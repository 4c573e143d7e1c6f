"""Suite files: what is accepted, and the one line that a mistake gets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

from crosstok.distill.recipes.options import RECIPES
from crosstok.errors import UserError
from crosstok.harness.plan.suite import ModelSpec, check_suite, order_of_models, read_suite

MINIMAL = "name: s\nmodels: {base: {source: somewhere}}\ntasks: [humaneval]\n"


def suite_of(text: str, tmp_path: Path) -> object:
    path = tmp_path / "suite.yaml"
    path.write_text(text, encoding="utf-8")
    return read_suite(path)


@pytest.mark.parametrize("path", sorted((ROOT / "suites").glob("*.yaml")), ids=lambda path: path.name)
def test_every_suite_of_the_project_is_accepted(path: Path) -> None:
    assert read_suite(path).models


def test_a_task_may_be_a_name_alone(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    suite = read_suite(path)
    assert suite.tasks[0].kind == "humaneval"
    assert suite.tasks[0].options == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "promt: chat\n", "Unknown key 'promt'. Did you mean 'prompt'"),
        (MINIMAL.replace("models:", "modles:"), "Unknown key 'modles'. Did you mean 'models'"),
        (MINIMAL.replace("source", "sorce"), "models.base: Unknown key 'sorce'. Did you mean 'source'"),
        (MINIMAL + "sandbox: {bakend: docker}\n", "Did you mean 'backend'"),
        (MINIMAL + "seeds: [0, 1, 0]\n", "seeds has a number twice; name every seed once."),
        (MINIMAL + "seeds: [-1]\n", "seeds.0: Input should be greater than or equal to 0 (found: -1)"),
        (MINIMAL + f"seeds: [{2**63}]\n", "seeds.0: Input should be less than or equal to 9223372036854775807"),
        (MINIMAL + "seeds: [true]\n", "seeds.0: Input should be a valid integer (found: True)"),
        (MINIMAL + "seeds: 3\n", "seeds: Input should be a list (found: 3)"),
        (MINIMAL + "name: t\n", "line 4, column 1: the key 'name' is there twice."),
        (
            "name: s\nmodels:\n  base: {source: a}\n  base: {source: b}\ntasks: [humaneval]\n",
            "line 4, column 3: the key 'base' is there twice.",
        ),
        (MINIMAL.replace("{source: somewhere}", "elsewhere"), "models.base: Input should be a mapping (found: 'elsewh"),
        (MINIMAL.replace("somewhere", "''"), "models.base: The model source is empty."),
        (MINIMAL + "prompt: caht\n", "prompt: Input should be 'raw' or 'chat' (found: 'caht')"),
        (MINIMAL.replace("name: s\n", ""), "the key 'name' is missing"),
        (MINIMAL.replace("{source: somewhere}", "{}"), "exactly one of: source, transfer, distil, expand, ensemble"),
        (MINIMAL.replace("[humaneval]", "[humaneval, humaneval]"), "two tasks are called 'humaneval'"),
        (MINIMAL.replace("humaneval", "humanevl"), "tasks.humanevl: Unknown task 'humanevl'. Did you mean 'humaneval'"),
        (
            MINIMAL.replace("[humaneval]", "[{name: easy, task: humaneval, limt: 3}]"),
            "tasks.easy: Unknown option of task 'humaneval': 'limt'. Did you mean 'limit'",
        ),
        (
            MINIMAL.replace("[humaneval]", "[{name: humaneval, limit: none}]"),
            "Task 'humaneval': limit: Input should be a valid integer",
        ),
        (
            MINIMAL.replace("[humaneval]", "[{name: humaneval, n: 5}]"),
            "5 greedy answers would all be equal; set temperature",
        ),
        (
            MINIMAL.replace("[humaneval]", "[{name: g, task: 'lm_eval:gsm8k', fewshots: 5}]"),
            "Unknown option of task 'lm_eval:gsm8k': 'fewshots'. Did you mean 'fewshot'",
        ),
        ("name: [\n", "not valid YAML at line 2"),
        ("just text", "is not a suite"),
        ("", "is not a suite"),
        (MINIMAL.replace("name: s", "name: a/b"), "name: String should match pattern"),
    ],
)
def test_a_mistake_gets_one_line_that_says_what_and_where(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        suite_of(text, tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "suite.yaml" in str(caught.value)


def test_a_missing_file_says_where_examples_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No such file or directory.*suites/"):
        read_suite(tmp_path / "none.yaml")


def models(**specs: object) -> dict[str, object]:
    return {"name": "s", "models": specs, "tasks": ["humaneval"]}


def test_models_are_made_after_those_that_they_are_made_from() -> None:
    suite = check_suite(
        models(
            pair={"ensemble": {"members": ["a", "b"]}},
            b={"transfer": {"from": "a", "tokenizer": "bytes"}},
            a={"source": "somewhere"},
        ),
        "test",
    )
    assert order_of_models(suite) == ["a", "b", "pair"]


def test_models_made_from_each_other_are_refused_with_the_circle() -> None:
    with pytest.raises(UserError, match="Circular models: a -> b -> a"):
        check_suite(models(a={"transfer": {"from": "b"}}, b={"transfer": {"from": "a"}}), "test")


def test_a_misspelt_parent_is_answered_with_the_closest_name() -> None:
    with pytest.raises(UserError, match="Did you mean 'base'"):
        check_suite(models(base={"source": "x"}, s={"transfer": {"from": "bas"}}), "test")


def test_a_misspelt_member_is_answered_with_the_closest_name() -> None:
    with pytest.raises(UserError, match=r"Unknown member of model 'p': 'bas'\. Did you mean 'base'"):
        check_suite(models(base={"source": "x"}, p={"ensemble": {"members": ["base", "bas"]}}), "test")


def test_an_ensemble_of_one_is_refused() -> None:
    with pytest.raises(UserError, match="at least 2 items"):
        check_suite(models(base={"source": "x"}, p={"ensemble": {"members": ["base"]}}), "test")


def test_a_model_may_be_made_by_every_recipe() -> None:
    assert set(RECIPES) <= set(ModelSpec.model_fields)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            "{transfer: {from: base, tokenizr: bytes}}",
            "models.student: Unknown option of transfer 'tokenizr'. Did you mean 'tokenizer'",
        ),
        (
            "{transfer: {from: base, tokenizer: bytes, steps: many}}",
            "models.student: transfer: steps: input should be a valid integer",
        ),
        ("{transfer: {from: base, tokenizer: bytes, loss: [alms]}}", "Unknown loss 'alms'. Did you mean 'alm'"),
        ("{transfer: {from: base, tokenizer: bytes, init: fvtt}}", "Unknown initialiser 'fvtt'. Did you mean 'fvt'"),
        ("{transfer: {from: base}}", "models.student: transfer: tokenizer: field required"),
        ("{expand: {from: base, tokens: 'bpe:stdlib:5'}}", "write train_bpe:CORPUS:SIZE"),
        ("{distil: {from: base}}", "distil needs `teacher`"),
    ],
)
def test_a_mistake_in_a_recipe_is_found_when_the_suite_is_read_without_loading_torch(
    recipe: str, message: str, tmp_path: Path
) -> None:
    text = MINIMAL.replace("{source: somewhere}", "{source: somewhere}, student: " + recipe)
    (tmp_path / "suite.yaml").write_text(text, encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from crosstok.harness.plan.suite import read_suite\n"
        "try: read_suite(Path('suite.yaml'))\n"
        "except Exception as error: print(error)\n"
        "print([name for name in ('torch', 'transformers', 'pandas') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, env=environment
    )
    said, loaded = done.stdout.splitlines()
    assert message in said
    assert said.startswith("suite.yaml: ")
    assert loaded == "[]"
