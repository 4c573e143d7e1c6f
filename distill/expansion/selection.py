"""Selection of the tokens to add to a vocabulary (see ``tokens_spec`` for the options).

A listed string or a word becomes a token through a sequence of merges. The intermediate results are tokens too; they
are counted separately and shared between strings. ``frequency`` ranks words by the tokens that each would save by
itself, count x (pieces - 1).

A token is useful only if some text is encoded as it. If the tokenizer splits a token's own text (because it was learned
inside a longer word), the token is replaced by another one, or rejected if it was listed. The report gives the number
of tokens left out and confirms that all selected ones are reachable.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from crosstok.corpora import load_texts
from crosstok.distill.expansion.merges import Merge, Vocabulary, Word, Words, learn_merges, merges_for, with_merges
from crosstok.distill.expansion.tokens_spec import FromText, TokensSpec
from crosstok.distill.tokenizers.spellings import spellings
from crosstok.distill.tokenizers.tokenbytes import Encoding, TokenBytes
from crosstok.errors import UserError
from crosstok.fingerprint import bytes_sha256

_REPORTED = 5
_FRONTS = ("", "\n", "x", "(", " ")  # contexts in which a token is tried


@dataclass(frozen=True)
class Expansion:
    """An expanded tokenizer, with the effect of the new tokens on a text."""

    tokenizer: PreTrainedTokenizerFast
    tokens: TokenBytes
    first: int
    """First new id; all ids below it are unchanged."""
    spellings: tuple[tuple[int, ...], ...]
    """Old ids that each new id stands for."""
    report: dict[str, Any]
    """Counts of selected and skipped tokens, and the savings."""
    table: list[dict[str, Any]]
    """One row per new token: ``id``, ``text``, ``spelling`` and, if a text was read, ``uses`` and ``bytes`` in it and
    ``tokens_saved``.
    """

    @property
    def count(self) -> int:
        """Number of new ids."""
        return len(self.spellings)


def expand_tokenizer(tokenizer: PreTrainedTokenizerFast, spec: TokensSpec, data: Path | None = None) -> Expansion:
    """Return ``tokenizer`` with the tokens that ``spec`` selects; ``data`` is the data folder.

    Raises UserError for listed tokens that are unreachable, an expansion without new tokens, a text too small for the
    size, and a tokenizer that is not BPE.
    """
    words = Words(tokenizer)
    old = TokenBytes.from_tokenizer(tokenizer)
    report: dict[str, Any] = {}
    texts: list[str] = []
    if spec.text is not None:
        texts = _some(spec.text, data)
        seen, size = words.count(texts), spec.text.size
        choose = _continued if spec.train_bpe else _frequent
        grown, chosen, left_out = _reachable(
            tokenizer, spec.text, lambda vocabulary: choose(seen, vocabulary, size), words
        )
        report |= {"left_out": left_out, "intermediate": len(chosen.merges) - chosen.made}
    else:
        merges, found = _listed(words, old, strings(spec.list or ()))
        report |= found
        grown = with_merges(tokenizer, merges)
    tokens = TokenBytes.from_tokenizer(grown)
    report["unreachable"] = len(lost := unreachable(tokens, old.size))
    if lost:
        raise UserError(
            f"{len(lost)} new tokens are unreachable: {_named([repr(tokens.table[index]) for index in lost])}.",
            hint="Remove them: the tokenizer splits their text.",
        )
    spelt = spellings(tokens, old.size)
    table = [
        {"id": index, "text": shown(tokens.table[index] or b""), "spelling": list(spelling)}
        for index, spelling in enumerate(spelt, old.size)
    ]
    if texts:
        report |= _gain(old, tokens, texts, table)
    return Expansion(grown, tokens, old.size, spelt, report, table)


def shown(data: bytes) -> str:
    """Return bytes as text, with invalid UTF-8 escaped."""
    return data.decode(errors="backslashreplace")


def unreachable(tokens: TokenBytes, first: int) -> list[int]:
    """Return the ids from ``first`` on that no text is encoded as, judged by their own text.

    A token that is not valid UTF-8 has no text of its own; merges produce it wherever its bytes occur.
    """
    missing: dict[int, str] = {}
    for index in range(first, tokens.size):
        try:
            missing[index] = (tokens.table[index] or b"").decode()
        except UnicodeDecodeError:
            continue
    for front in _FRONTS:
        found = tokens.try_encode_many([front + text for text in missing.values()])
        for index, encoding in zip(list(missing), found, strict=True):
            if isinstance(encoding, Encoding) and index in encoding.ids:
                del missing[index]
    return list(missing)


def _reachable(
    tokenizer: PreTrainedTokenizerFast, source: FromText, choose: Callable[[Vocabulary], "_Chosen"], words: Words
) -> tuple[PreTrainedTokenizerFast, "_Chosen", int]:
    """Select merges until all are reachable; return the tokenizer, the selection, and the number of tokens left out."""
    forbidden: set[bytes] = set()
    while True:
        chosen = choose(words.vocabulary.without(forbidden))
        if chosen.made < source.size:
            raise UserError(
                f"The corpus {source.corpus!r} yields only {chosen.made} of {source.size} new tokens that occur twice.",
                hint="Decrease size, use more text, or increase limit_bytes.",
            )
        grown = with_merges(tokenizer, chosen.merges)
        tokens = TokenBytes.from_tokenizer(grown)
        lost = {tokens.table[index] or b"" for index in unreachable(tokens, tokens.size - len(chosen.merges))}
        if not lost:
            return grown, chosen, len(forbidden)
        forbidden |= lost


@dataclass(frozen=True)
class _Chosen:
    merges: list[Merge]
    made: int
    """Number of tokens that were selected; the others are intermediate."""


def _continued(seen: Counter[Word], vocabulary: Vocabulary, size: int) -> _Chosen:
    merges = learn_merges(seen, vocabulary, size)
    return _Chosen(merges, len(merges))


def _frequent(seen: Counter[Word], vocabulary: Vocabulary, size: int) -> _Chosen:
    """Return merges for the ``size`` words with the largest savings."""
    ranked = sorted(seen.items(), key=lambda item: (-item[1] * (len(item[0]) - 1), item[0]))
    merges: list[Merge] = []
    made = 0
    for word, count in ranked:
        if made == size:
            break
        if count > 1 and (added := merges_for(word, merges, vocabulary)):
            merges.extend(added)
            made += 1
    return _Chosen(merges, made)


def _listed(words: Words, old: TokenBytes, wanted: Sequence[str]) -> tuple[list[Merge], dict[str, Any]]:
    """Return merges that make each of ``wanted`` a token; strings that are tokens already are skipped."""
    present = [text for text in dict.fromkeys(wanted) if len(old.encode(text).ids) == 1]
    merges: list[Merge] = []
    lost: list[str] = []
    made = 0
    for text in dict.fromkeys(wanted):
        if text in present:
            continue
        parts = words.split(text)
        added = merges_for(parts[0], merges, words.vocabulary) if len(parts) == 1 else None
        if added is None:
            lost.append(text)
            continue
        made += bool(added)
        merges.extend(added)
    if lost:
        raise UserError(
            f"{len(lost)} of the listed tokens are unreachable: {_named([repr(text) for text in lost])}.",
            hint="Remove them: the tokenizer splits their text, or an existing token prevents the merge.",
        )
    if not merges:
        are = "is a token" if len(present) == 1 else "are tokens"
        what = f"{_named([repr(text) for text in present])} {are} already" if present else "no token is listed"
        raise UserError(f"The expansion is empty: {what}.", hint="List tokens that the vocabulary lacks.")
    return merges, {"already_there": present, "intermediate": len(merges) - made}


def _gain(old: TokenBytes, new: TokenBytes, texts: Sequence[str], table: list[dict[str, Any]]) -> dict[str, float]:
    """Return tokens per byte before and after, and add the savings of each new token to ``table``."""
    size = sum(len(text.encode()) for text in texts)
    before = sum(len(one.ids) for one in old.try_encode_many(texts) if isinstance(one, Encoding))
    encodings = [one.ids for one in new.try_encode_many(texts) if isinstance(one, Encoding)]
    after = sum(map(len, encodings))
    uses = np.bincount(np.concatenate([*encodings, np.zeros(0, np.int32)]), minlength=new.size)
    for row in table:
        used = int(uses[row["id"]])
        row["uses"] = used
        row["bytes"] = used * int(new.lengths[row["id"]])
        row["tokens_saved"] = used * (len(row["spelling"]) - 1)
    return {
        "bytes": size,
        "tokens_per_byte_before": before / size,
        "tokens_per_byte_after": after / size,
        "bytes_per_token_gained": size / after - size / before,
        "tokens_saved": before - after,
        "unused_in_corpus": sum(not row["uses"] for row in table),
    }


def _some(source: FromText, data: Path | None) -> list[str]:
    """Return documents of the text, in the order of a hash of their ids, up to the size limit."""
    documents = load_texts(source.corpus, "train", data).documents
    found: list[str] = []
    size = 0
    for document in sorted(documents, key=lambda one: bytes_sha256(one.id.encode())):
        if size >= source.limit_bytes:
            break
        text = document.text.encode()[: source.limit_bytes - size].decode(errors="ignore")
        found.append(text)
        size += len(text.encode())
    return found


def strings(given: Sequence[str] | str) -> list[str]:
    """Return the listed tokens, read from a file if one is named. Raises UserError for a file that cannot be read."""
    if not isinstance(given, str):
        return [text for text in given if text]
    try:
        return [line for line in Path(given).read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The token list {given} cannot be read: {error}.", hint="Write one token per line.") from error


def _named(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _REPORTED} more" if len(texts) > _REPORTED else ""
    return ", ".join(texts[:_REPORTED]) + more
