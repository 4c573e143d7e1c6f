"""A conversation as the ids that a model reads, through its own chat template.

Text must never be parsed for special tokens: a literal ``<|im_end|>`` or ``<unk>`` in a message is text, and reading it
as control changes the question for some tokenizers only. The special tokens that the template itself writes are meant.
So the template is rendered with a mark in place of every message's content: what stands between the marks is the
template's and is parsed, what the marks stand for is content and is not. Text between two special tokens, template's
and content's together, is encoded as one piece, so that the ids are those that ``apply_chat_template`` gives wherever
contents hold no special token's name.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError

# Private-use characters: no template writes or trims them.
_MARK = "\ue000{}\ue001"
_MARKED = re.compile("\ue000([0-9]+)\ue001")
_TRIMS: tuple[Callable[[str], str], ...] = (str, str.strip, str.rstrip, str.lstrip)

Message = Mapping[str, str]
"""``role`` and ``content`` of one turn."""


def chat_parts(tokenizer: Any, messages: Sequence[Message], *, complete: bool = False) -> list[tuple[bool, str]]:
    """Return the rendered chat as (is content, text) pairs, ready for the assistant's answer.

    With ``complete`` it is the whole conversation, closed as the template closes it. Otherwise a last message of the
    assistant is the opening of its answer: the prompt ends right behind it. Raises UserError where there is no
    template, or none that inserts the messages as they are.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "This model has no chat template, so it cannot be asked with prompt style chat.",
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
                f"The chat template of this model refuses these messages: {error}.", hint="Set `prompt: raw` for it."
            ) from error

    contents = [message["content"] for message in messages]
    rendered = render(contents)
    marks = [_MARK.format(index) for index in range(len(messages))]
    marked = render(marks)
    if opened:  # what the template writes behind the opening would end the answer before it has begun
        before, mark, _ = marked.rpartition(marks[-1])
        marked = before + mark
    pieces = _MARKED.split(marked)
    for trim in _TRIMS:  # some templates (Gemma's) strip the contents
        parts = [
            (index % 2 == 1, trim(contents[int(piece)]) if index % 2 else piece) for index, piece in enumerate(pieces)
        ]
        text = "".join(piece for _, piece in parts)
        if opened and marked and rendered.startswith(text):
            return [*parts[:-2], (True, contents[-1])]  # the opening is continued as it was given
        if not opened and rendered == text:
            return parts
    raise UserError(
        "The chat template of this model rewrites the messages instead of inserting them.",
        hint="Set `prompt: raw` for it, or give its tokenizer a plain chat template.",
    )


def encode_parts(tokenizer: Any, tokenbytes: TokenBytes, parts: Sequence[tuple[bool, str]]) -> list[int]:
    """Return the ids of :func:`chat_parts`: template text with its special tokens, contents without."""
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
            flush(strip_end=token.lstrip)  # a token declared `lstrip` swallows the white space on its left
            ids.append(number)
            strip_next = token.rstrip
    flush(strip_end=False)
    return ids
