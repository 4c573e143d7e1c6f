"""BPE merges that extend a tokenizer, appended after its existing ones.

BPE applies the merge of lowest rank first, so an appended merge only sees what the existing ones have left. This has
two consequences. Text without new tokens is encoded as before. And a new token always stands for the same sequence of
old tokens, its *spelling*, which follows from the merges: every new token is the merge of two existing tokens.

Merges stay within the words of the tokenizer's own pre-tokenization; without one (SentencePiece), a word begins with
its space. A merge is skipped if its string or its bytes already belong to a token: the old tokenizer has this token but
does not use it here, so using it would change the encoding of old text.
"""

import heapq
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from crosstok.distill.tokenizers.tokenizer_building import fast_tokenizer
from crosstok.distill.tokenizers.tokenizer_file import TokenizerFile
from crosstok.errors import UserError

Word = tuple[str, ...]
"""A word as a sequence of pieces."""
Merge = tuple[str, str]
_SPACES = ("\u2581", "\u0120", " ")


class Vocabulary:
    """The set of existing pieces, by string and by bytes, to which merges are added one by one."""

    def __init__(self, data: Mapping[str, bytes], strings: frozenset[str], taken: frozenset[bytes]) -> None:
        """Take the bytes of the pieces that may be merged (``data``), and the strings and bytes already in use."""
        self._data = dict(data)
        self._strings = set(strings)
        self._taken = set(taken)

    def allows(self, merge: Merge) -> bool:
        """Return whether the merge creates a token that does not exist."""
        left, right = merge
        if left + right in self._strings or left not in self._data or right not in self._data:
            return False
        return self._data[left] + self._data[right] not in self._taken

    def add(self, merge: Merge) -> None:
        """Add the result of a merge."""
        left, right = merge
        self._data[left + right] = self._data[left] + self._data[right]
        self._strings.add(left + right)
        self._taken.add(self._data[left + right])

    def remove(self, merge: Merge) -> None:
        """Undo the last ``add``."""
        made = merge[0] + merge[1]
        self._strings.remove(made)
        self._taken.remove(self._data.pop(made))

    def without(self, forbidden: Iterable[bytes]) -> "Vocabulary":
        """Return an independent copy in which no merge may create any of ``forbidden``."""
        return Vocabulary(self._data, frozenset(self._strings), frozenset(self._taken).union(forbidden))


class Words:
    """Splits text into words and words into pieces, like a given tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Raise UserError if the tokenizer is not BPE: only BPE allows merges to be appended."""
        file = TokenizerFile.parse(tokenizer.backend_tokenizer.to_str(), tokenizer.all_special_tokens)
        kind = file.settings["model"]["type"]
        if kind != "BPE":
            raise UserError(
                f"A tokenizer of type {kind} cannot be expanded without changing the encoding of existing text.",
                hint="Use a model with a BPE tokenizer.",
            )
        self._encoder = file.content_encoder()
        table = file.table()
        # Pieces like <0x0A> stand for a byte; a merge of two would be the string of their names, not of their bytes.
        alone = {*file.symbols.values(), *file.specials.values(), *(f"<0x{value:02X}>" for value in range(256))}
        data = {piece: table[index] or b"" for index, piece in file.pieces.items() if piece not in alone}
        strings = frozenset({*file.pieces.values(), *alone})
        self.vocabulary = Vocabulary(data, strings, frozenset(entry for entry in table if entry))
        self._alone = alone

    def count(self, texts: Iterable[str]) -> Counter[Word]:
        """Return the words of ``texts`` with more than one piece, and their counts."""
        words: Counter[Word] = Counter()
        for text in texts:
            words.update(word for word in self.split(text) if len(word) > 1)
        return words

    def split(self, text: str) -> list[Word]:
        """Return the words of ``text``. An added token, and a token that stands for a byte, is a word by itself."""
        encoding = self._encoder.encode(text, add_special_tokens=False)
        words: list[list[str]] = []
        before: int | None = None
        for piece, word in zip(encoding.tokens, encoding.word_ids, strict=True):
            begins = word != before or piece.startswith(_SPACES) or piece in self._alone
            if begins or not words or words[-1][-1] in self._alone:
                words.append([])
            words[-1].append(piece)
            before = word
        return [tuple(word) for word in words]


