"""Losses over the vocabularies of real tokenizers: the maps that they make, and one step each."""

from typing import Any

import pytest
import torch
from real_models import real_tokenizer, real_tokens
from tiny_models import tiny_model
from toy_tokenizers import TEXT, toy_tokenizer

from crosstok.distill.losses import AlignedBatch, ModelInfo, Outputs, Reader
from crosstok.distill.losses.bpm import prefix_map
from crosstok.distill.readings.vocabularies import shared_ids
from crosstok.distill.registry import INITIALISERS, LOSSES
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.distill.training.windows import Encoder, collate

pytestmark = pytest.mark.real


def model_info(name: str, seed: int) -> ModelInfo:
    """Return a tiny model over a real vocabulary, or over plain bytes."""
    tokenizer = toy_tokenizer("byte") if name == "bytes" else real_tokenizer(name)
    tokens = TokenBytes.from_tokenizer(tokenizer) if name == "bytes" else real_tokens(name)
    return ModelInfo(tokens, tokens.size, tiny_model(tokenizer, seed=seed, rows=tokens.size, width=16))


@pytest.fixture(scope="module")
def smollm2_info() -> ModelInfo:
    return model_info("smollm2", 0)


@pytest.mark.parametrize(("other", "least"), [("gemma3", 20_000), ("bytes", 200)])
def test_shared_tokens_have_equal_bytes_and_prefixes_are_prefixes(
    smollm2_info: ModelInfo, other: str, least: int
) -> None:
    student = model_info(other, 1)
    here, there = shared_ids(student, smollm2_info)
    assert len(here) >= least
    assert len(set(here.tolist())) == len(set(there.tolist())) == len(here)
    for mine, theirs in zip(here.tolist(), there.tolist(), strict=True):
        if mine not in student.tokens.special_ids:
            assert student.tokens.table[mine] == smollm2_info.tokens.table[theirs]
    classes = prefix_map(student, smollm2_info).tolist()
    for token, data in enumerate(smollm2_info.tokens.table):
        if data and classes[token] < student.valid_rows:
            assert data.startswith(student.tokens.table[classes[token]] or b"?")
    assert sum(mapped == student.valid_rows for mapped in classes) < 300  # specials, and little else


@pytest.mark.parametrize("choice", ["alm", "hidden", "strict", "bpm", "uld", "gold", "dskd"])
def test_a_step_from_smollm2_to_bytes_has_a_finite_gradient(smollm2_info: ModelInfo, choice: str) -> None:
    student = model_info("bytes", 1)
    texts = [TEXT[600:900]]
    sides = [Encoder(model.tokens, None).encode_many(texts) for model in (smollm2_info, student)]
    batch: AlignedBatch = collate(list(zip(texts, *sides, strict=True)))
    loss = LOSSES.create({"name": "alm", "tau": 5} if choice == "alm" else choice)
    loss.prepare(student, smollm2_info)
    with torch.no_grad():
        taught = read(smollm2_info, batch.teacher, loss.of_teacher)
    term = loss(batch, read(student, batch.student, loss.of_student), taught)
    term.sum.backward()
    assert term.count > 0
    gradients = [weight.grad for weight in student.network.parameters() if weight.grad is not None]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    assert max(float(gradient.norm()) for gradient in gradients) > 0


def read(model: ModelInfo, side: Any, needs: Any) -> Outputs:
    return Reader.of(model.tokens, model.valid_rows).read(model.network, side, needs)


@pytest.mark.parametrize("name", ["subword", "mean", "hewitt", "normal", "zero"])
def test_a_real_vocabulary_is_initialised_from_another_one(name: str) -> None:
    source, target = real_tokens("smollm2"), real_tokens("gemma3")
    matrix = torch.randn(source.size, 8)
    made = INITIALISERS.create({"name": name, "calibrate": name != "zero"}).rows({"input": matrix}, source, target, {})
    counts = made.counts()
    assert sum(counts.values()) == target.size
    assert counts["exact"] > 20_000
    assert bool(torch.isfinite(made.matrices["input"]).all())
