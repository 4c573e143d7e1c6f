import contextlib
import datetime as dt
import json
import math
from collections import Counter, OrderedDict, deque, namedtuple
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosstok.sandbox.worker.codec import Decoder, Encoder, Malformed, Uncodable


def _refuse(value: Any, _: Encoder) -> Any:
    raise Uncodable(type(value).__name__)


def _resolve(tag: str, _: list[Any]) -> Any:
    raise Malformed(tag)


def over(value: Any) -> Any:
    """The value as it arrives on the other side."""
    return Decoder(_resolve)(json.loads(json.dumps(Encoder(_refuse)(value))))


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.text(st.characters(categories=["Cs"]), max_size=3)
    | st.binary(max_size=20)
    | st.complex_numbers(allow_nan=False)
    | st.fractions()
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.datetimes()
    | st.timedeltas()
    | st.times()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(SCALARS, inner, max_size=4)
        | st.sets(SCALARS, max_size=4)
        | st.frozensets(SCALARS, max_size=4)
        | st.lists(inner, max_size=4).map(deque)
    ),
    max_leaves=20,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.tuples(st.sampled_from(list("ltsfdqiBbcrSEnkvm&FDahyzZTAXOICQ@K")), inner, inner).map(list)
    ),
    max_leaves=30,
)


@given(VALUES)
def test_a_value_arrives_equal_and_of_the_same_type(value: Any) -> None:
    arrived = over(value)
    assert type(arrived) is type(value)
    assert arrived == value
    assert repr(arrived) == repr(value) or isinstance(value, (set, frozenset, dict, list, tuple, deque))


@given(JSON)
def test_hostile_data_is_read_or_refused_and_nothing_else(data: Any) -> None:
    with contextlib.suppress(Malformed, RecursionError):
        Decoder(_resolve, numpy=True)(data)


def test_numbers_keep_their_edges() -> None:
    assert math.isnan(over(math.nan))
    assert over(math.inf) == math.inf
    assert math.copysign(1, over(-0.0)) == -1
    assert over(2**63) == 2**63
    assert over(-(2**63)) == -(2**63)
    assert over(10**5000) == 10**5000
    assert over(0.1 + 0.2) == 0.1 + 0.2


def test_aliases_and_cycles_survive() -> None:
    shared: list[Any] = [1]
    shared.append(shared)
    first, second = over([shared, shared])
    assert first is second
    assert first[1] is first
    equal_but_apart = over([[1], [1]])
    assert equal_but_apart[0] is not equal_but_apart[1]


def test_an_honest_subclass_arrives_as_its_base() -> None:
    class Colour(IntEnum):
        RED = 3

    point = namedtuple("point", "x y")  # noqa: PYI024  (the case itself)
    assert over(Colour.RED) == 3
    assert over(point(1, 2)) == (1, 2)
    assert over(Counter("aab")) == {"a": 2, "b": 1}
    assert list(over(OrderedDict([("b", 1), ("a", 2)]))) == ["b", "a"]
    assert over(Fraction(1, 3)) == Fraction(1, 3)
    assert over(Decimal("1.10")).as_tuple() == Decimal("1.10").as_tuple()
    assert over(dt.datetime(2020, 1, 1, tzinfo=dt.UTC)).tzinfo is dt.UTC
    assert over({1: 2}.keys()) == {1: 2}.keys()
    assert over(range(1, 9, 2)) == range(1, 9, 2)
    assert over(int) is int
    assert over(...) is ...


def test_a_lying_subclass_loses_its_methods() -> None:
    class Sly(int):
        def __eq__(self, other: object) -> bool:
            return True

        def __add__(self, other: int) -> int:
            return 99

        __hash__ = int.__hash__

    assert type(over(Sly(3))) is int
    assert over(Sly(3)) == 3
    assert over(Sly(3)) != 4


def test_what_is_not_data_goes_to_the_hook() -> None:
    for thing in (object(), len, iter([]), lambda: None, Any):
        with pytest.raises(Uncodable):
            over(thing)


def test_numpy_arrives_where_it_is_declared() -> None:
    np = pytest.importorskip("numpy")
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    data = json.loads(json.dumps(Encoder(_refuse, numpy=True)([array, np.int8(3), np.float64(0.1)])))
    back, small, double = Decoder(_resolve, numpy=True)(data)
    assert back.dtype == array.dtype
    assert (back == array).all()
    assert small.dtype == np.int8
    assert double == 0.1
    assert type(over(np.float64(0.1))) is float  # undeclared: as the float that it is
    with pytest.raises(Uncodable):
        Encoder(_refuse, numpy=True)(np.array([object()]))


def test_a_changed_container_can_be_refilled_in_place() -> None:
    for before, after in (
        ([1], [2, 3]),
        ({1: 2}, {3: 4}),
        ({1}, {2}),
        (bytearray(b"a"), bytearray(b"bc")),
        (deque([1]), deque()),
    ):
        contents = Encoder(_refuse).contents(after)
        same = before
        Decoder(_resolve).refill(before, json.loads(json.dumps(contents)))
        assert before == after
        assert before is same
