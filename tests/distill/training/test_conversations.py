"""Conversations: two templates, one text, and only what was asked for is trained on."""

import json
from typing import Any

import numpy as np
import pytest
from loss_setups import model_info, setup
from toy_tokenizers import toy_tokenizer
from transformers import PreTrainedTokenizerFast

from crosstok.corpora import Text, Texts
from crosstok.distill.losses import Side
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.distill.training.conversations import ChatEncoder, Conversations, Speakers, shortened
from crosstok.errors import UserError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "<bos>{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
)
TALK = [
    {"role": "user", "content": "  Where did the sun come up?\n"},
    {"role": "assistant", "content": "Over the river, in the east. Not <|im_end|> yet."},
    {"role": "user", "content": "And the moon?"},
    {"role": "assistant", "content": "It was gone."},
]


def chat(name: str, template: str, signs: list[str]) -> ChatEncoder:
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast(
        tokenizer_object=type(toy_tokenizer(name).backend_tokenizer).from_str(
            toy_tokenizer(name).backend_tokenizer.to_str()
        ),
        bos_token="<bos>",
        eos_token="<eos>",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": signs})
    tokenizer.chat_template = template
    return ChatEncoder(tokenizer, TokenBytes.from_tokenizer(tokenizer))


def encoders() -> tuple[ChatEncoder, ChatEncoder]:
    return (
        chat("bpe", GEMMA, ["<start_of_turn>", "<end_of_turn>"]),
        chat("byte", CHATML, ["<|im_start|>", "<|im_end|>"]),
    )


def conversations(*talks: Any, speakers: Speakers = "assistant", size: int = 400) -> Conversations:
    texts = Texts("toy", "train", tuple(Text(f"d{n}", json.dumps(talk)) for n, talk in enumerate(talks)), {})
    return Conversations(texts, *encoders(), size=size, seed=0, speakers=speakers)


def counted_text(side: Side, tokens: TokenBytes) -> bytes:
    return tokens.decode(side.ids[0][side.counted[0]].tolist())


@pytest.mark.parametrize(("speakers", "turns"), [("assistant", (1, 3)), ("all", (0, 1, 2, 3))])
def test_both_sides_train_on_the_same_contents_and_on_nothing_of_the_template(
    speakers: Speakers, turns: tuple[int, ...]
) -> None:
    source = conversations(TALK, speakers=speakers)
    batch = source.batch(source.windows)
    expected = "".join(TALK[turn]["content"].strip() for turn in turns).encode()
    for side, encoder in zip((batch.teacher, batch.student), encoders(), strict=True):
        assert counted_text(side, encoder.plain.tokens) == expected
        ends = side.ids[0][side.counted[0] & (side.lengths[0] == 0)].tolist()
        names = [encoder.plain.tokens.specials[token] for token in ends]
        assert names == ["<end_of_turn>" if side is batch.teacher else "<|im_end|>"] * len(turns)


def test_scored_chunks_spell_the_same_bytes_on_both_sides() -> None:
    source = conversations(TALK, TALK[:2], speakers="all")
    batch = source.batch(source.windows)
    tokens = [encoder.plain.tokens for encoder in encoders()]
    for row in range(2):
        texts = []
        for side, known in zip((batch.teacher, batch.student), tokens, strict=True):
            chunks = side.chunks[row].numpy()
            spelt = [known.decode(side.ids[row].numpy()[chunks == k].tolist()) for k in range(batch.count)]
            texts.append([spelt[k] for k in np.flatnonzero(batch.scored[row].numpy())])
        assert texts[0] == texts[1]
        contents = [turn["content"] for turn in json.loads(batch.texts[row])]
        assert b"".join(texts[0]).decode() == "".join(contents)


def test_a_side_reads_what_its_template_says() -> None:
    for encoder in encoders():
        rendered = encoder.render([{**turn, "content": turn["content"].strip()} for turn in TALK[2:]], "all")
        plain = [{**turn, "content": turn["content"].strip()} for turn in TALK[2:]]
        text = encoder.tokenizer.apply_chat_template(plain, tokenize=False)
        assert encoder.tokenizer.decode(rendered.ids.tolist(), skip_special_tokens=False).replace(" ", "") == (
            text.replace(" ", "")
        )


def test_a_literal_sign_in_a_message_is_text() -> None:
    encoder = encoders()[1]
    rendered = encoder.render(TALK[1:2], "all")
    end = encoder.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert int((rendered.ids == end).sum()) == 1


def test_a_long_conversation_is_cut_at_one_byte_for_both_sides() -> None:
    whole = shortened(TALK, 1000)
    assert [turn["content"] for turn in whole] == [turn["content"].strip() for turn in TALK]
    cut_short = shortened(TALK, 60)
    assert [turn["role"] for turn in cut_short] == ["user", "assistant"]
    assert TALK[1]["content"].startswith(cut_short[1]["content"])
    assert sum(len(turn["content"].encode()) for turn in cut_short) <= 60
    assert shortened(TALK, 5) == []


@pytest.mark.parametrize("choice", ["sft", "alm", "strict", "gold"])
def test_losses_take_conversations_as_they_take_text(choice: str) -> None:
    source = conversations(TALK, TALK[:2])
    batch = source.batch(source.windows)
    sides = encoders()
    rows = [side.plain.tokens.size for side in sides]
    teacher, student = (
        type(model_info("bpe", 0))(side.plain.tokens, size, model_info(name, seed, rows=size).network)
        for side, size, name, seed in zip(sides, rows, ("bpe", "byte"), (0, 1), strict=True)
    )
    term = setup(choice, student, teacher).term(batch)
    term.sum.backward()
    assert term.count > 0


@pytest.mark.parametrize("document", ["plain text", "[]", '[{"role": "user"}]', '{"role": "user", "content": "x"}'])
def test_a_document_that_is_no_conversation_is_refused_by_name(document: str) -> None:
    texts = Texts("toy", "train", (Text("row 7", document),), {})
    with pytest.raises(UserError, match="row 7 is not a conversation"):
        Conversations(texts, *encoders(), size=100, seed=0, speakers="all")


def test_conversations_without_an_answer_leave_nothing_to_train_on() -> None:
    with pytest.raises(UserError, match="contains no text"):
        conversations(TALK[:1])
