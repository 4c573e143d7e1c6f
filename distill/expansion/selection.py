"""Choosing the tokens that a vocabulary is to have in addition; what can be asked for stands in ``tokens_spec``.

A listed string or a word becomes one token through a row of merges, whose intermediate results are tokens too; they are
counted apart, and what a string shares with an earlier one is not made twice. The words of ``frequency`` are ranked by
what each would save by itself, count x (pieces - 1), as their number and length decide together.

A token is worth having only if some text is encoded as it. Where the tokenizer cuts a token's own text in two (it was
learnt inside of a longer word), the token is left out and another one takes its place; a listed one is refused. The
report says how many were left out, and that none of those that were taken is out of reach.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from crosstok.corpora import load_texts
from crosstok.distill.expansion.merges import Merge, Vocabulary, Word, Words, learn, spell, with_merges
from crosstok.distill.expansion.tokens_spec import FromText, TokensSpec
from crosstok.distill.tokenizers.spellings import spellings
from crosstok.distill.tokenizers.tokenbytes import Encoding, TokenBytes
from crosstok.errors import UserError
from crosstok.fingerprint import bytes_sha256

_REPORTED = 5
_FRONTS = ("", "\n", "x", "(", " ")  # what a token may stand behind to be reached


@dataclass(frozen=True)
class Expansion:
    """A tokenizer with more tokens, and what they do to a text."""

    tokenizer: PreTrainedTokenizerFast
    tokens: TokenBytes
    first: int
    """The first new id; all ids from here on are new, all others what they were."""
    spellings: tuple[tuple[int, ...], ...]
    """For each new id the ids of its old spelling."""
    report: dict[str, Any]
    """What was chosen, left out, and gained."""
    table: list[dict[str, Any]]
    """A row per new token: ``id``, ``text``, ``spelling`` and, where a text was read, its ``uses`` there, its ``bytes``
    and the ``tokens_saved``."""

    @property
    def count(self) -> int:
        """How many new ids there are."""
        return len(self.spellings)


def expand_tokenizer(tokenizer: PreTrainedTokenizerFast, spec: TokensSpec, data: Path | None = None) -> Expansion:
    """Return ``tokenizer`` with the tokens that ``spec`` asks for; ``data`` is the data folder.

    Raises UserError for listed tokens that can never be reached, an expansion that would add nothing, a text too small
    for the size, and a tokenizer that is no BPE.
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
            f"{len(lost)} new tokens can never be reached: {_named([repr(tokens.table[index]) for index in lost])}.",
            hint="Leave them out: the tokenizer cuts text inside of them.",
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
    """Return bytes as text; what is no character stands as an escape."""
    return data.decode(errors="backslashreplace")


def unreachable(tokens: TokenBytes, first: int) -> list[int]:
    """Return the ids from ``first`` on that no text is encoded as, as far as their own text tells.

    A token that ends inside of a character has no text of its own; merges reach it wherever its bytes come up.
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
    """Choose merges until all are reached; return the tokenizer, what was chosen, and how many tokens were left out."""
    forbidden: set[bytes] = set()
    while True:
        chosen = choose(words.vocabulary.without(forbidden))
        if chosen.made < source.size:
            found = f"gives {chosen.made} new tokens" if chosen.made else "has no new token"
            raise UserError(
                f"The corpus {source.corpus!r} {found}, not {source.size}: nothing else comes up twice.",
                hint="Ask for fewer, or take more text (limit_bytes says how much of it is read).",
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
    """How many of the tokens are wanted for themselves; the others are on the way to them."""


def _continued(seen: Counter[Word], vocabulary: Vocabulary, size: int) -> _Chosen:
    merges = learn(seen, vocabulary, size)
    return _Chosen(merges, len(merges))


def _frequent(seen: Counter[Word], vocabulary: Vocabulary, size: int) -> _Chosen:
    """Return merges for the ``size`` words that save most."""
    ranked = sorted(seen.items(), key=lambda item: (-item[1] * (len(item[0]) - 1), item[0]))
    merges: list[Merge] = []
    made = 0
    for word, count in ranked:
        if made == size:
            break
        if count > 1 and (added := spell(word, merges, vocabulary)):
            merges.extend(added)
            made += 1
    return _Chosen(merges, made)


def _listed(words: Words, old: TokenBytes, wanted: Sequence[str]) -> tuple[list[Merge], dict[str, Any]]:
    """Return merges that make every one of ``wanted`` a token, those that are tokens already left out."""
    present = [text for text in dict.fromkeys(wanted) if len(old.encode(text).ids) == 1]
    merges: list[Merge] = []
    lost: list[str] = []
    made = 0
    for text in dict.fromkeys(wanted):
        if text in present:
            continue
        parts = words.of(text)
        added = spell(parts[0], merges, words.vocabulary) if len(parts) == 1 else None
        if added is None:
            lost.append(text)
            continue
        made += bool(added)
        merges.extend(added)
    if lost:
        raise UserError(
            f"{len(lost)} of the listed tokens can never be reached: {_named([repr(text) for text in lost])}.",
            hint="The tokenizer cuts text inside of them, or has a token in their way; take them out of the list.",
        )
    if not merges:
        are = "is a token" if len(present) == 1 else "are tokens"
        what = f"{_named([repr(text) for text in present])} {are} already" if present else "no token is listed"
        raise UserError(f"The expansion is empty: {what}.", hint="List tokens that the model lacks.")
    return merges, {"already_there": present, "intermediate": len(merges) - made}


def _gain(old: TokenBytes, new: TokenBytes, texts: Sequence[str], table: list[dict[str, Any]]) -> dict[str, float]:
    """Return tokens per byte before and after, and write into ``table`` what each new token saves."""
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
    """Return documents of the text in an order that a hash of their names decides, up to the limit."""
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
    """Return listed tokens, out of a file where one is named. Raises UserError for a file that cannot be read."""
    if not isinstance(given, str):
        return [text for text in given if text]
    try:
        return [line for line in Path(given).read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The list of tokens {given} cannot be read: {error}.", hint="One token a line.") from error


def _named(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _REPORTED} more" if len(texts) > _REPORTED else ""
    return ", ".join(texts[:_REPORTED]) + more
