"""Invariants of every loss across tokenizers."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loss_setups import TEXTS, batch_of, model_info, read, setup
from tiny_training import first_gradient, losses
from toy_tokenizers import toy_tokenizer

from crosstok.distill.losses import AlignedBatch, ModelInfo, Outputs, Side
from crosstok.distill.registry import LOSSES
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.distill.training.loop import TrainingSpec
from crosstok.distill.training.windows import collate

ACROSS: list[Any] = [
    {"name": "alm", "tau": "inf"},
    "hidden",
    "strict",
    {"name": "strict", "top": 16},
    "bpm",
    "uld",
    {"name": "uld", "pairing": "index"},
    "gold",
    {"name": "gold", "merge": "published"},
    "mined",
    "dskd",
]
ZERO_AT_MATCH = [*(choice for choice in ACROSS if choice != "dskd"), "kd", {"name": "gold", "merge": "observed"}]
PAIRS = [("spm", "byte"), ("byte", "bpe")]


def name_of(choice: Any) -> str:
    return choice if isinstance(choice, str) else "-".join(map(str, choice.values()))


def test_every_loss_is_covered_here_and_found_by_its_own_name() -> None:
    covered = {choice if isinstance(choice, str) else choice["name"] for choice in ACROSS}
    others = {"sft", "kd", "kl"}  # of one model, of one tokenizer, of one that was expanded: tested by themselves
    assert covered | others == {
        name for name in LOSSES.names() if LOSSES.find(name).__module__.startswith("crosstok.distill.")
    }
    assert all(LOSSES.find(name).name == name for name in covered)


@pytest.mark.parametrize("tokenizer", ["bpe", "spm"])
@pytest.mark.parametrize("choice", ZERO_AT_MATCH, ids=name_of)
def test_the_same_model_and_tokenizer_give_zero_loss_and_zero_gradient(choice: Any, tokenizer: str) -> None:
    model = model_info(tokenizer, 0)
    term = setup(choice, model, model).term(batch_of(tokenizer, tokenizer, TEXTS))
    term.sum.backward()
    assert term.count > 0
    assert float(term.sum.detach()) == pytest.approx(0, abs=2e-5)
    gradients = [weight.grad for weight in model.network.parameters() if weight.grad is not None]
    assert gradients
    assert max(float(gradient.abs().max()) for gradient in gradients) / term.count < 1e-6


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("choice", ACROSS, ids=name_of)
def test_different_models_give_a_loss_with_a_finite_gradient(choice: Any, pair: tuple[str, str]) -> None:
    student = model_info(pair[1], 1)
    term = setup(choice, student, model_info(pair[0], 0)).term(batch_of(*pair, TEXTS))
    term.sum.backward()
    gradient = torch.cat([weight.grad.flatten() for weight in student.network.parameters() if weight.grad is not None])
    assert float(term.sum.detach()) / term.count > 1e-3
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.norm()) > 1e-4


def permuted(model: ModelInfo, order: torch.Tensor) -> ModelInfo:
    """Return the model with its tokens renamed: id i becomes order[i], in the tokenizer and in the rows."""
    tokens = model.tokens
    table: list[bytes | None] = [None] * tokens.size
    for token, data in enumerate(tokens.table):
        table[int(order[token])] = data
    renamed = dataclasses.replace(
        tokens,
        table=tuple(table),
        lengths=np.array([len(data or b"") for data in table], dtype=np.int32),
        specials={int(order[token]): name for token, name in tokens.specials.items()},
        _ids={data: int(order[token]) for data, token in tokens._ids.items()},
        fingerprint="permuted",
    )
    network: Any = model.network
    weight = network.get_input_embeddings().weight
    with torch.no_grad():
        weight[order] = weight.clone()
    return ModelInfo(renamed, model.valid_rows, network)


@pytest.mark.parametrize("choice", ACROSS, ids=name_of)
def test_renaming_the_ids_of_one_side_changes_nothing(choice: Any) -> None:
    batch = batch_of("bpe", "spm", TEXTS)
    teacher, student = model_info("bpe", 0), model_info("spm", 1)
    before = setup(choice, student, teacher).term(batch)
    order = torch.from_numpy(np.random.default_rng(0).permutation(student.valid_rows))
    renamed = dataclasses.replace(batch, student=dataclasses.replace(batch.student, ids=order[batch.student.ids]))
    after = setup(choice, permuted(model_info("spm", 1), order), teacher).term(renamed)
    assert float(after.sum.detach()) == pytest.approx(float(before.sum.detach()), rel=1e-4)
    assert after.count == before.count


@pytest.mark.parametrize("choice", ACROSS, ids=name_of)
def test_padded_vocabulary_rows_change_nothing(choice: Any) -> None:
    batch = batch_of("bpe", "byte", TEXTS)
    found = []
    for extra in (0, 40):
        models = []
        for name, seed in (("byte", 1), ("bpe", 0)):
            plain = model_info(name, seed)
            padded = model_info(name, seed, rows=plain.valid_rows + extra)
            with torch.no_grad():
                for key, weight in padded.network.named_parameters():
                    own = dict(plain.network.named_parameters())[key]
                    weight[: len(own)], weight[len(own) :] = own, 5.0  # rows that would take most of the mass
            models.append(ModelInfo(plain.tokens, plain.valid_rows, padded.network))
        found.append(float(setup(choice, *models).term(batch).sum.detach()))
    assert found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize("choice", ACROSS, ids=name_of)
def test_a_sample_has_the_same_loss_alone_and_in_a_batch_of_mixed_lengths(choice: Any) -> None:
    ready = setup(choice, model_info("byte", 1), model_info("spm", 0))
    whole = ready.term(batch_of("spm", "byte", TEXTS))
    alone = [ready.term(batch_of("spm", "byte", [text])) for text in TEXTS]
    assert whole.count == sum(term.count for term in alone) > 0
    assert float(whole.sum.detach()) == pytest.approx(sum(float(term.sum.detach()) for term in alone), rel=1e-4)


def leaves(outputs: Outputs) -> Outputs:
    return Outputs({name: value.detach().requires_grad_() for name, value in outputs.readings.items()})


@pytest.mark.parametrize("choice", ACROSS, ids=name_of)
def test_masked_prompt_tokens_and_the_teacher_get_no_gradient(choice: Any) -> None:
    ready = setup(choice, model_info("byte", 1), model_info("bpe", 0))
    batch = batch_of("bpe", "byte", TEXTS)

    def masked(side: Side) -> Side:
        return dataclasses.replace(side, counted=side.counted & (side.lengths.cumsum(dim=1) > 12))

    batch = AlignedBatch(masked(batch.teacher), masked(batch.student), batch.count)
    student = leaves(read(ready.student, batch.student, ready.loss.of_student))
    teacher = leaves(read(ready.teacher, batch.teacher, ready.loss.of_teacher))
    term = ready.loss(batch, student, teacher)
    term.sum.backward()
    assert term.count > 0
    assert all(value.grad is None for value in teacher.readings.values())
    predicted = batch.student.predicted
    reached = 0.0
    for name, value in student.readings.items():
        if name in ("head", "embedded"):
            continue
        size = value.grad.abs().reshape(*predicted.shape, -1).sum(dim=2)
        own = predicted if name == "gold" else torch.zeros_like(predicted)
        if name in ("boundary", "hidden"):
            own = own | batch.student.counted  # a chunk's last position speaks of what follows it
        if name in ("logits", "hidden") or choice == {"name": "gold", "merge": "published"}:
            own = own | torch.nn.functional.pad(predicted[:, 1:], (0, 1)) | batch.student.counted
        assert float(size[~own].sum()) == 0
        reached += float(size.sum())
    assert reached > 0


@pytest.mark.parametrize("choice", [*ACROSS, "kd"], ids=name_of)
def test_nothing_to_score_is_exactly_zero_with_a_gradient_path(choice: Any) -> None:
    student = model_info("bpe", 1)
    ready = setup(choice, student, model_info("bpe", 0))
    term = ready.term(collate([]))
    term.sum.backward()
    assert (float(term.sum.detach()), term.count) == (0.0, 0.0)


@pytest.mark.parametrize("choice", ["hidden", "strict", "bpm", "uld", "gold", "mined", "dskd"])
def test_a_step_does_not_depend_on_how_its_batch_is_cut(tmp_path: Path, choice: str) -> None:
    spec = TrainingSpec(steps=1, batch=6, clip=1e9)  # of unequal widths, so that hidden has to learn a projection
    whole, line = first_gradient(spec, tmp_path, losses(choice), teacher_width=48)
    cut = spec.model_copy(update={"micro_batch": 2})
    parts, same = first_gradient(cut, tmp_path, losses(choice), teacher_width=48)
    assert float(whole.norm()) > 1e-4
    assert torch.allclose(parts, whole, rtol=1e-3, atol=2e-5 * float(whole.abs().max()))
    assert same["count"] == line["count"]


def test_the_hidden_reading_is_what_the_output_head_reads() -> None:
    for shape in ("llama", "gpt2", "gemma3"):
        model = model_info("bpe", 0, shape=shape, rows=TokenBytes.from_tokenizer(toy_tokenizer("bpe")).size + 8)
        side = batch_of("bpe", "bpe", TEXTS[:1]).student
        found = read(model, side, {"logits", "hidden", "head", "embedded"})
        assert found.head.shape == (model.valid_rows, 32)
        assert torch.allclose(found.hidden @ found.head.T, found.logits, atol=1e-4)
        assert found.embedded.shape == found.hidden.shape
        assert not found.head.requires_grad
