"""FVT against hand-computed rows, and transplanting whole vocabularies into tiny models."""

import copy
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny_models import tiny_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from toy_tokenizers import BUILDERS, toy_tokenizer

from crosstok.distill.embeddings import match
from crosstok.distill.embeddings.fvt import FVT, constituents
from crosstok.distill.embeddings.transplant import special_ids, special_rows, transplant
from crosstok.distill.models.weights import is_tied
from crosstok.distill.registry import INITIALISERS
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def byte_level(pieces: list[str], merges: list[tuple[str, str]], specials: tuple[str, ...] = ()) -> TokenBytes:
    """Return a byte-level BPE with exactly these pieces (in GPT-2's alphabet) and merges."""
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in specials])
    return TokenBytes.from_tokenizer(tokenizer)


def tokens_of(name: str) -> TokenBytes:
    return TokenBytes.from_tokenizer(toy_tokenizer(name))


SOURCE = byte_level(["a", "b", "c", "ab", "Ã", "©"], [("a", "b")], ("<s>",))  # "Ã", "©": bytes C3 and A9
MATRIX = torch.tensor([[9.0, 9.0], [8.0, 8.0], [0.0, 1.0], [1.0, 0.0], [2.0, 0.0], [0.0, 4.0], [5.0, 5.0]])


def rows(target: TokenBytes, specials: dict[int, int] | None = None) -> tuple[torch.Tensor, tuple[str, ...]]:
    made = FVT().rows({"input": MATRIX}, SOURCE, target, specials or {})
    return made.matrices["input"], made.origins


def test_a_new_token_is_the_mean_of_its_pieces_and_a_known_one_is_copied() -> None:
    made, origins = rows(byte_level(["a", "b", "c", "ab", "abc"], [("a", "b"), ("ab", "c")]))
    assert made[4].tolist() == [0.5, 0.5]
    assert torch.equal(made[:4], MATRIX[:4])
    assert origins == ("exact",) * 4 + ("mean",)


def test_half_a_character_is_spelt_with_bytes_rather_than_noise() -> None:
    target = byte_level(["a", "Ã", "aÃ", "©", "Ã©"], [("a", "Ã"), ("Ã", "©")])
    made, origins = rows(target)
    assert made[2].tolist() == [5.5, 4.5]  # mean of a (9, 9) and byte C3 (2, 0)
    assert made[4].tolist() == [1.0, 2.0]  # é is whole text, encoded by the source as two bytes
    assert origins == ("exact", "exact", "bytes", "exact", "mean")


def test_a_token_whose_bytes_the_source_lacks_gets_the_mean_row_and_says_so() -> None:
    made, origins = rows(byte_level(["a", "z"], []))
    assert origins == ("exact", "fallback")
    assert torch.allclose(made[1], MATRIX.mean(dim=0))


def test_special_tokens_are_copied_by_role_and_never_spelt() -> None:
    target = byte_level(["a"], [], ("<s>", "<other>"))
    made, origins = rows(target, {1: 6})
    assert made[1].tolist() == [5.0, 5.0]
    assert origins == ("exact", "special", "fallback")


def test_special_rows_are_found_by_string_first_and_by_role_otherwise() -> None:
    target = byte_level(["a"], [], ("<s>", "<end>"))
    assert special_rows(SOURCE, target, {"eos": 6}, {"eos": 2}) == {1: 6, 2: 6}
    assert special_rows(SOURCE, target, {"bos": 6}, {"eos": 2}) == {1: 6}


@pytest.mark.parametrize("target", sorted(BUILDERS))
@pytest.mark.parametrize("source", ["byte", "bpe", "spm"])
def test_every_row_has_one_origin_and_the_counts_add_up_to_the_vocabulary(source: str, target: str) -> None:
    there, here = tokens_of(source), tokens_of(target)
    matrix = torch.randn(there.size, 8)
    made = FVT().rows({"input": matrix}, there, here, special_rows(there, here, {}, {}))
    assert sum(made.counts().values()) == here.size == made.matrices["input"].shape[0]
    assert "fallback" not in {made.origins[token] for token, data in enumerate(here.table) if data}
    for token, data in enumerate(here.table):
        if made.origins[token] == "exact":
            known = there.id_of(data or b"")
            assert known is not None
            assert there.table[known] == data


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_the_pieces_of_a_token_spell_exactly_its_bytes(name: str) -> None:
    source = tokens_of(name)
    wanted = [data for data in tokens_of("superword").table if data]
    for data, (ids, _) in zip(wanted, constituents(source, wanted), strict=True):
        assert b"".join(source.table[token] or b"" for token in ids) == data


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_a_vocabulary_matched_with_itself_is_the_identity(name: str) -> None:
    tokens = tokens_of(name)
    copied, _ = match(tokens, tokens, {token: token for token in tokens.special_ids})
    assert copied.tolist() == list(range(tokens.size))


