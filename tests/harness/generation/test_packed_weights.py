"""Packed weights: the same bits from every product, used in every pass, and only where they can be had."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_models import toy_checkpoint
from tiny_models import tiny_model
from torch import nn
from toy_tokenizers import TEXT, toy_tokenizer

import crosstok.harness.generation.packed_weights
from crosstok.harness.generation.generator import Generator
from crosstok.harness.generation.packed_weights import PackedWeights
from crosstok.tasks.task import Generate

pytestmark = pytest.mark.skipif(
    not PackedWeights(nn.Linear(2, 2).bfloat16())._forwards, reason="this processor has no bfloat16 products"
)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that fills with the rows of every product by a packed matrix."""
    found: list[int] = []
    plain = crosstok.harness.generation.packed_weights._product

    def product(*arguments: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        forward = plain(*arguments)

        def counting(rows: torch.Tensor) -> torch.Tensor:
            found.append(rows.shape[0])
            return forward(rows)

        return counting

    monkeypatch.setattr(crosstok.harness.generation.packed_weights, "_product", product)
    return found


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 64), (3, 64), (40, 64), (2, 5, 64), (7, 1, 64), (700, 64)])
def test_a_product_by_packed_weights_is_the_same_to_the_bit(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 193, bias=bias).bfloat16()
    rows = torch.randn(shape).bfloat16()
    with torch.inference_mode():
        plain = layer(rows)
        with PackedWeights(layer).active():
            assert "forward" in vars(layer)
            assert torch.equal(layer(rows), plain)


@pytest.mark.parametrize("shape", ["llama", "gemma3"])
def test_answers_are_the_same_and_every_pass_multiplies_by_packed_weights(
    shape: Any, monkeypatch: pytest.MonkeyPatch, products: list[int]
) -> None:
    checkpoint = toy_checkpoint("bpe", shape)
    checkpoint.model.to(torch.bfloat16)
    requests = [Generate(TEXT[at : at + 40 + at % 9], max_bytes=60) for at in range(0, 300, 50)]
    found = [(one.index, one.data) for one in Generator(checkpoint, max_batch_rows=4).generate(requests)]
    linear = sum(isinstance(layer, nn.Linear) for layer in checkpoint.model.modules())
    assert len(products) % linear == 0
    assert len(products) // linear > 60 / 4, "once in every pass"
    products.clear()
    monkeypatch.setattr(crosstok.harness.generation.packed_weights, "available_memory", lambda: 0)
    assert [(one.index, one.data) for one in Generator(checkpoint, max_batch_rows=4).generate(requests)] == found
    assert not products, "where memory is not known to suffice nothing is packed"


def test_a_model_is_as_it_was_when_the_pass_is_over_or_has_failed() -> None:
    layer = nn.Linear(8, 8).bfloat16()
    weights = PackedWeights(layer)
    with weights.active():
        assert "forward" in vars(layer)
    assert "forward" not in vars(layer)
    with pytest.raises(RuntimeError, match="out of memory"), weights.active():
        raise RuntimeError("out of memory")
    assert "forward" not in vars(layer)
    layer(torch.ones(1, 8).bfloat16()).sum().backward()
    assert layer.weight.grad is not None, "it still learns"


def test_a_matrix_that_two_layers_share_is_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = []
    plain = crosstok.harness.generation.packed_weights._packed
    monkeypatch.setattr(
        crosstok.harness.generation.packed_weights, "_packed", lambda matrix: packed.append(matrix) or plain(matrix)
    )
    first, second, other = (nn.Linear(8, 8).bfloat16() for _ in range(3))
    second.weight = first.weight
    pair = nn.Sequential(first, second, other)
    rows = torch.randn(3, 8).bfloat16()
    with torch.inference_mode():
        plain_result = pair(rows)
        with PackedWeights(pair).active():
            assert torch.equal(pair(rows), plain_result), "each has its own bias"
    assert len(packed) == 2


def test_a_quarter_of_the_memory_that_is_available_is_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(16, 16).bfloat16()  # 512 bytes
    monkeypatch.setattr(crosstok.harness.generation.packed_weights, "available_memory", lambda: 2047)
    assert not PackedWeights(layer)._forwards
    monkeypatch.setattr(crosstok.harness.generation.packed_weights, "available_memory", lambda: 2048)
    assert PackedWeights(layer)._forwards


def test_what_is_not_a_plain_bfloat16_layer_is_left_alone() -> None:
    class Own(nn.Linear):
        """Computes something else."""

    hooked = nn.Linear(8, 8).bfloat16()
    hooked.forward = lambda rows: rows  # type: ignore[method-assign]
    left = nn.ModuleList([Own(8, 8).bfloat16(), hooked, nn.Linear(8, 8), nn.Linear(8, 8, device="meta")])
    assert not PackedWeights(left)._forwards
    gpt2 = tiny_model(toy_tokenizer("bpe"), "gpt2").bfloat16()
    assert [layer for layer, _ in PackedWeights(gpt2)._forwards] == [gpt2.lm_head]
