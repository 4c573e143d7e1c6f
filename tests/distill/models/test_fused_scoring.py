"""Scores taken from hidden states are those taken from logits, in value and in gradient, in less memory."""

import dataclasses
from typing import Any

import pytest
import torch
from loss_setups import TEXTS, batch_of, model_info, setup
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from crosstok.distill.losses import ModelInfo, Reader
from crosstok.distill.models import fused_scoring
from crosstok.distill.models.fused_scoring import Order, score
from crosstok.distill.models.output_head import Head, head_of

NEEDS = frozenset({"gold", "boundary"})


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut even a toy vocabulary into many blocks."""
    monkeypatch.setattr(fused_scoring, "_BLOCK", 1)
    monkeypatch.setattr(fused_scoring, "_LEAST_ROWS", 37)


@pytest.fixture(params=["many tokens", "few tokens"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Let logits wait for the backward pass, and the head for its end, or neither."""
    few = bool(request.param == "few tokens")
    monkeypatch.setattr(fused_scoring, "_KEPT", 1e3 if few else 0.0)
    return few


def reader(model: ModelInfo, **options: Any) -> Reader:
    return dataclasses.replace(Reader.of(model.tokens, model.valid_rows), **options)


def close(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.allclose(left, right, rtol=1e-5, atol=1e-5 * max(1.0, float(right.detach().abs().max())))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("shape", "change"),
    [("llama", {}), ("gpt2", {}), ("gemma3", {}), ("gemma3", {"final_logit_softcapping": 3.0})],
    ids=["llama", "gpt2", "gemma3", "gemma3-capped"],
)
def test_fused_scores_and_gradients_are_the_dense_ones(
    small_blocks: None, kept: bool, shape: Any, tied: bool, change: dict[str, float]
) -> None:
    batch = batch_of("bpe", "bpe", TEXTS).student
    size = model_info("bpe", 0).valid_rows
    found = []
    for fused in (True, False):
        model = model_info("bpe", 0, shape=shape, tied=tied, rows=size + 9)  # with padded rows, which must not count
        for name, value in change.items():
            setattr(model.network.config, name, value)
        outputs = reader(model, fused=fused).read(model.network, batch, NEEDS)
        real, factors = batch.attention.bool(), torch.linspace(-1, 2, batch.ids.numel()).reshape(batch.ids.shape)
        total = ((outputs.gold + factors * outputs.boundary) * real * batch.predicted).sum()
        total.backward()
        gradients = {name: weight.grad for name, weight in model.network.named_parameters()}
        found.append((outputs.gold[batch.predicted], outputs.boundary[real], gradients))
    fused_gradients, dense_gradients = found[0][2], found[1][2]
    assert close(found[0][0], found[1][0])
    assert close(found[0][1], found[1][1])
    assert fused_gradients.keys() == dense_gradients.keys()
    for name, gradient in dense_gradients.items():
        assert close(fused_gradients[name], gradient), name
    assert float(dense_gradients["lm_head.weight" if not tied else next(iter(dense_gradients))].norm()) > 1e-3


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("bias", [True, False])
def test_scale_cap_and_bias_of_a_head_are_those_of_autograd(
    small_blocks: None, scale: float, cap: float | None, bias: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 100, bias=bias, dtype=torch.float64)
    hidden = torch.randn(11, 8, dtype=torch.float64).requires_grad_()
    targets = torch.randint(0, 90, (11,))
    targets[3] = -1
    boundary = torch.rand(90) < 0.3
    factors = torch.randn(2, 11)
    scores = score(hidden, targets, Head(layer, scale, cap), Order.of(boundary))
    (torch.stack(scores) * factors).sum().backward()
    fused = [hidden.grad, *(weight.grad for weight in layer.parameters())]
    hidden.grad = None
    layer.zero_grad()

    logits = layer(hidden)[:, :90] * scale
    logits = logits if cap is None else cap * (logits / cap).tanh()
    norm = logits.logsumexp(dim=1)
    gold = torch.where(targets >= 0, logits[torch.arange(11), targets.clamp(min=0)] - norm, 0.0)
    mass = logits[:, boundary].logsumexp(dim=1) - norm
    assert close(torch.stack(scores), torch.stack([gold, mass]).float())
    ((gold * factors[0]) + (mass * factors[1])).sum().backward()
    for ours, expected in zip(fused, [hidden.grad, *(weight.grad for weight in layer.parameters())], strict=True):
        assert ours is not None
        assert expected is not None
        assert close(ours, expected)


