"""Alignment: hand-computed chunks, and what holds for every pair of tokenizers: disjoint, covering, symmetric."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_models import real_tokens
from toy_tokenizers import BUILDERS, toy_tokenizer

from crosstok.distill.tokenizers.alignment import Alignment, Content, Special, align, align_segments, common_cut
from crosstok.distill.tokenizers.tokenbytes import TokenBytes

TABLES = {name: TokenBytes.from_tokenizer(toy_tokenizer(name)) for name in sorted(BUILDERS)}
PAIRS = list(itertools.combinations_with_replacement(sorted(TABLES), 2))
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=60) | st.sampled_from(
    ["the farmer was up before the sun", "def mean(values):\n    return 1024", "naïve façades 🎉🎉 in Zürich"]
)
ENDS = st.lists(st.integers(0, 40), max_size=20).map(sorted)


def ends(*offsets: int) -> npt.NDArray[np.int64]:
    return np.array(offsets, dtype=np.int64)


def of(*pieces: str) -> npt.NDArray[np.int64]:
    return np.cumsum([len(piece.encode()) for piece in pieces], dtype=np.int64)


def triple(alignment: Alignment) -> tuple[list[int], list[int], list[int]]:
    return alignment.teacher_chunks.tolist(), alignment.student_chunks.tolist(), alignment.ends.tolist()


def plain_loop(teacher: list[int], student: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Align by the definition: a chunk ends at every offset above 0 at which both sides end."""
    common = sorted(set(teacher) & set(student) - {0})

    def chunks(side: list[int]) -> list[int]:
        found, chunk, previous = [], 0, 0
        for end in side:
            found.append(chunk if chunk < len(common) else -1)
            if chunk < len(common) and end == common[chunk] and end > previous:
                chunk += 1
            previous = end
        return found

    return chunks(teacher), chunks(student), common


def test_two_tokens_against_one_are_one_chunk() -> None:
    found = align(of("Hel", "lo", "?"), of("Hello", "?"))
    assert triple(found) == ([0, 0, 1], [0, 1], [5, 6])


def test_a_chunk_waits_for_the_last_byte_of_a_split_character() -> None:
    assert triple(align(ends(1, 2), ends(2))) == ([0, 0], [0], [2])


def test_crossing_tokens_are_one_chunk() -> None:
    assert triple(align(of("ab", "cd", "ef"), of("a", "bc", "de", "f"))) == ([0, 0, 0], [0, 0, 0, 0], [6])


def test_a_truncated_side_leaves_the_others_tail_without_chunk() -> None:
    assert triple(align(of("ab", "cd"), of("ab", "c", "d", "ef"))) == ([0, 1], [0, 1, 1, -1], [2, 4])
    assert triple(align(of("ab", "c"), of("ab", "cd"))) == ([0, -1], [0, -1], [2])


def test_nothing_aligns_with_nothing() -> None:
    assert triple(align(ends(), ends())) == ([], [], [])
    assert triple(align(ends(), of("a", "b"))) == ([], [-1, -1], [])


def test_a_token_without_bytes_belongs_to_the_chunk_after_it() -> None:
    assert triple(align(ends(0, 3, 3, 5), ends(3, 5))) == ([0, 0, 1, 1], [0, 1], [3, 5])
    assert triple(align(ends(0, 3), ends(0, 3))) == ([0, 0], [0, 0], [3])


@given(teacher=ENDS, student=ENDS)
def test_it_equals_the_definition(teacher: list[int], student: list[int]) -> None:
    assert triple(align(ends(*teacher), ends(*student))) == plain_loop(teacher, student)


@given(teacher=ENDS, student=ENDS)
def test_exchanging_the_sides_transposes_the_chunks(teacher: list[int], student: list[int]) -> None:
    found = align(ends(*teacher), ends(*student))
    assert triple(align(ends(*student), ends(*teacher))) == triple(found.transposed())


@given(side=ENDS)
def test_a_tokenization_aligned_with_itself_has_one_chunk_per_token_with_bytes(side: list[int]) -> None:
    assert align(ends(*side), ends(*side)).ends.tolist() == sorted(set(side) - {0})


def check_spans(text: str, teacher: TokenBytes, student: TokenBytes) -> None:
    """Chunks are ordered, cover the text without gap, and spell the same bytes on both sides."""
    data = text.encode()
    left, right = teacher.encode(text), student.encode(text)
    found = align(left.ends, right.ends)
    assert len(found) == len(set(left.ends.tolist()) & set(right.ends.tolist()) - {0})
    for encoding, tokens, chunks in (
        (left, teacher, found.teacher_chunks),
        (right, student, found.student_chunks),
    ):
        assert (np.diff(chunks) >= 0).all()
        assert set(chunks.tolist()) == set(range(len(found)))
        start = 0
        for chunk, end in enumerate(found.ends.tolist()):
            spelt = tokens.decode(encoding.ids[chunks == chunk])
            assert spelt[encoding.prefix if chunk == 0 else 0 :] == data[start:end]
            start = end
        assert start == len(data)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@given(text=TEXT)
def test_chunks_of_toy_tokenizers_spell_the_same_bytes(pair: tuple[str, str], text: str) -> None:
    check_spans(text, TABLES[pair[0]], TABLES[pair[1]])


