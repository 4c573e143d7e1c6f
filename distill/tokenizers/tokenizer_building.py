"""Construction of Hugging Face tokenizers: role names for a backend, and byte-level BPE from a table of tiktoken ranks.

tiktoken stores no merges: it merges the adjacent pair whose concatenation has the lowest rank. The merge of a token is
recovered by running this procedure on the token's own bytes with lower ranks only, which leaves its two halves.
``ignore_merges`` is set because tiktoken does not apply merges to a piece that is itself a token.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from crosstok.distill.tokenizers.tokenizer_file import BYTE_SYMBOLS
from crosstok.errors import UserError


def fast_tokenizer(
    backend: Tokenizer, roles: Mapping[str, str], *, longest: int | None = None
) -> PreTrainedTokenizerFast:
    """Return a tokenizer with named special tokens; ``roles`` maps bos, eos, pad, unk to token strings.

    ``longest`` is the maximum length in tokens of the model that the tokenizer belongs to, if any.
    """
    options: dict[str, Any] = {f"{role}_token": content for role, content in roles.items()}
    if longest is not None:
        options["model_max_length"] = longest
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **options
    )


def halves(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """Return the two tokens whose merge is ``token``. Raises ValueError if there are none."""
    limit = ranks[token]
    parts = [token[index : index + 1] for index in range(len(token))]
    while True:
        joined = [ranks.get(left + right, limit) for left, right in pairwise(parts)]
        lowest = min(joined, default=limit)
        if lowest >= limit:
            break
        at = joined.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    if len(parts) != 2:
        raise ValueError(f"no merge of two tokens creates {token!r}")
    return parts[0], parts[1]


def from_ranks(
    ranks: Mapping[bytes, int], pattern: str, specials: Sequence[str], roles: Mapping[str, str]
) -> PreTrainedTokenizerFast:
    """Build the tokenizer: ids are the ranks, followed by ``specials``; ``roles`` maps bos, eos, pad, unk to specials.

    There is no normaliser, so every text is preserved byte for byte.
    """
    alphabet = {value: symbol for symbol, value in BYTE_SYMBOLS.items()}

    def spelt(data: bytes) -> str:
        return "".join(alphabet[byte] for byte in data)

    order = sorted(ranks, key=ranks.__getitem__)
    if [ranks[token] for token in order] != list(range(len(order))):
        raise UserError("The table of ranks has gaps or duplicates.", hint="Use the complete table of the tokenizer.")
    merges = [halves(token, ranks) for token in order if len(token) > 1]
    backend = Tokenizer(
        models.BPE(
            vocab={spelt(token): rank for token, rank in ranks.items()},
            merges=[(spelt(left), spelt(right)) for left, right in merges],
            ignore_merges=True,
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in specials])
    return fast_tokenizer(backend, roles)
