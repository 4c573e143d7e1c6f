"""Gives a tokenizer the special tokens of a model, which is how a transferred model keeps its own.

Taking over the target tokenizer's special tokens together with its vocabulary costs a model the tokens that it steers
by: Gemma 2 moved to Qwen's tokenizer averages 55.1 with its own specials and 46.4 with Qwen's, which has no BOS for its
attention to rest on (ALM, arXiv 2503.20083, table 12). A student therefore wears the source's specials by default: same
strings, same chat template, same policy of adding a BOS.

The ids of ordinary tokens never move, so students of different sources agree on them. Specials that the target has
anyway keep their ids; the others take the places of the target's own specials one by one, and what is left goes to the
end. Specials of the target that nothing replaces are dropped from the end, and stay (unused) where dropping them would
move others. The target's ``unk`` piece stays where its model needs it.
"""

import json
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from crosstok.distill.tokenizers.roles import Roles
from crosstok.distill.tokenizers.tokenizer_file import TokenizerFile

_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True, slots=True, eq=False)
class AdoptedSpecials:
    """A tokenizer that wears another one's special tokens."""

    tokenizer: PreTrainedTokenizerFast
    specials: dict[int, int]
    """Source id -> id in ``tokenizer``, for every special token of the source."""


def adopt_specials(target: PreTrainedTokenizerFast, source: PreTrainedTokenizerFast) -> AdoptedSpecials:
    """Return ``target`` with the special tokens, chat template and BOS policy of ``source``; neither is changed."""
    old = TokenizerFile.parse(target.backend_tokenizer.to_str(), target.all_special_tokens)
    wanted = _special_entries(source)
    places = _places(old, list(wanted))
    settings = _renamed(old, {places[name]: name for name in wanted})
    settings["added_tokens"] = _added_tokens(old, wanted, places)
    settings |= {"post_processor": None, "truncation": None, "padding": None}
    encoded = source("a")["input_ids"]  # what the source adds by itself, whichever way its files say so
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        tokenizer_object=Tokenizer.from_str(json.dumps(settings, ensure_ascii=False)),
        **{role: str(token) for role in _ROLES if (token := getattr(source, role)) is not None},
        chat_template=source.chat_template,
        add_bos_token=source.bos_token_id is not None and encoded[:1] == [source.bos_token_id],
        add_eos_token=source.eos_token_id is not None and encoded[-1:] == [source.eos_token_id],
        padding_side=source.padding_side,
        model_max_length=source.model_max_length,
        clean_up_tokenization_spaces=False,
    )
    return AdoptedSpecials(tokenizer, {int(entry["id"]): places[name] for name, entry in wanted.items()})


def _special_entries(source: PreTrainedTokenizerFast) -> dict[str, dict[str, Any]]:
    """Return the tokenizer.json entries of the source's special tokens, by name, in the order of their ids.

    A token with a role in conversations counts as special even where its family did not mark it so.
    """
    file = TokenizerFile.parse(source.backend_tokenizer.to_str(), source.all_special_tokens)
    roles = set(Roles.from_tokenizer(source).as_dict().values())
    entries = sorted(file.settings["added_tokens"], key=lambda entry: int(entry["id"]))
    return {
        entry["content"]: entry | {"special": True}
        for entry in entries
        if entry["id"] in file.specials or entry["id"] in roles
    }


def _places(old: TokenizerFile, wanted: list[str]) -> dict[str, int]:
    """Return the id of each wanted special token."""
    known = {name: index for index, name in (old.pieces | old.symbols | old.specials).items()}
    places = {name: known[name] for name in wanted if name in known}
    model = old.settings["model"]
    unknown = model["unk_id"] if model["type"] == "Unigram" else model["vocab"].get(model["unk_token"])
    free = sorted(set(old.specials) - set(places.values()) - {unknown})
    size = max([*old.pieces, *old.symbols, *old.specials], default=-1) + 1
    slots = iter([*free, *range(size, size + len(wanted))])
    return places | {name: next(slots) for name in wanted if name not in places}


def _renamed(old: TokenizerFile, names: dict[int, str]) -> dict[str, Any]:
    """Return the settings with the model's own pieces renamed where a special token has taken over the id."""
    changed = {index: name for index, name in names.items() if old.pieces.get(index, name) != name}
    model = dict(old.settings["model"])
    if changed and model["type"] == "Unigram":
        model["vocab"] = [[changed.get(index, piece), score] for index, (piece, score) in enumerate(model["vocab"])]
    elif changed:
        gone = {old.pieces[index] for index in changed}
        model["vocab"] = {changed.get(index, piece): index for piece, index in model["vocab"].items()}
        model["merges"] = [pair for pair in model["merges"] if not gone & {*pair, "".join(pair)}]
    return old.settings | {"model": model}


def _added_tokens(
    old: TokenizerFile, wanted: dict[str, dict[str, Any]], places: dict[str, int]
) -> list[dict[str, Any]]:
    """Return the entries of all added tokens in the order of their ids, which the library wants without gaps."""
    entries = {int(entry["id"]): entry for entry in old.settings["added_tokens"]}
    entries |= {index: wanted[name] | {"id": index} for name, index in places.items()}
    last = max(entries, default=-1)
    while last in old.specials and last not in places.values() and last not in old.pieces:
        entries.pop(last)
        last -= 1
    return [entries[index] for index in sorted(entries)]
