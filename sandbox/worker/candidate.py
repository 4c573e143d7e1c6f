"""Candidate process: runs the candidate's code and answers calls with data.

No other process trusts this one, since the candidate may replace any part of it. It holds two pipes, which carry
requests and the results of its functions; it never sees a test, an expected value or the verdict pipe.
"""

import builtins
import contextlib
import sys
import types
from collections import deque
from collections.abc import Iterator
from itertools import islice
from operator import is_
from typing import Any, NoReturn

from . import guarded
from .channel import BadFrame, Channel, ChannelClosed
from .codec import Data, Decoder, Encoder, Malformed, Uncodable
from .exchange import ANSWER, RAISED, Exchange, OutOfTurn

MODULE = "solution"
_FILE = "solution.py"
_BUILTIN_EXCEPTIONS = {
    thing for thing in vars(builtins).values() if isinstance(thing, type) and issubclass(thing, BaseException)
}


class TestFunction:
    """Proxy for a function of the tests."""

    def __init__(self, candidate: "Candidate", handle: int) -> None:
        self._candidate = candidate
        self.handle = handle

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Have the referee call the function, and return its result."""
        return self._candidate.call_back(self.handle, arguments, named)


class TestFunctionRaised(Exception):
    """A function of the tests raised; the message names the exception."""


class _Loader:
    """Loader that provides the source of the candidate's module to tracebacks and ``inspect.getsource``."""

    def __init__(self, source: str) -> None:
        self._source = source

    def get_source(self, _: str) -> str:
        """Return the source."""
        return self._source


