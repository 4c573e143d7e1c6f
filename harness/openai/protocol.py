"""Client for OpenAI-compatible servers: addresses, model discovery, and single requests.

Only the host of a source is contacted: no proxies, no redirects. A source is identified by its address, the model's
name, and those properties of the model that do not change between restarts of the server (vLLM: path and context
length; llama.cpp: size and shape). The weights behind a name cannot be inspected, so the address is part of the
identity: two servers that serve different weights as ``default`` must never share results.
"""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, Self
from urllib.parse import urlsplit

from crosstok.errors import UserError, unknown_name
from crosstok.fingerprint import fingerprint
from crosstok.model_source import ModelSource

KEY_VARIABLE = "CROSSTOK_API_KEY"
CONNECTION_ERRORS = (OSError, HTTPException, json.JSONDecodeError)
"""Exceptions of a connection that do not depend on the request."""
_RETRYABLE = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_STABLE_FIELDS = ("root", "parent", "max_model_len", "meta")  # others, such as dates, change with every start
_TIMEOUT_S = 60.0  # for the list of models, or one token; the server may have to load the model first
_HINT = "Start the server, or check host, port and path (usually http://HOST:PORT/v1)."


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a server has confirmed."""

    source: ModelSource
    """Source with the model's name filled in."""
    about: Mapping[str, Any]
    """Properties reported by the server that do not change between restarts; often empty."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of address, name and reported properties."""
        return fingerprint({"server": self.source.location, "model": self.source.served, "about": dict(self.about)})


def find_served(source: str) -> ServedModel:
    """Return the model of ``source`` as its server reports it.

    A model that is not listed is asked for one token, because some servers load models that they do not list, and some
    list none. Raises :class:`UserError` if the server does not answer or does not have the model, or if ``source``
    names no model and the server does not have exactly one.
    """
    wanted = ModelSource.parse(source)
    try:
        listed = list_models(wanted)
    except UserError:
        if not wanted.served:
            raise
        listed = {}
    if not wanted.served:
        if len(listed) != 1:
            raise UserError(
                f"The server at {wanted.location} has {len(listed)} models: "
                f"{', '.join(sorted(listed)[:10]) or 'none'}.",
                hint=f"Select one with {wanted}#MODEL.",
            )
        wanted = replace(wanted, served=next(iter(listed)))
    if wanted.served not in listed:
        _require_answer(wanted, listed)
    found = listed.get(wanted.served, {})
    return ServedModel(wanted, {name: found[name] for name in _STABLE_FIELDS if found.get(name) is not None})


def list_models(source: ModelSource) -> dict[str, Mapping[str, Any]]:
    """Return the properties of each model that the server lists, by name. Raises :class:`UserError`."""
    try:
        with Connection(source, _TIMEOUT_S) as connection:
            answer = json.loads(connection.request("GET", "/models", None).read())
        return {str(model["id"]): model for model in answer["data"]}
    except (*CONNECTION_ERRORS, TransientError, KeyError, TypeError) as error:
        raise UserError(
            f"Cannot list the models of the server at {source.location}: {reason(error)}.", hint=_HINT
        ) from error


def _require_answer(source: ModelSource, listed: Mapping[str, Any]) -> None:
    body = {"model": source.served, "prompt": "a", "max_tokens": 1, "temperature": 0}
    try:
        with Connection(source, _TIMEOUT_S) as connection:
            connection.request("POST", "/completions", body).read()
    except (UserError, *CONNECTION_ERRORS, TransientError) as error:
        if listed:
            raise unknown_name(f"model of the server at {source.location}:", source.served, listed) from error
        detail = error.message if isinstance(error, UserError) else reason(error)
        raise UserError(f"The server at {source.location} does not answer: {detail}.", hint=_HINT) from error


class TransientError(Exception):
    """The request failed for a reason that may pass; ``wait_s`` is the pause that the server asks for, in seconds."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class ContextExceeded(Exception):
    """The prompt, or prompt and token budget together, exceed the server's context."""


class Cancelled(Exception):
    """The answer is no longer needed."""


class Cancellation:
    """Cancels all registered connections, including those blocked on a silent server. Thread-safe."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    def __call__(self) -> None:
        """Cancel everything, permanently."""
        with self._lock:
            self._event.set()
            for open_socket in self._open:
                with suppress(OSError):  # closed by the server
                    open_socket.shutdown(socket.SHUT_RDWR)

    def wait(self, seconds: float) -> None:
        """Sleep, but wake up on cancellation."""
        self._event.wait(seconds)

    def check(self) -> None:
        """Raise :class:`Cancelled` after a cancellation."""
        if self._event.is_set():
            raise Cancelled

    def register(self, open_socket: socket.socket) -> None:
        """Shut down ``open_socket`` on cancellation."""
        with self._lock:
            self._open.add(open_socket)

    def unregister(self, open_socket: socket.socket) -> None:
        """Undo :meth:`register`."""
        with self._lock:
            self._open.discard(open_socket)


class Connection:
    """A connection for a single request; a context manager that closes it."""

    def __init__(self, source: ModelSource, timeout_s: float, cancellation: Cancellation | None = None) -> None:
        parts = urlsplit(source.location)
        kind: Callable[..., HTTPConnection] = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._http = kind(parts.hostname, parts.port, timeout=timeout_s)
        self._cancellation = cancellation or Cancellation()
        self._path = parts.path
        self._source = source

    def __enter__(self) -> Self:
        self._cancellation.check()
        self._http.connect()
        self._socket = self._http.sock  # HTTPConnection drops its reference once there is a response
        self._cancellation.register(self._socket)
        return self

    def __exit__(self, *_: object) -> None:
        self._cancellation.unregister(self._socket)
        self._http.close()
        self._socket.close()

    def request(self, method: str, path: str, body: Mapping[str, Any] | None) -> HTTPResponse:
        """Send the request and return a response with status 200.

        Raises :class:`TransientError`, :class:`ContextExceeded` or :class:`UserError` for other statuses.
        """
        self._cancellation.check()
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        self._http.request(method, self._path + path, None if body is None else json.dumps(body), headers)
        response = self._http.getresponse()
        if response.status == 200:
            return response
        detail = response.read(4000).decode(errors="replace").strip()
        if response.status in _RETRYABLE:
            wait = response.headers.get("Retry-After", "")
            raise TransientError(f"status {response.status} {detail[:200]}", float(wait) if wait.isdigit() else 0.0)
        if response.status in {400, 413, 422} and "context" in detail.lower():
            raise ContextExceeded(detail)
        hint = f"Set {KEY_VARIABLE} to the API key of the server." if response.status in {401, 403} else ""
        raise UserError(f"{self._source} rejected the request: status {response.status} {detail[:300]}.", hint=hint)


def events(response: HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a stream of server-sent events, up to ``[DONE]``."""
    for line in response:
        name, _, value = line.decode(errors="replace").partition(":")
        if name != "data" or not value.strip():
            continue
        if value.strip() == "[DONE]":
            return
        yield json.loads(value)


def reason(error: BaseException) -> str:
    """Return the message of ``error``, or the name of its class if it has none."""
    return str(error) or type(error).__name__
