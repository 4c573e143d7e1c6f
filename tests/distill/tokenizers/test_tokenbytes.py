"""Bytes of tokens: methods' hand values, every tokenizer family, every known way of losing bytes."""

import copy
import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_models import NAMES, real_tokenizer, real_tokens
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from toy_tokenizers import BUILDERS, toy_tokenizer
from transformers import PreTrainedTokenizerFast

from crosstok.distill.tokenizers.tokenbytes import Encoding, RoundTripError, TokenBytes, first_differences
from crosstok.distill.tokenizers.tokenizer_file import BYTE_SYMBOLS
from crosstok.errors import UserError

TABLES = {name: TokenBytes.from_tokenizer(toy_tokenizer(name)) for name in sorted(BUILDERS)}
ALL = pytest.mark.parametrize("tokens", TABLES.values(), ids=TABLES)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"))


def rebuilt(tokens_of: PreTrainedTokenizerFast, **changes: object) -> Tokenizer:
    """Return the backend of a toy tokenizer with parts of its tokenizer.json replaced."""
    return Tokenizer.from_str(json.dumps(json.loads(tokens_of.backend_tokenizer.to_str()) | changes))


def vocabulary(model: models.Model, **parts: object) -> TokenBytes:
    tokenizer = Tokenizer(model)
    for part, value in parts.items():
        setattr(tokenizer, part, value)
    return TokenBytes.from_tokenizer(tokenizer)


@ALL
@given(text=TEXT)
def test_tokens_spell_the_text_and_end_where_their_bytes_end(tokens: TokenBytes, text: str) -> None:
    data = text.encode()
    encoding = tokens.encode(text)
    assert tokens.decode(encoding.ids)[encoding.prefix :] == data
    starts = [0, *encoding.ends.tolist()][: len(encoding.ids)]
    for place, (index, start, end) in enumerate(zip(encoding.ids, starts, encoding.ends.tolist(), strict=True)):
        dummy = encoding.prefix if place == 0 else 0
        assert tokens.table[index][dummy:] == data[start:end]
    assert not tokens.special_ids & set(encoding.ids.tolist())


@ALL
@given(texts=st.lists(TEXT, max_size=4))
def test_a_batch_is_encoded_like_its_texts(tokens: TokenBytes, texts: list[str]) -> None:
    for encoding, text in zip(tokens.encode_many(texts), texts, strict=True):
        assert encoding.ids.tolist() == tokens.encode(text).ids.tolist()
        assert encoding.ends.tolist() == tokens.encode(text).ends.tolist()


@ALL
def test_ordinary_text_gets_the_ids_that_the_library_gives_it(tokens: TokenBytes) -> None:
    name = next(name for name, table in TABLES.items() if table is tokens)
    for text in ("def mean(values):\n    return 3.14", " naïve façade", "x", "  two  spaces\t🎉"):
        ids = toy_tokenizer(name)(text, add_special_tokens=False)["input_ids"]
        assert tokens.encode(text).ids.tolist() == ids


@ALL
@pytest.mark.parametrize("name", ["<pad>", "<bos>", "<eos>", "<unk>", "<|im_end|>"])
def test_a_literal_special_token_in_a_text_is_ordinary_text(tokens: TokenBytes, name: str) -> None:
    encoding = tokens.encode(f"a {name} b")
    assert not tokens.special_ids & set(encoding.ids.tolist())
    assert encoding.ends[-1] == len(f"a {name} b")


@ALL
def test_special_tokens_have_no_bytes_and_every_byte_has_an_id(tokens: TokenBytes) -> None:
    assert set(tokens.specials.values()) >= {"<pad>", "<bos>", "<eos>"}
    for index in tokens.special_ids:
        assert tokens.table[index] is None
        assert tokens.lengths[index] == 0
    assert all(tokens.table[tokens.id_of(bytes([value]))] == bytes([value]) for value in range(256))
    assert tokens.id_of(b"no token spells a sentence as long as this one") is None


