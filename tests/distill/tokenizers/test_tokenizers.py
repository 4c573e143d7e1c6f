"""Tokenizers by name, training, wearing a source's special tokens, and the checks before a model uses one."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_models import real_tokenizer, real_tokens
from tokenizers import AddedToken
from tokenizers.normalizers import Lowercase
from toy_tokenizers import BUILDERS, TEXT, toy_tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from crosstok.corpora import Text, Texts
from crosstok.distill.sources.tokenizers import (
    byte_tokenizer,
    check_tokenizer,
    load_tokenizer,
    read_tokenizer,
    train_bpe,
)
from crosstok.distill.tokenizers.roles import Roles
from crosstok.distill.tokenizers.special_tokens import adopt_specials
from crosstok.distill.tokenizers.tokenbytes import Encoding, TokenBytes
from crosstok.errors import UserError

CHAT = (
    "{% for message in messages %}<|start|>{{ message.role }}<|sep|>{{ message.content | trim }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|sep|>{% endif %}"
)


def chat_model_tokenizer(*, adds_bos: bool) -> PreTrainedTokenizerFast:
    """Return a source with roles in conversations: its eos is the end of a turn, another token ends texts."""
    tokenizer = BUILDERS["bpe"]()
    names = ("<|start|>", "<|sep|>", "<|end|>", "<|endoftext|>", "<tool>")
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(name, special=True) for name in names]})
    tokenizer.eos_token = "<|end|>"
    tokenizer.chat_template = CHAT
    tokenizer.add_bos_token = adds_bos
    return tokenizer


def fuzz(count: int) -> list[str]:
    """Return random strings of text, code and anything, and some with the names of special tokens."""
    chosen = random.Random(0)
    alphabet = [
        *map(chr, range(32, 127)),
        " ",
        " ",
        "\n",
        "\t",
        "é",
        "ß",
        "▁",
        "中",
        "🎉",
        "\u0301",
        "<bos>",
        "<|end|>",
    ]
    return ["".join(chosen.choices(alphabet, k=chosen.randrange(40))) for _ in range(count)]


def content_ids(tokens: TokenBytes, texts: list[str]) -> list[list[int] | None]:
    return [answer.ids.tolist() if isinstance(answer, Encoding) else None for answer in tokens.try_encode_many(texts)]


def texts_of(*documents: str) -> Texts:
    return Texts("three lines", "train", tuple(Text(str(n), text) for n, text in enumerate(documents)), {})


# Bytes.


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_byte_tokenizer_has_one_token_per_byte(text: str) -> None:
    tokens = TokenBytes.from_tokenizer(load_tokenizer("bytes"))
    assert bytes(tokens.encode(text).ids.tolist()) == text.encode()


@given(st.binary())
def test_the_byte_tokenizer_decodes_any_bytes(data: bytes) -> None:
    assert TokenBytes.from_tokenizer(byte_tokenizer()).decode(data) == data


def test_the_byte_tokenizer_survives_its_folder(tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("é\x00\n")["input_ids"] == [0xC3, 0xA9, 0, 10]
    assert again.decode([0xC3, 0xA9, 0, 10]) == "é\x00\n"
    assert (again.bos_token_id, again.eos_token_id, again.pad_token_id) == (256, 257, 258)


# Training.


LINES = texts_of(*TEXT.splitlines(keepends=True))


def test_a_trained_tokenizer_spells_every_byte_and_splits_digits() -> None:
    tokens = TokenBytes.from_tokenizer(train_bpe(LINES, 300))
    assert tokens.size == 303
    assert all(tokens.id_of(bytes([value])) is not None for value in range(256))
    assert [tokens.table[index] for index in tokens.encode("1234").ids] == [b"1", b"2", b"3", b"4"]
    assert tokens.id_of(b" the") is not None


def test_training_gives_the_same_tokenizer_in_another_process() -> None:
    code = (
        "import sys\nfrom crosstok.corpora import Text, Texts\n"
        "from crosstok.distill.sources.tokenizers import train_bpe\n"
        "documents = tuple(Text(str(n), text) for n, text in enumerate(sys.stdin.read().splitlines(keepends=True)))\n"
        "print(train_bpe(Texts('lines', 'train', documents, {}), 300).backend_tokenizer.to_str())"
    )
    other = subprocess.run([sys.executable, "-c", code], input=TEXT, capture_output=True, text=True, check=True)
    assert json.loads(other.stdout) == json.loads(train_bpe(LINES, 300).backend_tokenizer.to_str())


def test_a_trained_tokenizer_is_kept_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))
    for number in range(50):
        (tmp_path / f"{number}.txt").write_text("the farmer and the hens and the sun\n" * 5 + f"line {number}")
    spec = f"train:bpe:files:{tmp_path}/*.txt:265"
    first = load_tokenizer(spec)
    kept = list((tmp_path / "cache" / "tokenizers").glob("bpe-*"))
    stamp = (kept[0] / "tokenizer.json").stat().st_mtime_ns
    again = load_tokenizer(spec)
    assert len(kept) == 1
    assert (kept[0] / "tokenizer.json").stat().st_mtime_ns == stamp
    assert again.backend_tokenizer.to_str() == first.backend_tokenizer.to_str()
    for number in range(25):
        (tmp_path / f"{number}.txt").write_text("another text about the farmer\n" * 5)
    load_tokenizer(spec)
    assert len(list((tmp_path / "cache" / "tokenizers").glob("bpe-*"))) == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("train:bpe:stdlib", "train:bpe:CORPUS:SIZE"),
        ("train:bpe:stdlib:many", "train:bpe:CORPUS:SIZE"),
        ("train:unigram:stdlib:300", "did you mean|bpe"),
        ("byte", "'bytes'"),
        ("wheel:qwem", "'qwen'"),
        ("no/such/folder", "Unknown tokenizer"),
    ],
)
def test_a_wrong_name_is_one_clear_line(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=f"(?i){message}"):
        load_tokenizer(spec)


def test_too_little_text_and_too_small_a_size_are_refused() -> None:
    with pytest.raises(UserError, match="gives a vocabulary of"):
        train_bpe(texts_of("one line"), 1000)
    with pytest.raises(UserError, match="at least 256"):
        train_bpe(LINES, 100)


# Folders.


def test_a_folders_tokenizer_json_counts_and_not_the_family_of_its_model(tmp_path: Path) -> None:
    toy_tokenizer("bpe").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    expected = TokenBytes.from_tokenizer(toy_tokenizer("bpe")).fingerprint
    assert TokenBytes.from_tokenizer(read_tokenizer(tmp_path)).fingerprint == expected
    # The trap that read_tokenizer avoids: transformers puts Qwen's normaliser in.
    assert TokenBytes.from_tokenizer(AutoTokenizer.from_pretrained(tmp_path)).fingerprint != expected


def test_a_folder_without_a_tokenizer_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no readable tokenizer"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="no readable tokenizer"):
        load_tokenizer(str(tmp_path))


# Roles and special tokens.


def test_roles_are_read_off_the_chat_template() -> None:
    tokenizer = chat_model_tokenizer(adds_bos=False)
    ids = tokenizer.get_vocab()
    roles = Roles.from_tokenizer(tokenizer)
    assert roles.end_of_turn == roles.eos == ids["<|end|>"]
    assert roles.end_of_text == ids["<|endoftext|>"]
    assert (roles.start_header, roles.end_header) == (ids["<|start|>"], ids["<|sep|>"])
    assert roles.stop_ids == {ids["<|end|>"], ids["<|endoftext|>"]}


def test_a_template_that_fails_leaves_the_roles_to_the_names() -> None:
    tokenizer = chat_model_tokenizer(adds_bos=False)
    tokenizer.chat_template = "{{ raise_exception('system first') }}"
    assert Roles.from_tokenizer(tokenizer).end_of_turn == tokenizer.get_vocab()["<|end|>"]
    assert Roles.from_tokenizer(tokenizer).start_header is None


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_a_tokenizer_that_wears_specials_keeps_its_text_and_reads_the_same_from_disk(
    name: str, tmp_path: Path, *, adds_bos: bool
) -> None:
    target, source = toy_tokenizer(name), chat_model_tokenizer(adds_bos=adds_bos)
    before = target.backend_tokenizer.to_str()
    adopted = adopt_specials(target, source)
    texts = fuzz(1000)
    old, new = TokenBytes.from_tokenizer(target), TokenBytes.from_tokenizer(adopted.tokenizer)
    assert content_ids(new, texts) == content_ids(old, texts)
    assert [new.table[index] for index, data in enumerate(old.table) if data is not None] == [
        data for data in old.table if data is not None
    ]
    adopted.tokenizer.save_pretrained(tmp_path)
    for again in (read_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert TokenBytes.from_tokenizer(again).fingerprint == new.fingerprint
        assert again(texts)["input_ids"] == adopted.tokenizer(texts)["input_ids"]
        assert again.chat_template == CHAT
    assert target.backend_tokenizer.to_str() == before


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_special_tokens_roles_and_templates_are_the_sources(name: str, *, adds_bos: bool) -> None:
    source = chat_model_tokenizer(adds_bos=adds_bos)
    adopted = adopt_specials(toy_tokenizer(name), source)
    assert set(adopted.specials) == set(TokenBytes.from_tokenizer(source).specials)
    for old, new in adopted.specials.items():
        assert source.convert_ids_to_tokens(old) == adopted.tokenizer.convert_ids_to_tokens(new)
    roles = Roles.from_tokenizer(source).as_dict()
    new_roles = Roles.from_tokenizer(adopted.tokenizer).as_dict()
    assert new_roles == {role: adopted.specials[index] for role, index in roles.items()}
    first = adopted.tokenizer("text")["input_ids"][0]
    assert (first == adopted.tokenizer.bos_token_id) == adds_bos
    messages = [{"role": "user", "content": "two words"}]
    rendered = adopted.tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert rendered[0] == adopted.tokenizer.get_vocab()["<|start|>"]
    assert adopted.specials[source.get_vocab()["<|sep|>"]] in rendered
    # The piece for unknown characters stays where the model of the target needs it; nothing else of the target does.
    assert set(TokenBytes.from_tokenizer(adopted.tokenizer).specials.values()) - {"<unk>"} <= set(source.get_vocab())


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_wearing_ones_own_specials_changes_nothing(name: str) -> None:
    tokenizer = toy_tokenizer(name)
    adopted = adopt_specials(tokenizer, tokenizer)
    assert TokenBytes.from_tokenizer(adopted.tokenizer).fingerprint == TokenBytes.from_tokenizer(tokenizer).fingerprint
    assert all(old == new for old, new in adopted.specials.items())
    assert adopted.tokenizer(fuzz(50))["input_ids"] == tokenizer(fuzz(50))["input_ids"]


def test_a_special_that_the_target_has_as_text_becomes_special() -> None:
    target = BUILDERS["bpe"]()
    target.add_tokens([AddedToken("<tool>"), AddedToken("<br>")])
    adopted = adopt_specials(target, chat_model_tokenizer(adds_bos=False))
    tokens = TokenBytes.from_tokenizer(adopted.tokenizer)
    assert tokens.specials[400] == "<tool>"
    assert tokens.table[401] == b"<br>"


@pytest.mark.real
@pytest.mark.parametrize("pair", [("smollm2", "gemma3"), ("gemma3", "smollm2"), ("smollm2", "deepseek")], ids="-".join)
def test_real_tokenizers_exchange_their_specials(pair: tuple[str, str], tmp_path: Path) -> None:
    source, target = map(real_tokenizer, pair)
    adopted = adopt_specials(target, source)
    adopted.tokenizer.save_pretrained(tmp_path)
    family = "gemma3_text" if pair[0] == "gemma3" else "llama"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    again = AutoTokenizer.from_pretrained(tmp_path)
    texts = fuzz(1000)
    assert again(texts)["input_ids"] == adopted.tokenizer(texts)["input_ids"]
    tokens = TokenBytes.from_tokenizer(again)
    assert content_ids(tokens, texts) == content_ids(real_tokens(pair[1]), texts)
    assert set(real_tokens(pair[0]).specials.values()) <= set(tokens.specials.values())
    first = source("text")["input_ids"][0]
    assert again("text")["input_ids"][0] == adopted.specials.get(first, again("text")["input_ids"][0])


@pytest.mark.real
def test_smollm2_has_its_roles() -> None:
    tokenizer = real_tokenizer("smollm2")
    roles = Roles.from_tokenizer(tokenizer)
    assert (roles.bos, roles.eos, roles.end_of_turn, roles.end_of_text, roles.start_header) == (1, 2, 2, 0, 1)
    assert tokenizer("a")["input_ids"][0] != roles.bos


# Checks.


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_a_tokenizer_that_fits_passes(name: str) -> None:
    tokenizer = toy_tokenizer(name)
    check_tokenizer(tokenizer, len(tokenizer))
    check_tokenizer(tokenizer, len(tokenizer) + 100)  # a padded matrix


def test_ids_past_the_matrix_are_named() -> None:
    with pytest.raises(UserError, match=r"beyond the 398 embedding rows of the model: 398 .*, 399 "):
        check_tokenizer(toy_tokenizer("bpe"), 398)
    with pytest.raises(UserError, match="and 95 more"):
        check_tokenizer(toy_tokenizer("bpe"), 300)


def test_a_tokenizer_that_rewrites_ascii_is_refused() -> None:
    tokenizer = BUILDERS["bpe"]()
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    with pytest.raises(UserError, match="does not reproduce plain ASCII"):
        check_tokenizer(tokenizer, 400)
