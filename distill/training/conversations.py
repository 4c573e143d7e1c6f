"""Training on conversations: each side renders them with its own chat template, and only contents are compared.

A document is a list of messages (``role``, ``content``). Templates of two families write the same conversation with
other special tokens, other names for the speakers and other white space, so rendered texts have no bytes in common to
align. Contents do: they are encoded by themselves, without special-token parsing, and run on as one text over the
template's parts; those are encoded with it and aligned by the role that they play (``alignment.align_segments``). Token
for token a side reads what its template says, except that no token spans content and template.

Trained on are the contents of the chosen speakers, and the end-of-turn token after them where that is one token on both
sides: a model that is never taught it does not stop. Headers, other speakers and default system prompts are read and
never scored.

Contents are stripped of white space at both ends first, because some templates do so and others do not. A conversation
that is longer than a window is cut inside a message, at the same byte on both sides, or in front of one.
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
from crosstok.distill.training.windows import Encoder, Laid, Pair, Window, Windows, cut
from crosstok.errors import UserError

if TYPE_CHECKING:
    from crosstok.corpora import Texts

Speakers = Literal["assistant", "all"]
"""Whose contents are trained on."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as one side reads it."""

    ids: NDArray[np.int64]
    segments: list[Segment]
    counted: NDArray[np.bool_]
    lengths: NDArray[np.int64]


class ChatEncoder:
    """How one side reads conversations: its tokenizer and the chat template that comes with it."""

    def __init__(self, tokenizer: Any, tokens: TokenBytes) -> None:
        self.tokenizer = tokenizer
        self.plain = Encoder(tokens, None)
        self._end_of_turn = Roles.from_tokenizer(tokenizer).end_of_turn
        added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
        names = "|".join(re.escape(name) for name in sorted(added, key=len, reverse=True))
        self._added, self._sign = added, re.compile(f"({names})" if names else "(?!)")

    def render(self, messages: Sequence[Message], speakers: Speakers) -> Rendered:
        """Return the tokens of a conversation. Raises RoundTripError for contents that lose bytes."""
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
        """Return the end of the turn before, if there is one, and all else that the template writes here."""
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
        """Prepare to read ``texts``. Raises UserError for documents that are no conversations."""
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

    def _encode(self, windows: Sequence[Window]) -> tuple[list[Pair], list[str]]:
        pairs, problems = [], []
        for window in windows:
            messages = json.loads(window.text)
            try:
                sides = [chat.render(messages, self.speakers) for chat in self.chats]
            except RoundTripError as error:
                problems.append(f"{window.document}: {error.message}")
                continue
            pairs.append(_pair(window.text, *sides))
        return pairs, problems


def shortened(messages: Sequence[Message], size: int) -> list[dict[str, str]]:
    """Return the messages, stripped, up to ``size`` bytes of content; the last one is cut where the room ends."""
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


_LEAST = 16  # bytes worth keeping of a message


def _pair(text: str, teacher: Rendered, student: Rendered) -> Pair:
    found = align_segments(teacher.segments, student.segments)
    sides = zip((teacher, student), (found.teacher_chunks, found.student_chunks), strict=True)
    laid = [Laid(side.ids, chunks.astype(np.int64), side.counted, side.lengths) for side, chunks in sides]
    return Pair(text, laid[0], laid[1], len(found))


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
            f"The document {document} is no conversation.",
            hint="A conversation is a list of messages, each with role and content; name the field that holds it.",
        )
    return list(messages)
