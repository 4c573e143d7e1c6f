"""What is said between us and a server that speaks OpenAI's API: where it is, what it has, one request at a time.

Only the host that a source names is ever spoken to: no proxy is asked, no redirection followed. A source is identified
by its address, the model's name, and what the server tells of the model that does not change from start to start (vLLM:
the path and the context, llama.cpp: size and shape); the weights behind a name cannot be seen from here. So the address
is part of it: two servers that call different weights ``default`` must never share results.
"""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, Self
from urllib.parse import urlsplit

from crosstok.errors import UserError, unknown_name
from crosstok.fingerprint import fingerprint

KEY_VARIABLE = "CROSSTOK_API_KEY"
FAILURES = (OSError, HTTPException, json.JSONDecodeError)
"""What a connection may raise that says nothing of the request."""
_PREFIX = "server:"
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_LASTING = ("root", "parent", "max_model_len", "meta")  # of a listed model; dates and permissions are new every time
_ANSWERS_AT_ONCE_S = 60.0  # for a listing, or one token; the model may have to be loaded for it
_HINT = "Start it, or check host, port and path (most servers: http://HOST:PORT/v1)."


@dataclass(frozen=True, slots=True)
class ServerSource:
    """Where a model is served: ``server:URL#MODEL``, the URL with its ``/v1``."""

    url: str
    model: str

    @classmethod
    def parse(cls, source: str) -> Self:
        """Return the parts of ``source``; an empty model stands for the only one that the server has."""
        url, _, model = source.removeprefix(_PREFIX).partition("#")
        if not is_server(source) or not _is_address(url):
            raise UserError(
                f"No model of a server: {source!r}.",
                hint="Write server:http://HOST:PORT/v1#MODEL, as in its /v1/models.",
            )
        return cls(url.rstrip("/"), model)

    def __str__(self) -> str:
        return f"{_PREFIX}{self.url}#{self.model}"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a server answered for."""

    source: ServerSource
    """With the model's name."""
    about: Mapping[str, Any]
    """What the server tells of it that does not change from start to start; often nothing."""

    @property
    def fingerprint(self) -> str:
        """Identify the model as far as it can be seen from here."""
        return fingerprint({"server": self.source.url, "model": self.source.model, "about": dict(self.about)})


def is_server(source: str) -> bool:
    """Tell whether a model source names a server."""
    return source.startswith(_PREFIX)


def find_served(source: str) -> ServedModel:
    """Ask the server of ``source`` for its model.

    A model that is not listed is asked for one token: some servers load what they do not list, and some list nothing.
    Raises :class:`UserError` where no server answers, where the model is none of its models, and where none is named
    and there is not exactly one.
    """
    wanted = ServerSource.parse(source)
    try:
        listed = list_models(wanted)
    except UserError:
        if not wanted.model:
            raise
        listed = {}
    if not wanted.model:
        if len(listed) != 1:
            raise UserError(
                f"The server at {wanted.url} has {len(listed)} models: {', '.join(sorted(listed)[:10]) or 'none'}.",
                hint=f"Name one: {_PREFIX}{wanted.url}#MODEL.",
            )
        wanted = ServerSource(wanted.url, next(iter(listed)))
    if wanted.model not in listed:
        _require_answer(wanted, listed)
    found = listed.get(wanted.model, {})
    return ServedModel(wanted, {name: found[name] for name in _LASTING if found.get(name) is not None})


def list_models(source: ServerSource) -> dict[str, Mapping[str, Any]]:
    """Return what the server tells of each of its models. Raises :class:`UserError` where it does not."""
    try:
        with Exchange(source, _ANSWERS_AT_ONCE_S) as exchange:
            answer = json.loads(exchange.ask("GET", "/models", None).read())
        return {str(model["id"]): model for model in answer["data"]}
    except (*FAILURES, PassingFailure, KeyError, TypeError) as error:
        raise UserError(f"The server at {source.url} does not list its models: {reason(error)}.", hint=_HINT) from error


