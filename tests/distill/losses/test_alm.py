"""ALM against hand-computed values (probabilities chosen, formulas worked out on paper) and its invariants."""

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_model
from toy_tokenizers import TEXT, toy_tokenizer

from crosstok.distill.losses import AlignedBatch, Outputs, Reader, Side
from crosstok.distill.losses.alm import ALM
from crosstok.distill.readings.divergences import kl, log1mexp
from crosstok.distill.registry import LOSSES
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.distill.training.windows import Encoder, collate
from crosstok.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GREEDY = {"gamma": 0.0, "debias": False}
NEEDS = frozenset({"gold", "boundary"})


def side(chunks: list[list[int]], counted: list[list[int]] | None = None, ids: torch.Tensor | None = None) -> Side:
    """Return a side made of chunk ids alone; -1 stands for a token outside every chunk."""
    chunk = torch.tensor(chunks)
    return Side(
        ids=torch.zeros_like(chunk) if ids is None else ids,
        attention=torch.ones_like(chunk),
        chunks=chunk,
        counted=chunk >= 0 if counted is None else torch.tensor(counted, dtype=torch.bool),
        lengths=(chunk >= 0).long(),
    )


def outputs(gold: list[list[float]], boundary: list[list[float]] | None = None) -> Outputs:
    """Return readings with these probabilities (not logarithms)."""
    readings = {"gold": torch.tensor(gold, dtype=torch.float32).log()}
    if boundary is not None:
        readings["boundary"] = torch.tensor(boundary, dtype=torch.float32).log()
    return Outputs(readings)


def one_chunk(p_teacher: float, p_student: float, **options: object) -> float:
    """Return the loss of a single chunk behind a BOS."""
    both = side([[-1, 0]])
    batch = AlignedBatch(both, both, count=1)
    term = ALM(**{**GREEDY, **options})(batch, outputs([[1, p_student]]), outputs([[1, p_teacher]]))
    assert term.count == 1
    return float(term.sum)


def texts_batch(teacher: str, student: str, texts: list[str], *, bos: bool = True) -> AlignedBatch:
    sides = []
    for name in (teacher, student):
        tokenizer = toy_tokenizer(name)
        sides.append(
            Encoder(TokenBytes.from_tokenizer(tokenizer), tokenizer.bos_token_id if bos else None).encode_many(texts)
        )
    return collate(list(zip(texts, *sides, strict=True)))


def read(model: "PreTrainedModel", name: str, batch_side: Side) -> Outputs:
    tokens = TokenBytes.from_tokenizer(toy_tokenizer(name))
    return Reader.of(tokens, tokens.size).read(model, batch_side, NEEDS)


# Values.


@pytest.mark.parametrize(
    ("p_teacher", "p_student", "tau", "expected"),
    [(0.8, 0.5, 1.0, 0.192745), (0.25, 0.0625, 1.0, 0.179216), (0.25, 0.0625, 2.0, 0.143841)],
)
def test_binary_kl_has_the_hand_computed_value(p_teacher: float, p_student: float, tau: float, expected: float) -> None:
    assert one_chunk(p_teacher, p_student, tau=tau) == pytest.approx(expected, abs=1e-5)


def test_tau_times_the_kl_approaches_its_limit() -> None:
    limit = math.log(4) + math.log(0.25) * math.log(math.log(0.0625) / math.log(0.25))
    assert limit == pytest.approx(0.425388, abs=1e-6)
    assert 1e3 * one_chunk(0.25, 0.0625, tau=1e3) == pytest.approx(limit, rel=2e-2)


def test_the_gradient_of_the_kl_at_tau_one_is_q_minus_p_over_one_minus_q() -> None:
    b = torch.tensor(math.log(0.5), requires_grad=True)
    kl(torch.tensor(math.log(0.8)), b).backward()
    assert float(b.grad) == pytest.approx(-(0.8 - 0.5) / (1 - 0.5), abs=1e-5)  # -0.6


