"""Ensembles whose members read the same text in their own tokens, behind the interface of one Hugging Face model.

There are three kinds (see ``vocabularies`` for how the distributions are mapped to one vocabulary): members that share
ordinary tokens but keep their own special tokens and chat templates; and, as baselines, members with different
tokenizers combined by nearest tokens (MinED) or by a union of top-k tokens. Each member gets its own prompt:
conversations are rendered with its own template, and texts begin with its BOS or, without one, its end-of-text token.

The token that ends an answer gets the total probability of all end tokens of a member. Published code considers only
one of them, and then waits for a model that ends its turns with another one. Other special tokens get no probability.

The published MinED appends the *mapped* token to each member's text, so that members read bytes that were never
written. Here, all members read the text that the ensemble wrote. As the encoding of a text by another tokenizer can
change at its end with every token, these two baselines re-encode the text so far.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from crosstok.distill.ensemble.canonical import ControlTokens
from crosstok.distill.ensemble.lockstep import EnsembleConfig, EnsembleForCausalLM
from crosstok.distill.ensemble.members import load_members
from crosstok.distill.ensemble.reading import History, IncrementalReader
from crosstok.distill.ensemble.vocabularies import MAPS, NONE, Ids, encode_bytes
from crosstok.distill.sources.models import OWN_TOKENS, fetch, member_source
from crosstok.distill.sources.tokenizers import read_tokenizer
from crosstok.distill.tokenizers.chat import chat_parts, encode_parts
from crosstok.distill.tokenizers.roles import Roles, adds_bos, generation_ends
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError

_UNREAD = -1  # a column without a counterpart in a member's prompt: a control token inside a conversation


class OwnTokensConfig(EnsembleConfig):  # type: ignore[no-untyped-call]  # its __init_subclass__ is untyped
    """Configuration of the ensemble, including how the vocabularies are mapped."""

    model_type = OWN_TOKENS

    tokens: str = "shared"
    """``shared``, ``mined`` or ``union``."""
    top_k: int = 10
    """Number of tokens that each member contributes to a union."""


@dataclass(frozen=True, eq=False)
class Member:
    """A member and how it reads and answers."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    tokenbytes: TokenBytes
    bos_id: int | None
    first_id: int
    """Id at the start of every text: the BOS, or the end-of-text token."""
    stop_ids: tuple[int, ...]
    maps: dict[str, Ids]

    @classmethod
    def of(
        cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, maps: dict[str, Ids], name: str = "a member"
    ) -> "Member":
        """Return ``model`` as a member. Raises UserError for a tokenizer without BOS and end-of-text token."""
        tokenbytes, roles = TokenBytes.from_tokenizer(tokenizer), Roles.from_tokenizer(tokenizer)
        bos = roles.bos if adds_bos(tokenizer, roles.bos) else None
        first = roles.end_of_text if bos is None else bos
        if first is None:
            raise UserError(f"The tokenizer of {name} has neither a BOS nor an end-of-text token.")
        stops = roles.stop_ids | generation_ends(model, tokenbytes.size)
        return cls(model, tokenizer, tokenbytes, bos, first, tuple(sorted(stops)), maps)


@dataclass(frozen=True, slots=True)
class _Row:
    """One row in a member's own tokens."""

    own: list[int]
    behind: list[int]
    """For each content id of the ensemble, the index in ``own`` after which the next token is predicted."""


@dataclass(frozen=True, slots=True, eq=False)
class _MemberScores:
    """The output of one member."""

    scores: Tensor
    """Logits over the ensemble's ids, ``[rows, columns, V]``; -inf for ids without a counterpart."""
    choices: Tensor | None
    """For a union: the ids that the member contributes."""