def test_a_boundary_without_any_mass_is_finite_and_one_with_all_of_it_is_zero() -> None:
    layer = nn.Linear(1, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0], [-300.0], [-400.0], [-1e4]]))
    hidden = torch.ones(1, 1, requires_grad=True)
    inside = torch.tensor([False, True, True, False])
    mass = score(hidden, torch.tensor([1]), Head(layer), Order.of(inside))[1]
    assert float(mass.detach()) == pytest.approx(-300)  # its probability is below the smallest fp32
    mass.sum().backward()
    assert float(hidden.grad) == pytest.approx(-300)  # type: ignore[arg-type]  # there is a gradient
    everything = score(hidden, torch.tensor([1]), Head(layer), Order.of(torch.ones(4, dtype=torch.bool)))[1]
    assert float(everything.detach()) == 0


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(part, torch.Tensor):
                self.elements = max(self.elements, part.numel())
        return result


def test_no_tensor_of_tokens_by_vocabulary_exists_in_either_direction(small_blocks: None, kept: bool) -> None:
    model = model_info("bpe", 0)
    batch = batch_of("bpe", "bpe", TEXTS).student
    whole = batch.ids.numel() * model.valid_rows
    sizes = []
    for fused in (True, False):
        chosen = reader(model, fused=fused)
        chosen.read(model.network, batch, NEEDS)  # the probe of the head is done once
        with Largest() as mode:
            outputs = chosen.read(model.network, batch, NEEDS)
            (outputs.gold.sum() + outputs.boundary.sum()).backward()
        sizes.append(mode.elements)
    assert sizes[1] >= whole * 0.9
    assert sizes[0] < whole / 4


def test_under_autocast_products_are_bf16_and_scores_fp32_as_in_the_dense_form(small_blocks: None) -> None:
    batch = batch_of("bpe", "bpe", TEXTS).student
    found = []
    for fused in (True, False):
        model = model_info("bpe", 0)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = reader(model, fused=fused).read(model.network, batch, NEEDS)
        assert outputs.gold.dtype == outputs.boundary.dtype == torch.float32
        outputs.gold[batch.predicted].sum().backward()
        found.append((outputs.gold[batch.predicted], next(iter(model.network.parameters())).grad))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-3)
    assert torch.nn.functional.cosine_similarity(found[0][1].flatten(), found[1][1].flatten(), dim=0) > 0.999


