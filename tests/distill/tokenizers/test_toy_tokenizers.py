"""The fixtures themselves: each toy tokenizer has the peculiarity that its family is in the suite for."""

import pytest
from toy_tokenizers import BUILDERS, toy_tokenizer
from transformers import PreTrainedTokenizerFast


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_two_builds_of_a_toy_tokenizer_are_equal(name: str) -> None:
    assert BUILDERS[name]().backend_tokenizer.to_str() == BUILDERS[name]().backend_tokenizer.to_str()


def test_byte_ids_are_byte_values(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    assert byte_tokenizer("aé\n")["input_ids"] == [0x61, 0xC3, 0xA9, 0x0A]


def test_superword_has_tokens_across_spaces_and_bpe_has_none(
    superword_tokenizer: PreTrainedTokenizerFast, bpe_tokenizer: PreTrainedTokenizerFast
) -> None:
    def inner_space(tokenizer: PreTrainedTokenizerFast) -> list[str]:
        return [piece for piece in tokenizer.get_vocab() if "Ġ" in piece.strip("Ġ")]

    assert inner_space(superword_tokenizer)
    assert not inner_space(bpe_tokenizer)


def test_spm_drops_one_leading_space_and_falls_back_to_bytes(spm_tokenizer: PreTrainedTokenizerFast) -> None:
    ids = spm_tokenizer(" x🎉")["input_ids"]
    assert spm_tokenizer.decode(ids) == "x🎉"
    assert "<0xF0>" in spm_tokenizer.convert_ids_to_tokens(ids)


def test_only_the_bos_tokenizer_puts_a_bos_first() -> None:
    first = {name: toy_tokenizer(name)("text")["input_ids"][0] == toy_tokenizer(name).bos_token_id for name in BUILDERS}
    assert first == {name: name == "bos" for name in BUILDERS}
