"""The public API: what it promises, what it returns, and what it leaves untouched."""

import math
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from repository import ROOT
from tiny_models import tiny_model
from toy_tokenizers import TEXT, toy_tokenizer
from transformers import PreTrainedModel

import crosstok
from crosstok.harness.generation.generator import Generator
from crosstok.harness.likelihood.rolling import Scorer

TASK = "text_bpb:source=jsonl:texts.jsonl,limit=3,passage_bytes=96"
PAGE = ROOT / "docs" / "api.md"


def test_every_promised_name_exists_and_nothing_else_is_public() -> None:
    for name in crosstok.__all__:
        assert getattr(crosstok, name) is not None
    assert sorted(crosstok.__all__) == crosstok.__all__
    assert set(crosstok.__all__) <= set(dir(crosstok))
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = crosstok.nothing_such


def test_the_page_of_the_api_lists_every_promised_name() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert not [name for name in crosstok.__all__ if f"`{name}`" not in page]


def test_importing_crosstok_loads_neither_torch_nor_pandas_and_takes_under_a_third_of_a_second() -> None:
    code = (
        "import sys, time; began = time.perf_counter(); import crosstok; took = time.perf_counter() - began\n"
        "crosstok.UserError, crosstok.RunResult, crosstok.ProgressEvent\n"
        "heavy = {'torch', 'transformers', 'pandas', 'scipy', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'{took} {heavy}' if heavy or took > 0.3 else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "crosstok", "--version"], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == f"crosstok {crosstok.__version__}"


def suite(**changes: Any) -> dict[str, Any]:
    models = {
        "base": {"source": "tiny"},
        "fvt": {"transfer": {"from": "base", "tokenizer": "bytes", "init": "fvt", "steps": 0}},
    }
    return {"name": "mine", "models": models, "tasks": [TASK], **changes}


def test_a_suite_runs_from_a_mapping_and_reports_to_a_callback(working_directory: Path, capfd: Any) -> None:
    events: list[crosstok.ProgressEvent] = []
    result = crosstok.run(suite(), progress=events.append)
    assert result.complete
    assert [score.model for score in result.scores] == ["base", "fvt"]
    score = result.score("text_bpb", model="fvt")
    assert score.low <= score.value <= score.high
    assert (score.method, score.seed) == ("fvt", None)
    assert (score.metric, score.unit, score.n, score.documents) == ("bits_per_byte", "bits/byte", 3, 3)
    assert {event.kind for event in events} >= {"started", "advanced", "finished", "closed"}
    assert capfd.readouterr() == ("", ""), "no console is compulsory"
    assert (working_directory / "runs" / "crosstok.db").exists()
    with pytest.raises(FrozenInstanceError):
        result.status = "failed"  # type: ignore[misc]  # that it is frozen is the point
    with pytest.raises(crosstok.UserError, match=r"task of run .*'text_bp'.*Did you mean 'text_bpb'"):
        result.score("text_bp")


def test_scores_of_several_seeds_keep_name_and_seed_apart(working_directory: Path) -> None:
    trained = {"from": "tiny", "tokenizer": "bytes", "loss": ["sft"], "steps": 1, "batch": 2, "window_bytes": 64}
    models = {"sft": {"transfer": {**trained, "corpus": "jsonl:texts.jsonl"}}}
    result = crosstok.run(suite(models=models, seeds=[3, 5]))
    assert [(score.model, score.method, score.seed) for score in result.scores] == [
        ("sft@3", "sft", 3),
        ("sft@5", "sft", 5),
    ]


def test_a_suite_runs_from_a_file_and_its_results_are_read_back(working_directory: Path) -> None:
    path = working_directory / "mine.yaml"
    path.write_text(
        "name: mine\nmodels:\n  a: {source: tiny}\n  b: {transfer: {from: a, tokenizer: bytes, steps: 0}}\n"
        "tasks: [{name: text_bpb, source: 'jsonl:texts.jsonl', limit: 3, passage_bytes: 96}]\n"
    )
    with crosstok.Store("other.db") as store:
        result = crosstok.run(path, store=store)
        frame = crosstok.table(store=store)
    assert list(frame["model"]) == ["a", "b"]
    assert list(frame["value"]) == [score.value for score in result.scores]
    [found] = crosstok.compare("a", "b", store="other.db")
    assert (found.task, found.baseline, found.model, found.n) == ("text_bpb", "a", "b", 3)
    assert found.difference == pytest.approx(found.after - found.before)
    with pytest.raises(crosstok.UserError, match="baseline and at least one"):
        crosstok.compare("a", store="other.db")
    with pytest.raises(crosstok.UserError, match="model of run"):
        crosstok.compare("a", "c", store="other.db")


def test_mistakes_are_user_errors_of_one_line(working_directory: Path) -> None:
    with pytest.raises(crosstok.UserError, match="Unknown task 'humanevil'"):
        crosstok.evaluate("tiny", tasks=["humanevil"])
    with pytest.raises(crosstok.UserError, match="list of tasks"):
        crosstok.evaluate("tiny", tasks="humaneval")
    with pytest.raises(crosstok.UserError, match="does not exist"):
        crosstok.evaluate("nowhere", tasks=[TASK])
    with pytest.raises(crosstok.UserError, match="has its own tokenizer"):
        crosstok.evaluate("tiny", toy_tokenizer("bpe"), [TASK])
    with pytest.raises(crosstok.UserError, match="needs its tokenizer"):
        crosstok.evaluate(tiny_model(toy_tokenizer("bpe")), tasks=[TASK])
    with pytest.raises(crosstok.UserError, match="in its own dtype"):
        crosstok.evaluate(tiny_model(toy_tokenizer("bpe")), toy_tokenizer("bpe"), [TASK], dtype="bfloat16")
    with pytest.raises(crosstok.UserError, match=r"model\.module for DDP"):
        crosstok.evaluate(torch.nn.Linear(2, 2), toy_tokenizer("bpe"), [TASK])  # type: ignore[arg-type]  # on purpose


def test_a_run_that_is_not_complete_is_an_error_unless_asked_not_to(
    working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no memory left")

    monkeypatch.setattr(Scorer, "__init__", fail)
    with pytest.raises(crosstok.RunIncomplete, match=r"tiny on text_bpb: RuntimeError: no memory left"):
        crosstok.evaluate("tiny", tasks=[TASK])
    result = crosstok.evaluate("tiny", tasks=[TASK], check=False)
    assert result.status == "failed"
    assert math.isnan(result.score("text_bpb").value)


def test_students_and_ensembles_are_made_and_measured(working_directory: Path) -> None:
    student = crosstok.transfer(
        "tiny", "students/bytes", tokenizer="bytes", loss=["alm"], steps=2, batch=2, window_bytes=64,
        corpus="jsonl:texts.jsonl",
    )  # fmt: skip
    assert student.folder == Path("students/bytes")
    assert student.provenance["losses"][0]["name"] == "alm"
    other = crosstok.transfer("tiny", "students/fvt", tokenizer="bytes")
    pair = crosstok.ensemble([student, other], "students/pair")
    assert pair.provenance["kind"] == "ensemble"
    assert crosstok.evaluate(pair, tasks=[TASK]).score().model == "pair"
    taught = crosstok.distil(
        other, "students/taught", teacher="tiny", steps=1, batch=2, window_bytes=64, corpus="jsonl:texts.jsonl"
    )
    assert crosstok.load(taught).fingerprint == taught.fingerprint
    more = crosstok.expand("tiny", "students/more", tokens="frequency:jsonl:texts.jsonl:3", steps=0)
    assert len(crosstok.load(more).tokenizer) >= len(crosstok.load("tiny").tokenizer) + 3
    with pytest.raises(crosstok.UserError, match="Unknown option of transfer 'stepz'"):
        crosstok.transfer("tiny", "students/none", tokenizer="bytes", stepz=3)
    with pytest.raises(crosstok.UserError, match="list of losses"):
        crosstok.transfer("tiny", "students/none", tokenizer="bytes", loss="alm")


@pytest.fixture
def in_training(working_directory: Path) -> PreTrainedModel:
    """A model with dropout in the middle of training: one module frozen in evaluation mode, gradients accumulated."""
    torch.manual_seed(0)
    model = tiny_model(toy_tokenizer("bpe"), "gpt2", positions=1024)
    model.config.use_cache = False
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model.activation_checkpointing_enable()
    model.train()
    model.transformer.h[0].ln_1.eval()
    model.transformer.wpe.weight.requires_grad_(requires_grad=False)
    loss_of(model).backward()
    return model


def loss_of(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.tensor([toy_tokenizer("bpe")(TEXT[:200])["input_ids"]])
    loss: torch.Tensor = model(ids, labels=ids).loss
    return loss


def test_training_goes_on_as_if_nothing_had_been_measured(in_training: PreTrainedModel) -> None:
    model = in_training
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    copies = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    modes = {name: module.training for name, module in model.named_modules()}
    random = torch.get_rng_state()
    tasks = [TASK, "humaneval:limit=1,max_bytes=20"]
    result = crosstok.evaluate(model, toy_tokenizer("bpe"), tasks, name="step-1")
    assert [score.model for score in result.scores] == ["step-1", "step-1"]
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()
    assert not model.config.use_cache
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(weight.grad is gradients[name] for name, weight in model.named_parameters())
    assert all(torch.equal(weight.grad, copies[name]) for name, weight in model.named_parameters() if name in copies)
    step = loss_of(model)
    step.backward()
    torch.set_rng_state(random)
    assert torch.equal(loss_of(model), step), "the next step draws the dropout that it would have drawn"


def test_the_model_is_put_back_after_an_error_too(
    in_training: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Scorer, "rolling", interrupt)
    modes = {name: module.training for name, module in in_training.named_modules()}
    with pytest.raises(KeyboardInterrupt):
        crosstok.evaluate(in_training, toy_tokenizer("bpe"), [TASK])
    assert {name: module.training for name, module in in_training.named_modules()} == modes


def test_a_model_in_memory_scores_what_its_folder_scores(working_directory: Path) -> None:
    loaded = crosstok.load("tiny")
    here = crosstok.evaluate(loaded, tasks=[TASK]).score()
    there = crosstok.evaluate("tiny", tasks=[TASK]).score()
    assert (here.value, here.low, here.high) == (there.value, there.low, there.high)


def test_another_step_is_another_model_and_the_same_weights_are_not_measured_twice(
    in_training: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = toy_tokenizer("bpe")
    first = crosstok.evaluate(in_training, tokenizer, [TASK])
    optimizer = torch.optim.SGD(in_training.parameters(), lr=0.1)
    optimizer.step()
    second = crosstok.evaluate(in_training, tokenizer, [TASK])
    assert second.run != first.run
    assert second.score().value != first.score().value

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("a model was measured again")

    monkeypatch.setattr(Scorer, "__init__", refuse)
    monkeypatch.setattr(Generator, "__init__", refuse)
    again = crosstok.evaluate(in_training, tokenizer, [TASK])
    assert (again.run, again.scores) == (second.run, second.scores)


def test_rounded_rotary_frequencies_make_another_model(working_directory: Path) -> None:
    loaded = crosstok.load("tiny", dtype="bfloat16")
    first = crosstok.evaluate(loaded, tasks=[TASK])
    loaded.model.to(torch.bfloat16)  # the weights stay as they are; buffers that are not saved are rounded
    second = crosstok.evaluate(loaded, tasks=[TASK])
    assert second.run != first.run


def test_a_stored_model_in_memory_cannot_be_loaded_by_name(working_directory: Path) -> None:
    with pytest.raises(crosstok.UserError, match="was a model in memory"):
        crosstok.load("memory:0123456789abcdef")