@pytest.mark.parametrize("shape", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("padding", [0, 37])
def test_transfer_to_the_same_tokenizer_changes_no_bit(shape: Any, tied: bool, padding: int) -> None:
    tokenizer, tokens = toy_tokenizer("spm"), tokens_of("spm")
    model = tiny_model(tokenizer, shape, tied=tied, rows=tokens.size + padding)
    before = copy.deepcopy(model.state_dict())
    transplant(model, FVT(), tokens, tokens, special_rows(tokens, tokens, {}, {}))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("shape", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("tied", [True, False])
def test_ties_and_sizes_hold_after_a_transplant_and_after_saving(shape: Any, tied: bool, tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM

    source, target = tokens_of("bpe"), tokens_of("spm")
    model = tiny_model(toy_tokenizer("bpe"), shape, tied=tied)
    transplant(model, FVT(), source, target, special_rows(source, target, {}, {}))
    model.save_pretrained(tmp_path)
    again: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[1, 5, target.size - 1]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        assert torch.equal(logits, again(input_ids=ids).logits)
    assert logits.shape[-1] == target.size == again.config.vocab_size
    assert is_tied(model) == is_tied(again) == tied


def test_untied_input_and_output_get_rows_of_their_own() -> None:
    source, target = tokens_of("byte"), tokens_of("bpe")
    model = tiny_model(toy_tokenizer("byte"), tied=False)
    output = model.lm_head.weight.detach().clone()
    transplant(model, FVT(), source, target, {})
    token, data = next((token, data) for token, data in enumerate(target.table) if data and len(data) == 3)
    assert torch.allclose(model.lm_head.weight[token], output[list(data)].mean(dim=0), atol=1e-6)
    assert not torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)


def test_padding_is_added_only_when_asked_for() -> None:
    source, target = tokens_of("byte"), tokens_of("bpe")
    model = tiny_model(toy_tokenizer("byte"))
    transplant(model, FVT(), source, target, {}, multiple=64)
    assert model.config.vocab_size == 448  # 400 ids, up to the next multiple of 64
    assert not model.get_input_embeddings().weight[target.size :].any()


def test_special_ids_in_the_configurations_follow_their_tokens_exactly_once() -> None:
    model = tiny_model(toy_tokenizer("bpe"))  # pad 0, bos 1, eos 2
    model.generation_config.eos_token_id = [2, 0, 1]
    special_ids(model, {7: 2, 1: 0, 2: 9})
    assert (model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id) == (1, None, 7)
    assert model.generation_config.eos_token_id == [7, 1]


def test_a_misspelt_initialiser_is_refused_with_the_closest_one() -> None:
    with pytest.raises(UserError, match="fvt"):
        INITIALISERS.create("fvtt")


def test_sixteen_thousand_new_tokens_take_seconds() -> None:
    words = sorted(
        {
            f"{a}{b}{c}{d}"
            for a in "abcdefghijklm"
            for b in "nopqrstuvwxyz"
            for c in "aeiou"
            for d in "0123456789abcdefghij"
        }
    )
    pieces = sorted({letter for word in words for letter in word}) + words
    target = byte_level(pieces, [])
    matrix = torch.randn(tokens_of("byte").size, 576)
    began = time.monotonic()
    made = FVT().rows({"input": matrix}, tokens_of("byte"), target, {})
    assert time.monotonic() - began < 20
    assert made.counts()["mean"] == len(words) == 16900


def test_a_model_that_scales_its_input_gets_means_of_raw_rows_and_scales_them_once() -> None:
    source, target = tokens_of("byte"), tokens_of("bpe")
    model = tiny_model(toy_tokenizer("byte"), "gemma3")
    embed = model.get_input_embeddings()
    raw, seen = embed.weight.detach().clone(), embed(torch.arange(source.size)).detach()
    assert not torch.allclose(raw[: source.size], seen), "this layer multiplies its rows"
    transplant(model, FVT(), source, target, {})
    token, data = next((token, data) for token, data in enumerate(target.table) if data and len(data) == 3)
    embed = model.get_input_embeddings()
    assert torch.allclose(embed.weight[token], raw[list(data)].mean(dim=0), atol=1e-6)
    assert torch.allclose(embed(torch.tensor(token)), seen[list(data)].mean(dim=0), atol=1e-5)
