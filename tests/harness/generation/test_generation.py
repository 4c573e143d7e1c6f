"""Generation against a plain loop without cache or batch, and against scripts that say exactly what comes."""

from typing import Any

import pytest
import torch
from engine_models import scripted_checkpoint, spell, toy_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from toy_tokenizers import BUILDERS, TEXT

from crosstok.errors import UserError
from crosstok.harness.generation.answers import whole_characters
from crosstok.harness.generation.generator import Generation, Generator
from crosstok.tasks.task import Generate

SHAPES = ("llama", "gpt2", "gemma3")
PROMPTS = ["def mean(", "The sun was up before", "x", TEXT[:200], "class Stack:\n", TEXT[300:380], "    for", "a b c d"]


def answer_all(checkpoint: Any, requests: list[Generate], **options: Any) -> list[Generation]:
    answers = list(Generator(checkpoint, **options).generate(requests))
    assert sorted(answer.index for answer in answers) == list(range(len(requests)))
    return sorted(answers, key=lambda answer: answer.index)


def plain_greedy(checkpoint: Any, prompt: str, tokens: int) -> bytes:
    """One row, the whole text read anew for every token."""
    ids = checkpoint.tokenbytes.encode(prompt).ids.tolist()
    ids = ids if checkpoint.bos_id is None else [checkpoint.bos_id, *ids]
    data = b""
    for _ in range(tokens):
        with torch.no_grad():
            logits = checkpoint.model(torch.tensor([ids])).logits[0, -1]
        best = int(logits[: checkpoint.valid_rows].argmax())
        if best in checkpoint.stop_ids:
            break
        ids.append(best)
        data += checkpoint.tokenbytes.table[best] or b""
    return data


# --- the same text for every batch ---


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_answers_equal_a_plain_loop_for_every_number_of_rows(shape: str, rows: int) -> None:
    checkpoint = toy_checkpoint("bpe", shape)
    answers = answer_all(
        checkpoint, [Generate(prompt, max_bytes=300) for prompt in PROMPTS], max_batch_rows=rows, max_tokens=50
    )
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        expected = plain_greedy(checkpoint, prompt, 50)
        assert answer.data == expected[:300][: len(answer.data)]
        assert len(answer.data) >= min(len(expected), 297)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_every_kind_of_tokenizer_gets_back_the_bytes_of_its_ids(name: str) -> None:
    checkpoint = toy_checkpoint(name, with_bos=name == "bos")
    prompts = ["def mean(", " two", "Z"]
    answers = answer_all(checkpoint, [Generate(prompt, max_bytes=40) for prompt in prompts])
    for prompt, answer in zip(prompts, answers, strict=True):
        expected = plain_greedy(checkpoint, prompt, 40)[:40]
        assert answer.data == expected[: whole_characters(expected) if len(expected) == 40 else None]
        assert answer.text == answer.data.decode(errors="replace")


def test_rows_that_come_and_go_keep_their_own_histories() -> None:
    # 40 answers of 1 to 40 tokens through 4 rows, and prompts of many lengths: every row is moved and replaced often.
    answers = {chr(ord("0") + number) + "?" * (number * 7 % 23): "x" * (number * 13 % 40 + 1) for number in range(40)}
    checkpoint = scripted_checkpoint({prompt: spell("byte", text) for prompt, text in answers.items()}, "byte")
    generator = Generator(checkpoint, max_batch_rows=4, max_prefill_tokens=30)
    found = {answer.index: answer for answer in generator.generate([Generate(prompt) for prompt in answers])}
    assert [found[index].text for index in range(40)] == list(answers.values())
    assert {answer.stop_reason for answer in found.values()} == {"end"}
    assert max(checkpoint.model.rows_of_passes) == 4


def test_a_long_run_moves_its_buffers_and_loses_nothing() -> None:
    text = "".join(chr(ord("a") + number % 26) for number in range(700))
    checkpoint = scripted_checkpoint({"p": spell("byte", text), "qq": spell("byte", text[:300])}, "byte")
    answers = answer_all(checkpoint, [Generate("p"), Generate("qq")])
    assert [answer.text for answer in answers] == [text, text[:300]]


# --- what ends a row ---


def test_generation_ends_where_the_model_says_so() -> None:
    checkpoint = scripted_checkpoint({"a": spell("bpe", "done")})
    [answer] = answer_all(checkpoint, [Generate("a")])
    assert (answer.text, answer.stop_reason, answer.tokens, answer.steps) == ("done", "end", 4, 4)
    assert (answer.prompt_text, answer.prompt_bytes, answer.prompt_tokens) == ("a", 1, 1)


def test_a_special_token_that_does_not_end_contributes_no_bytes() -> None:
    checkpoint = scripted_checkpoint({})
    word = spell("bpe", "ab")
    checkpoint = scripted_checkpoint({"a": [word[0], checkpoint.tokenizer.bos_token_id, word[1]]})
    [answer] = answer_all(checkpoint, [Generate("a")])
    assert (answer.text, answer.tokens, answer.steps) == ("ab", 2, 3)


