"""Proxies through which the tests use the candidate's objects.

A proxy forwards calls, attribute access, iteration, indexing, length, truth value and ``str``. It forwards no
comparison, no ``in`` and no arithmetic, because these would pass an expected value to the candidate and let its method
decide. Two proxies are equal if they stand for the same object.
"""

from collections.abc import Iterator
from typing import Any, Protocol

_BATCH = 64
_ITEMS = 1_000_000


class Requests(Protocol):
    """Requests of a proxy to the candidate's process, as implemented by the referee."""

    def ask(self, verb: str, *fields: Any) -> list[Any]:
        """Send a request and return the fields of its answer."""

    def call(self, target: int, attribute: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Call an object of the candidate, or one of its methods."""

    def value(self, verb: str, *fields: Any) -> Any:
        """Send a request and return the one value of its answer."""

    def encode(self, value: Any) -> Any:
        """Encode a value of the tests."""


class CandidateDied(BaseException):
    """The exchange with the candidate ended. Not an Exception, so that no test can catch it as a result."""


class CandidateFailed(BaseException):
    """The candidate raised an exception that must not reach the tests, such as SystemExit or StopIteration."""


class RemoteObject:
    """Proxy for an object of the candidate."""

    __slots__ = ("_handle", "_name", "_requests")
    _handle: int
    _name: str
    _requests: Requests

    def __init__(self, requests: Requests, handle: int, name: str) -> None:
        for slot, value in (("_requests", requests), ("_handle", handle), ("_name", name)):
            object.__setattr__(self, slot, value)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Have the candidate call the object; arguments and result cross as data."""
        return self._requests.call(self._handle, "", arguments, named)

    def __getattr__(self, name: str) -> Any:
        if name == "__name__":
            return self._name
        return self._requests.value("get", self._handle, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._requests.ask("set", self._handle, name, self._requests.encode(value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteObject) and other._handle == self._handle

    def __hash__(self) -> int:
        return hash(self._handle)

    def __repr__(self) -> str:
        return f"<{self._name} of the candidate>"

    def __str__(self) -> str:
        return str(self._method("__str__"))

    def __len__(self) -> int:
        return int(self._method("__len__"))

    def __bool__(self) -> bool:
        return bool(self._requests.value("truth", self._handle))

    def __iter__(self) -> Iterator[Any]:
        items: Iterator[Any] = iter(self._method("__iter__"))
        return items

    def __getitem__(self, key: Any) -> Any:
        return self._method("__getitem__", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._method("__setitem__", key, value)

    def _method(self, name: str, *arguments: Any) -> Any:
        return self._requests.call(self._handle, name, arguments, {})


class RemoteClass(RemoteObject):
    """Proxy for a class of the candidate; supports calls and ``isinstance``."""

    __slots__ = ()

    def __instancecheck__(self, instance: object) -> bool:
        if not isinstance(instance, RemoteObject):
            return False
        return bool(self._requests.value("isinstance", self._handle, instance._handle))  # noqa: SLF001  (a field of the proxy itself)


class RemoteIterator(RemoteObject):
    """Proxy for an iterator of the candidate; fetches items in batches that grow from 1 to 64."""

    __slots__ = ("_batch", "_ended", "_items", "_taken")
    _items: list[Any]
    _batch: int
    _taken: int
    _ended: bool

    def __init__(self, requests: Requests, handle: int, name: str) -> None:
        super().__init__(requests, handle, name)
        for slot, value in (("_items", []), ("_batch", 1), ("_taken", 0), ("_ended", False)):
            object.__setattr__(self, slot, value)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._items and not self._ended:
            items, ended = self._requests.value("next", self._handle, self._batch)
            object.__setattr__(self, "_items", items[::-1])
            object.__setattr__(self, "_ended", ended)
            object.__setattr__(self, "_batch", min(2 * self._batch, _BATCH))
            object.__setattr__(self, "_taken", self._taken + len(items))
            if self._taken > _ITEMS:
                raise CandidateFailed(f"an iterator of more than {_ITEMS} items")
        if not self._items:
            raise StopIteration
        return self._items.pop()
