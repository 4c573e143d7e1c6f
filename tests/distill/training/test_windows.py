"""Windows: byte-measured, aligned, in an order that is known without replaying it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_tokenizers import BUILDERS, TEXT, toy_tokenizer

from crosstok.corpora import Text, Texts
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.distill.training.windows import Encoder, Windows, cut
from crosstok.errors import UserError


def texts(*documents: str) -> Texts:
    return Texts("toy", "train", tuple(Text(f"d{index}", text) for index, text in enumerate(documents)), {})


def encoder(name: str, *, bos: bool = True) -> Encoder:
    tokenizer = toy_tokenizer(name)
    return Encoder(TokenBytes.from_tokenizer(tokenizer), tokenizer.bos_token_id if bos else None)


def windows(*documents: str, size: int = 64, seed: int = 0, names: tuple[str, str] = ("bpe", "byte")) -> Windows:
    return Windows(texts(*documents), encoder(names[0]), encoder(names[1]), size=size, seed=seed)


@given(st.text(st.characters(exclude_categories=("Cs",))), st.integers(16, 80))
def test_windows_join_to_the_text_and_hold_at_most_their_size_in_bytes(text: str, size: int) -> None:
    parts = list(cut(text, size))
    assert "".join(parts) == text
    assert all(0 < len(part.encode()) <= size for part in parts)


def test_a_window_ends_in_front_of_white_space_where_there_is_some() -> None:
    parts = list(cut("one two three four five six seven eight", 16))
    assert parts == ["one two three", " four five six", " seven eight"]


@pytest.mark.parametrize("student", sorted(BUILDERS))
@pytest.mark.parametrize("teacher", ["bpe", "spm"])
def test_both_sides_cover_every_byte_of_every_window(teacher: str, student: str) -> None:
    source = windows(TEXT, "naïve façade €", names=(teacher, student))
    batch = source.batch(source.windows)
    for row, text in enumerate(batch.texts):
        size = len(text.encode())
        for side in (batch.teacher, batch.student):
            assert int(side.lengths[row].sum()) == size
            assert bool((side.chunks[row][side.counted[row]] >= 0).all())
    assert bool(batch.scored.any(dim=1).all())
    assert source.refused == 0


def test_a_bos_belongs_to_no_chunk_and_lets_the_first_chunk_be_scored() -> None:
    for bos in (True, False):
        sides = encoder("bpe", bos=bos), encoder("byte", bos=bos)
        source = Windows(texts("the sun"), *sides, size=64, seed=0)
        batch = source.batch(source.windows)
        assert bool(batch.scored[0, 0]) == bos
        assert bool(batch.student.counted[0, 0]) != bos


def test_no_window_crosses_two_documents() -> None:
    source = windows("aaaa " * 40, "bbbb " * 40)
    assert all(len(set(window.text) - {" "}) == 1 for window in source.windows)


def test_the_order_is_a_permutation_per_pass_and_depends_on_the_seed_alone() -> None:
    source = windows(TEXT)
    count = len(source)
    passes = [[source.at_step(step, 1)[0].text for step in range(first, first + count)] for first in (0, count)]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(window.text for window in source.windows)
    assert passes[0] != passes[1]
    assert windows(TEXT).at_step(count + 3, 4) == source.at_step(count + 3, 4)
    assert windows(TEXT, seed=1).at_step(0, 8) != source.at_step(0, 8)


def test_the_windows_of_a_step_do_not_depend_on_the_steps_before_it() -> None:
    asked_before, fresh = windows(TEXT), windows(TEXT)
    for step in range(20):
        asked_before.at_step(step, 3)
    assert asked_before.at_step(20, 3) == fresh.at_step(20, 3)


def without_z() -> Encoder:
    """Return an encoder whose vocabulary lacks the byte of the letter z."""
    import json  # the only test that edits a tokenizer

    from tokenizers import Tokenizer

    settings = json.loads(toy_tokenizer("byte").backend_tokenizer.to_str())
    settings["model"]["vocab"].pop("z")
    return Encoder(TokenBytes.from_tokenizer(Tokenizer.from_str(json.dumps(settings))), None)


def test_a_window_that_does_not_come_back_is_left_out_and_counted() -> None:
    source = Windows(texts("plain text", "fuzz"), encoder("bpe"), without_z(), size=64, seed=0)
    batch = source.batch(source.windows)
    assert batch.texts == ("plain text",)
    assert source.refused == 1


def test_tokenizers_that_lose_most_of_the_corpus_are_refused_with_counts_and_an_example() -> None:
    with pytest.raises(UserError, match=r"2 of 3 windows of 'toy' .* for example d\d: .*\(student\)"):
        Windows(texts("plain", "fuzz", "zoo"), encoder("bpe"), without_z(), size=64, seed=0)


def test_a_corpus_without_text_is_refused() -> None:
    with pytest.raises(UserError, match="no text"):
        windows("")
