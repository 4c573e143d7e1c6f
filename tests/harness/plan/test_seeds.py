"""Suites with several seeds: what is made once per seed, and how it is named."""

from collections.abc import Callable
from typing import Any

import pytest

from crosstok.errors import UserError
from crosstok.harness.plan.plan import make_plan
from crosstok.harness.plan.suite import check_suite
from crosstok.results.store.model_names import ModelName

Content = Callable[..., dict[str, Any]]


def models(content: Content, texts: str, **more: Any) -> dict[str, Any]:
    """Return a source with ``@`` in its name, a student that is trained on it and an ensemble of students."""
    found = content()["models"]
    student = {**found["fvt"]["transfer"], "from": "tiny@0", "steps": 2, "loss": ["sft"], "corpus": texts}
    return {
        "tiny@0": found["base"],
        "sft": {"transfer": student},
        "pair": {"ensemble": {"members": ["sft", "sft"]}},
        **more,
    }


def test_what_is_trained_is_made_once_per_seed_and_no_name_is_taken_for_a_seed(
    suite_content: Content, texts_file: Any
) -> None:
    content = suite_content(models=models(suite_content, f"jsonl:{texts_file}"), seeds=[0, 1])
    plan = make_plan(check_suite({**content, "agreement_with": "sft"}, "test"))
    names = [ModelName("tiny@0"), *(ModelName(name, seed) for name in ("sft", "pair") for seed in (0, 1))]
    assert [model.model_name for model in plan.models.values()] == names
    assert list(plan.models) == ["tiny@0", "sft@0", "sft@1", "pair@0", "pair@1"]
    assert plan.models["pair@1"].parents == ("sft@1", "sft@1")
    teachers = {cell.model.name: cell.teacher.name for cell in plan.cells if cell.teacher}
    assert teachers["pair@1"] == "sft@1"


def test_two_models_that_would_be_shown_alike_are_refused(suite_content: Content, texts_file: Any) -> None:
    clash = {"sft@1": suite_content()["models"]["base"]}
    content = suite_content(models=models(suite_content, f"jsonl:{texts_file}", **clash), seeds=[0, 1])
    with pytest.raises(UserError, match="Two models of the suite are shown as 'sft@1'"):
        make_plan(check_suite(content, "test"))
