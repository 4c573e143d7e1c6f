"""Encoding of conversations with a model's chat template, with special tokens parsed in the template only.

Message contents must not be parsed for special tokens: a literal ``<|im_end|>`` or ``<unk>`` in a message is text, and
parsing it would change the question for some tokenizers only. The special tokens that the template writes must be
parsed. The template is therefore rendered with a placeholder for the content of every message. Text between
placeholders is the template's and is parsed; contents are not. Text between two special tokens, from template and
contents together, is encoded as one piece. The ids are thus those of ``apply_chat_template`` unless a message contains
the name of a special token.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError

# Private-use characters, which no template writes or strips.
_MARK = "\ue000{}\ue001"
_MARKED = re.compile("\ue000([0-9]+)\ue001")
_TRIMS: tuple[Callable[[str], str], ...] = (str, str.strip, str.rstrip, str.lstrip)

Message = Mapping[str, str]
"""``role`` and ``content`` of one turn."""


def chat_parts(tokenizer: Any, messages: Sequence[Message], *, complete: bool = False) -> list[tuple[bool, str]]:
    """Return the rendered chat as (is content, text) pairs, ready for the assistant's answer.

    If ``complete`` is set, the conversation is rendered as finished. Otherwise, a last message of the assistant is the
    start of its answer, and the prompt ends right after it. Raises UserError if there is no chat template or if it
    modifies the messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "This model has no chat template, which the prompt style chat requires.",
            hint="Set `prompt: raw` for it.",
        )
    opened = not complete and messages[-1]["role"] == "assistant"

    def render(contents: Sequence[str]) -> str:
        filled = [{**message, "content": content} for message, content in zip(messages, contents, strict=True)]
        try:
            return str(
                tokenizer.apply_chat_template(filled, tokenize=False, add_generation_prompt=not (opened or complete))
            )
        except TemplateError as error:
            raise UserError(
                f"The chat template of this model rejects these messages: {error}.", hint="Set `prompt: raw` for it."
            ) from error

    contents = [message["content"] for message in messages]
    rendered = render(contents)
    marks = [_MARK.format(index) for index in range(len(messages))]
    marked = render(marks)
    if opened:  # drop what follows the opening, which would end the answer
        before, mark, _ = marked.rpartition(marks[-1])
        marked = before + mark
    pieces = _MARKED.split(marked)
    for trim in _TRIMS:  # some templates (Gemma's) strip contents
        parts = [
            (index % 2 == 1, trim(contents[int(piece)]) if index % 2 else piece) for index, piece in enumerate(pieces)
        ]
        text = "".join(piece for _, piece in parts)
        if opened and marked and rendered.startswith(text):
            return [*parts[:-2], (True, contents[-1])]  # keep the opening unstripped
        if not opened and rendered == text:
            return parts
    raise UserError(
        "The chat template of this model modifies the messages instead of inserting them.",
        hint="Set `prompt: raw` for it, or use a chat template that inserts messages unchanged.",
    )


def encode_parts(tokenizer: Any, tokenbytes: TokenBytes, parts: Sequence[tuple[bool, str]]) -> list[int]:
    """Return the ids of :func:`chat_parts`, with special tokens parsed in template text only."""
    added = {token.content: (number, token) for number, token in tokenizer.added_tokens_decoder.items()}
    names = "|".join(re.escape(name) for name in sorted(added, key=len, reverse=True))
    special = re.compile(f"({names})") if names else None
    ids: list[int] = []
    plain = ""
    strip_next = False

    def flush(*, strip_end: bool) -> None:
        nonlocal plain
        text = plain.lstrip() if strip_next else plain
        text = text.rstrip() if strip_end else text
        if text:
            ids.extend(tokenbytes.encode(text).ids.tolist())
        plain = ""

    for is_content, text in parts:
        pieces = [text] if is_content or special is None else special.split(text)
        for index, piece in enumerate(pieces):
            if index % 2 == 0:
                plain += piece
                continue
            number, token = added[piece]
            flush(strip_end=token.lstrip)  # a token with lstrip=True absorbs the white space before it
            ids.append(number)
            strip_next = token.rstrip
    flush(strip_end=False)
    return ids
