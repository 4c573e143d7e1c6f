"""A BPE tokenizer that learns more merges, all of them behind those that it has.

BPE applies the merge of lowest rank first, so a merge that stands behind all old ones only ever sees what these have
left. Two things follow. Text in which no new token comes up is cut exactly as before. And a new token always stands for
the same old tokens in a row, its *spelling*, which is read off the merges: every new token is the merge of two tokens
that exist.

Merges stay inside the words that the tokenizer itself cuts a text into (its pre-tokenization); where it cuts none
(SentencePiece), a word begins with its space. A merge is left alone if its string or its bytes belong to a token
already: the old tokenizer has that token and does not write it here, so to write it would change old text.
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
"""A word as the pieces that it consists of."""
Merge = tuple[str, str]
_SPACES = ("\u2581", "\u0120", " ")


class Vocabulary:
    """The pieces that there are, by string and by bytes; merges are added to it one by one."""

    def __init__(self, data: Mapping[str, bytes], strings: frozenset[str], taken: frozenset[bytes]) -> None:
        """``data`` are the bytes of pieces that may be merged; ``strings`` and ``taken`` belong to a token already."""
        self._data = dict(data)
        self._strings = set(strings)
        self._taken = set(taken)

    def takes(self, merge: Merge) -> bool:
        """Tell whether the merge makes a token that is not there."""
        left, right = merge
        if left + right in self._strings or left not in self._data or right not in self._data:
            return False
        return self._data[left] + self._data[right] not in self._taken

    def add(self, merge: Merge) -> None:
        """Add what the merge makes."""
        left, right = merge
        self._data[left + right] = self._data[left] + self._data[right]
        self._strings.add(left + right)
        self._taken.add(self._data[left + right])

    def remove(self, merge: Merge) -> None:
        """Take back what was added last."""
        made = merge[0] + merge[1]
        self._strings.remove(made)
        self._taken.remove(self._data.pop(made))

    def without(self, forbidden: Iterable[bytes]) -> "Vocabulary":
        """Return the same vocabulary, to be added to by itself, in which no merge makes any of ``forbidden``."""
        return Vocabulary(self._data, frozenset(self._strings), frozenset(self._taken).union(forbidden))


class Words:
    """Cuts text into words and words into pieces, as one tokenizer does."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Raise UserError for a tokenizer that is no BPE: merges cannot be appended to another kind."""
        file = TokenizerFile.parse(tokenizer.backend_tokenizer.to_str(), tokenizer.all_special_tokens)
        kind = file.settings["model"]["type"]
        if kind != "BPE":
            raise UserError(
                f"A tokenizer of type {kind} cannot be given more tokens without changing how old text is cut.",
                hint="Expand a model with a BPE tokenizer.",
            )
        self._encoder = file.content_encoder()
        table = file.table()
        # Pieces like <0x0A> stand for a byte; two of them side by side would be read as the letters that they show.
        alone = {*file.symbols.values(), *file.specials.values(), *(f"<0x{value:02X}>" for value in range(256))}
        data = {piece: table[index] or b"" for index, piece in file.pieces.items() if piece not in alone}
        strings = frozenset({*file.pieces.values(), *alone})
        self.vocabulary = Vocabulary(data, strings, frozenset(entry for entry in table if entry))
        self._alone = alone

    def count(self, texts: Iterable[str]) -> Counter[Word]:
        """Return the words of ``texts`` of more than one piece, and how often each comes up."""
        words: Counter[Word] = Counter()
        for text in texts:
            words.update(word for word in self.of(text) if len(word) > 1)
        return words

    def of(self, text: str) -> list[Word]:
        """Return the words of ``text``. A token that was added by hand, or stands for a byte, is a word by itself."""
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


def joined(word: Word, merge: Merge) -> Word:
    """Return ``word`` after one merge, applied from left to right wherever it fits."""
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


def after(word: Word, merges: Sequence[Merge]) -> Word:
    """Return ``word`` after ``merges``, in their order."""
    for merge in merges:
        if len(word) == 1:
            break
        if merge[0] in word:
            word = joined(word, merge)
    return word


def learn(words: Counter[Word], vocabulary: Vocabulary, size: int) -> list[Merge]:
    """Return up to ``size`` merges that continue BPE training on ``words``: the most frequent pair, again and again.

    Ties go to the pair that sorts first; a pair that comes up once is none. ``vocabulary`` is added to.
    """
    pairs = _Pairs(words)
    merges: list[Merge] = []
    while len(merges) < size and (best := pairs.pop()):
        if vocabulary.takes(best):
            vocabulary.add(best)
            merges.append(best)
            pairs.merge(best)
    return merges


class _Pairs:
    """Neighbouring pieces of words and how often they come up; a heap whose entries may be too large, never small."""

    def __init__(self, words: Counter[Word]) -> None:
        self._words = dict(words)
        self._counts: Counter[Merge] = Counter()
        self._where: defaultdict[Merge, set[Word]] = defaultdict(set)
        for word, count in words.items():
            self._add(word, count)
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapq.heapify(self._heap)

    def pop(self) -> Merge | None:
        """Return the most frequent pair that was not returned yet, None if no other one comes up twice."""
        while self._heap:
            count, pair = heapq.heappop(self._heap)
            actual = self._counts[pair]
            if actual > 1 and -count != actual:  # it has become rarer since it was pushed
                heapq.heappush(self._heap, (-actual, pair))
            elif actual > 1:
                return pair
        return None

    def merge(self, pair: Merge) -> None:
        """Join ``pair`` wherever it stands."""
        made = pair[0] + pair[1]
        grown: set[Merge] = set()
        for word in self._where.pop(pair):
            if count := self._words.pop(word, 0):
                self._add(word, -count)
                new = joined(word, pair)
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


def spell(word: Word, merges: Sequence[Merge], vocabulary: Vocabulary) -> list[Merge] | None:
    """Return what must follow ``merges`` so that ``word`` becomes one piece; None where an old token is in the way.

    ``vocabulary`` holds what ``merges`` make, and what is returned is added to it.
    """
    word = after(word, merges)
    added: list[Merge] = []
    while len(word) > 1:
        pair = (word[0], word[1])
        if not vocabulary.takes(pair):
            for merge in reversed(added):
                vocabulary.remove(merge)
            return None
        added.append(pair)
        vocabulary.add(pair)
        word = joined(word, pair)
    return added


def with_merges(tokenizer: PreTrainedTokenizerFast, merges: Sequence[Merge]) -> PreTrainedTokenizerFast:
    """Return ``tokenizer`` with ``merges`` behind its own; new ids follow all old ones, in the order of the merges."""
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
