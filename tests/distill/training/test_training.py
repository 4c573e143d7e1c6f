"""The training loop: cut-independent steps, resume to the bit, failures that leave something to look at."""

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny_training import STUDENT, TEACHER, first_gradient, losses, model, windows

from crosstok.corpora import Text, Texts
from crosstok.distill.losses import Loss
from crosstok.distill.training.log import plot_log, read_log
from crosstok.distill.training.loop import LOG, Model, TrainingSpec, _Run, learning_rate, train
from crosstok.distill.training.windows import Encoder, Windows
from crosstok.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def run(spec: TrainingSpec, folder: Path, chosen: list[Loss], **options: Any) -> "PreTrainedModel":
    student = options.pop("student", None) or model(STUDENT, 1)
    train(student, model(TEACHER, 0), windows(), chosen, spec, folder=folder, device="cpu", **options)
    network: PreTrainedModel = student.network
    return network


def same(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    other = right.state_dict()
    return all(torch.equal(value, other[key]) for key, value in left.state_dict().items())


def test_the_rate_rises_linearly_and_falls_linearly_to_zero() -> None:
    spec = TrainingSpec(steps=10, warmup=3)
    rates = [learning_rate(step, spec) for step in range(11)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[-1] == 0
    assert rates[3:] == pytest.approx([1 - i / 7 for i in range(8)])


@pytest.mark.parametrize(
    "chosen",
    [["sft"], ["alm"], [{"name": "alm", "tau": 1, "gamma": 0, "debias": False}, {"name": "sft", "weight": 0.5}]],
)
def test_one_times_eight_two_times_four_and_four_times_two_windows_give_one_gradient(
    tmp_path: Path, chosen: list[Any]
) -> None:
    whole, line = first_gradient(TrainingSpec(steps=1, batch=8, clip=1e9), tmp_path, losses(*chosen))
    assert float(whole.norm()) > 1e-3
    for micro_batch in (4, 2, 3):
        parts, same_line = first_gradient(
            TrainingSpec(steps=1, batch=8, micro_batch=micro_batch, clip=1e9), tmp_path, losses(*chosen)
        )
        assert torch.allclose(parts, whole, rtol=1e-3, atol=1e-5 * float(whole.abs().max()))
        assert same_line["loss"] == pytest.approx(line["loss"], rel=1e-5)
        assert same_line["count"] == line["count"]


def test_training_lowers_both_losses(tmp_path: Path) -> None:
    spec = TrainingSpec(steps=40, batch=8, lr=3e-3, warmup=2)
    run(spec, tmp_path, losses("sft", {"name": "alm", "tau": 5}))
    lines = read_log(tmp_path / LOG)
    assert [line["step"] for line in lines] == list(range(1, 41))
    for name in ("sft", "alm"):
        first, last = (sum(line["loss"][name] for line in part) for part in (lines[:5], lines[-5:]))
        assert last < 0.8 * first
    assert all(line["bytes"] > 0 and line["lr"] > 0 for line in lines)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("kill_at", [4, 7])
def test_a_run_that_was_killed_continues_to_the_same_bits(tmp_path: Path, kill_at: int) -> None:
    spec = TrainingSpec(steps=12, batch=4, micro_batch=2, lr=1e-3, warmup=2, save_every=4)
    chosen = losses("sft", "alm")
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = run(spec, tmp_path / "whole", chosen)
    done = 0.0

    def kill(amount: float, _: str) -> None:
        nonlocal done
        done += amount
        if done == kill_at:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(spec, tmp_path / "cut", chosen, progress=kill)
    seen: list[float] = []
    resumed = run(spec, tmp_path / "cut", chosen, progress=lambda amount, _: seen.append(amount))
    assert same(whole, resumed)
    assert seen == [*([saved] if (saved := (kill_at - 1) // 4 * 4) else []), *[1] * (12 - saved)]
    logs = [read_log(tmp_path / name / LOG) for name in ("whole", "cut")]
    assert [line["loss"] for line in logs[0]] == [line["loss"] for line in logs[1]]


def test_dropout_is_the_same_after_a_restart(tmp_path: Path) -> None:
    spec = TrainingSpec(steps=6, batch=4, lr=1e-3, save_every=2)

    def student() -> Model:
        made = model(STUDENT, 1, shape="gpt2")
        for module in made.network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.3
        return made

    def kill(amount: float, state: str) -> None:
        if state and (tmp_path / "cut" / "state-4").exists():
            raise Interrupted

    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = run(spec, tmp_path / "whole", losses("sft"), student=student())
    with pytest.raises(Interrupted):
        run(spec, tmp_path / "cut", losses("sft"), student=student(), progress=kill)
    assert same(whole, run(spec, tmp_path / "cut", losses("sft"), student=student()))


def test_only_the_embeddings_change_when_only_they_are_trained(tmp_path: Path) -> None:
    student = model(STUDENT, 1)
    before = copy.deepcopy(student.network.state_dict())
    run(TrainingSpec(steps=3, batch=4, train="embeddings", weight_decay=0.1), tmp_path, losses("sft"), student=student)
    changed = {key for key, value in student.network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"model.embed_tokens.weight", "lm_head.weight"}


def test_the_teacher_is_in_eval_mode_and_gets_neither_gradient_nor_change(tmp_path: Path) -> None:
    teacher = model(TEACHER, 0)
    teacher.network.train()
    before = copy.deepcopy(teacher.network.state_dict())
    train(
        model(STUDENT, 1),
        teacher,
        windows(),
        losses("alm"),
        TrainingSpec(steps=2, batch=4),
        folder=tmp_path,
        device="cpu",
    )
    assert not teacher.network.training
    assert all(parameter.grad is None for parameter in teacher.network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in teacher.network.state_dict().items())


class Silent(torch.nn.Module):
    def forward(self, **_: Any) -> Any:
        raise AssertionError("the teacher was run")


def test_the_teacher_never_runs_where_no_loss_asks_for_it(tmp_path: Path) -> None:
    teacher = Model(Silent(), model(TEACHER, 0).reader)
    train(
        model(STUDENT, 1),
        teacher,
        windows(),
        losses("sft"),
        TrainingSpec(steps=1, batch=2),
        folder=tmp_path,
        device="cpu",
    )


def test_a_loss_that_is_not_a_number_stops_the_run_and_leaves_its_batch(tmp_path: Path) -> None:
    student = model(STUDENT, 1)
    with torch.no_grad():
        student.network.model.norm.weight.fill_(float("nan"))  # type: ignore[union-attr]  # a Llama has one
    with pytest.raises(UserError, match=r"stopped at step 1: sft nan.*failed-step-1-process-0\.json"):
        run(TrainingSpec(steps=2, batch=3), tmp_path, losses("sft"), student=student)
    rows = json.loads((tmp_path / "failed-step-1-process-0.json").read_text(encoding="utf-8"))
    assert [row["text"] for row in rows] == [window.text for window in windows().at_step(0, 3)]


def test_a_state_that_cannot_be_saved_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import Accelerator  # only its saving is replaced

    real = Accelerator.save_state

    def full_disk(self: Accelerator, folder: str, **options: bool) -> None:
        if (tmp_path / "state-2").exists():
            raise OSError(28, "No space left on device")
        real(self, folder, **options)

    monkeypatch.setattr(Accelerator, "save_state", full_disk)
    with pytest.raises(UserError, match=r"step 4 cannot be saved.*No space left"):
        run(TrainingSpec(steps=6, batch=2, save_every=2), tmp_path, losses("sft"))
    assert [path.name for path in tmp_path.glob("state*")] == ["state-2"]


def test_nothing_to_score_in_the_first_step_is_refused(tmp_path: Path) -> None:
    sides = Encoder(windows().teacher.tokens, None), windows().student  # no BOS: the only chunk has no prediction
    source = Windows(Texts("toy", "train", (Text("d", "x"),), {}), *sides, size=16, seed=0)
    with pytest.raises(UserError, match="first training step has nothing to score for the loss alm"):
        train(model(STUDENT, 1), model(TEACHER, 0), source, losses("alm"), TrainingSpec(steps=1), folder=tmp_path)


def test_bf16_products_keep_fp32_weights_and_losses(tmp_path: Path) -> None:
    student = run(TrainingSpec(steps=2, batch=4, precision="bfloat16"), tmp_path, losses("sft", "alm"))
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    assert all(line["loss"]["sft"] > 0 for line in read_log(tmp_path / LOG))


@pytest.mark.parametrize("train", ["full", "lora"])
def test_gradient_checkpointing_computes_activations_twice_and_gives_the_same_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Any
) -> None:
    from transformers.models.llama.modeling_llama import LlamaAttention

    real, found = LlamaAttention.forward, []
    runs = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal runs
        runs += torch.is_grad_enabled()  # which it is not for the teacher
        return real(*arguments, **options)

    monkeypatch.setattr(LlamaAttention, "forward", counted)
    for checkpointing in (False, True):
        runs = 0
        spec = TrainingSpec(steps=1, batch=3, clip=1e9, train=train, gradient_checkpointing=checkpointing)
        gradient, _ = first_gradient(spec, tmp_path, losses("sft"))
        found.append((runs, gradient))
    assert [number for number, _ in found] == [2, 4]  # layers
    assert torch.allclose(found[1][1], found[0][1], rtol=1e-5, atol=1e-7)


def test_under_bf16_products_the_readings_of_both_models_and_the_losses_are_fp32(tmp_path: Path) -> None:
    seen: list[torch.dtype] = []
    [loss] = losses({"name": "alm", "tau": 1})
    spec = TrainingSpec(steps=1, batch=4, precision="bfloat16")
    run = _Run(model(STUDENT, 1), model(TEACHER, 0), windows(), [loss], spec, folder=tmp_path, device="cpu")
    terms = run._terms

    def watch(network: Any, batch: Any, taught: Any) -> Any:
        found = terms(network, batch, taught)
        seen.extend([*(value.dtype for value in taught.readings.values()), *(term.sum.dtype for term in found)])
        return found

    run._terms = watch  # type: ignore[method-assign]  # only looks
    run.step(0)
    assert set(seen) == {torch.float32}


def test_a_log_line_that_a_kill_cut_short_is_not_read(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text('{"step": 1}\n{"step": 2}\n{"ste', encoding="utf-8")
    assert read_log(tmp_path / LOG) == [{"step": 1}, {"step": 2}]


def test_the_run_is_drawn(tmp_path: Path) -> None:
    run(TrainingSpec(steps=3, batch=2), tmp_path, losses("sft", "alm"))
    plot_log(tmp_path / LOG, tmp_path / "training.svg", "toy")
    picture = (tmp_path / "training.svg").read_text(encoding="utf-8")
    assert picture.count('id="axes_') == 3