def test_equal_bytes_are_found_across_families() -> None:
    metaspace = vocabulary(
        models.BPE(vocab={"▁a": 0, "b": 1, "▁": 2, "a": 3}, merges=[("▁", "a")]),
        pre_tokenizer=pre_tokenizers.Metaspace(),
        decoder=decoders.Metaspace(),
    )
    byte_level = vocabulary(
        models.BPE(vocab={"Ġa": 0, "b": 1, "Ġ": 2, "c": 3, "a": 4}, merges=[("Ġ", "a")]),
        pre_tokenizer=pre_tokenizers.ByteLevel(),
    )
    shared = set(metaspace.table) & set(byte_level.table)
    assert shared >= {b" a", b"b"}
    assert metaspace.table[:2] == (b" a", b"b") == byte_level.table[:2]


def test_bytes_prefer_the_ordinary_piece_over_the_byte_piece() -> None:
    tokens = vocabulary(
        models.BPE(vocab={"<0x0A>": 0, "<0x41>": 1, "\n": 2, "▁": 3}, merges=[], byte_fallback=True),
        decoder=decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()]),
    )
    assert tokens.table == (b"\n", b"A", b"\n", b" ")
    assert tokens.id_of(b"\n") == 2
    assert tokens.id_of(b"A") == 1


def test_without_byte_fallback_a_byte_piece_is_its_own_letters() -> None:
    tokens = vocabulary(models.BPE(vocab={"<0x0A>": 0}, merges=[]))
    assert tokens.table == (b"<0x0A>",)


def test_half_characters_keep_their_bytes() -> None:
    encoding = TABLES["byte"].encode("é€")
    assert [TABLES["byte"].table[index] for index in encoding.ids] == [b"\xc3", b"\xa9", b"\xe2", b"\x82", b"\xac"]
    assert encoding.ends.tolist() == [1, 2, 3, 4, 5]


def test_the_dummy_space_is_no_byte_of_the_text() -> None:
    tokens = TABLES["spm"]
    bare, spaced = tokens.encode("the"), tokens.encode(" the")
    assert bare.ids.tolist() == spaced.ids.tolist()  # the model cannot tell them apart
    assert (bare.prefix, bare.ends.tolist()) == (1, [3])
    assert (spaced.prefix, spaced.ends.tolist()) == (0, [4])
    assert tokens.encode("🎉").ends.tolist() == [0, 1, 2, 3, 4]  # the dummy space alone is the first token


def test_a_legacy_prefix_is_added_to_texts_that_begin_with_a_space_too() -> None:
    legacy = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = rebuilt(toy_tokenizer("spm"), pre_tokenizer=None)
    tokenizer.normalizer = legacy
    tokens = TokenBytes.from_tokenizer(tokenizer)
    for text in ("the", " the", "  the"):
        encoding = tokens.encode(text)
        assert encoding.prefix == 1
        assert encoding.ends[-1] == len(text)


def test_a_missing_byte_symbol_is_an_error_that_says_where() -> None:
    backend = json.loads(toy_tokenizer("byte").backend_tokenizer.to_str())
    lost = next(symbol for symbol, value in BYTE_SYMBOLS.items() if value == 0x04)
    backend["model"]["vocab"] = {
        symbol: index - (index > 4) for symbol, index in backend["model"]["vocab"].items() if symbol != lost
    }
    for token in backend["added_tokens"]:
        token["id"] -= 1
    tokens = TokenBytes.from_tokenizer(Tokenizer.from_str(json.dumps(backend)))
    with pytest.raises(RoundTripError, match="at byte 1") as caught:
        tokens.encode("a\x04b")
    assert (caught.value.position, caught.value.expected, caught.value.found) == (1, b"\x04b", b"b")
    answers = tokens.try_encode_many(["fine", "a\x04b", "fine too"])
    assert [type(answer) for answer in answers] == [Encoding, RoundTripError, Encoding]
    with pytest.raises(RoundTripError, match="Text 1 "):
        tokens.encode_many(["fine", "a\x04b"])


def test_a_normaliser_that_rewrites_the_text_is_caught() -> None:
    tokenizer = rebuilt(toy_tokenizer("bpe"))
    tokenizer.normalizer = normalizers.NFC()
    tokens = TokenBytes.from_tokenizer(tokenizer)
    assert tokens.encode("caf\u00e9").ends[-1] == 5
    with pytest.raises(RoundTripError) as caught:
        tokens.encode("cafe\u0301")
    assert caught.value.position == 3


def test_a_literal_metaspace_is_caught() -> None:
    with pytest.raises(RoundTripError) as caught:
        TABLES["spm"].encode("a▁b")
    assert caught.value.position == 1


