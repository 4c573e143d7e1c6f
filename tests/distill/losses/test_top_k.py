"""kd against the teacher's likeliest tokens and one class of all the rest: exact, and a bound from below."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from loss_setups import TEXTS, batch_of, model_info
from toy_tokenizers import toy_tokenizer

from crosstok.distill.losses import LossTerm, Outputs, Reader
from crosstok.distill.losses.kd import merged_rest
from crosstok.distill.readings.outputs import likeliest
from crosstok.distill.registry import LOSSES
from crosstok.errors import UserError

BATCH = batch_of("bpe", "bpe", TEXTS)


def term(choice: Any, *, seed: int = 1, keep: int | None = None) -> LossTerm:
    student, teacher = model_info("bpe", seed), model_info("bpe", 0)
    loss = LOSSES.create(choice)
    loss.prepare(student, teacher)
    reader = Reader.of(teacher.tokens, teacher.valid_rows)
    with torch.no_grad():
        kept = reader.with_top(keep or loss.teacher_top)
        taught = kept.read(teacher.network, BATCH.teacher, loss.of_teacher)
    return loss(BATCH, reader.read(student.network, BATCH.student, loss.of_student), taught)


def test_the_classes_of_a_hand_computed_case() -> None:
    logits = torch.tensor([0.5, 0.1, 0.3, 0.1]).log()
    ids, rest = likeliest(logits, 2)
    assert ids.tolist() == [0, 2]
    assert rest.exp().tolist() == pytest.approx([0.5, 0.3, 0.2])
    assert merged_rest(rest[None], 1).exp()[0].tolist() == pytest.approx([0.5, 0.5])


def test_the_rest_has_digits_where_the_model_is_sure() -> None:
    rest = likeliest(torch.tensor([40.0, 0.0, 0.0]), 1)[1]
    assert float(rest[-1]) == pytest.approx(math.log(2) - 40, abs=1e-4)  # 1 - p is exactly 0 in fp32


def test_merging_classes_bounds_the_divergence_from_below_and_more_classes_come_closer() -> None:
    whole = float(term("kd").sum.detach())
    parts = [
        float(term({"name": "kd", "top": top}).sum.detach()) for top in (1, 8, 64, model_info("bpe", 0).valid_rows - 1)
    ]
    assert parts == sorted(parts)
    assert parts[0] < 0.9 * whole
    assert parts[-1] == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("f", ["kl", "reverse_kl", "jsd", "tvd"])
def test_the_same_model_gives_zero_and_another_one_a_finite_gradient(f: str) -> None:
    assert float(term({"name": "kd", "top": 8, "f": f}, seed=0).sum.detach()) == pytest.approx(0, abs=1e-3)
    found = term({"name": "kd", "top": 8, "f": f})
    found.sum.backward()
    assert found.count > 0
    assert float(found.sum.detach()) > 1


def test_a_teacher_that_tells_more_apart_than_a_loss_asks_for_gives_the_same() -> None:
    exact, kept = (float(term({"name": "kd", "top": 4}, keep=keep).sum.detach()) for keep in (4, 20))
    assert kept == pytest.approx(exact, rel=1e-6)


def test_top_is_read_alike_from_states_and_from_logits() -> None:
    model = model_info("bpe", 0, rows=model_info("bpe", 0).valid_rows + 7)
    found = []
    for fused in (True, False):
        reader = dataclasses.replace(Reader.of(model.tokens, model.valid_rows), top=6, fused=fused)
        with torch.no_grad():
            found.append(reader.read(model.network, BATCH.teacher, {"top", "rest"}))
    states, logits = found
    assert isinstance(states, Outputs)
    assert torch.equal(states.top, logits.top)
    assert torch.allclose(states.rest, logits.rest, atol=1e-5)
    assert torch.allclose(states.rest.logsumexp(dim=-1), torch.zeros(states.top.shape[:2]), atol=1e-5)


def test_more_classes_than_tokens_and_a_temperature_are_refused() -> None:
    with pytest.raises(UserError, match="cannot use the top 9999 of"):
        LOSSES.create({"name": "kd", "top": 9999}).prepare(model_info("bpe", 1), model_info("bpe", 0))
    with pytest.raises(UserError, match="top requires temperature: 1"):
        LOSSES.create({"name": "kd", "top": 4, "temperature": 2.0})
    assert len(toy_tokenizer("bpe")) < 9999
