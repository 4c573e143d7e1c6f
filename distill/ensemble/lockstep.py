"""Several models that share a tokenizer, run in lockstep as one Hugging Face model.

At each position the members' next-token distributions are combined, either as a mean of probabilities (a mixture, the
default) or as a mean of logits (a normalised geometric mean); what comes out are log-probabilities, which any consumer
of logits can use as they are. The mixture is computed as ``logsumexp(log p_m + log w_m)`` in fp32, never by adding
exponentials. Members may be padded to different heights: their softmax is taken over the ids that the shared tokenizer
has, so no mass leaks into rows that mean nothing.

An ensemble is a folder: a ``config.json`` that names the members, relative to itself or by source, and the tokenizer.
It holds no weights. ``AutoModelForCausalLM`` and ``generate`` accept it once this module is imported; members have
their own key-value caches inside one cache that selects, reorders and crops them together. Matrices that are equal in
several members (embeddings, or all that LoRA left alone) are kept in memory once.

Members are required to have the same tokenizer down to ids, bytes and special tokens; what a mismatch would do is
average the probabilities of unrelated tokens, so it is refused with the first ids that differ.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from crosstok.distill.ensemble.members import check_shares, load_members
from crosstok.distill.models.weights import torch_dtype
from crosstok.distill.sources.models import ENSEMBLE
from crosstok.errors import UserError, unknown_name

Combine = Literal["mean_prob", "mean_logit"]
COMBINE: tuple[Combine, ...] = ("mean_prob", "mean_logit")


class EnsembleConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]  # its __init_subclass__ is untyped
    """Names the members and how they are combined."""

    model_type = ENSEMBLE

    members: list[dict[str, Any]] | None = None
    """For each member its ``source``, ``weight`` and the fingerprint of its ``tokenizer``."""
    combine: str = "mean_prob"
    vocab_size: int = 0
    """Ids that the shared tokenizer has; the width of the output."""
    max_position_embeddings: int | None = None
    """The shortest context among the members, in tokens."""


class EnsembleCache(Cache):
    """The caches of all members, which a row operation (select, repeat, reorder, crop) touches together."""

    def __init__(self, members: Sequence[Cache]) -> None:
        # Cache.__init__ would store one list of layers; here they stay with the members, who are called with them.
        self.members = list(members)
        self.layer_class_to_replicate = None
        self.offloading = False

    @property
    def layers(self) -> tuple[Any, ...]:  # type: ignore[override]  # the base keeps a list; this is a view of several
        """The layers of all members, one member after the other."""
        return tuple(layer for member in self.members for layer in member.layers)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of positions that every member has seen."""
        return self.members[0].get_seq_length(layer_idx)


class EnsembleForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]  # as above
    """Combines members at every position; see the module for what comes out."""

    config_class = EnsembleConfig
    config: EnsembleConfig
    main_input_name = "input_ids"
    _supports_sdpa = True  # decided by each member for itself

    def __init__(self, config: EnsembleConfig, members: Sequence[PreTrainedModel]) -> None:
        super().__init__(config)
        if config.combine not in COMBINE:
            raise unknown_name("way to combine members", config.combine, COMBINE)
        shares = check_shares([float(member["weight"]) for member in config.members or []], len(members))
        self.members = nn.ModuleList(members)
        self._shares = [share / sum(shares) for share in shares]
        self.post_init()  # type: ignore[no-untyped-call]  # transformers leaves it untyped

    @classmethod
    def from_pretrained(  # type: ignore[override]  # an ensemble has no weights of its own to find or to map
        cls,
        folder: str | Path,
        *_: Any,
        dtype: torch.dtype | str | None = None,
        device_map: Any = None,
        output_loading_info: bool = False,
        **__: Any,
    ) -> Any:
        """Load the members that the folder's config names; returns ``(model, report)`` with ``output_loading_info``.

        ``dtype`` is that of all members (default: float32); ``auto`` leaves each in what it is stored in, and members
        of several types go together. Raises UserError for a ``device_map`` that would cut members to pieces.
        """
        if isinstance(dtype, str) and dtype != "auto":
            dtype = torch_dtype(dtype)
        model = cls.of_folder(Path(folder), dtype or torch.float32)
        if device_map is not None:
            nn.Module.to(model, _one_device(device_map))
        model.train(mode=False)
        return (model, {}) if output_loading_info else model

    @classmethod
    def of_folder(cls, folder: Path, dtype: torch.dtype | str) -> "EnsembleForCausalLM":
        """Return the ensemble whose members the folder's config names."""
        config = EnsembleConfig.from_pretrained(folder)
        return cls(config, [model for _, model in load_members(folder, config, dtype)])

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        """Refuse: the weights stay with the members, whose sources only :func:`save_ensemble` knows."""
        raise UserError("An ensemble is saved by naming its members.", hint="Use save_ensemble.")

    @property
    def _models(self) -> list[PreTrainedModel]:
        return cast("list[PreTrainedModel]", list(self.members))

    def get_input_embeddings(self) -> nn.Module:
        """Return the first member's embeddings; an ensemble has none of its own."""
        return self._models[0].get_input_embeddings()

    def get_output_embeddings(self) -> None:
        """Return None: the output is no matrix product."""
        return

    @property
    def device(self) -> torch.device:
        """Where the first member is, and inputs belong."""
        return self._models[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the members' weights; the output is float32 always."""
        return self._models[0].dtype

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Tell ``generate`` to leave the cache to :meth:`forward`, which makes the one that fits the members."""
        return False

    def new_cache(self) -> EnsembleCache:
        """Return an empty cache for all members."""
        return EnsembleCache([DynamicCache(config=member.config) for member in self._models])

    @can_return_tuple  # type: ignore[untyped-decorator]  # as above
    def forward(  # noqa: PLR0917  (the signature of every causal language model)
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | Sequence[Any] | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: EnsembleCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        labels: torch.Tensor | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Return log-probabilities ``[batch, positions, vocab_size]`` in float32 as logits, and the cache if asked for.

        ``attention_mask`` ``[batch, columns]`` may be left-padded; it and ``position_ids`` reach every member as given.
        A sequence of masks holds one for each member, of whatever form that member takes. With ``labels``
        ``[batch, columns]`` (-100: not counted) their mean loss comes too, in nats, as of any causal language model.
        """
        if past_key_values is None and use_cache:
            past_key_values = self.new_cache()
        if past_key_values is not None and not isinstance(past_key_values, EnsembleCache):
            raise TypeError("an ensemble needs its own cache: pass none, or new_cache()")
        combined: torch.Tensor | None = None
        for index, (member, share) in enumerate(zip(self._models, self._shares, strict=True)):
            output = member(
                input_ids=input_ids.to(member.device),
                attention_mask=_own_mask(attention_mask, index, member.device),
                position_ids=None if position_ids is None else position_ids.to(member.device),
                past_key_values=None if past_key_values is None else past_key_values.members[index],
                use_cache=past_key_values is not None,
                logits_to_keep=logits_to_keep,
            )
            logits = output.logits[..., : self.config.vocab_size].to(input_ids.device, torch.float32)
            combined = self._add(combined, logits, share)
        if combined is None:
            raise ValueError("an ensemble without members")
        if self.config.combine == "mean_logit":
            combined = combined.log_softmax(dim=-1)
        loss = None if labels is None else self.loss_function(combined, labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(loss=loss, logits=combined, past_key_values=past_key_values)

    def _add(self, combined: torch.Tensor | None, logits: torch.Tensor, share: float) -> torch.Tensor:
        """Add one member's share, so that only two members' logits are in memory at a time."""
        if self.config.combine == "mean_logit":
            return share * logits if combined is None else combined.add_(logits, alpha=share)
        weighted = logits.log_softmax(dim=-1) + math.log(share)
        return weighted if combined is None else torch.logaddexp(combined, weighted)


AutoConfig.register(ENSEMBLE, EnsembleConfig)
AutoModelForCausalLM.register(EnsembleConfig, EnsembleForCausalLM)


def _own_mask(masks: torch.Tensor | Sequence[Any] | None, index: int, device: torch.device) -> Any:
    mask = masks if masks is None or isinstance(masks, torch.Tensor) else masks[index]
    if isinstance(mask, dict):  # one mask per kind of layer
        return {kind: part.to(device) for kind, part in mask.items()}
    return mask if mask is None or isinstance(mask, list) else mask.to(device)


def _one_device(device_map: Any) -> torch.device:
    """Return the device of a map that leaves the model whole."""
    whole: Any = device_map.get("") if isinstance(device_map, dict) and len(device_map) == 1 else device_map
    try:
        return torch.device(whole)
    except (TypeError, RuntimeError) as error:
        raise UserError(
            f"The members of an ensemble are not cut to pieces: device_map={device_map!r}.",
            hint='Name one device for all of it: device_map="cuda:0".',
        ) from error