def test_an_added_token_that_eats_spaces_is_caught() -> None:
    tokenizer = rebuilt(toy_tokenizer("bpe"))
    tokenizer.add_tokens([AddedToken("<tool>", lstrip=True, rstrip=True)])
    tokens = TokenBytes.from_tokenizer(tokenizer)
    assert tokens.encode("a<tool>b").ends[-1] == 8
    with pytest.raises(RoundTripError):
        tokens.encode("a <tool> b")


def test_an_unknown_character_is_caught() -> None:
    model = models.BPE(vocab={"<unk>": 0, "a": 1}, merges=[], unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens([AddedToken("<unk>")])
    tokens = TokenBytes.from_tokenizer(tokenizer)
    assert tokens.encode("aa").ends.tolist() == [1, 2]
    with pytest.raises(RoundTripError) as caught:
        tokens.encode("ab")
    assert (caught.value.position, caught.value.expected, caught.value.found) == (1, b"b", b"")


@ALL
def test_a_lone_surrogate_is_no_text(tokens: TokenBytes) -> None:
    with pytest.raises(RoundTripError) as caught:
        tokens.encode("é\ud800")
    assert caught.value.position == 2


def test_added_tokens_that_are_not_special_are_vocabulary() -> None:
    tokenizer = rebuilt(toy_tokenizer("bpe"))
    tokenizer.add_tokens([AddedToken("\n\n\n", normalized=False), AddedToken("é<br>")])
    tokens = TokenBytes.from_tokenizer(tokenizer)
    assert tokens.table[400:] == (b"\n\n\n", "é<br>".encode())
    assert tokens.encode("a\n\n\né<br>").ids.tolist()[1:] == [400, 401]


def test_a_token_that_only_the_configuration_calls_special_is_special() -> None:
    tokenizer = rebuilt(toy_tokenizer("bpe"))
    tokenizer.add_tokens([AddedToken("<|end|>")])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    assert TokenBytes.from_tokenizer(wrapped).specials[400] == "<|end|>"


def test_a_unigram_vocabulary_does_not_find_its_special_pieces_in_a_text() -> None:
    library = toy_tokenizer("unigram").backend_tokenizer
    assert library.token_to_id("<eos>") in library.encode("a<eos>b").ids
    assert TABLES["unigram"].encode("a<eos>b").ends[-1] == 7


def test_a_whole_piece_rule_does_not_find_special_tokens_in_a_text() -> None:
    backend = json.loads(toy_tokenizer("superword").backend_tokenizer.to_str())
    backend["model"]["ignore_merges"] = True
    tokens = TokenBytes.from_tokenizer(Tokenizer.from_str(json.dumps(backend)))
    assert tokens.encode("<eos>").ends[-1] == 5


def test_decoding_is_the_sum_of_its_parts_and_refuses_what_is_no_id() -> None:
    tokens = TABLES["spm"]
    ids = [tokens.id_of(b" the"), 1, tokens.id_of(b"e")]
    assert tokens.decode(ids) == b" the" + b"e" == tokens.decode(ids[:1]) + tokens.decode(ids[1:])
    for wrong in (-1, tokens.size):
        with pytest.raises(IndexError):
            tokens.decode([wrong])


def test_gaps_in_the_ids_are_unused_but_not_special() -> None:
    tokens = vocabulary(models.BPE(vocab={"a": 0, "b": 3}, merges=[]))
    assert tokens.table == (b"a", None, None, b"b")
    assert tokens.special_ids == frozenset()
    assert tokens.size == 4


def test_fingerprints_tell_tokenizers_apart_and_equal_ones_not() -> None:
    prints = {name: tokens.fingerprint for name, tokens in TABLES.items()}
    assert prints["bpe"] == prints["bos"]  # the BOS policy decides neither bytes nor content
    assert len({print_ for name, print_ in prints.items() if name != "bos"}) == len(prints) - 1
    assert TokenBytes.from_tokenizer(copy.deepcopy(toy_tokenizer("bpe"))).fingerprint == prints["bpe"]


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer", "merges", "specials"])
def test_the_fingerprint_covers(part: str) -> None:
    backend = json.loads(toy_tokenizer("bpe").backend_tokenizer.to_str())
    if part == "merges":
        backend["model"]["merges"][:2] = backend["model"]["merges"][1::-1]
    elif part == "specials":
        backend["added_tokens"][0]["special"] = False
    else:
        backend[part] = {"type": "NFC"} if part == "normalizer" else {"type": "ByteLevel", "add_prefix_space": False}
        backend["pre_tokenizer"] |= {"trim_offsets": True, "use_regex": part == "normalizer"}
    changed = TokenBytes.from_tokenizer(Tokenizer.from_str(json.dumps(backend)))
    assert changed.fingerprint != TABLES["bpe"].fingerprint


def test_the_first_differing_ids_are_named_with_what_they_mean() -> None:
    left, right = TABLES["byte"], TABLES["spm"]
    assert first_differences(left, left) == []
    assert first_differences(left, right, n=2) == [(0, "b'\\x00'", "special <unk>"), (1, "b'\\x01'", "special <pad>")]
    assert first_differences(TABLES["byte"], TABLES["bpe"], n=300)[-1][1] == "unused"


def test_pieces_that_are_not_bytes_of_text_are_refused() -> None:
    words = Tokenizer(models.WordPiece(vocab={"a": 0, "[UNK]": 1}))
    with pytest.raises(UserError, match="WordPiece"):
        TokenBytes.from_tokenizer(words)
    suffixed = Tokenizer(models.BPE(vocab={"a</w>": 0, "a": 1}, merges=[], end_of_word_suffix="</w>"))
    with pytest.raises(UserError, match="end_of_word_suffix"):
        TokenBytes.from_tokenizer(suffixed)


# Real tokenizers.


@pytest.mark.real
@pytest.mark.parametrize("name", NAMES)
def test_real_tokenizers_spell_random_unicode_or_say_where_they_cannot(name: str) -> None:
    tokens = real_tokens(name)
    refused = []

    @given(text=TEXT)
    def spells(text: str) -> None:
        answer = tokens.try_encode_many([text])[0]
        if isinstance(answer, RoundTripError):
            refused.append(answer)
            assert text.encode()[answer.position :].startswith(answer.expected)
        else:
            assert tokens.decode(answer.ids) == text.encode()

    spells()
    assert name == "smollm2" or not refused
    printable = string.printable.replace("\x0b", "").replace("\x0c", "")
    plain = real_tokenizer(name)(printable, add_special_tokens=False)["input_ids"]
    assert tokens.encode(printable).ids.tolist() == plain


@pytest.mark.real
def test_smollm2_lacks_exactly_these_21_bytes() -> None:
    tokens = real_tokens("smollm2")
    lacking = [value for value in range(256) if tokens.id_of(bytes([value])) is None]
    assert bytes(lacking).hex() == "04061314161dc0c1f1f2f5f6f7f8f9fafbfcfdfeff"
    with pytest.raises(RoundTripError) as caught:
        tokens.encode("a\x04b")
    assert caught.value.position == 1


@pytest.mark.real
def test_smollm2_splits_digits_before_anything_else() -> None:
    tokens = real_tokens("smollm2")
    pieces = [tokens.table[index] for index in tokens.encode("\n\n    1").ids]
    assert pieces == [b"\n\n    ", b"1"]  # GGUF's own rule gives b"\n\n   ", b" ", b"1"


@pytest.mark.real
def test_gemma3_keeps_runs_of_newlines_and_maps_a_literal_metaspace() -> None:
    tokens = real_tokens("gemma3")
    assert tokens.size == 262_144
    assert [tokens.table[index] for index in tokens.encode("a\n\n\n  b").ids] == [b"a", b"\n\n\n", b"  ", b"b"]
    with pytest.raises(RoundTripError):
        tokens.encode("a▁b")
    assert tokens.id_of(b"\n") == 107  # the piece, not <0x0A>


@pytest.mark.real
@pytest.mark.parametrize("name", NAMES)
def test_a_literal_unk_in_a_benchmark_text_is_ordinary_text(name: str) -> None:
    tokens = real_tokens(name)
    text = " = Valkyria = \n the <unk> of <|im_end|> and <|endoftext|></s><bos>\n"
    encoding = tokens.encode(text)
    assert not tokens.special_ids & set(encoding.ids.tolist())
    assert encoding.ends[-1] == len(text)