@given(st.floats(-80, -1e-6))
def test_log1mexp_agrees_with_double_precision_and_has_a_finite_gradient(z: float) -> None:
    value = torch.tensor(z, dtype=torch.float32, requires_grad=True)
    answer = log1mexp(value)
    assert float(answer.detach()) == pytest.approx(math.log(-math.expm1(float(value.detach()))), rel=1e-4)
    answer.backward()
    assert math.isfinite(float(value.grad))


@given(st.floats(-60, -1e-6), st.floats(-60, -1e-6))
def test_the_kl_is_never_below_zero_and_finite_in_value_and_gradient(a: float, b: float) -> None:
    student = torch.tensor(b, dtype=torch.float32, requires_grad=True)
    value = kl(torch.tensor(a, dtype=torch.float32), student)
    value.backward()
    assert float(value.detach()) >= -1e-6
    assert math.isfinite(float(value.detach()))
    assert math.isfinite(float(student.grad))


def test_debiasing_multiplies_the_chunk_by_the_boundary_mass_after_it() -> None:
    both = side([[-1, 0]])
    batch = AlignedBatch(both, both, count=1)
    debiased = ALM(gamma=0, tau=1)(batch, outputs([[1, 0.5]], [[1, 1]]), outputs([[1, 0.3]], [[1, 0.4]]))
    assert float(debiased.sum) == pytest.approx(one_chunk(0.12, 0.5, tau=1), abs=1e-6)


def test_boundary_probabilities_merge_chunks_into_groups_that_end_above_gamma() -> None:
    both = side([[-1, 0, 1, 2, 3]])
    batch = AlignedBatch(both, both, count=4)
    teacher = outputs([[1, 0.5, 0.4, 0.3, 0.2]], [[1, 0.05, 0.6, 0.02, 0.9]])
    student = outputs([[1, 0.9, 0.8, 0.7, 0.6]], [[1, 0.1, 0.2, 0.3, 0.4]])
    loss = ALM(gamma=0.1, tau=1)
    assert loss.merge(batch, teacher).student.chunks.tolist() == [[-1, 0, 0, 1, 1]]
    term = loss(batch, student, teacher)
    expected = one_chunk(0.5 * 0.4 * 0.6, 0.9 * 0.8 * 0.2, tau=1) + one_chunk(0.3 * 0.2 * 0.9, 0.7 * 0.6 * 0.4, tau=1)
    assert term.count == loss.count(batch, teacher) == 2
    assert float(term.sum) == pytest.approx(expected, abs=1e-6)


def test_gamma_zero_merges_nothing_and_gamma_one_leaves_one_group_per_sequence() -> None:
    batch = texts_batch("spm", "byte", ["for name, size in sizes.items():\n", "the sun"])
    teacher = read(tiny_model(toy_tokenizer("spm")), "spm", batch.teacher)
    assert torch.equal(ALM(gamma=0).merge(batch, teacher).student.chunks, batch.student.chunks)
    groups = ALM(gamma=1).merge(batch, teacher).student.chunks
    assert set(groups.flatten().tolist()) == {-1, 0}
    assert ALM(gamma=1).count(batch, teacher) == 2


# What is scored.


def test_a_chunk_with_a_first_token_that_nothing_predicts_is_dropped_on_both_sides() -> None:
    batch = AlignedBatch(side([[0, 1, 2]]), side([[-1, 0, 0, 1, 2]]), count=3)
    assert batch.scored.tolist() == [[False, True, True]]


def test_a_chunk_that_reaches_into_a_masked_prompt_is_dropped_and_gets_no_gradient() -> None:
    teacher = side([[-1, 0, 1, 2]])
    student = side([[-1, 0, 1, 1, 2]], counted=[[0, 0, 0, 1, 1]])
    gold = torch.tensor([[0.0, -1.0, -2.0, -3.0, -4.0]], requires_grad=True)
    term = ALM(**GREEDY, tau=1)(
        AlignedBatch(teacher, student, count=3), Outputs({"gold": gold}), outputs([[1, 0.5, 0.5, 0.5]])
    )
    term.sum.backward()
    assert term.count == 1
    assert gold.grad[0, :4].tolist() == [0, 0, 0, 0]
    assert gold.grad[0, 4] != 0


