"""Ensembles of models with the same tokenizer, run in lockstep as one Hugging Face model.

At each position, the members' next-token distributions are combined by a mean of probabilities (a mixture, the default)
or a mean of logits (a normalised geometric mean). The output is log-probabilities, which any consumer of logits can
use. The mixture is computed in fp32 as ``logsumexp(log p_m + log w_m)``, never as a sum of exponentials. Members may be
padded to different numbers of rows: each softmax covers the ids of the shared tokenizer only, so padded rows get no
mass.

An ensemble is a folder without weights. It holds the tokenizer and a ``config.json`` that names the members by source
or by relative path. ``AutoModelForCausalLM`` and ``generate`` accept it once this module is imported. The key-value
caches of the members are wrapped in one cache that selects, reorders and crops them together. Matrices that are equal
in several members (embeddings, or everything that LoRA did not change) are in memory once.

The members' tokenizers must be identical in ids, bytes and special tokens. Otherwise the probabilities of unrelated
tokens would be averaged, so a mismatch is rejected with a message that lists the first ids that differ.
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
    """Configuration of an ensemble: the members and how they are combined."""

    model_type = ENSEMBLE

    members: list[dict[str, Any]] | None = None
    """``source``, ``weight`` and ``tokenizer`` (its fingerprint) of each member."""
    combine: str = "mean_prob"
    vocab_size: int = 0
    """Number of ids of the shared tokenizer, which is the width of the output."""
    max_position_embeddings: int | None = None
    """Shortest context of the members, in tokens."""


class EnsembleCache(Cache):
    """The caches of all members; row operations (select, repeat, reorder, crop) apply to all of them."""

    def __init__(self, members: Sequence[Cache]) -> None:
        # Cache.__init__ would store one list of layers; here each member's cache keeps its own.
        self.members = list(members)
        self.layer_class_to_replicate = None
        self.offloading = False

    @property
    def layers(self) -> tuple[Any, ...]:  # type: ignore[override]  # the base keeps a list; this is a view of several
        """The layers of all members, one member after the other."""
        return tuple(layer for member in self.members for layer in member.layers)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of positions that all members have seen."""
        return self.members[0].get_seq_length(layer_idx)


class EnsembleForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]  # as above
    """Combines the members at every position; see the module docstring."""

    config_class = EnsembleConfig
    config: EnsembleConfig
    main_input_name = "input_ids"
    _supports_sdpa = True  # each member selects its own implementation

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
        """Load the members named in the folder's config. Returns ``(model, report)`` with ``output_loading_info``.

        ``dtype`` applies to all members (default: float32); ``auto`` keeps the stored type of each, and members of
        different types can be combined. Raises UserError for a ``device_map`` that would split a member.
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
        """Return the ensemble of the members named in the folder's config."""
        config = EnsembleConfig.from_pretrained(folder)
        return cls(config, [model for _, model in load_members(folder, config, dtype)])

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        """Raise UserError: an ensemble has no weights to save; use :func:`save_ensemble`."""
        raise UserError("An ensemble has no weights to save.", hint="Use save_ensemble.")

    @property
    def _models(self) -> list[PreTrainedModel]:
        return cast("list[PreTrainedModel]", list(self.members))

    def get_input_embeddings(self) -> nn.Module:
        """Return the first member's embeddings; an ensemble has none of its own."""
        return self._models[0].get_input_embeddings()

    def get_output_embeddings(self) -> None:
        """Return None: an ensemble has no output matrix."""
        return

    @property
    def device(self) -> torch.device:
        """Device of the first member, on which inputs are expected."""
        return self._models[0].device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the members' weights; the output is always float32."""
        return self._models[0].dtype

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Tell ``generate`` to leave the cache to :meth:`forward`."""
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
        """Return log-probabilities ``[batch, positions, vocab_size]`` in float32 as logits, and optionally the cache.

        ``attention_mask`` ``[batch, columns]`` may be left-padded; it and ``position_ids`` are passed to every member.
        A sequence of masks has one per member, in any form that the member accepts. With ``labels`` ``[batch,
        columns]`` (-100: ignored), the output includes the mean cross-entropy in nats.
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
        """Add one member's contribution; only two members' logits are in memory at a time."""
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
    """Return the single device of a device map that does not split the model."""
    whole: Any = device_map.get("") if isinstance(device_map, dict) and len(device_map) == 1 else device_map
    try:
        return torch.device(whole)
    except (TypeError, RuntimeError) as error:
        raise UserError(
            f"The members of an ensemble cannot be split over devices: device_map={device_map!r}.",
            hint='Use a single device: device_map="cuda:0".',
        ) from error
