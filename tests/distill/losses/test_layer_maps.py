"""Hidden states of several layers: which are paired when depths differ, and what the loss of pairs is."""

from typing import Any

import pytest
import torch
from loss_setups import TEXTS, batch_of, model_info, read, setup

from crosstok.distill.losses.hidden import Hidden
from crosstok.distill.registry import LOSSES
from crosstok.errors import UserError


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (2, 2, ((1, 1), (2, 2))),
        (2, 4, ((1, 2), (2, 4))),
        (3, 5, ((1, 2), (2, 3), (3, 5))),
        (4, 2, ((1, 1), (2, 1), (3, 2), (4, 2))),
        (6, 2, ((1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2))),
    ],
)
def test_every_layer_of_the_student_meets_the_one_at_its_relative_depth(
    student: int, teacher: int, expected: Any
) -> None:
    assert Hidden(layers="all").pairs(student, teacher) == expected
    assert Hidden().pairs(student, teacher) == ((student, teacher),)


def test_the_last_pair_alone_is_the_loss_of_the_last_states() -> None:
    batch = batch_of("bpe", "byte", TEXTS)
    models = model_info("byte", 1), model_info("bpe", 0)
    plain = setup("hidden", *models).term(batch)
    named = setup({"name": "hidden", "layers": [[2, 2]]}, *models).term(batch)
    assert torch.equal(named.sum, plain.sum)
    assert named.count == plain.count


@pytest.mark.parametrize("fused", [True, False])
def test_several_pairs_are_averaged_and_earlier_layers_get_a_gradient(fused: bool) -> None:
    batch = batch_of("bpe", "byte", TEXTS)
    models = model_info("byte", 1), model_info("bpe", 0)
    single = [
        float(setup({"name": "hidden", "layers": [pair]}, *models).term(batch).sum.detach())
        for pair in ([1, 2], [2, 1])
    ]
    together = setup({"name": "hidden", "layers": [[1, 2], [2, 1]]}, *models).term(batch)
    assert float(together.sum.detach()) == pytest.approx(sum(single) / 2, rel=1e-5)
    first: Any = models[0].network
    setup({"name": "hidden", "layers": [[1, 2]]}, *models).term(batch).sum.backward()
    assert float(first.model.layers[0].mlp.up_proj.weight.grad.norm()) > 0
    assert first.model.layers[1].mlp.up_proj.weight.grad is None or not bool(
        first.model.layers[1].mlp.up_proj.weight.grad.any()
    )


def test_every_pair_has_a_projection_of_its_own_where_widths_differ() -> None:
    ready = setup({"name": "hidden", "layers": "all"}, model_info("byte", 1), model_info("bpe", 0, width=48))
    assert ready.loss.learned is not None
    assert [tuple(weight.shape) for weight in ready.loss.learned.parameters()] == [(48, 32), (48, 32)]
    assert ready.term(batch_of("bpe", "byte", TEXTS)).count > 0


def test_layers_are_read_alike_from_states_and_beside_logits() -> None:
    model = model_info("bpe", 0)
    side = batch_of("bpe", "bpe", TEXTS[:1]).student
    alone, beside = read(model, side, {"layers", "hidden"}), read(model, side, {"layers", "hidden", "logits"})
    assert alone.layers.shape == (1, side.ids.shape[1], 2, 32)
    assert torch.equal(alone.layers[:, :, -1], alone.hidden)
    assert torch.allclose(alone.layers, beside.layers, atol=1e-6)


@pytest.mark.parametrize("layers", [[[3, 1]], [[1, 0]], []])
def test_layers_that_do_not_exist_are_refused(layers: Any) -> None:
    loss = LOSSES.create({"name": "hidden", "layers": layers})
    with pytest.raises(UserError, match="the student has 2, the teacher 2"):
        loss.prepare(model_info("byte", 1), model_info("bpe", 0))