class Odd(nn.Module):
    """A model that does something of its own to its logits."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.config = network.config
        self.base_model = network.base_model

    def get_output_embeddings(self) -> nn.Module:
        layer: nn.Module = self.network.get_output_embeddings()
        return layer

    def forward(self, logits_to_keep: int = 0, **inputs: Any) -> Any:
        answer = self.network(**inputs, logits_to_keep=logits_to_keep)
        answer.logits = answer.logits**3
        return answer


def test_a_model_with_logits_of_its_own_is_read_densely_and_this_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    model = model_info("bpe", 0)
    odd = Odd(model.network)
    batch = batch_of("bpe", "bpe", TEXTS[:1]).student
    with caplog.at_level("INFO"):
        assert head_of(odd) is None
    assert "Odd has an unknown output head" in caplog.text
    outputs = reader(model).read(odd, batch, {"gold"})
    cubed = model.network(**batch.inputs).logits[..., : model.valid_rows] ** 3
    expected = cubed[:, :-1].log_softmax(-1).gather(-1, batch.ids[:, 1:, None])[..., 0]
    assert torch.allclose(outputs.gold[:, 1:], expected, atol=1e-4)


def test_looking_at_a_head_draws_no_random_numbers() -> None:
    model = model_info("bpe", 5)
    state = torch.random.get_rng_state()
    assert head_of(model.network) is not None
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("choice", ["sft", {"name": "alm", "tau": 5}], ids=["sft", "alm"])
def test_losses_are_the_same_from_states_and_from_logits(choice: Any) -> None:
    batch = batch_of("spm", "bpe", TEXTS)
    ready = setup(choice, model_info("bpe", 1), model_info("spm", 0))
    found = []
    for fused in (True, False):
        sides = [
            reader(model, fused=fused).read(model.network, side, needs)
            for model, side, needs in (
                (ready.student, batch.student, ready.loss.of_student),
                (ready.teacher, batch.teacher, ready.loss.of_teacher),
            )
        ]
        found.append(ready.loss(batch, *sides))
    assert found[0].count == found[1].count > 0
    assert float(found[0].sum.detach()) == pytest.approx(float(found[1].sum.detach()), rel=1e-5)


def test_the_gradient_of_an_output_matrix_comes_after_those_of_the_layers_where_tokens_are_few(
    small_blocks: None, kept: bool
) -> None:
    model, batch = model_info("bpe", 0, tied=False), batch_of("bpe", "bpe", TEXTS).student
    layer, made = next(weight for name, weight in model.network.named_parameters() if ".layers.0." in name), []
    layer.register_post_accumulate_grad_hook(lambda _: made.append("layer"))
    real = fused_scoring._HeadGradients.add

    def noted(self: Any, *args: Any) -> None:
        made.append("head")
        real(self, *args)

    outputs = reader(model).read(model.network, batch, NEEDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_scoring._HeadGradients, "add", noted)
        outputs.gold.sum().backward()
    assert len(made) > 4
    assert made.index("layer") == (0 if kept else len(made) - 1)


def test_logits_that_are_kept_are_not_computed_again(small_blocks: None, kept: bool) -> None:
    model, batch = model_info("bpe", 0, tied=False), batch_of("bpe", "bpe", TEXTS).student
    chosen = reader(model)
    chosen.read(model.network, batch, NEEDS)  # the probe of the head is done once
    products = 0
    real = fused_scoring.product

    def counted(*args: Any) -> torch.Tensor:
        nonlocal products
        products += 1
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_scoring, "product", counted)
        outputs = chosen.read(model.network, batch, NEEDS)
        (outputs.gold.sum() + outputs.boundary.sum()).backward()
    assert products == (1 if kept else 2) * len(list(chosen.order.blocks(int(batch.attention.sum()))))


def test_tied_embeddings_get_one_dense_gradient_even_if_the_scores_are_not_used(kept: bool) -> None:
    model, batch = model_info("bpe", 0, tied=True), batch_of("bpe", "bpe", TEXTS).student
    embeddings: Any = model.network.get_input_embeddings()
    found = []
    for needs in ({"gold", "hidden"}, {"logits", "hidden"}):
        model.network.zero_grad(set_to_none=True)
        reader(model).read(model.network, batch, needs).hidden.square().sum().backward()  # type: ignore[arg-type]
        found.append(embeddings.weight.grad)
    assert isinstance(embeddings.weight, nn.Parameter)
    assert not embeddings.sparse
    assert found[0].layout == torch.strided
    assert close(found[0], found[1])


def test_tied_embeddings_are_themselves_again_after_a_pass_that_fails(kept: bool) -> None:
    model, batch = model_info("bpe", 0, tied=True), batch_of("bpe", "bpe", TEXTS).student
    layer: Any = model.network.get_input_embeddings()
    names = [name for name, _ in model.network.named_parameters()]
    reader(model).read(model.network, batch, NEEDS)  # the probe of the head is done once
    layer.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        reader(model).read(model.network, batch, NEEDS)
    assert [name for name, _ in model.network.named_parameters()] == names
    assert not layer.sparse


def test_a_second_pass_through_the_same_graph_gives_the_same_gradients(small_blocks: None, kept: bool) -> None:
    model, batch = model_info("bpe", 0), batch_of("bpe", "bpe", TEXTS).student
    weights = list(model.network.parameters())
    real = batch.attention.bool()
    outputs = reader(model).read(model.network, batch, NEEDS)
    total = outputs.gold[batch.predicted].sum() - outputs.boundary[real].sum()
    layer = next(weight for name, weight in model.network.named_parameters() if "mlp" in name)
    (alone,) = torch.autograd.grad(
        total, [layer], retain_graph=True
    )  # as when losses are balanced: no turn of the head
    passes = [torch.autograd.grad(total, weights, retain_graph=True) for _ in range(2)]
    assert close(alone, next(g for w, g in zip(weights, passes[0], strict=True) if w is layer))
    assert all(close(one, other) for one, other in zip(*passes, strict=True))
    dense = reader(model, fused=False).read(model.network, batch, NEEDS)
    expected = torch.autograd.grad(dense.gold[batch.predicted].sum() - dense.boundary[real].sum(), weights)
    assert all(close(one, other) for one, other in zip(passes[0], expected, strict=True))
