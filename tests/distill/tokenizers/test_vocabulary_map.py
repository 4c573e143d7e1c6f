"""The nearest-token map: exact, by comparison with the textbook recurrence."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosstok.distill.tokenizers.vocabulary_map import nearest_tokens


def levenshtein(left: bytes, right: bytes) -> int:
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def test_the_hand_cases() -> None:
    indices, distances = nearest_tokens([b"gots", b"set", b"getts"], [b"get", b"gets", b"set"])
    assert indices.tolist() == [1, 2, 1]
    assert distances.tolist() == [1, 0, 1]


WORDS = st.lists(st.binary(min_size=1, max_size=9) | st.text("ab", min_size=1, max_size=12).map(str.encode), min_size=1)


@given(WORDS, WORDS)
def test_the_distance_is_the_least_and_is_that_of_the_token_found(wanted: list[bytes], candidates: list[bytes]) -> None:
    indices, distances = nearest_tokens(wanted, candidates)
    for data, index, distance in zip(wanted, indices, distances, strict=True):
        assert distance == min(levenshtein(data, other) for other in candidates)
        assert distance == levenshtein(data, candidates[index])


def test_a_byte_that_repeats_more_often_than_the_table_counts_is_still_found() -> None:
    candidates = [b" " * 40, b" " * 12, b"abcdefghijkl"]
    indices, distances = nearest_tokens([b" " * 13, b" " * 38, b" " * 300], candidates)
    assert indices.tolist() == [1, 0, 0]
    assert distances.tolist() == [1, 2, 260]


def test_a_vocabulary_mapped_to_itself_is_the_identity_and_ties_go_to_the_lowest_id() -> None:
    words = [b"a", b"b", b"ab", b"ba"]
    assert nearest_tokens(words, words)[0].tolist() == [0, 1, 2, 3]
    assert nearest_tokens([b"x"], [b"b", b"a"])[0].tolist() == [0]


def test_a_map_to_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no candidates"):
        nearest_tokens([b"a"], [])


def test_a_thousand_new_tokens_against_thirty_thousand_take_seconds() -> None:
    random = np.random.default_rng(0)
    letters = np.frombuffer(b"etaoinshrdlucmfwypvbgkjqxz", dtype=np.uint8)
    shares = 1 / np.arange(1, 27) / (1 / np.arange(1, 27)).sum()

    def words(count: int) -> list[bytes]:
        sizes = random.integers(2, 12, count)
        return [random.choice(letters, size, p=shares).tobytes() for size in sizes]

    candidates, wanted = words(30_000), words(1_000)
    began = time.monotonic()
    nearest_tokens(wanted, candidates)
    assert time.monotonic() - began < 60
