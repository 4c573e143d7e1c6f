"""Training on conversations: each model uses its own chat template, and only message contents are compared.

A document is a list of messages (``role``, ``content``). The templates of two model families differ in special tokens,
role names and white space, so the rendered texts cannot be aligned byte for byte. Message contents can: they are
encoded separately, with special-token parsing off, and form one continuous text across the template parts. Template
parts are encoded with special-token parsing on and aligned by role (``alignment.align_segments``). Each model reads
exactly what its template renders, except that no token spans content and template.

The loss covers the contents of the chosen roles, and the end-of-turn token after them if it is a single token for both
models: a model that is not trained on it does not learn to stop. Headers, other roles and default system prompts are
part of the context and never scored.

Contents are stripped first, because some templates strip them and others do not. A conversation longer than a window is
truncated between messages or inside one, at the same byte for both models.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from crosstok.distill.tokenizers.alignment import Content, Segment, Special, align_segments
from crosstok.distill.tokenizers.chat import Message, chat_parts
from crosstok.distill.tokenizers.roles import Roles
from crosstok.distill.tokenizers.tokenbytes import RoundTripError, TokenBytes
from crosstok.distill.training.windows import AlignedWindow, Encoder, Window, Windows, WindowSide, cut
from crosstok.errors import UserError

if TYPE_CHECKING:
    from crosstok.corpora import Texts

Speakers = Literal["assistant", "all"]
"""Roles whose contents the loss covers."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as the tokens of one model."""

    ids: NDArray[np.int64]
    segments: list[Segment]
    counted: NDArray[np.bool_]
    lengths: NDArray[np.int64]


class ChatEncoder:
    """Renders conversations for one model, with its tokenizer and chat template."""

    def __init__(self, tokenizer: Any, tokens: TokenBytes) -> None:
        self.tokenizer = tokenizer
        self.plain = Encoder(tokens, None)
        self._end_of_turn = Roles.from_tokenizer(tokenizer).end_of_turn
        added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
        names = "|".join(re.escape(name) for name in sorted(added, key=len, reverse=True))
        self._added, self._sign = added, re.compile(f"({names})" if names else "(?!)")

    def render(self, messages: Sequence[Message], speakers: Speakers) -> Rendered:
        """Return the tokens of a conversation. Raises RoundTripError for contents that the tokenizer changes."""
        ids: list[NDArray[np.int64]] = []
        segments: list[Segment] = []
        counted: list[NDArray[np.bool_]] = []
        lengths: list[NDArray[np.int64]] = []
        trained = False
        places = iter(messages)
        for is_content, text in chat_parts(self.tokenizer, messages, complete=True):
            if is_content:
                encoding = self.plain.tokens.encode(text)
                trained = speakers == "all" or next(places)["role"] == "assistant"
                parts: list[tuple[Segment, NDArray[Any]]] = [(Content(encoding.ends), encoding.ids)]
            else:
                parts = self._template(text)
            for segment, part in parts:
                ends = isinstance(segment, Special) and segment.role == "end_of_turn" and len(segment) == 1
                segments.append(segment)
                ids.append(part.astype(np.int64))
                counted.append(np.full(len(part), trained and (ends or isinstance(segment, Content))))
                sizes = np.diff(segment.ends, prepend=0) if isinstance(segment, Content) else np.zeros(len(part))
                lengths.append(sizes.astype(np.int64))
        return Rendered(np.concatenate(ids), segments, np.concatenate(counted), np.concatenate(lengths))

    def _template(self, text: str) -> list[tuple[Segment, NDArray[Any]]]:
        """Return the closing part of the previous turn, if any, and the template text that follows it."""
        ids: list[int] = []
        for index, piece in enumerate(self._sign.split(text)):
            ids += [self._added[piece]] if index % 2 else self.plain.tokens.encode(piece).ids.tolist()
        stop = ids.index(self._end_of_turn) + 1 if self._end_of_turn in ids else 0
        parts = [("end_of_turn", ids[:stop]), ("header", ids[stop:])]
        return [(Special(role, len(part)), np.array(part)) for role, part in parts if part]


class Conversations(Windows):
    """The conversations of a corpus in training order; each document is a JSON list of messages."""

    def __init__(
        self, texts: "Texts", teacher: ChatEncoder, student: ChatEncoder, *, size: int, seed: int, speakers: Speakers
    ) -> None:
        """Parse ``texts``. Raises UserError for a document that is not a conversation."""
        self.chats = (teacher, student)
        self.speakers = speakers
        super().__init__(texts, teacher.plain, student.plain, size=size, seed=seed)

    def _cut(self, texts: "Texts") -> list[Window]:
        found = []
        for text in texts.documents:
            messages = shortened(_messages(text.id, text.text), self.size)
            if any(self.speakers == "all" or message["role"] == "assistant" for message in messages):
                found.append(Window(text.id, json.dumps(messages, ensure_ascii=False)))
        return found

    def _encode(self, windows: Sequence[Window]) -> tuple[list[AlignedWindow], list[str]]:
        pairs, problems = [], []
        for window in windows:
            messages = json.loads(window.text)
            try:
                sides = [chat.render(messages, self.speakers) for chat in self.chats]
            except RoundTripError as error:
                problems.append(f"{window.document}: {error.message}")
                continue
            pairs.append(_aligned_window(window.text, *sides))
        return pairs, problems


def shortened(messages: Sequence[Message], size: int) -> list[dict[str, str]]:
    """Return the stripped messages, truncated to ``size`` bytes of content in total."""
    kept: list[dict[str, str]] = []
    for message in messages:
        content = message["content"].strip()
        if len(content.encode()) > size:
            content = next(cut(content, size)).strip() if size >= _LEAST else ""
            kept += [{"role": message["role"], "content": content}] if content else []
            break
        kept.append({"role": message["role"], "content": content})
        size -= len(content.encode())
    return kept


_LEAST = 16  # a truncated message with fewer bytes is dropped


def _aligned_window(text: str, teacher: Rendered, student: Rendered) -> AlignedWindow:
    found = align_segments(teacher.segments, student.segments)
    pairs = zip((teacher, student), (found.teacher_chunks, found.student_chunks), strict=True)
    sides = [WindowSide(side.ids, chunks.astype(np.int64), side.counted, side.lengths) for side, chunks in pairs]
    return AlignedWindow(text, sides[0], sides[1], len(found))


def _messages(document: str, text: str) -> list[Message]:
    try:
        messages = json.loads(text)
    except ValueError:
        messages = None
    good = isinstance(messages, list) and all(
        isinstance(message, dict) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)
        for message in messages
    )
    if not good or not messages:
        raise UserError(
            f"Document {document} is not a conversation.",
            hint="A conversation is a list of messages with role and content; name its field with #FIELD.",
        )
    return list(messages)