def test_a_model_that_writes_nothing_but_specials_is_capped_in_tokens() -> None:
    bos = scripted_checkpoint({}).tokenizer.bos_token_id
    [answer] = answer_all(scripted_checkpoint({"a": [bos] * 99}), [Generate("a", max_bytes=20)])
    assert (answer.text, answer.stop_reason, answer.steps) == ("", "token_cap", 19)


def test_a_row_ends_where_the_model_can_read_no_more() -> None:
    checkpoint = scripted_checkpoint({"abcd": spell("byte", "x" * 99)}, "byte", positions=10)
    [answer] = answer_all(checkpoint, [Generate("abcd")])
    assert (answer.text, answer.stop_reason) == ("x" * 6, "context_full")


def test_a_prompt_longer_than_the_model_reads_is_answered_with_nothing() -> None:
    checkpoint = scripted_checkpoint({"ok": []}, "byte", positions=10)
    long, fine = answer_all(checkpoint, [Generate("x" * 10), Generate("ok")])
    assert (long.data, long.stop_reason, long.prompt_tokens) == (b"", "context_full", 10)
    assert fine.stop_reason == "end"


def test_a_budget_cuts_between_characters_and_says_so() -> None:
    checkpoint = scripted_checkpoint({"a": spell("byte", "né€")}, "byte")
    [answer] = answer_all(checkpoint, [Generate("a", max_bytes=5)])
    assert (answer.data, answer.text, answer.stop_reason) == ("né".encode(), "né", "byte_budget")


def test_a_stop_behind_the_budget_is_not_seen_by_a_tokenizer_with_long_tokens() -> None:
    checkpoint = scripted_checkpoint({}, "superword")
    token = max((data for data in checkpoint.tokenbytes.table if data and len(set(data)) == len(data)), key=len)
    assert len(token) > 4
    checkpoint = scripted_checkpoint({"a": [checkpoint.tokenbytes.id_of(token)]}, "superword")
    stop = token[1:4].decode()
    [answer] = answer_all(checkpoint, [Generate("a", stops=(stop,), max_bytes=3)])
    assert (answer.data, answer.stop_reason) == (token[:3], "byte_budget")
    [answer] = answer_all(checkpoint, [Generate("a", stops=(stop,), max_bytes=4)])
    assert (answer.data, answer.stop_reason) == (token[:1], "stop")


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_without_room_is_refused(budget: int) -> None:
    with pytest.raises(UserError, match="max_bytes"):
        answer_all(scripted_checkpoint({}), [Generate("a", max_bytes=budget)])


@given(st.text(max_size=20), st.integers(0, 80))
def test_cutting_text_anywhere_leaves_whole_characters(text: str, at: int) -> None:
    data = text.encode()[:at]
    kept = data[: whole_characters(data)]
    assert text.startswith(kept.decode())
    assert len(data) - len(kept) < 4


@given(st.binary(max_size=12))
def test_cutting_bytes_that_are_no_text_takes_away_at_most_an_unfinished_character(data: bytes) -> None:
    kept = whole_characters(data)
    assert len(data) - kept < 4
    assert data[kept:].decode(errors="ignore") == ""


# --- prompts ---


def test_a_prompt_that_the_tokenizer_cannot_write_is_refused() -> None:
    bad, good = answer_all(toy_checkpoint("spm"), [Generate("a ▁ b"), Generate("fine", max_bytes=4)])
    assert bad.stop_reason == "refused"
    assert "does not survive" in bad.refused
    assert (good.refused, good.prompt_tokens > 0) == ("", True)


def test_a_prompt_with_half_a_character_is_refused_once_per_seed() -> None:
    found = answer_all(toy_checkpoint(), [Generate("a \ud800 b", seeds=(0,))])
    assert [(answer.stop_reason, answer.prompt_text) for answer in found] == [("refused", "a ? b")]
    [first, second] = Generator(toy_checkpoint()).generate([Generate("a \ud800 b", seeds=(5, 6))])
    assert (first.sample, second.sample) == (0, 1)


def test_a_raw_prompt_begins_with_bos_where_the_model_has_one() -> None:
    plain, with_bos = (toy_checkpoint("bos", with_bos=flag) for flag in (False, True))
    [left], [right] = (answer_all(each, [Generate("The sun", max_bytes=8)]) for each in (plain, with_bos))
    assert right.prompt_tokens == left.prompt_tokens + 1
    assert left.prompt_bytes == right.prompt_bytes == 7


def test_an_empty_prompt_is_continued_from_the_token_between_documents() -> None:
    [answer] = answer_all(toy_checkpoint(), [Generate("", max_bytes=8)])
    assert (answer.prompt_tokens, answer.prompt_bytes) == (1, 0)


def test_no_requests_give_no_answers() -> None:
    assert answer_all(toy_checkpoint(), []) == []
