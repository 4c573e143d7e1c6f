"""The losses of vocabulary expansion: hand-computed values, and what must hold for any pair of vocabularies."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from expanded_models import batch_of_pair, expanded_pair
from loss_setups import batch_of, model_info, read, setup
from toy_tokenizers import TEXT

from crosstok.distill.expansion.new_rows import restore, train_new_rows
from crosstok.distill.losses import AlignedBatch, ModelInfo
from crosstok.distill.losses.distribution_loss import kl
from crosstok.distill.losses.expansion_kl import merged
from crosstok.distill.registry import LOSSES
from crosstok.distill.tokenizers.spellings import spellings
from crosstok.distill.tokenizers.token_cover import TokenCover
from crosstok.errors import UserError

TEXTS = (TEXT[:160], "The sun was up", TEXT[400:480])
A, B, C, D, X = range(5)
AB, ABC = 5, 6


def test_a_token_of_two_pieces_takes_what_both_are_worth_from_its_first_piece() -> None:
    found = TokenCover([(A, B)], AB).outcomes([A, B, C])
    assert found is not None
    assert found.tokens == [[A], [AB]]
    masses = [0.6 * mass for mass in found.masses([0.5])]  # p(A) = .6, p(B | A) = .5
    assert masses == pytest.approx([0.3, 0.3])
    assert sum(masses) + 0.4 == pytest.approx(1)


def test_a_longer_token_takes_from_the_longest_token_that_begins_it() -> None:
    found = TokenCover([(A, B), (A, B, C)], AB).outcomes([A, B, D])
    assert found is not None
    assert found.tokens == [[A], [AB], [ABC]]
    assert found.masses([0.5, 0.2]) == pytest.approx([0.5, 0.5 - 0.1, 0.1])


def test_outcomes_off_the_text_stay_merged_where_nothing_tells_them_apart() -> None:
    found = TokenCover([(A, B), (A, B, C), (A, D, C)], AB).outcomes([A, X])
    assert found is not None
    # ABC is below AB, of which one conditional is known; ADC is below AD, which is no token.
    assert found.tokens == [[A, 7], [AB, ABC]]
    assert found.masses([0.5, 0.3]) == pytest.approx([0.5, 0.5])


def test_no_token_begins_with_the_text() -> None:
    assert TokenCover([(A, B)], AB).outcomes([B, A]) is None


def test_merging_puts_a_new_token_with_its_first_piece() -> None:
    # p_S(A) = .1, p_S(w) = .5, the rest .4: the class has .6, and no divergence from p_T(A) = .6.
    logits = torch.tensor([[0.1, 0.4, 0.5]]).log()
    classes = merged(logits[:, :2], logits[:, 2:], torch.tensor([0])).log_softmax(dim=1)
    assert classes.exp().tolist()[0] == pytest.approx([0.6, 0.4])
    assert float(kl(torch.tensor([[0.6, 0.4]]).log(), classes)) == pytest.approx(0, abs=1e-7)


def test_merged_logits_are_log_sum_exps_however_far_apart() -> None:
    torch.manual_seed(0)
    old, new = 60 * torch.randn(5, 7), 60 * torch.randn(5, 4)
    classes = torch.tensor([3, 0, 3, 3])
    found = merged(old, new, classes)
    for token in range(7):
        group = torch.cat([old[:, token : token + 1], new[:, classes == token]], dim=1)
        assert torch.allclose(found[:, token], group.logsumexp(dim=1))


@pytest.mark.parametrize("target", ["classes", "cover"])
def test_without_new_tokens_it_is_the_ordinary_divergence(target: str) -> None:
    student, teacher = model_info("bpe", 1), model_info("bpe", 0)
    batch = batch_of("bpe", "bpe", TEXTS)
    ordinary = setup("kd", student, teacher).term(batch)
    ours = setup({"name": "kl", "target": target}, student, teacher).term(batch)
    assert ours.count == ordinary.count > 50
    assert ours.sum.item() == pytest.approx(ordinary.sum.item(), rel=1e-5)
    same = setup({"name": "kl", "target": target}, teacher, teacher).term(batch)
    assert float(same.sum) == pytest.approx(0, abs=1e-4)


def distributions(teacher: ModelInfo, student: ModelInfo, batch: AlignedBatch) -> list[torch.Tensor]:
    """Return the next-token probabilities of both models, ``[b, n, V]`` each."""
    with torch.no_grad():
        sides: Any = ((teacher, batch.teacher), (student, batch.student))
        return [model.network(input_ids=side.ids).logits.double().softmax(-1) for model, side in sides]


def positions(teacher: ModelInfo, student: ModelInfo, batch: AlignedBatch) -> Iterator[tuple[int, int, int, list[int]]]:
    """Yield row, place on either side and the old ids of every student token but the first of a row."""
    first = teacher.tokens.size
    spelt = dict(enumerate(spellings(student.tokens, first), first))
    for row, theirs in enumerate(batch.teacher.ids.tolist()):
        place = 0
        for index in range(int(batch.student.attention[row].sum())):
            token = int(batch.student.ids[row, index])
            pieces = list(spelt.get(token, (token,)))
            assert theirs[place : place + len(pieces)] == pieces
            if index:
                yield row, place, index, pieces
            place += len(pieces)


def by_hand(teacher: ModelInfo, student: ModelInfo, batch: AlignedBatch) -> tuple[float, float, int]:
    """Return the two terms and the number of positions, token by token and in probabilities."""
    theirs, ours = distributions(teacher, student, batch)
    first = teacher.tokens.size
    spelt = dict(enumerate(spellings(student.tokens, first), first))
    classes = chunks = 0.0
    count = 0
    for row, place, index, pieces in positions(teacher, student, batch):
        count += 1
        p, q = theirs[row, place - 1], ours[row, index - 1][:first].clone()
        for new, spelling in spelt.items():
            q[spelling[0]] += ours[row, index - 1, new]
        classes += float((p * (p / q).log()).sum())
        if len(pieces) > 1:
            a = math.prod(float(theirs[row, place - 1 + n, piece]) for n, piece in enumerate(pieces))
            b = float(ours[row, index - 1, int(batch.student.ids[row, index])])
            chunks += a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))
    return classes, chunks, count


def shaken(student: ModelInfo) -> None:
    """Move the student away from its teacher."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in student.network.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))


