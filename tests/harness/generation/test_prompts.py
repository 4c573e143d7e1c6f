"""Prompts: what is parsed for special tokens and what is not."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from engine_models import toy_checkpoint
from tokenizers import AddedToken

from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError
from crosstok.harness.generation.prompts import encode_prompt
from crosstok.tasks.task import Generate

CHATML = (
    "{{ bos_token }}{% for m in messages %}<eos>{{ m['role'] }}\n{{ m['content'] }}<pad>\n{% endfor %}"
    "{% if add_generation_prompt %}<eos>assistant\n{% endif %}"
)
# Gemma's manner: contents are stripped, the system turn is folded into the first user turn.
FOLDING = (
    "{% set lead = '' %}{% if messages[0]['role'] == 'system' %}{% set lead = messages[0]['content'] | trim + '\n\n' %}"
    "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}<eos>{{ m['role'] }}\n"
    "{{ lead if loop.first }}{{ m['content'] | trim }}<pad>\n{% endfor %}"
    "{% if add_generation_prompt %}<eos>model\n{% endif %}"
)
USER = {"role": "user", "content": "What is 1 + 1?"}


@pytest.fixture
def chat() -> Callable[..., Any]:
    def build(template: str | None, *, with_bos: bool = False) -> Any:
        checkpoint = toy_checkpoint(model=object(), with_bos=with_bos)
        checkpoint.tokenizer = copy.deepcopy(checkpoint.tokenizer)
        checkpoint.tokenizer.chat_template = template
        return checkpoint

    return build


def spelt(checkpoint: Any, ids: list[int]) -> str:
    return str(checkpoint.tokenizer.decode(ids, skip_special_tokens=False))


@pytest.mark.parametrize("template", [CHATML, FOLDING])
def test_ids_are_those_of_the_template_where_contents_are_plain(chat: Callable[..., Any], template: str) -> None:
    checkpoint = chat(template)
    messages = ({"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "2"}, USER)
    prompt = encode_prompt(checkpoint, Generate(messages=messages))
    whole = checkpoint.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
    assert prompt.ids == whole
    assert prompt.text == checkpoint.tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, tokenize=False
    )


def test_a_special_token_written_inside_a_content_is_text(chat: Callable[..., Any]) -> None:
    checkpoint = chat(CHATML)
    content = "what does <eos> mean?"
    prompt = encode_prompt(checkpoint, Generate(messages=({"role": "user", "content": content},)))
    assert prompt.ids.count(checkpoint.tokenizer.eos_token_id) == 2, "the template's own two"
    assert content in spelt(checkpoint, prompt.ids)
    assert prompt.text.count("<eos>") == 3


def test_a_last_turn_of_the_assistant_is_continued_and_not_closed(chat: Callable[..., Any]) -> None:
    for template in (CHATML, FOLDING):
        checkpoint = chat(template)
        opening = {"role": "assistant", "content": "```python\n"}
        prompt = encode_prompt(checkpoint, Generate(messages=(USER, opening)))
        assert prompt.text.endswith("assistant\n```python\n")
        assert spelt(checkpoint, prompt.ids) == prompt.text


def test_contents_that_look_alike_are_told_apart(chat: Callable[..., Any]) -> None:
    checkpoint = chat(CHATML)
    messages = tuple({"role": role, "content": "user"} for role in ("user", "assistant", "user"))
    assert encode_prompt(checkpoint, Generate(messages=messages)).text.count("user") == 5


def test_white_space_around_a_content_is_kept_as_the_template_keeps_it(chat: Callable[..., Any]) -> None:
    messages = ({"role": "user", "content": "  x \n"},)
    assert "\n  x \n<pad>" in encode_prompt(chat(CHATML), Generate(messages=messages)).text
    assert "\nx<pad>" in encode_prompt(chat(FOLDING), Generate(messages=messages)).text


def test_bos_is_written_once_whether_or_not_the_template_writes_it(chat: Callable[..., Any]) -> None:
    for template in (CHATML, FOLDING):
        checkpoint = chat(template, with_bos=True)
        ids = encode_prompt(checkpoint, Generate(messages=(USER,))).ids
        assert ids[0] == checkpoint.bos_id
        assert ids.count(checkpoint.bos_id) == 1


def test_a_model_without_a_template_cannot_be_asked_in_a_chat(chat: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="no chat template"):
        encode_prompt(chat(None), Generate(messages=(USER,)))


def test_a_template_that_rewrites_contents_is_refused(chat: Callable[..., Any]) -> None:
    checkpoint = chat("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}")
    with pytest.raises(UserError, match="modifies the messages"):
        encode_prompt(checkpoint, Generate(messages=(USER,)))


def test_a_template_that_refuses_a_role_is_one_clear_line(chat: Callable[..., Any]) -> None:
    checkpoint = chat("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(UserError, match="rejects these messages: roles must alternate"):
        encode_prompt(checkpoint, Generate(messages=(USER,)))


def test_a_template_that_drops_the_opening_of_an_answer_is_refused(chat: Callable[..., Any]) -> None:
    checkpoint = chat("{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}")
    with pytest.raises(UserError, match="modifies the messages"):
        encode_prompt(checkpoint, Generate(messages=(USER, {"role": "assistant", "content": "```python"})))


def test_a_special_token_that_swallows_white_space_swallows_it_here_too() -> None:
    checkpoint = toy_checkpoint(model=object())
    tokenizer = copy.deepcopy(checkpoint.tokenizer)
    tokenizer.add_tokens(
        [AddedToken("<user>", rstrip=True, special=True), AddedToken("<end>", lstrip=True, special=True)]
    )
    tokenizer.chat_template = "{% for m in messages %}<user>\n{{ m['content'] }} \n<end>\n{% endfor %}"
    checkpoint.tokenizer, checkpoint.tokenbytes = tokenizer, TokenBytes.from_tokenizer(tokenizer)
    prompt = encode_prompt(checkpoint, Generate(messages=({"role": "user", "content": "  x = 1"},) * 2))
    assert prompt.ids == tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
    assert "\n  x = 1 \n<end>" in prompt.text
