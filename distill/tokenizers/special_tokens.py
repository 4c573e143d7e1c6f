"""Adoption of a model's special tokens by another tokenizer, so that a transferred model keeps its own.

Replacing the special tokens together with the vocabulary removes tokens that the model depends on. Gemma 2 transferred
to Qwen's tokenizer scores 55.1 on average with its own special tokens and 46.4 with Qwen's, which has no BOS to act as
an attention sink (ALM, arXiv 2503.20083, table 12). By default, a student therefore keeps the source's special tokens,
chat template and BOS policy.

Ids of ordinary tokens never change, so students of different sources agree on them. Special tokens that the target
already has keep their ids. The others replace the target's own special tokens one by one; the remaining ones are
appended. Unreplaced special tokens of the target are removed from the end of the vocabulary; if a removal would change
other ids, they stay unused. The target's ``unk`` piece is kept if the tokenizer model requires it.
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
    """A tokenizer that has adopted the special tokens of another one."""

    tokenizer: PreTrainedTokenizerFast
    specials: dict[int, int]
    """Maps each special id of the source to the id in ``tokenizer``."""


def adopt_specials(target: PreTrainedTokenizerFast, source: PreTrainedTokenizerFast) -> AdoptedSpecials:
    """Return ``target`` with the special tokens, chat template and BOS policy of ``source``; inputs are unchanged."""
    old = TokenizerFile.parse(target.backend_tokenizer.to_str(), target.all_special_tokens)
    wanted = _special_entries(source)
    places = _places(old, list(wanted))
    settings = _renamed(old, {places[name]: name for name in wanted})
    settings["added_tokens"] = _added_tokens(old, wanted, places)
    settings |= {"post_processor": None, "truncation": None, "padding": None}
    encoded = source("a")["input_ids"]  # shows what the source prepends and appends, however it is configured
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
    """Return the tokenizer.json entries of the source's special tokens by name, ordered by id.

    A token with a role in conversations counts as special even if it is not marked as such.
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
    """Return the settings with vocabulary entries renamed whose ids a special token has taken over."""
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
    """Return the entries of all added tokens, ordered by id; the library requires ids without gaps."""
    entries = {int(entry["id"]): entry for entry in old.settings["added_tokens"]}
    entries |= {index: wanted[name] | {"id": index} for name, index in places.items()}
    last = max(entries, default=-1)
    while last in old.specials and last not in places.values() and last not in old.pieces:
        entries.pop(last)
        last -= 1
    return [entries[index] for index in sorted(entries)]
