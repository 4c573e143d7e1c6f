"""Token healing: the same bytes for every tokenizer, cut by the model instead of by the end of the prompt."""

from typing import Any

import pytest
import torch
from engine_models import toy_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from real_models import real_tokenizer
from toy_tokenizers import TEXT, toy_tokenizer
from transformers import LlamaConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.harness.generation.generator import Generator
from crosstok.harness.generation.healing import Healer
from crosstok.tasks.task import Generate, Sampling

BPE = TokenBytes.from_tokenizer(toy_tokenizer("bpe"))


def long_token(tokenbytes: TokenBytes) -> bytes:
    """Return a token of some letters that no other token continues."""
    return max((data for data in tokenbytes.table if data and data.isalpha()), key=len)


@given(st.integers(0, len(TEXT) - 1), st.integers(1, 30))
def test_what_is_taken_away_and_what_is_left_are_the_prompt(start: int, length: int) -> None:
    prompt = TEXT[start : start + length]
    ids = BPE.encode(prompt).ids.tolist()
    left, removed = Healer(BPE).back_up(Generate(prompt), ids)
    assert left == ids[: len(left)]
    assert left
    assert BPE.decode(left) + removed == prompt.encode()


@given(st.binary(min_size=1, max_size=5))
def test_allowed_tokens_spell_a_piece_of_the_rest_or_all_of_it_and_more(wanted: bytes) -> None:
    expected = [
        number for number, data in enumerate(BPE.table) if data and (data.startswith(wanted) or wanted.startswith(data))
    ]
    assert Healer(BPE).allowed(wanted) == expected, "a vocabulary with all bytes can spell every rest"


def test_a_piece_whose_rest_cannot_be_spelt_is_not_allowed() -> None:
    tokenbytes: Any = type("Table", (), {"table": (b"a", b"ab", b"abc", b"cd", None, b""), "dummy_prefix": False})
    assert Healer(tokenbytes).allowed(b"abc") == [1, 2], "behind 'a' nothing begins with 'bc'; behind 'ab' comes 'cd'"


def test_a_prompt_that_no_token_could_continue_is_left_alone() -> None:
    tokenbytes = TokenBytes.from_tokenizer(toy_tokenizer("byte"))
    ids = tokenbytes.encode("any prompt").ids.tolist()
    assert Healer(tokenbytes).back_up(Generate("any prompt"), ids) == (ids, b"")


def test_what_a_chat_template_ends_with_is_left_alone_and_an_opened_answer_is_not() -> None:
    user, opening = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "def me"}
    ids = BPE.encode("def me").ids.tolist()
    assert Healer(BPE).back_up(Generate(messages=(user,)), ids) == (ids, b"")
    assert Healer(BPE).back_up(Generate(messages=(user, opening)), ids)[1] != b""


class WantsOneToken(torch.nn.Module):
    """Prefers one token wherever it may, and ends otherwise."""

    def __init__(self, wanted: int, end: int, rows: int) -> None:
        super().__init__()
        self.config = LlamaConfig(vocab_size=rows, max_position_embeddings=512, num_hidden_layers=1)
        self.device = torch.device("cpu")
        self.wanted, self.end = wanted, end

    def forward(self, input_ids: torch.Tensor, past_key_values: Any = None, **_: Any) -> CausalLMOutputWithPast:
        from transformers import DynamicCache

        cache = past_key_values if past_key_values is not None else DynamicCache()
        cache.update(input_ids[:, None, :, None].float(), torch.zeros(*input_ids.shape, 1)[:, None], 0)
        logits = torch.zeros(*input_ids.shape, self.config.vocab_size)
        logits[..., self.wanted], logits[..., self.end] = 2.0, 3.0
        return CausalLMOutputWithPast(logits=logits, past_key_values=cache)


