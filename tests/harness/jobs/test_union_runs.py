"""A union of top-k tokens in a run: it answers, and texts, which have no likelihood under it, are not asked of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crosstok.distill.ensemble import save_ensemble
from crosstok.distill.models import checkpoints
from crosstok.errors import UserError
from crosstok.harness.generation.answer_facts import AnswerFacts
from crosstok.harness.jobs.run import run_suite
from crosstok.harness.measure.engines import LocalEngine
from crosstok.harness.plan.plan import make_plan
from crosstok.harness.plan.suite import check_suite
from crosstok.results.store.records import Progress
from crosstok.results.store.store import Store
from crosstok.results.tables.frame import comparison_frame

Content = Callable[..., dict[str, Any]]


def models(folder: Path, tokens: str) -> dict[str, Any]:
    return {
        "base": {"source": str(folder)},
        "pair": {"ensemble": {"members": ["base", "base"], "tokens": tokens}},
    }


def test_a_run_with_a_union_is_complete_and_the_table_says_what_it_was_not_asked(
    suite_content: Content, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))
    content = suite_content(models=models(tiny_folder, "union"))
    content["tasks"][0] |= {"limit": 1, "max_bytes": 12}
    with Store(tmp_path / "s.sqlite") as store:
        outcome = run_suite(check_suite(content, "test"), store)
        assert outcome.status is Progress.COMPLETE
        frame = comparison_frame(store)
    status = {(row["model"], row["task"]): row["status"] for row in frame.to_dict("records")}
    assert status["pair", "humaneval"] == "complete"
    assert status["pair", "code_bpb"] == "not measured"
    assert any("Not measured on likelihood tasks: pair" in note for note in frame.attrs["notes"])
    passes = frame.set_index(["model", "task"])["passes_per_byte"]
    assert passes["pair", "humaneval"] > 0
    assert passes.isna()["base", "code_bpb"]


@pytest.mark.parametrize(("tokens", "cells"), [("union", 3), ("mined", 4), ("shared", 4)])
def test_other_ensembles_are_asked_everything(
    suite_content: Content, tiny_folder: Path, tokens: str, cells: int
) -> None:
    plan = make_plan(check_suite(suite_content(models=models(tiny_folder, tokens)), "test"))
    assert len(plan.cells) == cells


def test_a_suite_of_likelihoods_alone_refuses_a_union_before_anything_starts(
    suite_content: Content, tiny_folder: Path
) -> None:
    content = suite_content(models=models(tiny_folder, "union"))
    del content["tasks"][0]
    with pytest.raises(
        UserError, match=r"'pair' gives no probability to tokens outside of the top-k of its members"
    ) as caught:
        make_plan(check_suite(content, "test"))
    assert "tokens: mined" in str(caught.value.hint)


def test_a_saved_union_scores_no_text_and_says_why(tiny_folder: Path, tmp_path: Path) -> None:
    for tokens in ("union", "mined"):
        folder = save_ensemble(tmp_path / tokens, [tiny_folder, tiny_folder], tokens=tokens)  # type: ignore[arg-type]
        engine = LocalEngine(checkpoints.load(folder), AnswerFacts(None))
        if tokens == "mined":
            assert engine.scorer is not None
        else:
            with pytest.raises(UserError, match="text has no likelihood under it"):
                _ = engine.scorer