@pytest.mark.parametrize("gamma", [0.0, 0.1])
def test_nothing_to_score_is_exactly_zero_with_a_gradient_path(gamma: float) -> None:
    batch = collate([])
    gold = torch.zeros(1, 1, requires_grad=True)
    student = Outputs({"gold": gold, "boundary": torch.zeros(1, 1)})
    term = ALM(gamma=gamma)(batch, student, outputs([[1]], [[1]]))
    term.sum.backward()
    assert (float(term.sum.detach()), term.count) == (0.0, 0.0)
    assert gold.grad.tolist() == [[0.0]]


@pytest.mark.parametrize("pair", [("bpe", "byte"), ("spm", "bpe"), ("superword", "unigram")])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.9])
def test_chunk_sums_add_up_to_the_likelihood_of_the_covered_tokens(pair: tuple[str, str], gamma: float) -> None:
    batch = texts_batch(*pair, [TEXT[:300], "naïve façade €"])
    with torch.no_grad():
        teacher = read(tiny_model(toy_tokenizer(pair[0])), pair[0], batch.teacher)
    merged = ALM(gamma=gamma).merge(batch, teacher)
    sums = merged.teacher.sum_by_chunk(teacher.gold, merged.count)
    covered = teacher.gold[batch.teacher.chunks >= 0].sum()
    assert float(sums.sum()) == pytest.approx(float(covered), rel=1e-5)
    assert bool(merged.scored[merged.teacher.chunk_ends(merged.count) >= 0].all())


# Invariants.


@pytest.mark.parametrize("gamma", [0.0, 0.1])
@pytest.mark.parametrize("name", ["byte", "bpe", "spm", "superword"])
def test_the_same_model_and_tokenizer_give_zero_loss_and_zero_gradient(name: str, gamma: float) -> None:
    model = tiny_model(toy_tokenizer(name))
    batch = texts_batch(name, name, [TEXT[:200], "x"])
    with torch.no_grad():
        teacher = read(model, name, batch.teacher)
    term = ALM(tau=1, gamma=gamma)(batch, read(model, name, batch.student), teacher)
    term.sum.backward()
    assert term.count > 0
    assert float(term.sum.detach()) == pytest.approx(0, abs=1e-6)
    assert max(float(parameter.grad.abs().max()) for parameter in model.parameters()) < 1e-6


def test_with_one_tokenizer_and_greedy_chunks_it_is_the_mean_binary_kl_of_each_token() -> None:
    batch = texts_batch("bpe", "bpe", [TEXT[:400]])
    teacher = read(tiny_model(toy_tokenizer("bpe"), seed=1), "bpe", batch.teacher)
    student = read(tiny_model(toy_tokenizer("bpe"), seed=2), "bpe", batch.student)
    term = ALM(**GREEDY, tau=1)(batch, student, teacher)
    p, q = teacher.gold[0, 1:].double().exp(), student.gold[0, 1:].double().exp()
    expected = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert term.count == batch.student.ids.shape[1] - 1
    assert float(term.sum.detach()) / term.count == pytest.approx(float(expected.mean()), rel=1e-3)


def test_permuting_the_ids_of_one_side_leaves_the_loss_unchanged() -> None:
    batch = texts_batch("bpe", "byte", [TEXT[:200], "hens"])
    teacher = read(tiny_model(toy_tokenizer("bpe")), "bpe", batch.teacher)
    model = tiny_model(toy_tokenizer("byte"))
    before = ALM(**GREEDY)(batch, read(model, "byte", batch.student), teacher)
    size = model.config.vocab_size
    order = torch.from_numpy(np.random.default_rng(0).permutation(size))
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        weight[order] = weight.clone()
    permuted = AlignedBatch(
        batch.teacher, Side(**{**vars(batch.student), "ids": order[batch.student.ids]}), batch.count
    )
    assert model.lm_head.weight is weight
    after = ALM(**GREEDY)(permuted, read(model, "byte", permuted.student), teacher)
    assert float(after.sum.detach()) == pytest.approx(float(before.sum.detach()), rel=1e-5)