@pytest.mark.real
@pytest.mark.parametrize("pair", [("smollm2", "gemma3"), ("qwen", "tekken"), ("deepseek", "gemma3")], ids="-".join)
def test_chunks_of_real_tokenizers_spell_the_same_bytes(pair: tuple[str, str]) -> None:
    tables = [real_tokens(name) for name in pair]
    lacking = "".join(map(chr, (0x04, 0x06, 0x13, 0x14, 0x16, 0x1D)))

    @given(
        text=st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0x3FFFF, exclude_characters="▁" + lacking))
    )
    def spell(text: str) -> None:
        check_spans(text, *tables)

    spell()
    check_spans("for i in range(10):\n    print(f'{i:>4} naïve 🎉')\n\n\n\t\t# 3.14159\n" * 20, *tables)


# Whole sequences.


def test_a_header_of_three_tokens_and_one_of_two_are_one_chunk() -> None:
    teacher = [Special("bos", 1), Special("start_header", 4), Content(of("Hel", "lo", "?")), Special("end_of_turn", 1)]
    student = [Special("bos", 1), Special("start_header", 3), Content(of("Hello", "?")), Special("end_of_turn", 2)]
    found = align_segments(teacher, student)
    assert triple(found) == ([0, 1, 1, 1, 1, 2, 2, 3, 4], [0, 1, 1, 1, 2, 3, 4, 4], [0, 0, 5, 6, 6])


def test_a_role_of_one_side_belongs_to_no_chunk() -> None:
    found = align_segments([Special("bos", 1), Content(of("ab", "c"))], [Content(of("abc")), Special("end_of_text", 1)])
    assert triple(found) == ([-1, 0, 0], [0, -1], [3])


def test_text_goes_on_over_a_special_token_that_only_one_side_has() -> None:
    found = align_segments(
        [Content(of("ab")), Special("thinking", 1), Content(of("cd"))], [Content(of("a", "bc", "d"))]
    )
    assert triple(found) == ([0, -1, 0], [0, 0, 0], [4])


def test_turns_are_matched_in_their_order_and_never_across() -> None:
    turn = [Special("start_header", 2), Content(of("hi")), Special("end_of_turn", 1)]
    found = align_segments([*turn, *turn], [*turn, Special("pad", 1), *turn])
    assert triple(found) == (
        [0, 0, 1, 2, 3, 3, 4, 5],
        [0, 0, 1, 2, -1, 3, 3, 4, 5],
        [0, 2, 2, 2, 4, 4],
    )


def test_roles_in_another_order_at_one_place_do_not_match_on_either_side() -> None:
    left = [Special("a", 1), Special("b", 1), Special("c", 1)]
    right = [Special("b", 1), Special("a", 1), Special("c", 1)]
    assert triple(align_segments(left, right)) == ([-1, -1, 0], [-1, -1, 0], [0])


def test_specials_at_different_places_in_the_text_do_not_match() -> None:
    found = align_segments(
        [Content(of("a")), Special("end_of_turn", 1), Content(of("b"))],
        [Content(of("a", "b")), Special("end_of_turn", 1)],
    )
    assert triple(found) == ([0, -1, 1], [0, 1, -1], [1, 2])


SEGMENTS = st.lists(
    st.builds(Special, st.sampled_from(["bos", "end_of_turn"]), st.integers(1, 3))
    | st.lists(st.integers(1, 4), max_size=5).map(lambda sizes: Content(np.cumsum(sizes, dtype=np.int64))),
    max_size=6,
)


@given(teacher=SEGMENTS, student=SEGMENTS)
def test_aligned_sequences_keep_their_order_and_transpose(
    teacher: list[Content | Special], student: list[Content | Special]
) -> None:
    found = align_segments(teacher, student)
    assert triple(align_segments(student, teacher)) == triple(found.transposed())
    assert (np.diff(found.ends) >= 0).all()
    for segments, chunks in ((teacher, found.teacher_chunks), (student, found.student_chunks)):
        assert len(chunks) == sum(map(len, segments))
        assert set(range(len(found))) <= set(chunks.tolist())
        assert (np.diff(chunks[chunks >= 0]) >= 0).all()


def test_the_chunk_of_a_first_token_is_not_predicted() -> None:
    both = align_segments([Special("bos", 1), Content(of("ab", "c"))], [Special("bos", 1), Content(of("a", "bc"))])
    assert triple(both.predicted()) == ([-1, 0, 0], [-1, 0, 0], [3])
    one = align_segments([Special("bos", 1), Content(of("ab", "c"))], [Content(of("ab", "c"))])
    assert triple(one) == ([-1, 0, 1], [0, 1], [2, 3])
    assert triple(one.predicted()) == ([-1, -1, 0], [-1, 0], [3])
    assert triple(align(ends(), ends()).predicted()) == ([], [], [])


def test_both_sides_are_cut_at_the_same_byte() -> None:
    teacher, student = of("ab", "cd", "ef", "gh"), of("abc", "d", "ef", "g", "h")
    assert common_cut(teacher, student, 4, 5) == (4, 5)
    assert common_cut(teacher, student, 4, 4) == (3, 3)
    assert common_cut(teacher, student, 2, 5) == (2, 2)
    assert common_cut(teacher, student, 1, 5) == (0, 0)


@given(teacher=ENDS, student=ENDS, limits=st.tuples(st.integers(0, 20), st.integers(0, 20)))
def test_a_cut_keeps_within_the_limits_and_leaves_no_tail(
    teacher: list[int], student: list[int], limits: tuple[int, int]
) -> None:
    kept = common_cut(ends(*teacher), ends(*student), *limits)
    assert kept[0] <= limits[0]
    assert kept[1] <= limits[1]
    last = [side[count - 1] if count else 0 for side, count in zip((teacher, student), kept, strict=True)]
    assert last[0] == last[1]
