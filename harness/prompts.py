"""From a request to the ids that a model reads.

Text of a benchmark must never be parsed for special tokens: a literal ``<|im_end|>`` or ``<unk>`` in a problem is text,
and reading it as control changes the question for some tokenizers only. In a chat prompt, though, the special tokens
that the template writes are meant. So the template is rendered with a mark in place of every message's content: what
stands between the marks is the template's and is parsed, what the marks stand for is content and is not. Text between
two special tokens, template's and content's together, is encoded as one piece, so that the ids are those that
``apply_chat_template`` gives wherever contents hold no special token's name.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from crosstok.errors import UserError
from harness.model_input import first_id
from tasks.task import Generate

if TYPE_CHECKING:
    from distill.checkpoints import Checkpoint

# Private-use characters: no template writes or trims them.
_MARK = "\ue000{}\ue001"
_MARKED = re.compile("\ue000([0-9]+)\ue001")
_TRIMS: tuple[Callable[[str], str], ...] = (str, str.strip, str.rstrip, str.lstrip)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads: ``text`` is shown to people, ``ids`` go in."""

    text: str
    ids: list[int]


def encode_prompt(checkpoint: "Checkpoint", request: Generate) -> Prompt:
    """Return the prompt of ``request``: a chat where it has messages, else its plain text.

    Raises ``RoundTripError`` for text that the tokenizer cannot write, :class:`UserError` where there is no usable chat
    template.
    """
    if request.messages is None:
        ids = [] if checkpoint.bos_id is None else [checkpoint.bos_id]
        ids.extend(checkpoint.tokenbytes.encode(request.prompt).ids.tolist())
        return Prompt(request.prompt, ids or [first_id(checkpoint)])
    parts = _chat_parts(checkpoint.tokenizer, request.messages)
    ids = _encode_parts(checkpoint, parts)
    if checkpoint.bos_id is not None and ids[:1] != [checkpoint.bos_id]:
        ids.insert(0, checkpoint.bos_id)
    return Prompt("".join(text for _, text in parts), ids)


def _chat_parts(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[tuple[bool, str]]:
    """Return the rendered chat as (is content, text) pairs, ready for the assistant's answer.

    A last message of the assistant is the opening of its answer: the prompt ends right behind it.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "This model has no chat template, so it cannot be asked with prompt style chat.",
            hint="Set `prompt: raw` for it.",
        )
    opened = messages[-1]["role"] == "assistant"

    def render(contents: Sequence[str]) -> str:
        filled = [{**message, "content": content} for message, content in zip(messages, contents, strict=True)]
        try:
            return str(tokenizer.apply_chat_template(filled, tokenize=False, add_generation_prompt=not opened))
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


def _encode_parts(checkpoint: "Checkpoint", parts: Sequence[tuple[bool, str]]) -> list[int]:
    """Encode template text with its special tokens and contents without."""
    added = {token.content: (number, token) for number, token in checkpoint.tokenizer.added_tokens_decoder.items()}
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
            ids.extend(checkpoint.tokenbytes.encode(text).ids.tolist())
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