class OwnTokensEnsemble(EnsembleForCausalLM):  # type: ignore[no-untyped-call]  # as above
    """See the module docstring. ``tokenizer`` is the ensemble's own, ``members`` are made with :meth:`Member.of`."""

    config_class = OwnTokensConfig
    config: OwnTokensConfig

    def __init__(self, config: OwnTokensConfig, members: Sequence[Member], tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__(config, [member.model for member in members])
        if config.tokens not in ("shared", "mined", "union"):
            raise UserError(f"Unknown vocabulary of an ensemble: {config.tokens!r}.", hint="shared, mined or union.")
        self._apart = list(members)
        self._tokens = TokenBytes.from_tokenizer(tokenizer)
        self._control = ControlTokens(self._tokens)
        self._readers = [IncrementalReader(member.model) for member in members]
        self._prompts: dict[tuple[int, History], list[int]] = {}
        self._maps = [self._index(member) for member in members]
        if config.tokens == "shared":  # only tokens that all members have
            unshared = torch.stack([missing for _, missing in self._maps]).any(dim=0)
            self._maps = [(index, unshared) for index, _ in self._maps]

    @classmethod
    def of_folder(cls, folder: Path, dtype: torch.dtype | str) -> "OwnTokensEnsemble":
        """Return the ensemble of the members named in the folder's config."""
        config = OwnTokensConfig.from_pretrained(folder)
        maps = load_file(folder / MAPS)
        members = []
        for number, (named, model) in enumerate(load_members(folder, config, dtype)):
            tokenizer = read_tokenizer(fetch(member_source(folder, named["source"])))
            own = {key: maps[f"{number}.{key}"] for key in ("to_member", "to_ensemble")}
            members.append(Member.of(model, tokenizer, own, str(named["source"])))
        return cls(config, members, read_tokenizer(folder))

    @property
    def passes(self) -> list[int]:
        """Number of forward passes of each member since it was loaded."""
        return [reading.passes for reading in self._readers]

    def forget(self) -> None:
        """Drop the members' caches of rows that could still be continued."""
        for reading in self._readers:
            reading.forget()

    def new_cache(self) -> Any:
        """Return an empty cache, which holds the ids read so far; members find their own caches by these."""
        return DynamicCache()

    def forward(  # noqa: PLR0917  (the signature of every causal language model)
        self,
        input_ids: Tensor,
        attention_mask: Tensor | Sequence[Any] | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Return log-probabilities ``[batch, positions, vocab_size]`` in float32 as logits, and optionally the cache.

        Columns of control tokens that have no place in a member's own prompt are NaN.
        """
        if attention_mask is not None and not isinstance(attention_mask, Tensor):
            raise TypeError("this ensemble takes attention masks of shape [batch, columns] only")
        rows, columns = input_ids.shape
        if past_key_values is None and use_cache:
            past_key_values = self.new_cache()
        seen = input_ids
        if past_key_values is not None:
            keys, _values = past_key_values.update(
                input_ids[:, None, :, None], input_ids.new_zeros(rows, 1, columns, 0), 0
            )
            seen = keys[:, 0, :, 0]
        real = torch.ones_like(seen) if attention_mask is None else attention_mask[:, -seen.shape[1] :]
        histories = [tuple(ids[mask.bool()].tolist()) for ids, mask in zip(seen.cpu(), real.cpu(), strict=True)]
        if columns == 1 or (isinstance(logits_to_keep, int) and logits_to_keep == 1):
            answers = self._last(histories, columns)
        elif seen.shape[1] != columns:
            raise ValueError("this ensemble scores whole texts or continues by single tokens")
        else:
            answers = self._everywhere(histories, columns)
        return CausalLMOutputWithPast(logits=self._combined(answers), past_key_values=past_key_values)

    def _last(self, histories: Sequence[History], columns: int) -> list[_MemberScores]:
        """Return each member's output after the last token, ``[rows, 1, V]``."""
        before = [history[: max(0, len(history) - columns)] for history in histories]
        answers = []
        for number, (member, reading) in enumerate(zip(self._apart, self._readers, strict=True)):
            own = [self._row(number, member, history).own for history in histories]
            answers.append(self._mapped(number, reading.last(before, histories, own)[:, None]))
        return answers

    def _everywhere(self, histories: Sequence[History], columns: int) -> list[_MemberScores]:
        """Return each member's output after every token, ``[rows, columns, V]``; NaN where it has none."""
        answers = []
        for number, (member, reading) in enumerate(zip(self._apart, self._readers, strict=True)):
            rows = [self._row(number, member, history) for history in histories]
            logits = reading.whole([row.own for row in rows])
            places = torch.full((len(rows), columns), _UNREAD)
            for place, row in enumerate(rows):
                shift = logits.shape[1] - len(row.own)
                behind = [there + shift if there != _UNREAD else _UNREAD for there in row.behind]
                places[place, columns - len(behind) :] = torch.tensor(behind, dtype=torch.long)
            places = places.to(logits.device)
            taken = logits[torch.arange(len(rows), device=logits.device)[:, None], places.clamp(min=0)]
            answer = self._mapped(number, taken)
            answers.append(
                _MemberScores(answer.scores.masked_fill((places == _UNREAD)[..., None], math.nan), answer.choices)
            )
        return answers

    def _row(self, number: int, member: Member, history: History) -> _Row:
        """Return ``history`` in the tokens of ``member``."""
        turns = self._control.read(history)
        if turns.messages is None:
            prompt, opening = [member.first_id], [0] * (len(history) > 0 and history[0] == self._control.begin)
        else:
            prompt = self._rendered(number, member, turns.prompt, turns.messages)
            opening = [_UNREAD] * (len(turns.prompt) - 1) + [len(prompt) - 1]
        own, behind = self._spelt(member, turns.text)
        at = len(prompt) - 1
        return _Row(prompt + own, opening + [at + there for there in behind])

    def _rendered(self, number: int, member: Member, prompt: History, messages: Any) -> list[int]:
        if (known := self._prompts.get((number, prompt))) is not None:
            return known
        ids = encode_parts(member.tokenizer, member.tokenbytes, chat_parts(member.tokenizer, messages))
        if member.bos_id is not None and ids[:1] != [member.bos_id]:
            ids.insert(0, member.bos_id)
        if len(self._prompts) >= 1024:
            self._prompts.clear()
        self._prompts[number, prompt] = ids
        return ids

    def _spelt(self, member: Member, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return ordinary ids of the ensemble in the member's tokens, and how many of these precede each end.

        An end token inside a text becomes the member's end-of-text token, as between two documents.
        """
        if self.config.tokens == "shared":
            index = member.maps["to_member"]
            own = [member.first_id if token == self._control.end else int(index[token]) for token in ids]
            if NONE in own:
                data = self._tokens.table[ids[own.index(NONE)]]
                raise UserError(
                    f"A member has no token for {data!r}, which occurs in the text.",
                    hint="Use tokens: mined or union for members with different vocabularies.",
                )
            return own, list(range(1, len(own) + 1))
        own, behind, begin = [], [], 0
        for place, token in enumerate([*ids, self._control.end]):
            if token != self._control.end:
                continue
            piece = ids[begin:place]
            encoding = encode_bytes(member.tokenbytes, self._tokens.decode(piece))
            ends = np.cumsum([self._tokens.lengths[one] for one in piece])
            behind.extend((len(own) + np.searchsorted(encoding.ends, ends, side="right")).tolist())
            own.extend(encoding.ids.tolist())
            if place < len(ids):
                own.append(member.first_id)
                behind.append(len(own))
            begin = place + 1
        return own, behind

    def _index(self, member: Member) -> tuple[Tensor, Tensor]:
        """Return the member's id for each id of the ensemble, 0 for those without one, and a mask of those with one."""
        index = torch.from_numpy(member.maps["to_member"].copy())
        return index.clamp(min=0), index == NONE

    def _mapped(self, number: int, logits: Tensor) -> _MemberScores:
        """Map a member's logits ``[..., own V]`` to the ensemble's ids."""
        index, missing = (part.to(logits.device) for part in self._maps[number])
        scores = logits[..., index].float()
        scores[..., missing] = -math.inf
        scores[..., self._control.end] = logits[..., list(self._apart[number].stop_ids)].float().logsumexp(dim=-1)
        if self.config.tokens != "union":
            return _MemberScores(scores, None)
        member = self._apart[number]
        to_ensemble = torch.from_numpy(member.maps["to_ensemble"].copy()).to(logits.device)
        to_ensemble[list(member.stop_ids)] = self._control.end  # of the special tokens, only the end tokens are mapped
        top_k = min(self.config.top_k, len(to_ensemble))
        best = to_ensemble[logits[..., : len(to_ensemble)].topk(top_k).indices]
        choices = torch.zeros(*scores.shape[:-1], scores.shape[-1] + 1, dtype=torch.bool, device=scores.device)
        choices.scatter_(
            -1, best.where(best != NONE, scores.shape[-1]), value=True
        )  # the last column collects ids without a counterpart
        return _MemberScores(scores, choices[..., :-1])

    def _combined(self, answers: Sequence[_MemberScores]) -> Tensor:
        device = answers[0].scores.device
        excluded: Tensor | None = None
        for answer in answers:
            if answer.choices is not None:
                left_out = ~answer.choices.to(device)
                excluded = left_out if excluded is None else excluded & left_out
        if excluded is not None:  # if all members contribute special tokens only, nothing is excluded
            excluded = excluded & ~excluded.all(dim=-1, keepdim=True)
        combined: Tensor | None = None
        for answer, share in zip(answers, self._shares, strict=True):
            scores = answer.scores.to(device)
            combined = self._add(
                combined, scores if excluded is None else scores.masked_fill(excluded, -math.inf), share
            )
        if combined is None:
            raise ValueError("an ensemble without members")
        return combined.log_softmax(dim=-1) if self.config.combine == "mean_logit" else combined


AutoConfig.register(OWN_TOKENS, OwnTokensConfig)
AutoModelForCausalLM.register(OwnTokensConfig, OwnTokensEnsemble)
