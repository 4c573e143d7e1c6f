"""Defects that other harnesses have or had in likelihood and generation, one test each; see docs/bug-museum.md."""

import copy
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import scripted_checkpoint, spell, toy_checkpoint
from repository import ROOT
from toy_tokenizers import TEXT
from transformers import LlamaConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

from crosstok.harness.generation.generator import Generation, Generator
from crosstok.harness.likelihood.rolling import RollingScore, Scorer
from crosstok.tasks.task import Generate, Rolling

PROGRAM = TEXT[300:1000]


def score(checkpoint: Any, text: str, window: int = 128, stride: int = 64) -> RollingScore:
    [answer] = Scorer(checkpoint).rolling([Rolling(text, window, stride)])
    return answer


def answer_all(checkpoint: Any, requests: list[Generate], **options: Any) -> list[Generation]:
    return sorted(Generator(checkpoint, **options).generate(requests), key=lambda answer: answer.index)


# --- likelihood ---


def test_museum_04_a_bos_that_the_tokenizer_adds_is_not_scored() -> None:
    # The same vocabulary and weights, once with a post-processor that writes <bos>.
    adding, plain = toy_checkpoint("bos", with_bos=True), toy_checkpoint("bpe", with_bos=True)
    left, right = score(adding, PROGRAM), score(plain, PROGRAM)
    assert left.nats == pytest.approx(right.nats, rel=1e-6)
    assert (left.bytes, left.tokens) == (right.bytes, right.tokens)


def test_museum_05_every_window_begins_with_the_same_special_token() -> None:
    checkpoint = toy_checkpoint(with_bos=True)
    heads: list[int] = []
    inner = checkpoint.model.model
    inner.register_forward_pre_hook(
        lambda _module, _arguments, named: heads.extend(named["input_ids"][:, 0].tolist()), with_kwargs=True
    )
    scorer = Scorer(checkpoint)
    heads.clear()  # of the probe of the output head
    [answer] = scorer.rolling([Rolling(PROGRAM, 128, 64)])
    assert heads == [checkpoint.bos_id] * answer.windows
    assert answer.windows > 5


@pytest.mark.parametrize("name", ["byte", "bpe", "superword", "spm"])
def test_museum_06_windows_give_every_tokenizer_the_same_context(name: str) -> None:
    answer = score(toy_checkpoint(name), PROGRAM, window=200, stride=50)
    assert answer.min_context_bytes is not None
    assert answer.min_context_bytes >= 150
    assert answer.bytes == len(PROGRAM.encode())


def test_museum_07_bf16_weights_do_not_make_bf16_log_probabilities() -> None:
    checkpoint = toy_checkpoint("byte", positions=2048)
    checkpoint.model.bfloat16()
    text = (TEXT * 2)[:2000]
    ids = torch.tensor([[checkpoint.tokenizer.eos_token_id, *checkpoint.tokenbytes.encode(text).ids.tolist()]])
    with torch.no_grad():
        logits = checkpoint.model(ids).logits[0, :-1]
    exact = torch.nn.functional.cross_entropy(logits.double(), ids[0, 1:], reduction="sum").item()
    careless = -torch.log_softmax(logits, dim=-1).gather(1, ids[0, 1:, None]).sum().item()
    found = score(checkpoint, text, 4096, 4096).nats
    assert found == pytest.approx(exact, rel=1e-3)
    assert abs(found - exact) < abs(careless - exact)


@pytest.mark.parametrize("shape", ["llama", "gpt2", "gemma3"])
def test_museum_08_untrained_rows_beyond_the_vocabulary_change_nothing(shape: str) -> None:
    plain = toy_checkpoint("bpe", shape)
    padded = toy_checkpoint("bpe", shape)
    torch.manual_seed(1)
    padded.model = copy.deepcopy(plain.model)
    padded.model.resize_token_embeddings(plain.tokenbytes.size + 1000, mean_resizing=False)
    with torch.no_grad():  # loud rows: without a mask they take nearly all probability
        padded.model.get_output_embeddings().weight[plain.tokenbytes.size :] = 3 * torch.randn(1000, 32)
    assert score(padded, PROGRAM).nats == pytest.approx(score(plain, PROGRAM).nats, rel=1e-6)
    request = [Generate("def mean(", max_bytes=60)]
    assert answer_all(padded, request)[0].data == answer_all(plain, request)[0].data


