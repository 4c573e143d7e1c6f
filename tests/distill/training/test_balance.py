"""Balancing of losses: values by hand, and the loop that measures gradients per step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import STUDENT, TEACHER, first_gradient, losses, model, windows
from torch import nn

from crosstok.distill.recipes.student import check_student
from crosstok.distill.training.balance import Fixed, GradMag, GradNorm, balance, gradients, last_layer
from crosstok.distill.training.log import read_log
from crosstok.distill.training.loop import LOG, TrainingSpec, _Run, train
from crosstok.errors import UserError

CHOSEN = ("sft", {"name": "alm", "tau": 100})


def test_gradients_of_length_two_and_six_get_three_quarters_and_one_quarter() -> None:
    weights = GradMag().weights([2.0, 6.0], [1.0, 1.0])
    assert weights == pytest.approx([0.75, 0.25])
    assert [2 * weights[0], 6 * weights[1]] == pytest.approx([1.5, 1.5])


def test_a_loss_without_gradient_leaves_the_others_as_they_were() -> None:
    assert GradMag().weights([2.0, 0.0, 6.0], [1.0, 0.0, 1.0]) == pytest.approx([0.75, 0.0, 0.25])
    assert GradMag().weights([0.0, 0.0], [0.0, 0.0]) == [0.0, 0.0]


def test_fixed_weights_are_the_losses_own_and_measure_nothing() -> None:
    chosen = balance("fixed", [1.0, 0.25])
    assert isinstance(chosen, Fixed)
    assert not chosen.measures
    assert chosen.weights([], []) == [1.0, 0.25]


def test_gradnorm_moves_weight_from_the_longer_gradient_to_the_shorter_one() -> None:
    chosen = GradNorm(2)
    first = chosen.weights([2.0, 6.0], [1.0, 1.0])
    # Targets are 4 and 4; Adam's first step is its rate, 0.025, in the direction of the sign; then the sum is made 2.
    assert first == pytest.approx([1.025, 0.975], abs=1e-6)
    for _ in range(100):
        weights = chosen.weights([2.0, 6.0], [1.0, 1.0])
    assert sum(weights) == pytest.approx(2)
    assert 2 * weights[0] == pytest.approx(6 * weights[1], rel=0.2)


def test_gradnorm_gives_more_to_the_loss_that_lags_behind() -> None:
    chosen = GradNorm(2)
    chosen.weights([1.0, 1.0], [1.0, 1.0])
    for _ in range(100):
        weights = chosen.weights([1.0, 1.0], [1.0, 0.2])  # the second has fallen to a fifth
    assert weights[0] > 1.05
    assert weights[1] < 0.95


def test_gradnorm_continues_from_its_state_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole, part = GradNorm(2), GradNorm(2)
    steps = [([2.0, 6.0 + step], [1.0, 1.0 / (1 + step)]) for step in range(6)]
    for norms, values in steps[:3]:
        whole.weights(norms, values)
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    part.load_state_dict(torch.load(tmp_path / "state.pt"))
    for norms, values in steps[3:]:
        assert part.weights(norms, values) == whole.weights(norms, values)


def test_gradients_are_those_of_autograd_and_zero_where_a_loss_does_not_reach() -> None:
    left, right = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([4.0]))
    vectors = gradients([(left**2).sum(), (left * right).sum()], [left, right])
    assert [vector.tolist() for vector in vectors] == [[6.0, 0.0], [4.0, 3.0]]


@pytest.mark.parametrize("shape", ["llama", "gpt2", "gemma3"])
def test_the_last_layer_is_the_last_block_of_the_transformer(shape: Any) -> None:
    network = model(STUDENT, 1, shape=shape).network
    names = {name for name, weight in network.named_parameters() if any(weight is one for one in last_layer(network))}
    block = "transformer.h.1." if shape == "gpt2" else "model.layers.1."
    assert names == {name for name, _ in network.named_parameters() if name.startswith(block)}


def test_where_the_last_layer_is_frozen_all_that_learns_is_measured() -> None:
    network = model(STUDENT, 1).network
    network.requires_grad_(requires_grad=False)
    embedding: Any = network.get_input_embeddings()  # type: ignore[operator]  # a Hugging Face model
    embedding.weight.requires_grad = True
    assert [weight.shape for weight in last_layer(network)] == [embedding.weight.shape]


def test_gradmag_in_the_loop_makes_the_weighted_gradients_equally_long(tmp_path: Path) -> None:
    spec = TrainingSpec(steps=1, batch=4, clip=1e9, balance="gradmag")
    run = _Run(model(STUDENT, 1), model(TEACHER, 0), windows(), losses(*CHOSEN), spec, folder=tmp_path, device="cpu")
    line = run.step(0)
    lengths = []
    for name in CHOSEN:
        alone = _Run(model(STUDENT, 1), model(TEACHER, 0), windows(), losses(name), spec, folder=tmp_path, device="cpu")
        caught: list[float] = []
        layer = last_layer(alone.student)
        alone.optimizer.step = lambda caught=caught, layer=layer: caught.append(  # type: ignore[method-assign]  # only looks
            float(torch.cat([weight.grad.flatten() for weight in layer]).norm())
        )
        assert alone.step(0)["weight"] == {name if isinstance(name, str) else name["name"]: 1.0}
        lengths.append(caught[0])
    weights = list(line["weight"].values())
    assert sum(weights) == pytest.approx(1)
    assert weights[0] * lengths[0] == pytest.approx(weights[1] * lengths[1], rel=1e-3)
    assert weights[1] > 10 * weights[0]  # ALM at temperature 100 would have been drowned


@pytest.mark.parametrize("name", ["gradmag", "gradnorm"])
def test_balanced_steps_do_not_depend_on_how_the_batch_is_cut(tmp_path: Path, name: Any) -> None:
    wanted = {"steps": 1, "batch": 8, "clip": 1e9, "balance": name}
    whole, line = first_gradient(TrainingSpec(**wanted), tmp_path, losses(*CHOSEN))
    parts, same = first_gradient(TrainingSpec(**wanted, micro_batch=3), tmp_path, losses(*CHOSEN))
    assert same["weight"] == pytest.approx(line["weight"], rel=1e-4)
    assert torch.allclose(parts, whole, rtol=1e-3, atol=1e-5 * float(whole.abs().max()))


def test_measuring_draws_the_dropout_of_the_training_pass_and_no_more(tmp_path: Path) -> None:
    found = []
    for name in ("fixed", "gradmag"):
        spec = TrainingSpec(steps=1, batch=4, micro_batch=2, clip=1e9, balance=name)
        student = model(STUDENT, 1, shape="gpt2")
        for module in student.network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.3
        run = _Run(student, model(TEACHER, 0), windows(), losses("sft"), spec, folder=tmp_path, device="cpu")
        found.append(run.step(0)["grad_norm"])
    assert found[0] == found[1]


class Interrupted(Exception):
    pass


def test_a_run_with_gradnorm_that_was_killed_continues_to_the_same_bits(tmp_path: Path) -> None:
    spec = TrainingSpec(steps=6, batch=3, lr=1e-3, save_every=2, balance="gradnorm")
    students = {name: model(STUDENT, 1) for name in ("whole", "dead", "again")}
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()

    def go(name: str, folder: str, **options: Any) -> None:
        train(
            students[name],
            model(TEACHER, 0),
            windows(),
            losses(*CHOSEN),
            spec,
            folder=tmp_path / folder,
            device="cpu",
            **options,
        )

    def kill(*_: Any) -> None:
        if (tmp_path / "cut" / "state-4").exists():
            raise Interrupted

    go("whole", "whole")
    with pytest.raises(Interrupted):
        go("dead", "cut", progress=kill)
    go("again", "cut")
    expected = students["whole"].network.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in students["again"].network.state_dict().items())
    logs = [read_log(tmp_path / name / LOG) for name in ("whole", "cut")]
    assert [line["weight"] for line in logs[0]] == [line["weight"] for line in logs[1]]


def test_a_suite_names_the_balance_and_a_misspelt_one_is_refused() -> None:
    common = {"from": "somewhere", "tokenizer": "bytes", "loss": ["sft", "alm"]}
    assert check_student("transfer", {**common, "balance": "gradmag"}).balance == "gradmag"
    with pytest.raises(UserError, match="balance"):
        check_student("transfer", {**common, "balance": "gradmagg"})
