"""What every generator hands back, whoever ran the model, and how an answer is cut while it is being written.

Everything that decides is in bytes of the answer: the stops, the room for it, the cut at the end. The local engine
feeds the bytes of its ids and a server's answer is fed as the text that came, so both end on the same byte.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from crosstok.errors import UserError
from crosstok.harness.generation.stops import StopMatcher
from crosstok.tasks.task import Generate

StopReason = Literal["stop", "end", "byte_budget", "token_cap", "context_full", "refused"]
_UTF8_LENGTH = 4  # bytes of the longest character


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer to a :class:`Generate` request."""

    index: int
    """Position of the request among those that were passed in."""
    sample: int
    """Position of the answer's seed among the seeds of its request."""
    data: bytes
    """The answer, without the stop that ended it; at most ``max_bytes`` bytes, cut between two characters."""
    text: str
    """``data`` as text; what is no UTF-8 is shown as U+FFFD."""
    tokens: int
    """Tokens generated, specials excluded."""
    steps: int
    """Passes through the model that this row took part in after its prompt."""
    prompt_text: str
    prompt_bytes: int
    prompt_tokens: int
    """What was read; tokens include specials."""
    stop_reason: StopReason
    seconds: float
    """This row's share of the wall time of its batches."""
    refused: str = ""
    """Why the model was not asked: the tokenizer cannot write the prompt byte for byte."""
    ids: tuple[int, ...] = ()
    """The ids that were generated, specials included; a server does not tell them."""
    healed_bytes: int | None = None
    """Bytes at the prompt's end that the model wrote anew; None where token healing was off."""
    passes: int | None = None
    """Forward passes that it took part in, that over its prompt among them, each member of an ensemble counted; None
    where nobody knows."""

    @property
    def facts(self) -> dict[str, Any]:
        """What is stored beside the answer."""
        found: dict[str, Any] = {"refused": self.refused} if self.refused else {}
        if self.healed_bytes is not None:
            found["healed_bytes"] = self.healed_bytes
        if self.passes is not None:
            found["passes"] = self.passes
        return found


class AnswerSource(Protocol):
    """Whatever answers requests: a model in this process, or a server."""

    def generate(self, requests: Sequence[Generate]) -> Iterator[Generation]:
        """Answer every request once per seed, in the order in which the answers are ready."""
        ...


class AnswerBytes:
    """The bytes of an answer in the making, cut at the first stop or where its room ends."""

    def __init__(self, request: Generate) -> None:
        self.data = bytearray()
        self.stop_reason: StopReason | None = None
        self._matcher = StopMatcher(request.stops)
        self._max_bytes = request.max_bytes

    def feed(self, data: bytes) -> None:
        """Append ``data``; set ``stop_reason`` on the first byte that ends the answer. Not to be called after that."""
        room = self._max_bytes - len(self.data)
        # Bytes past the budget are not looked at: a tokenizer with long tokens must not see a stop behind it.
        match = self._matcher.feed(data[:room])
        self.data += data[:room]
        if match is not None:
            del self.data[match.start :]
            self.stop_reason = "stop"
        elif len(self.data) >= self._max_bytes:
            del self.data[whole_characters(self.data) :]
            self.stop_reason = "byte_budget"


def check_request(request: Generate) -> None:
    """Raise :class:`UserError` for a request that no generator could answer: no room, no seed, no such sampling."""
    if request.max_bytes < 1:
        raise UserError(f"max_bytes must be at least 1, not {request.max_bytes}.")
    if not request.seeds:
        raise UserError("A request needs at least one seed.", hint="Ask for one answer per seed, seeds=(0,) for one.")
    if min(request.seeds) < 0:
        raise UserError(f"A seed must not be negative: {min(request.seeds)}.")
    sampling = request.sampling
    if not 0 <= sampling.temperature < float("inf"):
        raise UserError(f"temperature must be 0 (greedy) or a positive number, not {sampling.temperature}.")
    if not 0 < sampling.top_p <= 1:
        raise UserError(f"top_p must lie above 0 and not above 1, not {sampling.top_p}.")
    if sampling.top_k < 0:
        raise UserError(f"top_k must be 0 (all tokens) or a positive number, not {sampling.top_k}.")


def refusals(index: int, request: Generate, reason: str) -> Iterator[Generation]:
    """Return the answers to a request that the model was not asked, one per seed."""
    text = "\n".join(message["content"] for message in request.messages or ()) or request.prompt
    text = text.encode(errors="replace").decode()  # half a character may be what it was refused for
    for sample in range(len(request.seeds)):
        yield Generation(index, sample, b"", "", 0, 0, text, len(text.encode()), 0, "refused", 0.0, reason)


def whole_characters(data: bytes | bytearray) -> int:
    """Return how many bytes of ``data`` are left when a character that it cuts off at its end is taken away.

    Bytes that could not be the beginning of a character are no reason to cut.
    """
    for back in range(1, min(_UTF8_LENGTH, len(data) + 1)):
        lead = data[-back]
        if lead & 0xC0 == 0x80:  # inside a character: look further back
            continue
        length = 2 if lead >> 5 == 0b110 else 3 if lead >> 4 == 0b1110 else 4 if lead >> 3 == 0b11110 else 1
        return len(data) - back if length > back else len(data)
    return len(data)
