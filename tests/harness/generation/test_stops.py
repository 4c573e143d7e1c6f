"""The stop matcher against brute force, over every way of cutting an answer into pieces."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosstok.errors import UserError
from crosstok.harness.generation.stops import StopMatch, StopMatcher

# Few letters, so that stops overlap, nest and repeat; one of them takes two bytes.
LETTERS = "ab\né"
stops_lists = st.lists(st.text(LETTERS, min_size=1, max_size=5), max_size=5)


def brute_force(data: bytes, stops: list[str]) -> StopMatch | None:
    """Look at every prefix of the answer in turn."""
    for end in range(1, len(data) + 1):
        complete = [stop.encode() for stop in stops if data[:end].endswith(stop.encode())]
        if complete:
            longest = max(complete, key=len)
            return StopMatch(end - len(longest), end, longest)
    return None


def feed_all(pieces: list[bytes], stops: list[str]) -> tuple[StopMatch | None, int]:
    """Return the match and how many pieces it took."""
    matcher = StopMatcher(stops)
    for count, piece in enumerate(pieces, start=1):
        match = matcher.feed(piece)
        if match is not None:
            return match, count
    return None, len(pieces)


@given(st.text(LETTERS, max_size=40), stops_lists, st.lists(st.integers(0, 60), max_size=12))
def test_any_segmentation_finds_what_brute_force_finds_and_no_later(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    data = text.encode()
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[left:right] for left, right in pairwise(borders)]
    expected = brute_force(data, stops)
    found, pieces_read = feed_all(pieces, stops)
    assert found == expected
    if expected is not None:
        assert sum(map(len, pieces[: pieces_read - 1])) < expected.end <= sum(map(len, pieces[:pieces_read]))


def test_a_stop_is_caught_on_its_last_byte_when_it_comes_byte_by_byte() -> None:
    matcher = StopMatcher(["\ndef"])
    assert [matcher.feed(bytes([byte])) for byte in b"x = 1\nde"] == [None] * 8
    assert matcher.feed(b"f") == StopMatch(5, 9, b"\ndef")


def test_of_two_stops_in_one_token_the_one_that_ends_first_counts() -> None:
    assert StopMatcher(["\nclass", "s x"]).feed(b"a\nclass x") == StopMatch(1, 7, b"\nclass")


def test_of_two_stops_that_end_together_the_longer_one_is_removed() -> None:
    assert StopMatcher(["def", "\n\ndef"]).feed(b"1\n\ndef") == StopMatch(1, 6, b"\n\ndef")


def test_no_stops_never_match() -> None:
    assert StopMatcher([]).feed(b"anything") is None


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(UserError, match="empty stop"):
        StopMatcher(["\n", ""])
