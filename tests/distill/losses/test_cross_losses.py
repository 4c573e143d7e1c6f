"""The losses over whole distributions against values worked out by hand."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from loss_setups import TEXTS, batch_of, model_info, read, setup
from torch import Tensor
from toy_tokenizers import toy_tokenizer

from crosstok.distill.losses import AlignedBatch, ModelInfo, Outputs, Side
from crosstok.distill.losses.bpm import class_masses, prefix_map
from crosstok.distill.losses.dskd import DSKD
from crosstok.distill.losses.gold import generalised_jsd, merged
from crosstok.distill.losses.hidden import Hidden
from crosstok.distill.losses.mined import MinED, nearest_map
from crosstok.distill.losses.uld import sorted_distance
from crosstok.distill.readings.positions import one_to_one, starts
from crosstok.distill.registry import LOSSES
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError
from crosstok.fingerprint import fingerprint


def side(chunks: list[int], ids: list[int] | None = None, lengths: list[int] | None = None) -> Side:
    """Return one row behind a BOS; ``chunks``, ``ids`` and ``lengths`` are those of the tokens after it."""
    n = len(chunks) + 1
    return Side(
        ids=torch.tensor([[0, *(ids or [0] * (n - 1))]]),
        attention=torch.ones(1, n, dtype=torch.long),
        chunks=torch.tensor([[-1, *chunks]]),
        counted=torch.tensor([[False, *[True] * (n - 1)]]),
        lengths=torch.tensor([[0, *(lengths or [1] * (n - 1))]]),
    )


def logits(*rows: list[float]) -> Tensor:
    """Return logits ``[1, n, V]`` with these probabilities; the last position, which predicts nothing, is uniform."""
    uniform = [1 / len(rows[0])] * len(rows[0])
    return torch.tensor([[*rows, uniform]]).log()


def vocabulary(*tokens: bytes, specials: dict[int, str] | None = None) -> Any:
    """Return what a loss looks at of a model with exactly these tokens; a special is an empty string."""
    table = tuple(data or None for data in tokens)
    found = {data: index for index, data in reversed(list(enumerate(tokens))) if data}
    known = SimpleNamespace(
        table=table,
        size=len(table),
        specials=specials or {},
        special_ids=frozenset(specials or {}),
        lengths=np.array([len(data) for data in tokens], dtype=np.int32),
        id_of=found.get,
        fingerprint=fingerprint(list(map(repr, tokens))),
    )
    return ModelInfo(known, len(table), torch.nn.Identity())  # type: ignore[arg-type]  # all that is read of a tokenizer


ONE = AlignedBatch(side([0]), side([0]), count=1)


def compare(choice: Any, teacher: list[float], student: list[float], tokens: int = 3) -> float:
    """Return the loss of one position, over one vocabulary."""
    loss = LOSSES.create(choice)
    both = vocabulary(*(bytes([97 + index]) for index in range(tokens)))
    loss.prepare(both, both)
    term = loss(ONE, Outputs({"logits": logits(student)}), Outputs({"logits": logits(teacher)}))
    assert term.count == 1
    return float(term.sum)


# Positions.


def test_positions_are_chunk_starts_and_single_tokens() -> None:
    batch = AlignedBatch(side([0, 0, 1, 2]), side([0, 1, 1, 2]), count=3)
    assert starts(batch).teacher.tolist() == [1, 3, 4]
    assert starts(batch).student.tolist() == [1, 2, 4]
    single = one_to_one(batch)
    assert (single.teacher.tolist(), single.student.tolist(), single.chunks.tolist()) == ([4], [4], [2])


def test_a_dummy_space_does_not_keep_a_chunk_from_being_a_single_token() -> None:
    batch = AlignedBatch(side([0, 0, 1], lengths=[0, 3, 1]), side([0, 1], lengths=[3, 1]), count=2)
    assert one_to_one(batch).teacher.tolist() == [2, 3]
    assert one_to_one(batch).student.tolist() == [1, 2]


# One vocabulary.


T, S = [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]
KL_TS = 0.5 * math.log(2.5) + 0.2 * math.log(0.4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"f": "kl"}, KL_TS),
        ({"f": "reverse_kl"}, KL_TS),  # the two are each other's mirror image
        ({"f": "tvd"}, 0.3),
        ({"f": "jsd"}, 0.5 * math.log(0.5 / 0.35) + 0.2 * math.log(0.2 / 0.35)),
        ({"f": "skewed_kl"}, 0.5 * math.log(0.5 / 0.23) + 0.2 * math.log(0.2 / 0.47)),
        ({"f": "skewed_reverse_kl"}, 0.5 * math.log(0.5 / 0.23) + 0.2 * math.log(0.2 / 0.47)),
        # tail: .2 (cumulative .2 < .3), head: .3 and .5; gaps .3 and 0 + .3: half of each KL
        ({"f": "adaptive_kl", "tail": 0.3}, KL_TS),
    ],
)
def test_a_divergence_over_one_vocabulary_has_the_hand_computed_value(options: dict[str, Any], expected: float) -> None:
    assert compare({"name": "kd", **options}, T, S) == pytest.approx(expected, abs=1e-6)


def test_the_adaptive_kl_weighs_head_and_tail_by_their_gaps() -> None:
    teacher, student = [0.6, 0.3, 0.1], [0.2, 0.3, 0.5]  # head .6: gap .4; tail .1 and .3: gap .4 and 0
    forward = 0.6 * math.log(3) + 0.1 * math.log(0.2)
    reverse = 0.2 * math.log(1 / 3) + 0.5 * math.log(5)
    found = compare({"name": "kd", "f": "adaptive_kl"}, teacher, student)
    assert found == pytest.approx((forward + reverse) / 2, abs=1e-6)
    uneven = compare({"name": "kd", "f": "adaptive_kl", "tail": 0.05}, teacher, student)  # no tail at all
    assert uneven == pytest.approx(forward, abs=1e-6)


def test_the_temperature_flattens_and_its_square_restores_the_size() -> None:
    plain = compare({"name": "kd", "temperature": 2}, T, S)
    roots = [[math.sqrt(value) for value in part] for part in (T, S)]
    flat = [[value / sum(part) for value in part] for part in roots]
    assert plain == pytest.approx(sum(t * math.log(t / s) for t, s in zip(*flat, strict=True)), abs=1e-6)
    assert compare({"name": "kd", "temperature": 2, "square": True}, T, S) == pytest.approx(4 * plain, abs=1e-6)


def test_kd_refuses_two_vocabularies_and_names_a_difference() -> None:
    with pytest.raises(UserError, match=r"id \d+ is .* in the teacher and .* in the student"):
        setup("kd", model_info("byte", 0), model_info("bpe", 1))


# Strict.


def test_strict_renormalises_over_shared_tokens() -> None:
    loss = LOSSES.create({"name": "strict", "f": "kl"})
    loss.prepare(vocabulary(b"x", b"b", b"a"), vocabulary(b"a", b"b", b"y"))
    term = loss(
        ONE,
        Outputs({"logits": logits([0.5, 0.3, 0.2])}),  # b .3 and a .2: .6 and .4
        Outputs({"logits": logits([0.2, 0.2, 0.6])}),  # a and b: .5 each
    )
    assert float(term.sum) == pytest.approx(0.5 * math.log(0.5 / 0.6) + 0.5 * math.log(0.5 / 0.4), abs=1e-6)
    assert term.metrics["coverage"] == (1.0, 1.0)


def test_strict_can_look_at_the_students_likeliest_tokens_only() -> None:
    found = compare({"name": "strict", "f": "kl", "top": 2}, T, S)  # tokens 1 and 2
    assert found == pytest.approx(0.6 * math.log(0.6 / 0.375) + 0.4 * math.log(0.4 / 0.625), abs=1e-6)


def test_strict_leaves_out_chunks_of_several_tokens_and_vocabularies_without_a_common_token() -> None:
    loss = LOSSES.create("strict")
    assert loss.count(AlignedBatch(side([0, 0, 1]), side([0, 1]), count=2), Outputs()) == 1
    with pytest.raises(UserError, match="shared tokens"):
        loss.prepare(vocabulary(b"x"), vocabulary(b"y"))


# ULD.


def test_the_distance_of_sorted_distributions_has_the_hand_computed_value() -> None:
    assert float(sorted_distance(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.7, 0.2, 0.1]]))) == pytest.approx(0.6)


def test_uld_cannot_see_that_the_student_has_the_tokens_wrong() -> None:
    assert compare("uld", [0.7, 0.2, 0.1], [0.1, 0.7, 0.2]) == pytest.approx(0, abs=1e-6)
    assert compare("kd", [0.7, 0.2, 0.1], [0.1, 0.7, 0.2]) > 0.5


def test_pairing_by_index_drifts_and_pairing_by_chunks_does_not() -> None:
    batch = AlignedBatch(side([0, 0, 1]), side([0, 1]), count=2)
    by_chunk = LOSSES.create("uld")
    by_index = LOSSES.create({"name": "uld", "pairing": "index"})
    teacher = Outputs({"logits": logits([0.5, 0.5], [0.9, 0.1], [0.8, 0.2])})
    student = Outputs({"logits": logits([0.5, 0.5], [0.8, 0.2])})
    assert float(by_chunk(batch, student, teacher).sum) == pytest.approx(0, abs=1e-6)
    assert float(by_index(batch, student, teacher).sum) == pytest.approx(0.2, abs=1e-6)
    assert by_index.count(batch, teacher) == 2


# BPM.


def test_the_marginal_over_byte_prefixes_has_the_hand_computed_masses() -> None:
    teacher, student = vocabulary(b"ab", b"a", b"abc", b"z"), vocabulary(b"a", b"ab", b"q")
    classes = prefix_map(student, teacher)
    assert classes.tolist() == [1, 0, 1, 3]
    masses = class_masses(torch.tensor([[0.5, 0.2, 0.2, 0.1]]), classes, 3)
    assert masses.tolist()[0] == pytest.approx([0.2, 0.7, 0.0, 0.1])


@pytest.mark.parametrize("name", ["bpe", "spm", "superword"])
def test_next_byte_masses_of_a_byte_student_sum_to_one_minus_the_mass_of_what_has_no_bytes(name: str) -> None:
    tokens, letters = (TokenBytes.from_tokenizer(toy_tokenizer(kind)) for kind in (name, "byte"))
    teacher, student = (ModelInfo(side, side.size, torch.nn.Identity()) for side in (tokens, letters))
    probabilities = torch.rand(3, tokens.size, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    masses = class_masses(probabilities, prefix_map(student, teacher), letters.size)
    spelt = [token for token, data in enumerate(letters.table) if data]
    without = [token for token, data in enumerate(tokens.table) if not data]
    assert without, "this tokenizer has an end"
    assert torch.allclose(masses[:, spelt].sum(dim=1), 1 - probabilities[:, without].sum(dim=1), atol=1e-6)
    for token in spelt:
        begins = [known for known, data in enumerate(tokens.table) if data and data[:1] == letters.table[token]]
        assert torch.allclose(masses[:, token], probabilities[:, begins].sum(dim=1), atol=1e-6)


def bpm(teacher: Any, student: Any, batch: AlignedBatch, taught: Outputs, read_: Outputs) -> float:
    loss = LOSSES.create("bpm")
    loss.prepare(student, teacher)
    return float(loss(batch, read_, taught).sum)


def test_bpm_is_the_kl_to_the_marginal_with_the_rest_in_one_class() -> None:
    teacher, student = vocabulary(b"ab", b"a", b"abc", b"z"), vocabulary(b"a", b"ab", b"q")
    taught = Outputs({"logits": logits([0.5, 0.2, 0.2, 0.1]), "gold": torch.tensor([[0.0, math.log(0.5)]])})
    batch = AlignedBatch(side([0], ids=[0], lengths=[2]), side([0], ids=[1], lengths=[2]), count=1)
    assert bpm(teacher, student, batch, taught, Outputs({"logits": logits([0.2, 0.7, 0.1])})) == pytest.approx(
        0, abs=1e-6
    )
    found = bpm(teacher, student, batch, taught, Outputs({"logits": logits([0.4, 0.4, 0.2])}))
    expected = 0.2 * math.log(0.2 / 0.4) + 0.7 * math.log(0.7 / 0.4) + 0.1 * math.log(0.1 / 0.2)
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_student_token_that_spans_teacher_tokens_gets_their_chain_rule_mass() -> None:
    teacher, student = vocabulary(b"a", b"b"), vocabulary(b"a", b"b", b"ab")
    # p(a) = .6 and p(b | a) = .5, so "ab" has .3, which leaves "a" with .3.
    taught = Outputs(
        {"logits": logits([0.6, 0.4], [0.5, 0.5]), "gold": torch.tensor([[0.0, math.log(0.6), math.log(0.5)]])}
    )
    batch = AlignedBatch(side([0, 0], ids=[0, 1]), side([0], ids=[2], lengths=[2]), count=1)
    assert bpm(teacher, student, batch, taught, Outputs({"logits": logits([0.3, 0.4, 0.3])})) == pytest.approx(
        0, abs=1e-6
    )


def test_a_student_without_a_rest_is_compared_to_the_teacher_without_its_rest() -> None:
    teacher, student = vocabulary(b"a", b"b", b"z"), vocabulary(b"a", b"b")
    taught = Outputs({"logits": logits([0.3, 0.5, 0.2]), "gold": torch.tensor([[0.0, math.log(0.3)]])})
    batch = AlignedBatch(side([0], ids=[0]), side([0], ids=[0]), count=1)
    assert bpm(teacher, student, batch, taught, Outputs({"logits": logits([0.375, 0.625])})) == pytest.approx(
        0, abs=1e-6
    )


# GOLD.


def merge_of(how: Any, second: list[float]) -> list[float]:
    """Return the merged vector of a chunk of two tokens, ids 0 and 1, the first predicted by [.6, .3, .1]."""
    one = side([0, 0], ids=[0, 1])
    values = logits([0.6, 0.3, 0.1], second)
    gold = torch.tensor([[0.0, math.log(0.6), math.log(second[1])]])
    batch = AlignedBatch(one, one, count=1)
    found = merged(one, Outputs({"logits": values, "gold": gold}), 1, starts(batch), how)
    row: list[float] = found[0].tolist()
    return row


def test_a_chunk_of_two_tokens_merges_as_documented() -> None:
    second = [0.05, 0.9, 0.05]
    assert merge_of("observed", second) == pytest.approx([0.54, 0.27, 0.09])
    assert merge_of("chain_rule", second) == pytest.approx([0.6 * value for value in second])


def test_the_published_merge_reads_every_distribution_one_position_late() -> None:
    second = [0.05, 0.9, 0.05]
    # The distribution after the first token, times that after the second (here uniform) of the second token.
    assert merge_of("published", second) == pytest.approx([value / 3 for value in second])


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (0.0, KL_TS),  # KL(T, S)
        (1.0, KL_TS),  # KL(S, T)
        (0.5, 0.5 * math.log(0.5 / 0.35) + 0.2 * math.log(0.2 / 0.35)),
    ],
)
def test_the_generalised_jsd_has_the_hand_computed_value(beta: float, expected: float) -> None:
    assert float(generalised_jsd(torch.tensor([T]), torch.tensor([S]), beta)) == pytest.approx(expected, abs=1e-6)


def test_gold_is_jsd_on_shared_and_sorted_distance_on_other_tokens() -> None:
    loss = LOSSES.create({"name": "gold", "beta": 0})
    loss.prepare(vocabulary(b"a", b"q"), vocabulary(b"a", b"y", b"z", b"w"))  # one shared of the teacher's four
    gold = torch.zeros(1, 2)
    student = Outputs({"logits": logits([0.4, 0.6]), "gold": gold})
    teacher = Outputs({"logits": logits([0.5, 0.2, 0.1, 0.2]), "gold": gold})
    shared, rest = 0.5 * math.log(0.5 / 0.4), (0.6 - 0.2) + 0.2 + 0.1
    assert float(loss(ONE, student, teacher).sum) == pytest.approx(0.25 * shared + 0.75 * rest, abs=1e-6)


# MinED.


def test_minimal_edits_map_what_has_no_equal() -> None:
    student = vocabulary(b"gots", b"set", b"", specials={2: "<end>"})
    teacher = vocabulary(b"", b"get", b"gets", b"set", specials={0: "<end>"})
    assert nearest_map(student, teacher).tolist() == [2, 3, 0]


def test_mined_over_one_vocabulary_is_plain_distillation() -> None:
    assert compare({"name": "mined", "temperature": 1}, T, S) == pytest.approx(KL_TS, abs=1e-6)
    flat = compare({"name": "kd", "temperature": 2}, T, S)
    assert compare("mined", T, S) == pytest.approx(flat, abs=1e-6)


def test_mined_reads_teacher_logits_through_the_map_and_is_certain_where_tokens_do_not_match() -> None:
    loss = MinED(temperature=1)
    loss.prepare(vocabulary(b"a", b"ab", b"bx"), vocabulary(b"a", b"b"))  # ab is one edit from a, bx from b
    batch = AlignedBatch(side([0, 1, 1], ids=[0, 0, 1]), side([0, 1], ids=[0, 1], lengths=[1, 2]), count=2)
    teacher = Outputs({"logits": logits([0.6, 0.4], [0.5, 0.5], [0.5, 0.5])})
    student = Outputs({"logits": logits([0.5, 0.25, 0.25], [0.1, 0.8, 0.1])})
    target = [0.6 / 1.6, 0.6 / 1.6, 0.4 / 1.6]
    paired = sum(t * math.log(t / s) for t, s in zip(target, [0.5, 0.25, 0.25], strict=True))
    term = loss(batch, student, teacher)
    assert float(term.sum) == pytest.approx(paired - math.log(0.8), abs=1e-6)
    assert (term.count, term.metrics["one_to_one"]) == (2, (1.0, 2.0))


def test_the_map_of_a_large_vocabulary_is_read_back_from_the_cache(
    empty_cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = vocabulary(*(f"x{index:04d}".encode() for index in range(1200)))
    teacher = vocabulary(b"x0003", b"x0777")
    made = nearest_map(student, teacher)
    assert made[[3, 777, 770]].tolist() == [0, 1, 1]
    monkeypatch.setattr("crosstok.distill.losses.mined.nearest_tokens", lambda *_: pytest.fail("searched again"))
    assert torch.equal(nearest_map(student, teacher), made)


# Hidden states.


def states(student: Tensor, teacher: Tensor, **options: Any) -> tuple[float, float]:
    batch = AlignedBatch(side([0, 0, 1]), side([0, 1]), count=2)
    model: Any = SimpleNamespace(width=student.shape[-1], depth=1)  # all that the loss reads of a model
    loss = Hidden(**options)
    loss.prepare(model, model)
    term = loss(batch, Outputs({"hidden": student}), Outputs({"hidden": teacher}))
    return float(term.sum) / term.count, term.count


def test_hidden_states_one_apart_on_a_channel_of_mean_square_four_cost_a_quarter() -> None:
    teacher = torch.tensor([[[9.0], [9.0], [2.0], [-2.0]]])  # chunks end at tokens 2 and 3
    student = torch.tensor([[[7.0], [3.0], [-1.0]]])  # at tokens 1 and 2: one more than the teacher
    assert states(student, teacher) == (pytest.approx(0.25), 2)
    assert states(student, teacher, norm="none") == (pytest.approx(1.0), 2)
    assert states(torch.tensor([[[7.0], [2.0], [-2.0]]]), teacher)[0] == 0


def test_channels_are_averaged_each_by_its_own_size() -> None:
    teacher = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [2.0, 10.0], [-2.0, 10.0]]])
    student = torch.tensor([[[0.0, 0.0], [3.0, 10.0], [-1.0, 10.0]]])
    assert states(student, teacher)[0] == pytest.approx(0.25 / 2)


def test_states_of_another_width_go_through_a_learnt_map_and_equal_ones_do_not() -> None:
    wide, narrow = model_info("bpe", 0, width=48), model_info("byte", 1)
    ready = setup("hidden", narrow, wide)
    assert ready.loss.learned is not None
    (projection,) = ready.loss.learned.parameters()
    assert tuple(projection.shape) == (48, 32)
    ready.term(batch_of("bpe", "byte", TEXTS)).sum.backward()
    assert projection.grad is not None
    assert float(projection.grad.norm()) > 0
    assert setup("hidden", narrow, model_info("bpe", 0)).loss.learned is None


# DSKD.


def readings(hidden: Tensor, embedded: Tensor, head: Tensor) -> Outputs:
    return Outputs({"hidden": hidden, "embedded": embedded, "head": head, "logits": hidden @ head.T})


def dual(query: float) -> tuple[DSKD, AlignedBatch, Outputs, Outputs]:
    """Return DSKD over two copies of one model of width 8 and six tokens, all projections simple.

    ``query`` scales the attention's queries, which are the embeddings themselves: 0 makes attention uniform, a large
    one the identity. The projections undo the division by the deviation, so that states come back as they were.
    """
    torch.manual_seed(0)
    one = side(list(range(6)), ids=[3, 1, 4, 2, 5, 0])
    batch = AlignedBatch(one, one, count=6)
    embedded = torch.nn.functional.one_hot(torch.arange(7), 8).float()[None]
    hidden, head = torch.randn(1, 7, 8), torch.randn(6, 8)
    model = readings(hidden, embedded, head)
    loss = DSKD()
    party_ = SimpleNamespace(width=8)
    loss.prepare(party_, party_)  # type: ignore[arg-type]  # only widths are read
    learned: Any = loss.learned
    with torch.no_grad():
        learned["query"].weight.copy_(query * torch.eye(16))
        learned["query"].bias.zero_()
        learned["to_teacher"].weight.copy_(torch.eye(8))
        learned["to_teacher"].bias.zero_()
        known = hidden[0, :-1] / hidden[0, :-1].std(correction=0) + embedded[0, 1:] / embedded[0, 1:].std(correction=0)
        learned["to_student"].weight.copy_(torch.linalg.lstsq(known, hidden[0, :-1]).solution.T)
        learned["to_student"].bias.zero_()
    return loss, batch, model, model


def test_equal_scores_give_the_mean_of_all_states() -> None:
    loss, batch, student, teacher = dual(0.0)
    to_student, to_teacher = loss.crossed(batch, student, teacher)
    mean = teacher.hidden[:, :-1].mean(dim=1, keepdim=True).expand(1, 6, 8)
    assert torch.allclose(to_student, mean, atol=1e-4)
    assert torch.allclose(to_teacher, mean, atol=1e-4)


def test_the_same_model_under_saturated_attention_is_distilled_to_nothing() -> None:
    loss, batch, student, teacher = dual(1e4)
    to_student, to_teacher = loss.crossed(batch, student, teacher)
    assert torch.allclose(to_student, student.hidden[:, :-1], atol=1e-3)
    assert torch.allclose(to_teacher, teacher.hidden[:, :-1], atol=1e-5)
    term = loss(batch, student, teacher)
    projected, tokens = term.metrics["projected"]
    assert tokens == term.count == 6
    assert float(term.sum.detach()) == pytest.approx(projected, abs=1e-4)  # both distillation terms are 0


def test_dskd_projections_have_the_shapes_of_both_models_and_get_a_gradient() -> None:
    ready = setup("dskd", model_info("byte", 1), model_info("bpe", 0, width=48))
    learned: Any = ready.loss.learned
    shapes = {name: tuple(layer.weight.shape) for name, layer in learned.items()}
    assert shapes == {"query": (96, 64), "to_student": (32, 48), "to_teacher": (48, 32)}
    ready.term(batch_of("bpe", "byte", TEXTS)).sum.backward()
    assert all(float(layer.weight.grad.norm()) > 0 for layer in learned.values())


def test_dskd_detaches_the_students_head_and_embeddings() -> None:
    student = model_info("byte", 1)
    outputs = read(student, batch_of("bpe", "byte", TEXTS).student, {"hidden", "embedded", "head"})
    assert outputs.hidden.requires_grad
    assert not outputs.embedded.requires_grad
    assert not outputs.head.requires_grad
