"""SFT against torch's own cross-entropy."""

import math

import pytest
import torch
from tiny_models import tiny_model
from toy_tokenizers import TEXT, toy_tokenizer

from crosstok.distill.losses import AlignedBatch, Outputs, Reader, Side
from crosstok.distill.losses.sft import SFT
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.distill.training.windows import Encoder, collate


def batch_of(name: str, texts: list[str]) -> AlignedBatch:
    tokenizer = toy_tokenizer(name)
    tokens = Encoder(TokenBytes.from_tokenizer(tokenizer), tokenizer.bos_token_id).encode_many(texts)
    return collate(list(zip(texts, tokens, tokens, strict=True)))


def test_it_is_the_cross_entropy_of_the_real_tokens() -> None:
    name, texts = "bpe", [TEXT[:200], "hens"]
    model = tiny_model(toy_tokenizer(name))
    batch = batch_of(name, texts)
    tokens = TokenBytes.from_tokenizer(toy_tokenizer(name))
    term = SFT()(batch, Reader.of(tokens, tokens.size).read(model, batch.student, {"gold"}), Outputs())
    labels = batch.student.ids.masked_fill(~batch.student.counted, -100)
    expected = model(input_ids=batch.student.ids, attention_mask=batch.student.attention, labels=labels).loss
    assert float(term.sum.detach()) / term.count == pytest.approx(float(expected.detach()), rel=1e-5)
    bits, covered = term.metrics["bits_per_byte"]
    assert covered == sum(len(text.encode()) for text in texts)
    assert bits == pytest.approx(float(term.sum.detach()) / math.log(2))


def test_masked_prompt_tokens_get_no_gradient() -> None:
    one = torch.ones(1, 4, dtype=torch.long)
    side = Side(one, one, one * 0, torch.tensor([[True, True, False, True]]), one)
    gold = torch.tensor([[0.0, -1.0, -2.0, -3.0]], requires_grad=True)
    term = SFT()(AlignedBatch(side, side, 1), Outputs({"gold": gold}), Outputs())
    term.sum.backward()
    assert (float(term.sum.detach()), term.count) == (4.0, 2.0)
    assert gold.grad.tolist() == [[0.0, -1.0, 0.0, -1.0]]


def test_an_empty_batch_is_exactly_zero_with_a_gradient_path() -> None:
    gold = torch.zeros(1, 1, requires_grad=True)
    term = SFT()(collate([]), Outputs({"gold": gold}), Outputs())
    term.sum.backward()
    assert (float(term.sum.detach()), term.count) == (0.0, 0.0)


def test_it_needs_no_teacher() -> None:
    assert SFT().of_teacher == frozenset()