def apply_merge(word: Word, merge: Merge) -> Word:
    """Return ``word`` after one merge, applied from left to right."""
    pieces: list[str] = []
    place = 0
    while place < len(word):
        if word[place : place + 2] == merge:
            pieces.append(merge[0] + merge[1])
            place += 2
        else:
            pieces.append(word[place])
            place += 1
    return tuple(pieces)


def apply_merges(word: Word, merges: Sequence[Merge]) -> Word:
    """Return ``word`` after ``merges``, applied in order."""
    for merge in merges:
        if len(word) == 1:
            break
        if merge[0] in word:
            word = apply_merge(word, merge)
    return word


def learn_merges(words: Counter[Word], vocabulary: Vocabulary, size: int) -> list[Merge]:
    """Return up to ``size`` merges that continue BPE training on ``words``, most frequent pair first.

    Ties are broken in favour of the pair that sorts first; pairs with a count of 1 are ignored. The merges are added to
    ``vocabulary``.
    """
    pairs = _Pairs(words)
    merges: list[Merge] = []
    while len(merges) < size and (best := pairs.pop()):
        if vocabulary.allows(best):
            vocabulary.add(best)
            merges.append(best)
            pairs.merge(best)
    return merges


class _Pairs:
    """Adjacent pieces of words with their counts, in a heap whose entries may overestimate them."""

    def __init__(self, words: Counter[Word]) -> None:
        self._words = dict(words)
        self._counts: Counter[Merge] = Counter()
        self._where: defaultdict[Merge, set[Word]] = defaultdict(set)
        for word, count in words.items():
            self._add(word, count)
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapq.heapify(self._heap)

    def pop(self) -> Merge | None:
        """Return the most frequent pair that has not been returned yet; None if no other pair has a count above 1."""
        while self._heap:
            count, pair = heapq.heappop(self._heap)
            actual = self._counts[pair]
            if actual > 1 and -count != actual:  # its count has decreased since it was pushed
                heapq.heappush(self._heap, (-actual, pair))
            elif actual > 1:
                return pair
        return None

    def merge(self, pair: Merge) -> None:
        """Apply the merge of ``pair`` to all words."""
        made = pair[0] + pair[1]
        grown: set[Merge] = set()
        for word in self._where.pop(pair):
            if count := self._words.pop(word, 0):
                self._add(word, -count)
                new = apply_merge(word, pair)
                self._words[new] = self._words.get(new, 0) + count
                self._add(new, count)
                grown |= {found for found in itertools.pairwise(new) if made in found}
        for found in grown:
            heapq.heappush(self._heap, (-self._counts[found], found))

    def _add(self, word: Word, count: int) -> None:
        for pair in itertools.pairwise(word):
            self._counts[pair] += count
            if count > 0:
                self._where[pair].add(word)


def merges_for(word: Word, merges: Sequence[Merge], vocabulary: Vocabulary) -> list[Merge] | None:
    """Return the merges needed after ``merges`` to turn ``word`` into one piece; None if an existing token prevents it.

    ``vocabulary`` contains the results of ``merges``; the returned merges are added to it.
    """
    word = apply_merges(word, merges)
    added: list[Merge] = []
    while len(word) > 1:
        pair = (word[0], word[1])
        if not vocabulary.allows(pair):
            for merge in reversed(added):
                vocabulary.remove(merge)
            return None
        added.append(pair)
        vocabulary.add(pair)
        word = apply_merge(word, pair)
    return added


def with_merges(tokenizer: PreTrainedTokenizerFast, merges: Sequence[Merge]) -> PreTrainedTokenizerFast:
    """Return ``tokenizer`` with ``merges`` appended; new ids follow the old ones, in the order of the merges."""
    settings: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    model = settings["model"]
    vocabulary = dict(model["vocab"])
    first = 1 + max([*vocabulary.values(), *(int(token["id"]) for token in settings["added_tokens"])])
    vocabulary |= {left + right: first + place for place, (left, right) in enumerate(merges)}
    settings["model"] = model | {
        "vocab": vocabulary,
        "merges": [*model["merges"], *([left, right] for left, right in merges)],
    }
    roles = {
        role: str(token)
        for role in ("bos", "eos", "pad", "unk")
        if (token := getattr(tokenizer, f"{role}_token")) is not None
    }
    grown = fast_tokenizer(Tokenizer.from_str(json.dumps(settings, ensure_ascii=False)), roles)
    grown.chat_template = tokenizer.chat_template
    grown.model_max_length = tokenizer.model_max_length
    grown.padding_side = tokenizer.padding_side
    return grown