class BigramModel(torch.nn.Module):
    """p(next id | last id) out of a table, so that the likelihood of a text has a closed form."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = table
        self.config = LlamaConfig(vocab_size=len(table), max_position_embeddings=4096)
        self.device = torch.device("cpu")
        self.base_model = self

    def get_output_embeddings(self) -> None:
        return None

    def forward(self, input_ids: torch.Tensor, **_: Any) -> CausalLMOutputWithPast:
        return CausalLMOutputWithPast(logits=self.table[input_ids])


@pytest.mark.parametrize(("window", "stride"), [(4096, 4096), (128, 64), (32, 31), (1, 1)])
@pytest.mark.parametrize("name", ["byte", "bpe"])
def test_museum_09_a_bigram_model_scores_what_theory_says(name: str, window: int, stride: int) -> None:
    checkpoint = toy_checkpoint(name, model=object())
    torch.manual_seed(0)
    logits = 3 * torch.randn(checkpoint.tokenbytes.size, checkpoint.tokenbytes.size)
    checkpoint.model = BigramModel(logits)
    # A window as long as its stride sees no token before its first: it is conditioned on the end-of-text token.
    logs = torch.log_softmax(logits.double(), dim=-1).numpy()
    ids = checkpoint.tokenbytes.encode(PROGRAM).ids
    found = score(checkpoint, PROGRAM, window, stride)
    if window == 4096 or window > stride:
        before = np.concatenate([[checkpoint.tokenizer.eos_token_id], ids[:-1]])
        assert found.nats == pytest.approx(-logs[before, ids].sum(), rel=1e-6)
    else:
        assert found.nats == pytest.approx(-logs[checkpoint.tokenizer.eos_token_id, ids].sum(), rel=1e-6)
        assert found.windows == found.tokens


# --- generation ---


def test_museum_11_no_step_is_spent_on_a_row_that_has_ended() -> None:
    lengths = {"a": 3, "b": 40, "c": 7, "d": 1, "e": 12}
    answers = {prompt: spell("byte", "x" * length + "\n#") for prompt, length in lengths.items()}
    generator = Generator(scripted_checkpoint(answers, "byte"), max_batch_rows=2)
    found = sorted(generator.generate([Generate(prompt, stops=("\n#",)) for prompt in lengths]), key=lambda a: a.index)
    assert [len(answer.data) for answer in found] == list(lengths.values())
    # The first token of an answer comes with its prompt; each further one takes one step.
    assert [answer.steps for answer in found] == [length + 1 for length in lengths.values()]
    assert generator.counts.row_steps == sum(answer.steps for answer in found)
    assert generator.counts.wasted_row_steps == 0


def test_museum_12_a_stop_in_another_segmentation_is_caught_on_its_last_byte() -> None:
    checkpoint = scripted_checkpoint({})
    text = "return x\ndef g(): pass"
    usual = checkpoint.tokenbytes.encode(text).ids.tolist()
    single = spell("bpe", text)
    assert len(usual) < len(single)
    request = [Generate("a", stops=("\ndef",))]
    for ids in (usual, single):
        [answer] = answer_all(scripted_checkpoint({"a": ids}), request)
        assert (answer.text, answer.stop_reason) == ("return x", "stop")
    assert answer.tokens == len("return x\ndef"), "no token beyond the byte that completes the stop"


def test_museum_13_a_stop_that_begins_in_the_prompt_does_not_count() -> None:
    answers = {"x = 1\n": spell("byte", "def f"), "\ndef": spell("byte", "ab")}
    found = answer_all(scripted_checkpoint(answers, "byte"), [Generate(prompt, stops=("\ndef",)) for prompt in answers])
    assert [(answer.text, answer.stop_reason) for answer in found] == [("def f", "end"), ("ab", "end")]


@pytest.mark.parametrize("name", ["spm", "unigram"])
def test_museum_14_leading_spaces_of_an_answer_survive(name: str) -> None:
    checkpoint = scripted_checkpoint({}, name)
    space, word = checkpoint.tokenbytes.id_of(b" "), spell(name, "return")
    checkpoint = scripted_checkpoint({"def f():\n": [space] * 4 + word}, name)
    ids = [space] * 4 + word
    assert not checkpoint.tokenizer.decode(ids).startswith("    "), "the tokenizer's own decoder eats a space"
    [answer] = answer_all(checkpoint, [Generate("def f():\n")])
    assert answer.text == "    return"


def test_museum_15_a_prompt_that_changes_in_the_tokenizer_is_reported_and_never_cut_off_by_length() -> None:
    checkpoint = scripted_checkpoint({"  two spaces": spell("spm", "ok")}, "spm")
    kept, refused = answer_all(checkpoint, [Generate("  two spaces"), Generate("a ▁ b")])
    assert (kept.text, kept.prompt_text) == ("ok", "  two spaces")
    assert (refused.stop_reason, refused.text) == ("refused", "")


def test_museum_16_the_budget_counts_the_bytes_of_the_answer_alone() -> None:
    prompt = "p" * 500
    checkpoint = scripted_checkpoint({prompt: spell("byte", "y" * 90)}, "byte")
    [answer] = answer_all(checkpoint, [Generate(prompt, max_bytes=64)])
    assert (answer.text, answer.stop_reason) == ("y" * 64, "byte_budget")


class OnMeta(torch.nn.Module):
    """Look at where the inputs are, and go no further."""

    class Seen(Exception):
        pass

    def __init__(self) -> None:
        super().__init__()
        self.config = LlamaConfig(max_position_embeddings=64)
        self.device = torch.device("meta")
        self.base_model = self

    def get_output_embeddings(self) -> None:
        return None

    def forward(self, **inputs: Any) -> None:
        tensors = [value for value in inputs.values() if isinstance(value, torch.Tensor)]
        assert len(tensors) >= 2
        assert {tensor.device.type for tensor in tensors} == {"meta"}
        raise OnMeta.Seen


def test_museum_17_every_input_is_on_the_models_device() -> None:
    checkpoint = toy_checkpoint(model=OnMeta())
    with pytest.raises(OnMeta.Seen):
        score(checkpoint, "abc")
    with pytest.raises(OnMeta.Seen):
        answer_all(checkpoint, [Generate("abc")])


@pytest.mark.parametrize("shape", ["llama", "gpt2", "gemma3"])
def test_museum_18_prompts_of_unequal_lengths_answer_as_they_do_alone(shape: str) -> None:
    checkpoint = toy_checkpoint("bpe", shape)
    requests = [
        Generate(TEXT[at : at + length], max_bytes=80) for at, length in ((0, 3), (9, 200), (50, 60), (400, 31))
    ]
    together = answer_all(checkpoint, requests)
    alone = [answer_all(checkpoint, [request])[0] for request in requests]
    assert [answer.data for answer in together] == [answer.data for answer in alone]


def test_museum_19_a_pad_token_that_is_also_the_end_token_ends_an_answer_once() -> None:
    checkpoint = scripted_checkpoint({}, "byte")
    end = checkpoint.tokenizer.eos_token_id
    checkpoint = scripted_checkpoint(
        {"a": [*spell("byte", "ab"), end, *spell("byte", "never")], "longer prompt": spell("byte", "cdef")},
        "byte",
    )
    checkpoint.tokenizer = copy.deepcopy(checkpoint.tokenizer)
    checkpoint.tokenizer.pad_token = checkpoint.tokenizer.eos_token
    short, long = answer_all(checkpoint, [Generate("a"), Generate("longer prompt")])
    assert (short.text, short.stop_reason, short.tokens) == ("ab", "end", 2)
    assert (long.text, long.stop_reason, long.tokens) == ("cdef", "end", 4)


def test_museum_20_a_generator_remembers_nothing_of_another_model() -> None:
    one, two = toy_checkpoint(seed=0), toy_checkpoint(seed=1)
    request = [Generate("The sun was", max_bytes=40)]
    assert answer_all(one, request)[0].data != answer_all(two, request)[0].data
    assert not math.isclose(score(one, "The sun").nats, score(two, "The sun").nats, rel_tol=1e-3)


def test_every_test_that_the_museum_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "bug-museum.md").read_text(encoding="utf-8")))
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 15
    assert {name for name in named if f"def {name}(" not in sources} == set()