@pytest.mark.parametrize("shape", ["llama", "gemma3"])
def test_the_loss_is_the_sum_of_both_terms_computed_token_by_token(shape: str) -> None:
    teacher, student = expanded_pair(shape=shape)
    shaken(student)
    batch = batch_of_pair(teacher, student, TEXTS)
    classes, chunks, count = by_hand(teacher, student, batch)
    term = setup("kl", student, teacher).term(batch)
    assert term.count == count
    assert term.metrics["p_new"][1] > 3
    assert float(term.sum) == pytest.approx(classes + chunks, rel=1e-3)
    lighter = setup({"name": "kl", "chunk_weight": 0.5}, student, teacher).term(batch)
    assert float(lighter.sum) == pytest.approx(classes + chunks / 2, rel=1e-3)


def test_the_cover_target_is_the_divergence_over_all_outcomes_that_the_text_tells_apart() -> None:
    teacher, student = expanded_pair()
    shaken(student)
    batch = batch_of_pair(teacher, student, TEXTS)
    theirs, ours = distributions(teacher, student, batch)
    first = teacher.tokens.size
    spelt = spellings(student.tokens, first)
    cover, total, apart = TokenCover(spelt, first), 0.0, 0
    for row, place, index, _ in positions(teacher, student, batch):
        text = batch.teacher.ids[row, place : int(batch.teacher.attention[row].sum())].tolist()
        target = dict(enumerate(theirs[row, place - 1].tolist()))
        found = dict(enumerate(ours[row, index - 1][:first].tolist()))
        for new, spelling in enumerate(spelt, first):
            found[spelling[0]] += float(ours[row, index - 1, new])
        if split := cover.outcomes(text):
            edges = [
                float(theirs[row, place - 1 + depth, old]) for depth, old in zip(split.depths, split.ids, strict=True)
            ]
            mass = target.pop(text[0])
            del found[text[0]]
            for number, (tokens, share) in enumerate(zip(split.tokens, split.masses(edges), strict=True)):
                target[-1 - number] = mass * share
                found[-1 - number] = sum(float(ours[row, index - 1, token]) for token in tokens)
            apart += len(split.tokens) > 2
        assert sum(target.values()) == pytest.approx(1)
        assert sum(found.values()) == pytest.approx(1)
        total += sum(value * math.log(value / found[key]) for key, value in target.items() if value)
    assert apart > 3
    assert float(setup({"name": "kl", "target": "cover"}, student, teacher).term(batch).sum) == pytest.approx(
        total, rel=1e-3
    )


