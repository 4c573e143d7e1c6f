"""Ensembles: the output is the requested mixture, independent of batch, padding and cache."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tiny_models import tiny_model
from torch import nn
from torch.testing import assert_close
from toy_tokenizers import toy_tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from crosstok.distill.ensemble import EnsembleConfig, EnsembleForCausalLM, save_ensemble, saving
from crosstok.distill.models import checkpoints
from crosstok.errors import UserError

if TYPE_CHECKING:
    from crosstok.distill.models.checkpoints import Checkpoint

Save = Callable[..., Path]


def ensemble(
    *members: PreTrainedModel, combine: str = "mean_prob", weights: list[float] | None = None
) -> EnsembleForCausalLM:
    shares = weights or [1.0] * len(members)
    config = EnsembleConfig(
        members=[{"source": "here", "weight": share} for share in shares],
        combine=combine,
        vocab_size=len(toy_tokenizer("bpe")),
    )
    return EnsembleForCausalLM(config, members).eval()


def member(seed: int = 0, shape: str = "llama", rows: int | None = None) -> PreTrainedModel:
    return tiny_model(toy_tokenizer("bpe"), shape, seed=seed, rows=rows)


def some_ids(rows: int = 2, columns: int = 9) -> torch.Tensor:
    return torch.randint(0, len(toy_tokenizer("bpe")), (rows, columns), generator=torch.Generator().manual_seed(1))


class Fixed(nn.Module):
    """A member that says the same distribution at every position."""

    def __init__(self, probabilities: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(probabilities).log() + 3.0  # logits are free up to a constant
        self.device = torch.device("cpu")

    def forward(self, input_ids: torch.Tensor, **_: object) -> CausalLMOutputWithPast:
        return CausalLMOutputWithPast(logits=self.logits.expand(*input_ids.shape, -1))


def mixed(combine: str, weights: list[float] | None = None) -> list[float]:
    config = EnsembleConfig(
        members=[{"source": "here", "weight": share} for share in weights or [1.0, 1.0]], combine=combine, vocab_size=2
    )
    model = EnsembleForCausalLM(config, [Fixed([0.6, 0.4]), Fixed([0.2, 0.8])])  # type: ignore[list-item]
    return model(torch.zeros(1, 1, dtype=torch.long)).logits[0, 0].exp().tolist()


def test_the_mean_of_probabilities_is_the_mixture_computed_by_hand() -> None:
    assert mixed("mean_prob") == pytest.approx([0.4, 0.6], abs=1e-6)


def test_the_mean_of_logits_is_the_normalised_geometric_mean_computed_by_hand() -> None:
    assert mixed("mean_logit") == pytest.approx([0.3798, 0.6202], abs=5e-5)


def test_weights_need_not_sum_to_one() -> None:
    assert mixed("mean_prob", [3.0, 1.0]) == pytest.approx([0.5, 0.5], abs=1e-6)
    assert mixed("mean_prob", [3.0, 1.0]) == pytest.approx(mixed("mean_prob", [0.75, 0.25]), abs=1e-7)


@pytest.mark.parametrize("combine", ["mean_prob", "mean_logit"])
@pytest.mark.parametrize("shape", ["llama", "gpt2", "gemma3"])
def test_identical_members_equal_one_member(combine: str, shape: str) -> None:
    one, ids = member(shape=shape), some_ids()
    with torch.no_grad():
        expected = one(ids).logits.log_softmax(-1)
        assert_close(ensemble(one, one, one, combine=combine)(ids).logits, expected, rtol=0, atol=1e-5)


def test_the_output_is_a_distribution_in_float32() -> None:
    logits = ensemble(member(0).bfloat16(), member(1).bfloat16())(some_ids()).logits
    assert logits.dtype == torch.float32
    assert_close(logits.exp().sum(-1), torch.ones(2, 9), rtol=0, atol=1e-5)


@pytest.mark.parametrize("combine", ["mean_prob", "mean_logit"])
def test_the_order_of_members_does_not_matter(combine: str) -> None:
    a, b, c, ids = member(0), member(1), member(2, "gpt2"), some_ids()
    forwards = ensemble(a, b, c, combine=combine, weights=[1, 2, 3])(ids).logits
    backwards = ensemble(c, b, a, combine=combine, weights=[3, 2, 1])(ids).logits
    assert_close(forwards, backwards, rtol=0, atol=1e-5)


@torch.no_grad()
def test_rows_of_padding_take_no_probability() -> None:
    padded = member(0, rows=len(toy_tokenizer("bpe")) + 64)
    padded.get_input_embeddings().weight[len(toy_tokenizer("bpe")) :] *= 100  # they would win every softmax
    logits = ensemble(padded, member(1))(some_ids()).logits
    assert logits.shape[-1] == len(toy_tokenizer("bpe"))
    assert_close(logits.exp().sum(-1), torch.ones(2, 9), rtol=0, atol=1e-5)
    own = padded(some_ids()).logits[..., : logits.shape[-1]].log_softmax(-1)
    assert bool((logits >= own + torch.tensor(0.5).log() - 1e-5).all())


@torch.no_grad()
def test_a_batch_scores_as_its_rows_do_alone() -> None:
    model, ids = ensemble(member(0), member(1, "gemma3")), some_ids(rows=3)
    alone = torch.cat([model(row[None]).logits for row in ids])
    assert_close(model(ids).logits, alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_left_padding_changes_nothing() -> None:
    model, ids = ensemble(member(0, "gpt2"), member(1, "gemma3")), some_ids(rows=1)  # GPT-2's positions are absolute
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), ids], dim=1)
    mask = (torch.arange(padded.shape[1]) >= 4).long()[None]
    positions = (torch.arange(padded.shape[1]) - 4).clamp(min=0)[None]
    shifted = model(padded, attention_mask=mask, position_ids=positions).logits[:, 4:]
    assert_close(shifted, model(ids).logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_reading_step_by_step_with_the_cache_equals_reading_at_once() -> None:
    model, ids = ensemble(member(0), member(1, "gemma3")), some_ids(columns=40)  # longer than Gemma's sliding window
    whole = model(ids).logits
    output = model(ids[:, :30], use_cache=True)
    steps = [output.logits]
    for column in range(30, 40):
        assert output.past_key_values.get_seq_length() == column
        output = model(ids[:, column : column + 1], past_key_values=output.past_key_values, use_cache=True)
        steps.append(output.logits)
    assert_close(torch.cat(steps, dim=1), whole, rtol=0, atol=1e-4)


@torch.no_grad()
def test_rows_of_the_cache_can_be_selected_reordered_and_cropped() -> None:
    model, ids = ensemble(member(0), member(1)), some_ids(rows=3)
    cache = model(ids[:, :6], use_cache=True).past_key_values
    cache.crop(-1)
    cache.batch_select_indices(torch.tensor([2, 0]))
    cache.reorder_cache(torch.tensor([1, 0]))
    kept = ids[[0, 2]]
    after = model(kept[:, 5:], past_key_values=cache, use_cache=True).logits
    assert_close(after, model(kept).logits[:, 5:], rtol=0, atol=1e-4)


@torch.no_grad()
def test_greedy_generation_equals_a_loop_without_cache() -> None:
    model, ids = ensemble(member(0), member(1, "gemma3")), some_ids(rows=1, columns=5)
    naive = ids
    for _ in range(40):
        naive = torch.cat([naive, model(naive).logits[:, -1:].argmax(-1)], dim=1)
    written = model.generate(ids, max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert written.tolist() == naive.tolist()


@torch.no_grad()
def test_a_left_padded_batch_generates_what_its_rows_generate_alone() -> None:
    model, short, long = ensemble(member(0), member(1)), some_ids(1, 3), some_ids(1, 8)
    options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    batch = torch.cat([torch.cat([torch.zeros(1, 5, dtype=torch.long), short], dim=1), long])
    mask = torch.ones_like(batch)
    mask[0, :5] = 0
    together = model.generate(batch, attention_mask=mask, **options)[:, 8:]
    assert together[0].tolist() == model.generate(short, **options)[0, 3:].tolist()
    assert together[1].tolist() == model.generate(long, **options)[0, 8:].tolist()


@torch.no_grad()
def test_beam_search_reorders_every_members_cache() -> None:
    one, ids = member(0), some_ids(rows=2, columns=5)
    options = {"max_new_tokens": 12, "num_beams": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert ensemble(one, one).generate(ids, **options).tolist() == one.generate(ids, **options).tolist()


def test_a_cache_of_another_kind_is_refused() -> None:
    one = member()
    cache = one(some_ids(), use_cache=True).past_key_values
    with pytest.raises(TypeError, match="its own cache"):
        ensemble(one, one)(some_ids(), past_key_values=cache)


def test_a_saved_ensemble_loads_through_checkpoints_and_can_be_moved_with_its_members(
    tmp_path: Path, save_tiny: Save
) -> None:
    folders = [save_tiny(tmp_path / "tree" / name, seed=seed) for seed, name in enumerate("ab")]
    save_ensemble(tmp_path / "tree" / "pair", folders, weights=[1, 3])
    (tmp_path / "tree").rename(tmp_path / "moved")
    loaded = checkpoints.load(tmp_path / "moved" / "pair")
    members = [checkpoints.load(tmp_path / "moved" / name) for name in "ab"]
    wanted = ensemble(*(each.model for each in members), weights=[1, 3])
    with torch.no_grad():
        assert torch.equal(loaded.model(some_ids()).logits, wanted(some_ids()).logits)
    assert loaded.valid_rows == len(toy_tokenizer("bpe"))
    assert loaded.provenance["kind"] == "ensemble"
    assert loaded.stop_ids == members[0].stop_ids
    assert sum(weight.numel() for weight in loaded.model.parameters()) == 2 * sum(
        weight.numel() for weight in members[0].model.parameters()
    )


def test_transformers_own_auto_class_loads_an_ensemble(tmp_path: Path, save_tiny: Save) -> None:
    folders = [save_tiny(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    model = AutoModelForCausalLM.from_pretrained(save_ensemble(tmp_path / "pair", folders))
    assert isinstance(model, EnsembleForCausalLM)
    assert model.generate(some_ids(), max_new_tokens=3, do_sample=False).shape == (2, 12)


def test_the_fingerprint_of_an_ensemble_follows_its_members_and_weights(tmp_path: Path, save_tiny: Save) -> None:
    a, b = (save_tiny(tmp_path / name, seed=seed) for seed, name in enumerate("ab"))
    even, uneven = save_ensemble(tmp_path / "even", [a, b]), save_ensemble(tmp_path / "uneven", [a, b], weights=[1, 2])
    before = checkpoints.identify(even)
    assert before != checkpoints.identify(uneven)
    assert before == checkpoints.identify(Path(shutil.copytree(even, tmp_path / "copy")))
    shutil.rmtree(b)
    save_tiny(b, seed=5)
    assert checkpoints.identify(even) != before


def test_an_ensemble_of_one_is_refused(tmp_path: Path, save_tiny: Save) -> None:
    with pytest.raises(UserError, match="at least two members"):
        save_ensemble(tmp_path / "pair", [save_tiny(tmp_path / "a")])


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -2.0]])
def test_weights_that_are_no_weights_are_refused(tmp_path: Path, save_tiny: Save, weights: list[float]) -> None:
    a = save_tiny(tmp_path / "a")
    with pytest.raises(UserError, match="needs 2 positive weights"):
        save_ensemble(tmp_path / "pair", [a, a], weights=weights)


def test_members_with_other_tokenizers_are_refused_with_the_first_five_ids(tmp_path: Path, save_tiny: Save) -> None:
    a, b = save_tiny(tmp_path / "a"), save_tiny(tmp_path / "b", tokenizer="spm")
    with pytest.raises(UserError, match="do not share a tokenizer") as caught:
        save_ensemble(tmp_path / "pair", [a, b])
    assert caught.value.message.count(" / ") == 5
    assert not (tmp_path / "pair").exists()


def test_a_member_whose_tokenizer_changed_since_is_refused(tmp_path: Path, save_tiny: Save) -> None:
    a, b = (save_tiny(tmp_path / name, seed=seed) for seed, name in enumerate("ab"))
    pair = save_ensemble(tmp_path / "pair", [a, b])
    toy_tokenizer("superword").save_pretrained(b)
    with pytest.raises(UserError, match=r"The tokenizer of \.\./b has changed"):
        checkpoints.load(pair)


def test_an_ensemble_cannot_be_saved_as_a_single_model(tmp_path: Path, save_tiny: Save) -> None:
    a = save_tiny(tmp_path / "a")
    loaded: Checkpoint = checkpoints.load(save_ensemble(tmp_path / "pair", [a, a]))
    with pytest.raises(ValueError, match="save_ensemble"):
        checkpoints.save(loaded, tmp_path / "copy", loaded.provenance)


@torch.no_grad()
def test_rows_of_the_cache_can_be_repeated() -> None:
    model, ids = ensemble(member(0), member(1, "gemma3")), some_ids(rows=2)
    cache = model(ids[:, :6], use_cache=True).past_key_values
    cache.batch_repeat_interleave(2)
    after = model(ids[[0, 0, 1, 1], 6:], past_key_values=cache, use_cache=True).logits
    assert_close(after, model(ids[[0, 0, 1, 1]]).logits[:, 6:], rtol=0, atol=1e-4)


@torch.no_grad()
def test_two_copies_of_a_model_are_that_model_exactly_under_mean_probability_and_mean_logits() -> None:
    one, ids = member(), some_ids()
    logits = one(ids).logits
    assert_close(ensemble(one, one)(ids).logits.exp(), logits.softmax(-1), rtol=1e-6, atol=1e-7)
    assert torch.equal(
        ensemble(one, one, combine="mean_logit")(ids).logits, (0.5 * logits + 0.5 * logits).log_softmax(-1)
    )


@torch.no_grad()
def test_labels_give_the_loss_of_any_causal_model_and_a_tuple_can_be_had() -> None:
    model, ids = ensemble(member(0), member(1)), some_ids()
    found = model(ids, labels=ids)
    logs = found.logits[:, :-1].gather(-1, ids[:, 1:, None])
    assert found.loss.item() == pytest.approx(-logs.mean().item(), rel=1e-5)
    assert torch.equal(model(ids, return_dict=False)[0], found.logits)


@torch.no_grad()
def test_a_sampled_token_follows_the_mixture() -> None:
    config = EnsembleConfig(members=[{"source": "", "weight": 1.0}] * 2, vocab_size=2)
    model = EnsembleForCausalLM(config, [Fixed([0.6, 0.4]), Fixed([0.2, 0.8])])  # type: ignore[list-item]
    torch.manual_seed(0)
    drawn = model.generate(
        torch.zeros(2000, 1, dtype=torch.long), max_new_tokens=1, do_sample=True, use_cache=False, top_k=0,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    assert drawn[:, 1].float().mean().item() == pytest.approx(0.6, abs=0.04)


@torch.no_grad()
def test_members_in_several_types_go_together_and_auto_leaves_each_as_it_is_stored(
    tmp_path: Path, save_tiny: Save
) -> None:
    folders = [save_tiny(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    member(1).bfloat16().save_pretrained(folders[1])
    pair = save_ensemble(tmp_path / "pair", folders)
    stored = AutoModelForCausalLM.from_pretrained(pair, dtype="auto")
    assert [one.dtype for one in stored.members] == [torch.float32, torch.bfloat16]
    assert {one.dtype for one in checkpoints.load(pair).model.members} == {torch.float32}  # type: ignore[union-attr]
    assert {one.dtype for one in checkpoints.load(pair, dtype="bfloat16").model.members} == {torch.bfloat16}  # type: ignore[union-attr]
    logits = stored(some_ids()).logits
    assert logits.dtype == torch.float32
    assert_close(logits, ensemble(member(0), member(1))(some_ids()).logits, rtol=0, atol=0.1)


@torch.no_grad()
def test_members_padded_to_different_heights_are_saved_loaded_and_mixed(tmp_path: Path, save_tiny: Save) -> None:
    size = len(toy_tokenizer("bpe"))
    folders = [save_tiny(tmp_path / f"{rows}", seed=rows, rows=rows) for rows in (size, size + 24, size + 128)]
    loaded = checkpoints.load(save_ensemble(tmp_path / "three", folders))
    assert loaded.valid_rows == size
    wanted = torch.stack([checkpoints.load(one).model(some_ids()).logits[..., :size].softmax(-1) for one in folders])
    assert_close(loaded.model(some_ids()).logits.exp(), wanted.mean(0), rtol=1e-4, atol=1e-6)


def test_a_member_with_fewer_rows_than_ids_is_refused_with_both_numbers(tmp_path: Path, save_tiny: Save) -> None:
    size = len(toy_tokenizer("bpe"))
    folders = [save_tiny(tmp_path / "a"), save_tiny(tmp_path / "short", rows=size - 8)]
    pair = save_ensemble(tmp_path / "pair", folders)
    with pytest.raises(UserError, match=f"{size - 1}, its matrix {size - 8} rows"):
        checkpoints.load(pair)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"combine": "mean"}, "mean_prob"),
        ({"tokens": "union", "top_k": 0}, "top_k is 0"),
        ({"weights": [1, float("nan")]}, "positive weights"),
    ],
)
def test_options_that_mean_nothing_are_refused_before_anything_is_written(
    tmp_path: Path, save_tiny: Save, options: dict[str, Any], said: str
) -> None:
    a = save_tiny(tmp_path / "a")
    with pytest.raises(UserError) as caught:
        save_ensemble(tmp_path / "pair", [a, a], **options)
    assert said in str(caught.value)
    assert not (tmp_path / "pair").exists()


def test_an_ensemble_of_ensembles_is_refused(tmp_path: Path, save_tiny: Save) -> None:
    a = save_tiny(tmp_path / "a")
    pair = save_ensemble(tmp_path / "pair", [a, a])
    with pytest.raises(UserError, match="pair is itself an ensemble"):
        save_ensemble(tmp_path / "more", [pair, a])


def test_a_device_map_may_name_one_device_and_nothing_else(tmp_path: Path, save_tiny: Save) -> None:
    a = save_tiny(tmp_path / "a")
    pair = save_ensemble(tmp_path / "pair", [a, a])
    for whole in ("cpu", {"": "cpu"}):
        assert AutoModelForCausalLM.from_pretrained(pair, device_map=whole).device.type == "cpu"
    with pytest.raises(UserError, match="cannot be split over devices"):
        EnsembleForCausalLM.from_pretrained(pair, device_map={"members.0": "cpu", "members.1": 0})


def test_a_member_of_the_hub_is_named_with_its_commit(
    tmp_path: Path, save_tiny: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny(tmp_path / "0123abcd")
    monkeypatch.setattr(saving, "fetch", lambda _: folder)
    monkeypatch.setattr(saving, "identify", lambda _: "same")
    pair = save_ensemble(tmp_path / "pair", ["hub:owner/one", "hub:owner/two@main"])
    named = [one["source"] for one in EnsembleConfig.from_pretrained(pair).members or []]
    assert named == ["hub:owner/one@0123abcd", "hub:owner/two@0123abcd"]


def test_members_that_learnt_embeddings_alone_are_in_memory_once_but_for_these(tmp_path: Path, save_tiny: Save) -> None:
    folders = [save_tiny(tmp_path / name) for name in "ab"]
    with torch.no_grad():
        moved = member()
        moved.get_input_embeddings().weight.add_(0.1)
    moved.save_pretrained(folders[1])
    loaded = checkpoints.load(save_ensemble(tmp_path / "pair", folders)).model
    distinct = sum(weight.numel() for weight in loaded.parameters() if weight.dim() > 1)
    matrices = sum(weight.numel() for weight in moved.parameters() if weight.dim() > 1)
    assert distinct == matrices + moved.get_input_embeddings().weight.numel()


def test_lm_evals_hf_model_generates_with_an_ensemble_what_its_equal_members_write(
    tmp_path: Path, save_tiny: Save
) -> None:
    a = save_tiny(tmp_path / "a")
    pair = save_ensemble(tmp_path / "pair", [a, a])
    asked = [
        Instance("generate_until", {}, (prompt, {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False}), 0)
        for prompt in ("def mean(values):", "The sun", "class Stack:\n    def push")
    ]
    written = [HFLM(str(folder), device="cpu", batch_size=3).generate_until(asked, True) for folder in (pair, a)]
    assert written[0] == written[1]
    assert all(written[0])