@pytest.mark.parametrize("name", ["bpe", "spm", "superword", "unigram"])
def test_a_prompt_that_ends_inside_a_token_goes_on_with_the_rest_of_it(name: str) -> None:
    checkpoint = toy_checkpoint(name, model=object())
    token = long_token(checkpoint.tokenbytes)
    number = checkpoint.tokenbytes.id_of(token)
    checkpoint.model = WantsOneToken(int(number), int(checkpoint.roles.eos), checkpoint.tokenbytes.size)
    prompt = "x = 1\n" + token[:1].decode()
    request = Generate(prompt, max_bytes=50)
    [plain] = Generator(checkpoint).generate([request])
    [healed] = Generator(checkpoint, heal=True).generate([request])
    assert (plain.data, plain.healed_bytes, plain.facts) == (b"", None, {"passes": plain.passes})
    assert (healed.data, healed.stop_reason) == (token[1:], "end")
    assert healed.facts == {"healed_bytes": healed.healed_bytes, "passes": healed.passes}
    assert healed.healed_bytes
    assert (healed.prompt_text, healed.prompt_bytes) == (prompt, len(prompt))
    assert healed.prompt_tokens < plain.prompt_tokens


@pytest.mark.parametrize("shape", ["llama", "gemma3"])
@pytest.mark.parametrize("ending", [" ", "    ", "def me", "retur", "\n"])
def test_healed_answers_continue_the_prompts_bytes_alone_and_in_a_batch(shape: str, ending: str) -> None:
    checkpoint = toy_checkpoint("bpe", shape)
    requests = [
        Generate(start + ending, max_bytes=30, sampling=Sampling(temperature), seeds=(1, 2))
        for start in ("x = 3\n", TEXT[:120])
        for temperature in (0.0, 1.0)
    ]
    together = list(Generator(checkpoint, heal=True, max_batch_rows=5).generate(requests))
    assert len(together) == 8
    for answer in together:
        request = requests[answer.index]
        ids = checkpoint.tokenbytes.encode(request.prompt).ids.tolist()
        read = ids[: answer.prompt_tokens]
        written = checkpoint.tokenbytes.decode([*read, *answer.ids])
        assert written.startswith(request.prompt.encode() + answer.data)
        assert answer.healed_bytes == len(request.prompt.encode()) - len(checkpoint.tokenbytes.decode(read))
        [alone] = Generator(checkpoint, heal=True).generate(
            [Generate(request.prompt, max_bytes=30, sampling=request.sampling, seeds=(answer.sample + 1,))]
        )
        assert alone.data == answer.data


def test_a_stop_is_not_looked_for_in_the_bytes_that_are_written_again() -> None:
    checkpoint = toy_checkpoint("bpe", model=object())
    token = long_token(checkpoint.tokenbytes)
    number = checkpoint.tokenbytes.id_of(token)
    checkpoint.model = WantsOneToken(int(number or 0), int(checkpoint.roles.eos), checkpoint.tokenbytes.size)
    request = Generate("\n" + token[:2].decode(), stops=(token[:3].decode(),))
    [answer] = Generator(checkpoint, heal=True).generate([request])
    assert (answer.data, answer.stop_reason) == (token[2:], "end")


@pytest.mark.real
@pytest.mark.parametrize("name", ["qwen", "gemma3"])
def test_real_vocabularies_are_backed_up_to_where_a_longer_token_may_begin(name: str) -> None:
    tokenbytes = TokenBytes.from_tokenizer(real_tokenizer(name))
    healer = Healer(tokenbytes)
    for prompt, ending in (("import torch\nimport nump", b"p"), ("def f(x):\n   ", b" "), ("https:", b":")):
        ids = tokenbytes.encode(prompt).ids.tolist()
        left, removed = healer.back_up(Generate(prompt), ids)
        assert removed.endswith(ending)
        assert tokenbytes.decode(left) + removed == prompt.encode()
    allowed = {tokenbytes.table[number] for number in healer.allowed(b":")}
    assert {b":", b"://"} <= allowed