def test_padded_vocabulary_rows_change_nothing() -> None:
    tokenizer = toy_tokenizer("bpe")
    tokens = TokenBytes.from_tokenizer(tokenizer)
    batch = texts_batch("bpe", "bpe", [TEXT[:200]])
    model = tiny_model(tokenizer)
    padded = tiny_model(tokenizer, rows=tokens.size + 60)
    with torch.no_grad():
        for name, parameter in padded.named_parameters():
            own = dict(model.named_parameters())[name]
            parameter[: own.shape[0]] = own
            parameter[own.shape[0] :] = 5.0  # rows that would take most of the mass
    reader = Reader.of(tokens, tokens.size)
    for reading in ("gold", "boundary"):
        expected = getattr(reader.read(model, batch.student, NEEDS), reading)
        found = getattr(reader.read(padded, batch.student, NEEDS), reading)
        assert torch.allclose(expected, found, atol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.1])
def test_a_sample_has_the_same_loss_alone_and_in_a_batch_of_mixed_lengths(gamma: float) -> None:
    texts = [TEXT[:300], "The sun was up", TEXT[400:520]]
    models = [tiny_model(toy_tokenizer(name), seed=seed) for seed, name in enumerate(("spm", "byte"))]

    def loss(chosen: list[str]) -> tuple[float, float]:
        batch = texts_batch("spm", "byte", chosen)
        outs = read(models[1], "byte", batch.student), read(models[0], "spm", batch.teacher)
        term = ALM(gamma=gamma, tau=1)(batch, *outs)
        return float(term.sum.detach()), term.count

    alone = [loss([text]) for text in texts]
    total, count = loss(texts)
    assert count == sum(part[1] for part in alone)
    assert total == pytest.approx(sum(part[0] for part in alone), rel=1e-4)


def test_the_boundary_set_is_white_space_first_and_special_tokens() -> None:
    tokens = TokenBytes.from_tokenizer(toy_tokenizer("bpe"))
    reader = Reader.of(tokens, tokens.size)
    for token, data in enumerate(tokens.table):
        expected = token in tokens.special_ids or (data or b"x")[:1] in (b" ", b"\t", b"\n")
        assert bool(reader.boundary[token]) == expected, (token, data)


def test_the_boundary_mass_is_one_where_every_entry_begins_with_a_boundary() -> None:
    model = tiny_model(toy_tokenizer("bpe"))
    size = model.config.vocab_size
    batch = texts_batch("bpe", "bpe", ["a b"])
    every = Reader(size, torch.ones(size, dtype=torch.bool)).read(model, batch.student, NEEDS)
    assert torch.allclose(every.boundary, torch.zeros_like(every.boundary), atol=1e-6)
    some = read(model, "bpe", batch.student)
    assert bool((some.boundary < 0).all())


def test_the_chunks_of_the_textbook_example_are_hello_and_the_question_mark() -> None:
    from crosstok.distill.tokenizers.alignment import align  # only this test looks at bare ends

    found = align(np.array([3, 5, 6]), np.array([5, 6]))
    assert (found.teacher_chunks.tolist(), found.student_chunks.tolist()) == ([0, 0, 1], [0, 1])


def test_a_misspelt_option_of_a_loss_is_refused_with_the_closest_one() -> None:
    with pytest.raises(UserError, match="gamma"):
        LOSSES.create({"name": "alm", "gama": 0.1})
    with pytest.raises(UserError, match="tau"):
        LOSSES.create({"name": "alm", "tau": -1})