def _require_answer(source: ServerSource, listed: Mapping[str, Any]) -> None:
    body = {"model": source.model, "prompt": "a", "max_tokens": 1, "temperature": 0}
    try:
        with Exchange(source, _ANSWERS_AT_ONCE_S) as exchange:
            exchange.ask("POST", "/completions", body).read()
    except (UserError, *FAILURES, PassingFailure) as error:
        if listed:
            raise unknown_name(f"model of the server at {source.url}:", source.model, listed) from error
        said = error.message if isinstance(error, UserError) else reason(error)
        raise UserError(f"The server at {source.url} has no answer: {said}.", hint=_HINT) from error


class PassingFailure(Exception):  # noqa: N818  (a reason to try again)
    """The server could not answer this time."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class NoRoom(Exception):  # noqa: N818  (an outcome)
    """The prompt, or prompt and budget together, do not fit into the context that the server has."""


class Cancelled(Exception):  # noqa: N818  (an outcome)
    """Nobody waits for this answer any more."""


class Cancellation:
    """Ends many exchanges from outside, those included that are waiting for a server which says nothing."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    def __call__(self) -> None:
        """Cancel everything, now and for good."""
        with self._lock:
            self._event.set()
            for end in self._open:
                with suppress(OSError):  # the server was quicker
                    end.shutdown(socket.SHUT_RDWR)

    def wait(self, seconds: float) -> None:
        """Sleep, but not beyond the cancellation."""
        self._event.wait(seconds)

    def check(self) -> None:
        """Raise :class:`Cancelled` if everything was cancelled."""
        if self._event.is_set():
            raise Cancelled

    def watch(self, end: socket.socket) -> None:
        """Let what is read from ``end`` be ended by a cancellation."""
        with self._lock:
            self._open.add(end)

    def forget(self, end: socket.socket) -> None:
        """End watching ``end``."""
        with self._lock:
            self._open.discard(end)


class Exchange:
    """One connection for one request, closed whatever happens."""

    def __init__(self, source: ServerSource, timeout_s: float, cancellation: Cancellation | None = None) -> None:
        parts = urlsplit(source.url)
        kind: Callable[..., HTTPConnection] = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=timeout_s)
        self._cancellation = cancellation or Cancellation()
        self._path = parts.path
        self._source = source

    def __enter__(self) -> Self:
        self._cancellation.check()
        self._connection.connect()
        self._socket = self._connection.sock  # the connection lets go of it as soon as there is a response
        self._cancellation.watch(self._socket)
        return self

    def __exit__(self, *_: object) -> None:
        self._cancellation.forget(self._socket)
        self._connection.close()
        self._socket.close()

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> HTTPResponse:
        """Return the response, or raise what its status means."""
        self._cancellation.check()
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        self._connection.request(method, self._path + path, None if body is None else json.dumps(body), headers)
        response = self._connection.getresponse()
        if response.status == 200:
            return response
        said = response.read(4000).decode(errors="replace").strip()
        if response.status in _PASSING:
            wait = response.headers.get("Retry-After", "")
            raise PassingFailure(f"status {response.status} {said[:200]}", float(wait) if wait.isdigit() else 0.0)
        if response.status in {400, 413, 422} and "context" in said.lower():
            raise NoRoom(said)
        hint = f"Set {KEY_VARIABLE} to its key." if response.status in {401, 403} else ""
        raise UserError(f"{self._source} refuses the request: status {response.status} {said[:300]}.", hint=hint)


def events(response: HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a stream of server-sent events."""
    for line in response:
        name, _, value = line.decode(errors="replace").partition(":")
        if name != "data" or not value.strip():
            continue
        if value.strip() == "[DONE]":
            return
        yield json.loads(value)


def reason(error: BaseException) -> str:
    """Return what ``error`` says, or its name where it says nothing."""
    return str(error) or type(error).__name__


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number
        return False
