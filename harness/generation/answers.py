"""Answers of a generator, local or remote, and their cut at stops and byte budgets.

Stops, budgets and the final cut are all in bytes of the answer. The local engine feeds the bytes of its token ids, and
the client for servers feeds the text as it arrives, so both end an answer at the same byte.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from crosstok.errors import UserError
from crosstok.harness.generation.stops import StopMatcher
from crosstok.tasks.task import Generate

StopReason = Literal["stop", "end", "byte_budget", "token_cap", "context_full", "refused"]
_UTF8_LENGTH = 4  # maximum bytes of a character


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer to a :class:`Generate` request."""

    index: int
    """Position of the request in the input."""
    sample: int
    """Position of the seed in the request."""
    data: bytes
    """The answer without its stop; at most ``max_bytes`` bytes, cut at a character boundary."""
    text: str
    """``data`` as text; invalid UTF-8 becomes U+FFFD."""
    tokens: int
    """Number of generated tokens without special tokens."""
    steps: int
    """Forward passes for this row after its prompt."""
    prompt_text: str
    prompt_bytes: int
    prompt_tokens: int
    """Size of the prompt; ``prompt_tokens`` includes special tokens."""
    stop_reason: StopReason
    seconds: float
    """Share of this row in the wall time of its batches."""
    refused: str = ""
    """Reason why the model was not run: the tokenizer cannot encode the prompt losslessly."""
    ids: tuple[int, ...] = ()
    """Generated ids, special tokens included; empty for servers."""
    healed_bytes: int | None = None
    """Bytes at the end of the prompt that the model regenerated; None without token healing."""
    passes: int | None = None
    """Forward passes, the one over the prompt included and each member of an ensemble counted; None if unknown."""

    @property
    def facts(self) -> dict[str, Any]:
        """Facts stored with the answer."""
        found: dict[str, Any] = {"refused": self.refused} if self.refused else {}
        if self.healed_bytes is not None:
            found["healed_bytes"] = self.healed_bytes
        if self.passes is not None:
            found["passes"] = self.passes
        return found


class AnswerSource(Protocol):
    """A generator of answers: a model in this process, or a server."""

    def generate(self, requests: Sequence[Generate]) -> Iterator[Generation]:
        """Answer every request once per seed; yields answers in order of completion."""
        ...


class AnswerBytes:
    """Bytes of an unfinished answer; cuts it at the first stop or at its byte budget."""

    def __init__(self, request: Generate) -> None:
        self.data = bytearray()
        self.stop_reason: StopReason | None = None
        self._matcher = StopMatcher(request.stops)
        self._max_bytes = request.max_bytes

    def feed(self, data: bytes) -> None:
        """Append ``data`` and set ``stop_reason`` if it ends the answer. Must not be called after that."""
        room = self._max_bytes - len(self.data)
        # Ignore bytes beyond the budget: a tokenizer with long tokens must not find a stop there.
        match = self._matcher.feed(data[:room])
        self.data += data[:room]
        if match is not None:
            del self.data[match.start :]
            self.stop_reason = "stop"
        elif len(self.data) >= self._max_bytes:
            del self.data[whole_characters(self.data) :]
            self.stop_reason = "byte_budget"


def check_request(request: Generate) -> None:
    """Raise :class:`UserError` for an invalid request: byte budget, seeds or sampling parameters."""
    if request.max_bytes < 1:
        raise UserError(f"max_bytes must be at least 1, not {request.max_bytes}.")
    if not request.seeds:
        raise UserError(
            "A request needs at least one seed.", hint="Each seed gives one answer; use seeds=(0,) for a single one."
        )
    if min(request.seeds) < 0:
        raise UserError(f"Seeds must not be negative: {min(request.seeds)}.")
    sampling = request.sampling
    if not 0 <= sampling.temperature < float("inf"):
        raise UserError(f"temperature must be 0 (greedy) or a positive number, not {sampling.temperature}.")
    if not 0 < sampling.top_p <= 1:
        raise UserError(f"top_p must be greater than 0 and at most 1, not {sampling.top_p}.")
    if sampling.top_k < 0:
        raise UserError(f"top_k must be 0 (all tokens) or a positive number, not {sampling.top_k}.")


def refusals(index: int, request: Generate, reason: str) -> Iterator[Generation]:
    """Yield the refused answers to a request, one per seed."""
    text = "\n".join(message["content"] for message in request.messages or ()) or request.prompt
    text = text.encode(errors="replace").decode()  # a lone surrogate may be the reason for the refusal
    for sample in range(len(request.seeds)):
        yield Generation(index, sample, b"", "", 0, 0, text, len(text.encode()), 0, "refused", 0.0, reason)


def whole_characters(data: bytes | bytearray) -> int:
    """Return the length of ``data`` without an incomplete UTF-8 character at its end.

    Invalid bytes that cannot begin a character are kept.
    """
    for back in range(1, min(_UTF8_LENGTH, len(data) + 1)):
        lead = data[-back]
        if lead & 0xC0 == 0x80:  # continuation byte: look further back
            continue
        length = 2 if lead >> 5 == 0b110 else 3 if lead >> 4 == 0b1110 else 4 if lead >> 3 == 0b11110 else 1
        return len(data) - back if length > back else len(data)
    return len(data)