@pytest.mark.parametrize("options", [{"f": "reverse_kl"}, {"f": "jsd"}, {"temperature": 2.0, "square": True}])
def test_other_divergences_are_positive_and_have_a_gradient(options: dict[str, Any]) -> None:
    teacher, student = expanded_pair()
    batch = batch_of_pair(teacher, student, TEXTS)
    term = setup({"name": "kl", **options}, student, teacher).term(batch)
    term.sum.backward()
    assert float(term.sum) > 0
    assert float(student.network.get_input_embeddings().weight.grad.norm()) > 0  # type: ignore[operator]


@pytest.mark.parametrize("options", [{}, {"target": "cover"}])
@pytest.mark.parametrize("tied", [True, False])
def test_the_gradient_by_blocks_is_that_of_finite_differences(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], tied: bool
) -> None:
    monkeypatch.setattr("crosstok.distill.losses.expansion_kl.BLOCK", 5 * 420)  # five positions at a time
    teacher, student = expanded_pair(tied=tied)
    batch = batch_of_pair(teacher, student, TEXTS[:2])
    made = setup({"name": "kl", **options}, student, teacher)
    made.term(batch).sum.backward()
    network: Any = student.network
    torch.manual_seed(1)
    for weight in {
        id(w): w for w in (network.get_input_embeddings().weight, network.get_output_embeddings().weight)
    }.values():
        way = torch.randn_like(weight)
        slope = float((weight.grad * way).sum())
        values = []
        with torch.no_grad():
            for step in (1e-3, -2e-3):
                weight.add_(step * way)
                values.append(float(made.term(batch).sum.double()))
            weight.add_(1e-3 * way)
        assert slope == pytest.approx((values[0] - values[1]) / 2e-3, rel=2e-2, abs=1e-2)


def test_the_teacher_gets_no_gradient_and_the_masked_prompt_none_either() -> None:
    teacher, student = expanded_pair()
    batch = batch_of_pair(teacher, student, TEXTS)
    made = setup("kl", student, teacher)
    taught = read(teacher, batch.teacher, made.loss.of_teacher)
    made.loss(batch, read(student, batch.student, made.loss.of_student), taught).sum.backward()
    assert all(weight.grad is None for weight in teacher.network.parameters())
    batch.student.counted[:] = False
    assert float(made.term(batch).sum) == 0
    assert made.term(batch).count == 0


def test_the_loss_of_a_window_is_the_same_alone_and_in_a_batch() -> None:
    teacher, student = expanded_pair()
    made = setup("kl", student, teacher)
    alone = sum(float(made.term(batch_of_pair(teacher, student, [text])).sum) for text in TEXTS)
    assert float(made.term(batch_of_pair(teacher, student, TEXTS)).sum) == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("loss", ["sft", "kl", "kd_logits"])
@pytest.mark.parametrize("shape", ["llama", "gemma3"])
def test_rows_that_learn_alone_get_the_gradient_that_they_get_among_all(shape: str, loss: str, tied: bool) -> None:
    gradients = []
    for alone in (False, True):
        teacher, student = expanded_pair(shape=shape, tied=tied)
        network: Any = student.network
        first = teacher.tokens.size
        rows = train_new_rows(network, first) if alone else []
        batch = batch_of_pair(teacher, student, TEXTS)
        if loss == "kd_logits":
            output = read(student, batch.student, {"logits"})
            output.logits.log_softmax(-1)[..., ::7].sum().backward()
        else:
            setup(loss, student, teacher).term(batch).sum.backward()
        weights = [network.get_input_embeddings().weight, network.get_output_embeddings().weight]
        if alone:
            assert all(weight.grad is None for name, weight in network.named_parameters() if "new_rows" not in name)
            gradients.append([row.grad for row in rows])
            restore(network)
            assert not any("new_rows" in name for name, _ in network.named_parameters())
        else:
            gradients.append([weight.grad[first:] for weight in dict.fromkeys(weights)])
    assert len(gradients[0]) == len(gradients[1]) == 2 - tied
    for among, own in zip(*gradients, strict=True):
        assert float(among.norm()) > 0
        assert torch.allclose(among, own, rtol=1e-4, atol=1e-6 * float(among.abs().max()))


def test_a_vocabulary_that_does_not_continue_the_teachers_is_refused() -> None:
    student, teacher = model_info("byte", 0), model_info("bpe", 0)
    with pytest.raises(UserError, match=r"extends the teacher's, but id 0 is .*crosstok expand"):
        setup("kl", student, teacher)


def test_cover_takes_the_forward_divergence_only() -> None:
    with pytest.raises(UserError, match="target: cover requires f: kl"):
        LOSSES.create({"name": "kl", "target": "cover", "f": "jsd"})
