"""Parsing of ``tokenizer.json``: the bytes of each id, the special ids, and the rules by which text is split.

This is the part of :mod:`crosstok.distill.tokenizers.tokenbytes` that depends on the tokenizer family. It parses the
file because the library's objects do not expose all of its content.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

from tokenizers import Tokenizer

from crosstok.errors import UserError

_METASPACE = "\u2581"
_FALLBACK = {f"<0x{value:02X}>": bytes([value]) for value in range(256)}


def _byte_symbols() -> dict[str, int]:
    """Return GPT-2's printable character for each byte: Latin-1 if printable, else from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [value for value in range(256) if value not in visible]
    return {chr(value): value for value in visible} | {chr(0x100 + rank): value for rank, value in enumerate(hidden)}


BYTE_SYMBOLS = _byte_symbols()
"""Maps the printable characters of byte-level vocabularies to bytes (inverse of GPT-2's ``bytes_to_unicode``)."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenizerFile:
    """A parsed ``tokenizer.json``."""

    settings: dict[str, Any]
    pieces: dict[int, str]
    """The model's vocabulary, as written in the file."""
    specials: dict[int, str]
    """Added tokens with a role instead of text."""
    symbols: dict[int, str]
    """Added tokens that are text, which are matched before anything else."""

    @classmethod
    def parse(cls, content: str, roles: Iterable[str] = ()) -> Self:
        """Parse the content of a file. ``roles`` are tokens that the configuration declares special.

        Raises UserError for tokenizer families whose pieces are not bytes of text.
        """
        settings: dict[str, Any] = json.loads(content)
        _check_family(settings["model"])
        vocabulary = settings["model"]["vocab"]
        if settings["model"]["type"] == "Unigram":
            pieces = {index: piece for index, (piece, _) in enumerate(vocabulary)}
        else:
            pieces = {index: piece for piece, index in vocabulary.items()}
        named = frozenset(roles)
        specials: dict[int, str] = {}
        symbols: dict[int, str] = {}
        for token in settings["added_tokens"]:
            kind = specials if token["special"] or token["content"] in named else symbols
            kind[token["id"]] = token["content"]
        return cls(settings, pieces, specials, symbols)

    def table(self) -> tuple[bytes | None, ...]:
        """Return the bytes of each id; None for special and unused ids."""
        kinds = list(_components(self.settings, "normalizer", "pre_tokenizer", "decoder"))
        byte_level = any(kind["type"] == "ByteLevel" for kind in kinds)
        metaspace = not byte_level and any(_writes_metaspace(kind) for kind in kinds)
        fallback = bool(self.settings["model"].get("byte_fallback"))

        def literal(piece: str) -> bytes:
            return (piece.replace(_METASPACE, " ") if metaspace else piece).encode()

        def spelt(piece: str) -> bytes:
            if byte_level:
                try:
                    return bytes([BYTE_SYMBOLS[symbol] for symbol in piece])
                except KeyError:  # outside the alphabet: the library's decoder uses such a piece literally
                    return piece.encode()
            if fallback and piece in _FALLBACK:
                return _FALLBACK[piece]
            return literal(piece)

        table: list[bytes | None] = [None] * (max(chain(self.pieces, self.specials, self.symbols), default=-1) + 1)
        for index, piece in self.pieces.items():
            table[index] = spelt(piece)
        for index, content in self.symbols.items():
            table[index] = literal(content)
        for index in self.specials:
            table[index] = None
        return tuple(table)

    def inverse(self, table: tuple[bytes | None, ...]) -> dict[bytes, int]:
        """Return a map from bytes to id; ordinary pieces precede added tokens, these ``<0xHH>`` pieces, then by id."""

        def rank(index: int) -> tuple[int, int]:
            is_fallback = table[index] == _FALLBACK.get(self.pieces.get(index, ""), b"")
            return (2 if is_fallback else 1 if index in self.symbols else 0, index)

        best: dict[bytes, int] = {}
        for index, data in enumerate(table):
            if data and (data not in best or rank(index) < rank(best[data])):
                best[data] = index
        return best

    def content_encoder(self) -> Tokenizer:
        """Return the tokenizer without special tokens, post-processor, truncation, padding and dropout.

        Special pieces in the model's own vocabulary are renamed to strings that occur in no text. Otherwise, a Unigram
        model, and a BPE model with ``ignore_merges``, would match a literal ``</s>``.
        """
        names = set(self.specials.values())
        hidden = {name: f"\ufdd0{rank}\ufdd1" for rank, name in enumerate(sorted(names))}  # Unicode noncharacters
        model = dict(self.settings["model"])
        if model["type"] == "Unigram":
            model["vocab"] = [[hidden.get(piece, piece), score] for piece, score in model["vocab"]]
        else:
            model["vocab"] = {hidden.get(piece, piece): index for piece, index in model["vocab"].items()}
            model["merges"] = [
                [left, right]
                for left, right in model["merges"]
                if left not in hidden and right not in hidden and left + right not in hidden
            ]
            model["dropout"] = None
            model["unk_token"] = hidden.get(model["unk_token"], model["unk_token"])
        content = self.settings | {
            "model": model,
            "added_tokens": [token for token in self.settings["added_tokens"] if token["content"] not in names],
            "post_processor": None,
            "truncation": None,
            "padding": None,
        }
        return Tokenizer.from_str(json.dumps(content, ensure_ascii=False))

    def fingerprint(self, table: tuple[bytes | None, ...]) -> str:
        """Return 16 hex digits that depend on the bytes of every id and on every rule by which text is split."""
        digest = hashlib.sha256()
        for data in table:
            digest.update(b"-" if data is None else b"%d:%b" % (len(data), data))
        model = {key: value for key, value in self.settings["model"].items() if key != "vocab"}
        if model["type"] == "Unigram":
            model["scores"] = [score for _, score in self.settings["model"]["vocab"]]
        rules = {
            "model": model,
            "normalizer": self.settings["normalizer"],
            "pre_tokenizer": self.settings["pre_tokenizer"],
            "added": sorted(self.settings["added_tokens"], key=lambda token: int(token["id"])),
            "specials": sorted(self.specials.items()),
        }
        digest.update(json.dumps(rules, sort_keys=True).encode())
        return digest.hexdigest()[:16]


def _check_family(model: dict[str, Any]) -> None:
    if model["type"] not in {"BPE", "Unigram"}:
        raise UserError(
            f"Tokenizers of type {model['type']} are not supported: they do not preserve white space.",
            hint="Use a BPE or Unigram tokenizer.",
        )
    for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(affix):
            raise UserError(
                f"The tokenizer's pieces are not bytes of text: they have the {affix} {model[affix]!r}.",
                hint="Use a byte-level or SentencePiece tokenizer.",
            )


def _components(settings: dict[str, Any], *slots: str) -> Iterator[dict[str, Any]]:
    """Yield every normaliser, pre-tokenizer or decoder in ``slots``, with sequences flattened."""
    waiting = [settings[slot] for slot in slots if settings.get(slot)]
    while waiting:
        component = waiting.pop(0)
        for key in ("normalizers", "pretokenizers", "decoders"):
            waiting.extend(component.get(key) or [])
        yield component


def _writes_metaspace(component: dict[str, Any]) -> bool:
    pattern = component.get("pattern")
    text = pattern.get("String") if isinstance(pattern, dict) else None
    prepended = component.get("prepend")
    return component["type"] == "Metaspace" or _METASPACE in (component.get("content"), text, prepended)
