"""Codec for values that cross between tests and candidate, as JSON data.

The decoder builds values of plain types only, so an object that compares equal to everything, or lies about its class,
cannot cross. JSON carries scalars, and tagged arrays carry the other types below. A hostile peer can reach no
constructor besides these; neither pickle nor eval is involved.

| type | tag |
|---|---|
| None, bool, int below 2^63, float with nan and inf, str | none, plain JSON |
| str with lone surrogates | ``u`` |
| larger int, complex, bytes, bytearray | ``i`` ``c`` ``b`` ``B`` |
| list, tuple, set, frozenset, dict, deque | ``l`` ``t`` ``s`` ``f`` ``d`` ``q`` |
| the same mutable container a second time (aliases and cycles are kept) | ``&`` |
| range, slice, Ellipsis, NotImplemented, dict views | ``r`` ``S`` ``E`` ``n`` ``k`` ``v`` ``m`` |
| Fraction, Decimal, date, time, datetime, timedelta (UTC or naive) | ``F`` ``D`` ``a`` ``h`` ``y`` ``z`` |
| a builtin type, by its name | ``T`` |
| instances of classes that the trusted setup defines, as their attributes | ``X`` and the class's name |
| numpy arrays and scalars of plain dtypes, where the program declares numpy | ``A`` |

An instance of a subclass crosses as its base type (Counter as dict, namedtuple as tuple, IntEnum as int), which
compares equal. All other objects (functions, iterators, instances) go through the ``export`` and ``resolve`` hooks.
"""

import builtins
from collections import deque
from collections.abc import Callable
from typing import Any

Data = Any
"""A JSON value."""

_SMALL = 1 << 63
_TYPES = {name: thing for name, thing in vars(builtins).items() if isinstance(thing, type)}
_TYPE_NAMES = {thing: name for name, thing in _TYPES.items()}
_VIEWS = {"k": type({}.keys()), "v": type({}.values()), "m": type({}.items())}
_PLAIN_DTYPES = frozenset("biufcSUmM")


class Uncodable(TypeError):
    """The value cannot be represented as data."""


class Malformed(ValueError):
    """The peer sent data that the encoder never writes."""


class Encoder:
    """Encoder of the values of one frame; a container that occurs again becomes a reference."""

    def __init__(
        self, export: "Callable[[Any, Encoder], Data]", containers: list[Any] | None = None, *, numpy: bool = False
    ) -> None:
        self._hook = export
        self._numpy = numpy
        self.containers = [] if containers is None else containers
        """Mutable containers of the frame in the order of their numbers; those that the peer already has come first."""
        self._numbers = {id(container): number for number, container in enumerate(self.containers)}

    def __call__(self, value: Any) -> Data:
        """Return ``value`` as JSON data. Raises :class:`Uncodable` or RecursionError."""
        kind = type(value)
        if value is None or kind is bool or kind is float:
            return value
        if kind is str:
            return value if value.isascii() else _text(value)
        if kind is int:
            return value if -_SMALL <= value < _SMALL else ["i", hex(value)]
        write = _WRITERS.get(kind)
        if write is not None:
            return write(self, value)
        return self._other(value, kind)

    def contents(self, value: Any) -> list[Data]:
        """Return the contents of a mutable container, as :meth:`Decoder.refill` expects them."""
        kind = type(value)
        if kind is dict:
            return [self(part) for item in value.items() for part in item]
        if kind is bytearray:
            return [value.decode("latin-1")]
        if kind in _TAGS:
            return [self(item) for item in value]
        return [part for key, item in vars(value).items() for part in (key, self(item))]

    def container(self, tag: str, value: Any) -> Data:
        """Return a mutable container, or a reference if the frame already contains it."""
        number = self._numbers.get(id(value))
        if number is not None:
            return ["&", number]
        self._numbers[id(value)] = len(self.containers)
        self.containers.append(value)
        return [tag, *self.contents(value)]

    def instance(self, value: Any) -> Data:
        """Return an instance of a class of the trusted setup, which both processes define, as its attributes."""
        return self.container("X" + type(value).__name__, value)

    def export(self, value: Any) -> Data:
        """Return the hook's representation of a value that is not plain data."""
        return self._hook(value, self)

    def _other(self, value: Any, kind: type) -> Data:
        if isinstance(value, type):
            name = _TYPE_NAMES.get(value)
            return ["T", name] if name else self.export(value)
        for tag, view in _VIEWS.items():
            if kind is view:
                return [tag, *[self(item) for item in value]]
        module = kind.__module__
        if module in _MODULE_WRITERS and (module != "numpy" or self._numpy):
            data = _MODULE_WRITERS[module](self, value)
            if data is not None:
                return data
        for base, plain in _BASES.items():
            if issubclass(kind, base):  # type(value), because __class__ may lie
                return self(plain(value))
        return self.export(value)


