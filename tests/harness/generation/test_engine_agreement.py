"""The engine on a real model, against transformers' own generate and a plain sum of log-probabilities."""

from typing import Any

import pytest
import torch
from engine_models import toy_checkpoint
from real_models import real_source
from tiny_models import Shape, tiny_model
from toy_tokenizers import TEXT, toy_tokenizer

from crosstok.distill.ensemble import EnsembleConfig, EnsembleForCausalLM
from crosstok.distill.models import checkpoints
from crosstok.harness.generation.generator import Generator
from crosstok.harness.likelihood.rolling import Scorer
from crosstok.tasks.task import Generate, Rolling

TOKENS = 6
PROSE = (torch.__doc__ or "") + (torch.nn.Linear.__doc__ or "")


@pytest.fixture(scope="module")
def smollm() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield checkpoints.load(real_source("smollm2-135m-instruct"))
    torch.set_num_threads(threads)


def by_transformers(checkpoint: Any, ids: list[int], tokens: int) -> bytes:
    """One prompt at a time through ``generate``."""
    output = checkpoint.model.generate(
        torch.tensor([ids]), do_sample=False, max_new_tokens=tokens, eos_token_id=sorted(checkpoint.stop_ids)
    )
    return b"".join(checkpoint.tokenbytes.table[number] or b"" for number in output[0, len(ids) :].tolist())


@pytest.fixture(scope="module")
def gemma() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield checkpoints.load(real_source("gemma3-270m"))
    torch.set_num_threads(threads)


@pytest.mark.real
@pytest.mark.parametrize("name", ["smollm", "gemma"])
def test_greedy_answers_of_real_models_equal_those_of_transformers(name: str, request: pytest.FixtureRequest) -> None:
    """Fifty prompts each. ``generate`` gets those of one length together, so that it needs no padding."""
    checkpoint = request.getfixturevalue(name)
    prompts = [PROSE[at : at + 12 + 8 * (at % 3)] for at in range(0, 50 * 7, 7)]
    asked = [Generate(prompt, max_bytes=999) for prompt in prompts]
    found = {a.index: a.ids for a in Generator(checkpoint, max_batch_rows=17, max_tokens=TOKENS).generate(asked)}
    by_length: dict[int, list[tuple[int, list[int]]]] = {}
    for index, prompt in enumerate(prompts):
        ids = checkpoint.tokenizer(prompt)["input_ids"]
        by_length.setdefault(len(ids), []).append((index, ids))
    for length, group in by_length.items():
        output = checkpoint.model.generate(
            torch.tensor([ids for _, ids in group]),
            do_sample=False,
            max_new_tokens=TOKENS,
            eos_token_id=sorted(checkpoint.stop_ids),
        )
        for (index, _), row in zip(group, output[:, length:].tolist(), strict=True):
            end = next((at for at, number in enumerate(row, 1) if number in checkpoint.stop_ids), TOKENS)
            assert found[index] == tuple(row[:end]), prompts[index]


@pytest.mark.real
def test_a_chat_prompt_of_a_real_model_has_the_ids_of_its_template(smollm: Any) -> None:
    messages = ({"role": "user", "content": "Write a function.\n\n```python\ndef f():\n```"},)
    [answer] = Generator(smollm, max_tokens=1).generate([Generate(messages=messages)])
    rendered = smollm.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    assert answer.prompt_text == rendered
    assert answer.prompt_tokens == len(smollm.tokenizer(rendered, add_special_tokens=False)["input_ids"])


@pytest.mark.real
def test_bits_per_byte_of_a_real_model_equal_a_plain_sum(smollm: Any) -> None:
    text = TEXT[:600]
    ids = torch.tensor([[smollm.roles.end_of_text, *smollm.tokenizer(text)["input_ids"]]])
    with torch.no_grad():
        logits = smollm.model(ids).logits[0, :-1].double()
    expected = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
    [answer] = Scorer(smollm).rolling([Rolling(text)])
    assert answer.nats == pytest.approx(expected, rel=1e-5)
    assert answer.bytes == len(text.encode())
    assert answer.conditioned_on == "<|endoftext|>"


@pytest.mark.parametrize("shape", ["llama", "gpt2", "gemma3"])
def test_greedy_answers_of_tiny_models_equal_those_of_transformers(shape: str) -> None:
    checkpoint = toy_checkpoint("bpe", shape)
    starts = range(0, 1000, 20)
    requests = [Generate(TEXT[at : at + 5 + at % 90], max_bytes=2000) for at in starts]
    answers = {answer.index: answer for answer in Generator(checkpoint, max_tokens=30).generate(requests)}
    for index, request in enumerate(requests):
        ids = checkpoint.tokenbytes.encode(request.prompt).ids.tolist()
        assert answers[index].data == by_transformers(checkpoint, ids, 30)


def mixture(members: list[Any], combine: str, ids: list[int]) -> torch.Tensor:
    """Log-probabilities behind every id, one quarter first member and three quarters second, from the definition."""
    with torch.no_grad():
        one, two = (member(torch.tensor([ids])).logits[0].double() for member in members)
    if combine == "mean_logit":
        return torch.log_softmax(0.25 * one + 0.75 * two, dim=-1)
    return torch.log(0.25 * torch.softmax(one, dim=-1) + 0.75 * torch.softmax(two, dim=-1))


@pytest.mark.parametrize("combine", ["mean_prob", "mean_logit"])
@pytest.mark.parametrize("shapes", [("llama", "gpt2"), ("gemma3", "llama")])
def test_an_ensemble_is_answered_and_scored_like_any_model(combine: str, shapes: tuple[Shape, Shape]) -> None:
    tokenizer = toy_tokenizer("bpe")
    members = [tiny_model(tokenizer, shape, seed=seed) for seed, shape in enumerate(shapes)]
    weights = [{"source": "", "weight": 1.0}, {"source": "", "weight": 3.0}]
    config = EnsembleConfig(members=weights, combine=combine, vocab_size=len(tokenizer), max_position_embeddings=512)
    checkpoint = toy_checkpoint("bpe", model=EnsembleForCausalLM(config, members).eval())

    ids = checkpoint.tokenbytes.encode(TEXT[:200]).ids.tolist()
    logs = mixture(members, combine, [checkpoint.roles.end_of_text, *ids[:-1]])
    [score] = Scorer(checkpoint).rolling([Rolling(TEXT[:200])])
    assert score.nats == pytest.approx(-logs.gather(1, torch.tensor(ids)[:, None]).sum().item(), rel=1e-5)

    requests = [Generate(TEXT[at : at + 10 + at], max_bytes=999) for at in (0, 40, 80)]
    for answer in Generator(checkpoint, max_batch_rows=2, max_tokens=15).generate(requests):
        ids = checkpoint.tokenbytes.encode(requests[answer.index].prompt).ids.tolist()
        expected = b""
        for _ in range(15):
            ids.append(int(mixture(members, combine, ids)[-1].argmax()))
            if ids[-1] in checkpoint.stop_ids:
                break
            expected += checkpoint.tokenbytes.table[ids[-1]] or b""
        assert answer.data == expected
