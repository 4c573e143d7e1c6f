"""Request-response protocol between referee and candidate: strictly nested requests over two pipes.

Each side may send requests while it serves one (a test passes a function to the candidate, the candidate calls it, and
the function calls the candidate), so ``ask`` serves incoming requests until its own answer arrives. A request is
``[verb, number, ...]``; an answer is ``["=", number, value]`` or ``["!", number, exception]``. A number that does not
match means that the peer writes frames of its own, which the code of this package never does.
"""

from collections.abc import Callable
from typing import Any

from .channel import BadFrame, Channel

ANSWER, RAISED = "=", "!"


class OutOfTurn(Exception):
    """The peer violated the order of requests and answers."""


class Exchange:
    """One end of the protocol; ``serve`` answers requests of the peer."""

    def __init__(self, channel: Channel, serve: Callable[[str, list[Any]], list[Any]]) -> None:
        self._channel = channel
        self._serve = serve
        self._number = 0

    def ask(self, verb: str, *fields: Any) -> tuple[str, list[Any]]:
        """Send a request, serve requests until its answer arrives, and return the kind and fields of the answer."""
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
        """Serve requests until the channel closes."""
        while True:
            kind, number, rest = self._next()
            if kind in (ANSWER, RAISED):
                raise OutOfTurn("an answer without a request")
            self._reply(kind, number, rest)

    def _reply(self, verb: str, number: Any, fields: list[Any]) -> None:
        kind, *rest = self._serve(verb, fields)
        self._channel.send([kind, number, *rest])

    def _next(self) -> tuple[str, Any, list[Any]]:
        message = self._channel.receive()
        if type(message) is not list or len(message) < 2 or type(message[0]) is not str:
            raise BadFrame("not a message")
        return message[0], message[1], message[2:]
