"""The conversation between referee and candidate: strictly nested requests and answers over two pipes.

Each side may ask while it answers (a test hands a function to the candidate, the candidate calls it, the function calls
the candidate again), so ``ask`` serves whatever arrives before its own answer. Requests are ``[verb, number, ...]`` and
answers ``["=", number, value]`` or ``["!", number, exception]``; a number that does not fit means that somebody wrote
frames of his own, which no honest side does.
"""

from collections.abc import Callable
from typing import Any

from .channel import BadFrame, Channel

ANSWER, RAISED = "=", "!"


class OutOfTurn(Exception):  # noqa: N818  (names the fault of the other side)
    """The other side broke the order of the conversation."""


class Exchange:
    """One end of the conversation."""

    def __init__(self, channel: Channel, serve: Callable[[str, list[Any]], list[Any]]) -> None:
        self._channel = channel
        self._serve = serve
        self._number = 0

    def ask(self, verb: str, *fields: Any) -> tuple[str, list[Any]]:
        """Send a request, serve what comes before its answer, and return the kind of the answer and its fields."""
        self._number += 1
        number = self._number
        self._channel.send([verb, number, *fields])
        while True:
            kind, answered, rest = self._next()
            if kind in (ANSWER, RAISED):
                if answered != number:
                    raise OutOfTurn(f"answer {answered!r} to request {number}")
                return kind, rest
            self._reply(kind, answered, rest)

    def serve_forever(self) -> None:
        """Answer requests until the channel closes."""
        while True:
            kind, number, rest = self._next()
            if kind in (ANSWER, RAISED):
                raise OutOfTurn("an answer to no request")
            self._reply(kind, number, rest)

    def _reply(self, verb: str, number: Any, fields: list[Any]) -> None:
        kind, *rest = self._serve(verb, fields)
        self._channel.send([kind, number, *rest])

    def _next(self) -> tuple[str, Any, list[Any]]:
        message = self._channel.receive()
        if type(message) is not list or len(message) < 2 or type(message[0]) is not str:
            raise BadFrame("not a message")
        return message[0], message[1], message[2:]