# Conversion of an instance to its base type without calling methods that the subclass may override.
_BASES: dict[type, Callable[[Any], Any]] = {
    int: lambda value: int.__add__(value, 0),
    float: lambda value: float.__add__(value, 0.0),
    complex: lambda value: complex.__add__(value, 0),
    str: lambda value: str.__add__("", value),
    bytes: lambda value: bytes(memoryview(value)),
    bytearray: lambda value: bytearray(memoryview(value)),
    list: lambda value: list(list.__iter__(value)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    dict: lambda value: dict(dict.items(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    deque: lambda value: deque(deque.__iter__(value)),
}


_TAGS = {list: "l", set: "s", deque: "q", dict: "d", bytearray: "B"}


_WRITERS: dict[type, Callable[[Encoder, Any], Data]] = {
    list: lambda encode, value: encode.container("l", value),
    set: lambda encode, value: encode.container("s", value),
    deque: lambda encode, value: encode.container("q", value),
    dict: lambda encode, value: encode.container("d", value),
    bytearray: lambda encode, value: encode.container("B", value),
    tuple: lambda encode, value: ["t", *[encode(item) for item in value]],
    frozenset: lambda encode, value: ["f", *[encode(item) for item in value]],
    bytes: lambda _, value: ["b", value.decode("latin-1")],
    complex: lambda _, value: ["c", value.real, value.imag],
    range: lambda encode, value: ["r", encode(value.start), encode(value.stop), encode(value.step)],
    slice: lambda encode, value: ["S", encode(value.start), encode(value.stop), encode(value.step)],
    type(Ellipsis): lambda _encode, _: ["E"],
    type(NotImplemented): lambda _encode, _: ["n"],
}


def _text(value: str) -> Data:
    """Return non-ASCII text. Lone surrogates are tagged, since JSON would merge two of them into one character."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return ["u", value.encode("utf-32-le", "surrogatepass").decode("latin-1")]
    return value


def _write_datetime(encode: Encoder, value: Any) -> Data | None:
    import datetime as dt  # keeps the heap of the worker small: loaded only if such a value exists

    kind = type(value)
    if kind is dt.timedelta:
        return ["z", value.days, value.seconds, value.microseconds]
    if kind is dt.date:
        return ["a", value.isoformat()]
    if kind in (dt.datetime, dt.time) and value.tzinfo in (None, dt.UTC):
        return ["y" if kind is dt.datetime else "h", value.isoformat()]
    if kind is dt.timezone and value is dt.UTC:
        return ["Z"]
    return encode.export(value)


def _write_numpy(encode: Encoder, value: Any) -> Data | None:
    import numpy as np  # only if the program declares it

    if not isinstance(value, (np.ndarray, np.generic)):
        return None
    array = np.asarray(value)
    if type(value).__module__ != "numpy" or array.dtype.kind not in _PLAIN_DTYPES:
        return encode.export(value)
    scalar = isinstance(value, np.generic)
    return ["A", scalar, array.dtype.str, list(array.shape), np.ascontiguousarray(array).tobytes().decode("latin-1")]


_MODULE_WRITERS: dict[str, Callable[[Encoder, Any], Data | None]] = {
    "fractions": lambda encode, value: (
        ["F", encode(value.numerator), encode(value.denominator)] if type(value).__name__ == "Fraction" else None
    ),
    "decimal": lambda _, value: ["D", str(value)] if type(value).__name__ == "Decimal" else None,
    "datetime": _write_datetime,
    "numpy": _write_numpy,
}


class Decoder:
    """Decoder of the values of one frame; tags that are not in the table above go to ``resolve(tag, fields)``."""

    def __init__(
        self,
        resolve: Callable[[str, list[Data]], Any],
        classes: dict[str, type] | None = None,
        containers: list[Any] | None = None,
        *,
        numpy: bool = False,
    ) -> None:
        self._resolve = resolve
        self._classes = classes or {}
        self.containers = [] if containers is None else containers
        """See :attr:`Encoder.containers`."""
        self._numpy = numpy

    def __call__(self, data: Data) -> Any:
        """Return the value of ``data``. Raises :class:`Malformed` or RecursionError."""
        if not isinstance(data, list):
            if isinstance(data, dict):
                raise Malformed("a bare JSON object")
            return data
        if not data or not isinstance(data[0], str) or not data[0]:
            raise Malformed("an array without a tag")
        tag, fields = data[0], data[1:]
        try:
            read = _READERS.get(tag)
            if read is not None:
                return read(self, fields)
            if tag in _MAKERS:
                return self._container(_MAKERS[tag](), fields)
            if tag[0] == "X":
                return self._container(object.__new__(self._classes[tag[1:]]), fields)
            if tag == "A" and self._numpy:
                return _read_numpy(*fields)
            return self._resolve(tag, fields)
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as fault:
            if isinstance(fault, Malformed):
                raise
            raise Malformed(f"tag {tag!r}: {fault}") from fault

    def _container(self, container: Any, fields: list[Data]) -> Any:
        self.containers.append(container)  # numbered before its items, which may refer to it
        self.fill(container, fields)
        return container

    def fill(self, container: Any, fields: list[Data]) -> None:
        """Add decoded contents to an empty container."""
        kind = type(container)
        if kind is list or kind is deque:
            for item in fields:
                container.append(self(item))
        elif kind is set:
            for item in fields:
                container.add(self(item))
        elif kind is bytearray:
            container += fields[0].encode("latin-1")
        elif kind is dict:
            for key, item in _pairs(fields):
                container[self(key)] = self(item)
        else:
            attributes = vars(container)  # assigned without running any method of the class
            for key, item in _pairs(fields):
                if type(key) is not str:
                    raise Malformed("an attribute without a name")
                attributes[key] = self(item)

    def refill(self, container: Any, fields: list[Data]) -> None:
        """Replace the contents of a container with those of the peer's copy."""
        contents = type(container)() if type(container) in _TAGS else object.__new__(type(container))
        self.fill(contents, fields)
        if type(container) is list or type(container) is bytearray:
            container[:] = contents
        elif type(container) in _TAGS:
            container.clear()
            (container.extend if type(container) is deque else container.update)(contents)
        else:
            vars(container).clear()
            vars(container).update(vars(contents))

    def alias(self, number: Any) -> Any:
        """Return the container with the given number."""
        if type(number) is not int or not 0 <= number < len(self.containers):
            raise Malformed("a reference to an unknown container")
        return self.containers[number]


def _pairs(fields: list[Data]) -> "zip[tuple[Data, Data]]":
    if len(fields) % 2:
        raise Malformed("a key without a value")
    return zip(fields[::2], fields[1::2], strict=True)


_MAKERS: dict[str, Callable[[], Any]] = {tag: kind for kind, tag in _TAGS.items()}


def _datetime(kind: str, fields: list[Data]) -> Any:
    import datetime as dt

    if kind == "timedelta":
        days, seconds, microseconds = fields
        return dt.timedelta(days, seconds, microseconds)
    if kind == "utc":
        return dt.UTC
    return getattr(dt, kind).fromisoformat(fields[0])


def _fraction(decode: Decoder, fields: list[Data]) -> Any:
    import fractions

    numerator, denominator = (decode(item) for item in fields)
    return fractions.Fraction(numerator, denominator)


def _decimal(fields: list[Data]) -> Any:
    import decimal

    return decimal.Decimal(fields[0])


def _read_numpy(scalar: bool, dtype: str, shape: list[int], raw: str) -> Any:
    import numpy as np

    kind = np.dtype(dtype)
    if kind.kind not in _PLAIN_DTYPES or kind.hasobject:
        raise Malformed(f"dtype {dtype}")
    array = np.frombuffer(bytearray(raw.encode("latin-1")), dtype=kind).reshape([int(size) for size in shape])
    return array[()] if scalar else array


_READERS: dict[str, Callable[[Decoder, list[Data]], Any]] = {
    "t": lambda decode, fields: tuple([decode(item) for item in fields]),
    "f": lambda decode, fields: frozenset([decode(item) for item in fields]),
    "i": lambda _, fields: int(fields[0], 16),
    "u": lambda _, fields: fields[0].encode("latin-1").decode("utf-32-le", "surrogatepass"),
    "b": lambda _, fields: fields[0].encode("latin-1"),
    "c": lambda _, fields: complex(float(fields[0]), float(fields[1])),
    "r": lambda decode, fields: range(*[decode(item) for item in fields]),
    "S": lambda decode, fields: slice(*[decode(item) for item in fields]),
    "E": lambda _decode, _: Ellipsis,
    "n": lambda _decode, _: NotImplemented,
    "k": lambda decode, fields: dict.fromkeys([decode(item) for item in fields]).keys(),
    "v": lambda decode, fields: dict(enumerate([decode(item) for item in fields])).values(),
    "m": lambda decode, fields: dict([decode(item) for item in fields]).items(),
    "&": lambda decode, fields: decode.alias(fields[0]),
    "F": _fraction,
    "D": lambda _, fields: _decimal(fields),
    "a": lambda _, fields: _datetime("date", fields),
    "h": lambda _, fields: _datetime("time", fields),
    "y": lambda _, fields: _datetime("datetime", fields),
    "z": lambda _, fields: _datetime("timedelta", fields),
    "Z": lambda _, fields: _datetime("utc", fields),
    "T": lambda _, fields: _TYPES[fields[0]],
}