class Candidate:
    """The candidate's module and its exported objects; serves the requests of the referee."""

    def __init__(self, channel: Channel, *, numpy: bool) -> None:
        self._exchange = Exchange(channel, self._serve)
        self._numpy = numpy
        self._objects: dict[int, Any] = {}
        self._handles: dict[int, int] = {}
        self._setup_classes: dict[str, type] = {}
        self._flush = sys.stdout.flush
        self.module = types.ModuleType(MODULE)

    def run(self) -> None:
        """Serve requests until the referee closes the channel."""
        self._exchange.serve_forever()

    def _serve(self, verb: str, fields: list[Any]) -> list[Any]:
        # Catch everything: any exception of the candidate, SystemExit included, is an answer.
        try:
            answer = [ANSWER, *getattr(self, "_on_" + verb)(*fields)]
        except (ChannelClosed, BadFrame, OutOfTurn):
            raise
        except BaseException as raised:  # noqa: BLE001  (the candidate may raise anything)
            answer = [RAISED, *self._exception(raised)]
        with contextlib.suppress(OSError, ValueError):  # the candidate may have closed its own output
            self._flush()
        return answer

    # --- requests -------------------------------------------------------------------------------------------------

    def _on_load(self, setup: str, source: str) -> list[Data]:
        sys.modules[MODULE] = self.module
        names = vars(self.module)
        if setup:
            exec(compile(setup, "<setup>", "exec", dont_inherit=True), names)  # noqa: S102  (the purpose of the sandbox)
            self._setup_classes = {name: thing for name, thing in names.items() if isinstance(thing, type)}
        self.module.__file__ = _FILE
        vars(self.module)["__loader__"] = _Loader(source)
        exec(compile(source, _FILE, "exec", dont_inherit=True), names)  # noqa: S102  (the purpose of the sandbox)
        return []

    def _on_guard(self, setup: str, source: str, tests: str, entry_point: str) -> list[Data]:
        """Run tests and candidate in this process; return status, error, passed checks, and suspicious events."""
        recorded = guarded.install_audit_hook(_FILE)
        status, error, checks = guarded.run(vars(self.module), tests, entry_point, lambda: self._on_load(setup, source))
        return [status, error, checks, list(recorded)]

    def _on_lookup(self, names: list[str]) -> list[Data]:
        """Return the value of each name of the candidate's module; an empty list stands for a missing name."""
        found: list[list[Data]] = []
        for name in names:
            value = vars(self.module).get(name, self)
            if value is self:
                found.append([])
            elif isinstance(value, types.ModuleType):
                found.append(["M", value.__name__])
            else:
                try:
                    found.append([self._encode(value)])
                except (Uncodable, RecursionError):
                    found.append([])
        return [found]

    def _on_call(self, target: int, attribute: str, arguments: list[Data], named: dict[str, Data]) -> list[Data]:
        """Return the result of a call, and the new contents of every argument that it changed in place."""
        function = self._objects[target]
        if attribute:
            function = getattr(function, attribute)
        decode = self._decoder()
        positional = [decode(item) for item in arguments]
        keywords = {name: decode(item) for name, item in named.items()}
        before = [_shallow(container) for container in decode.containers]
        try:
            result = function(*positional, **keywords)
        finally:
            del positional, keywords
        encode = Encoder(self._export, decode.containers, numpy=self._numpy)
        changed = [
            [number, encode.contents(container)]
            for number, (container, old) in enumerate(zip(decode.containers[: len(before)], before, strict=True))
            if not _same(old, _shallow(container))
        ]
        return [changed, encode(result)]

    def _on_get(self, target: int, attribute: str) -> list[Data]:
        return [self._encode(getattr(self._objects[target], attribute))]

    def _on_set(self, target: int, attribute: str, value: Data) -> list[Data]:
        setattr(self._objects[target], attribute, self._decoder()(value))
        return []

    def _on_isinstance(self, kind: int, target: int) -> list[Data]:
        return [isinstance(self._objects[target], self._objects[kind])]

    def _on_next(self, target: int, count: int) -> list[Data]:
        """Return up to ``count`` items of an iterator, and whether it is exhausted."""
        items: list[Any] = []
        ended = False
        try:
            for item in islice(self._objects[target], count):
                items.append(item)  # noqa: PERF402  (items before an exception must be kept)
            ended = len(items) < count
        except Exception:
            if not items:
                raise
            # Return the items before the exception first. A generator that raised has ended, so keep the exception.
            self._objects[target] = _Raising(sys.exc_info()[1])
        return [self._encode((items, ended))]

    def _on_truth(self, target: int) -> list[Data]:
        return [bool(self._objects[target])]

    # --- values ---------------------------------------------------------------------------------------------------

    def call_back(self, handle: int, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Call a function of the tests."""
        encode = Encoder(self._export, numpy=self._numpy)
        kind, fields = self._exchange.ask(
            "callback",
            handle,
            [encode(item) for item in arguments],
            {name: encode(item) for name, item in named.items()},
        )
        if kind == ANSWER:
            return self._decoder()(fields[0])
        name, message = fields
        known = getattr(builtins, name, None)
        if isinstance(known, type) and issubclass(known, Exception):
            raise known(message)
        raise TestFunctionRaised(f"{name}: {message}")

    def _encode(self, value: Any) -> Data:
        return Encoder(self._export, numpy=self._numpy)(value)

    def _export(self, value: Any, encode: Encoder) -> Data:
        kind = type(value)
        if kind is TestFunction:
            return ["@", value.handle]
        if self._setup_classes.get(kind.__name__) is kind:
            return encode.instance(value)
        handle = self._handles.setdefault(id(value), len(self._handles))
        self._objects[handle] = value
        if isinstance(value, type):
            if issubclass(value, BaseException):
                return ["Q", value.__name__, _builtin_base(value)]
            return ["C", handle, value.__name__]
        if isinstance(value, Iterator):
            return ["I", handle, kind.__name__]
        return ["O", handle, getattr(value, "__name__", kind.__name__), callable(value)]

    def _decoder(self) -> Decoder:
        return Decoder(self._resolve, self._setup_classes, numpy=self._numpy)

    def _resolve(self, tag: str, fields: list[Any]) -> Any:
        if tag == "@":
            return self._objects[fields[0]]
        if tag == "K":
            return TestFunction(self, fields[0])
        raise Malformed(f"tag {tag!r}")

    def _exception(self, raised: BaseException) -> list[Data]:
        """Return name, nearest builtin ancestor, arguments and one line of text of an exception."""
        kind = type(raised)
        try:
            arguments = self._encode(list(raised.args))
        except BaseException:  # noqa: BLE001  (arguments are arbitrary objects with arbitrary code)
            arguments = None
        try:
            text = str(raised)[:500]
        except BaseException:  # noqa: BLE001  (so is __str__)
            text = ""
        return [str(kind.__name__), _builtin_base(kind), arguments, text]


class _Raising:
    """Iterator whose next item is an exception."""

    def __init__(self, raised: BaseException | None) -> None:
        self._raised = raised

    def __iter__(self) -> "_Raising":
        return self

    def __next__(self) -> NoReturn:
        raise self._raised or StopIteration


def _shallow(container: Any) -> list[Any]:
    """Return the items of a mutable container, to detect whether a call changes it."""
    if isinstance(container, dict):
        return [part for item in container.items() for part in item]
    if isinstance(container, (list, set, deque, bytearray)):
        return list(container)
    return [part for item in vars(container).items() for part in item]


def _same(old: list[Any], new: list[Any]) -> bool:
    return len(old) == len(new) and all(map(is_, old, new))


def _builtin_base(kind: type) -> str:
    return next(base.__name__ for base in kind.__mro__ if base in _BUILTIN_EXCEPTIONS)


def run(channel: Channel, *, numpy: bool) -> NoReturn:
    """Run the candidate process on ``channel`` and exit."""
    with contextlib.suppress(ChannelClosed):
        Candidate(channel, numpy=numpy).run()
    raise SystemExit
