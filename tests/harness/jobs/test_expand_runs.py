"""Expanded models in suites: both stages are measured, and the use of new tokens is told of both."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from repository import ROOT
from toy_tokenizers import toy_tokenizer
from typer.testing import CliRunner

from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.harness.cli.app import app
from crosstok.harness.generation.answer_facts import AnswerFacts
from crosstok.harness.generation.answers import Generation
from crosstok.harness.jobs.run import run_suite
from crosstok.harness.jobs.students import Students
from crosstok.harness.plan.plan import make_plan
from crosstok.harness.plan.suite import check_suite, read_suite
from crosstok.progress import Reporter
from crosstok.results.store.records import Progress
from crosstok.results.store.store import Store

Content = Callable[..., dict[str, Any]]


@pytest.fixture
def content(suite_content: Content, texts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))
    texts = f"jsonl:{texts_file}"
    trained = {"corpus": texts, "steps": 2, "batch": 2, "window_bytes": 64}
    found = suite_content()
    tokens = {"train_bpe": {"corpus": texts, "size": 8}}
    found["models"] = {
        "base": found["models"]["base"],
        "grown": {"expand": {"from": "base", "tokens": tokens, "loss": ["kl"], **trained}},
        "second": {"distil": {"from": "grown", "teacher": "base", "loss": ["kl"], **trained}},
    }
    return found


def test_both_stages_are_made_and_measured_and_the_second_one_knows_the_new_tokens_too(
    content: dict[str, Any], tmp_path: Path
) -> None:
    suite, store = check_suite(content, "test"), Store(tmp_path / "s.db")
    outcome = run_suite(suite, store)
    assert outcome.status is Progress.COMPLETE
    first = TokenBytes.from_tokenizer(toy_tokenizer("bpe")).size
    students = Students(make_plan(suite), Reporter(), None, "cpu")
    for name in ("grown", "second"):
        assert students.new_ids(name, students.load(name)) == frozenset(range(first, first + 8))
    written = [
        sample.facts
        for model, _, cell in store.cells(outcome.run_id)
        for sample in store.samples(cell.fingerprint)
        if model != "base" and "new_tokens" in sample.facts
    ]
    assert len(written) == 6
    assert all(len(facts["new_ids"]) <= facts["new_tokens"] <= facts["new_bytes"] for facts in written)


def test_the_command_makes_an_expanded_model(
    tiny_folder: Path, texts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))
    texts, out = f"jsonl:{texts_file}", tmp_path / "out"
    command = ["expand", str(tiny_folder), str(out), "--tokens", f"train_bpe:{texts}:8", "--corpus", texts]
    command += ["--steps", "1", "--loss", "kl", "--set", "batch=2", "--set", "window_bytes=64"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    record = json.loads((out / "provenance.json").read_text("utf-8"))
    assert record["expansion"]["count"] == 8
    assert record["training"]["train"] == "new_rows"
    assert {"model.safetensors", "tokenizer.json", "expansion.json"} <= {path.name for path in out.iterdir()}


def test_new_ids_of_an_answer_are_counted_with_their_bytes() -> None:
    tokens = TokenBytes.from_tokenizer(toy_tokenizer("bpe"))
    ids = tuple(tokens.encode("the values of the mean").ids.tolist())
    answer = Generation(0, 0, b"the", "the", len(ids), len(ids), "", 0, 0, "length", 0.1, ids=(*ids, ids[0]))
    facts = AnswerFacts(tokens, {ids[0], ids[-1]}).of(answer)
    assert facts["new_tokens"] == 3 + ids[1:-1].count(ids[0])
    assert facts["new_ids"] == sorted({ids[0], ids[-1]})
    assert facts["new_bytes"] == 2 * int(tokens.lengths[ids[0]]) + int(tokens.lengths[ids[-1]])


def test_the_suite_that_ships_crosses_every_initialiser_with_both_objectives() -> None:
    path = ROOT / "suites" / "expansion-table.yaml"
    models = read_suite(path).models
    crossed = {"ce": "sft", "kl": "kl"}
    kinds = {name.rsplit("-", 1)[0] for name in models if name.endswith(("-ce", "-kl"))} - {"stage2"}
    assert kinds == {"zero", "normal", "mean", "hewitt", "fvt", "length", "split", "distilled"}
    for kind in kinds:
        for suffix, loss in crossed.items():
            assert (models[f"{kind}-{suffix}"].expand or {})["loss"] == [loss]
    names = {name for name, model in models.items() if model.distil}
    assert names == {"stage2-kl", "stage2-lora", "stage2-ce"}
    assert "reconstruction" in path.read_text("utf-8")
    assert yaml.safe_load(path.read_text("utf-8"))["name"] == "expansion-table"
