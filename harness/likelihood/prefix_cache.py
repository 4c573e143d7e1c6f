"""Prefix cache: keys and values of a common prefix, computed once and used by every batch.

The few-shot examples before each question of a task are most of what lm-eval computes, again and again. Here they are
processed once, in one row, and every batch attends to their keys and values. A batch then needs a custom attention mask
(:mod:`crosstok.harness.likelihood.token_tree`), which nearly all architectures accept. Sliding-window layers keep the
whole prefix; their mask excludes positions outside the window.

A model may silently ignore such a mask, or have a state that cannot be shared (recurrent layers). This is therefore
tested: :func:`sharing_error` compares a small tree after a prefix with the same sequences processed separately, and a
model that differs is scored without sharing.
"""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from crosstok.distill.ensemble import EnsembleCache, EnsembleForCausalLM
from crosstok.harness.likelihood.next_token import NextToken
from crosstok.harness.likelihood.token_tree import Path, Tree, build_tree, common_prefix_length, shareable_prefix

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FULL, _SLIDING = "full_attention", "sliding_attention"


class PrefixCache:
    """Keys and values of the prefix ``ids`` in one model; the prefix may be empty."""

    def __init__(self, source: NextToken, ids: Sequence[int] = ()) -> None:
        self._source = source
        self.length = len(ids)
        self._cache: Any = None
        if ids:
            self._cache = _empty(source.model)
            source.states(torch.tensor([ids]), past_key_values=self._cache, use_cache=True)

    def states(self, trees: Sequence[Tree]) -> torch.Tensor:
        """Return hidden states ``[trees, columns, width]`` of ``trees``, each of which continues the prefix."""
        widest = max(tree.width for tree in trees)
        ids = torch.zeros(len(trees), widest, dtype=torch.long)
        positions = torch.zeros(len(trees), widest, dtype=torch.long)
        visible = torch.zeros(len(trees), widest, self.length + widest, dtype=torch.bool)
        visible[:, :, : self.length] = True
        # Padding attends to itself, so that no row of the mask is empty.
        visible[:, :, self.length :] |= torch.eye(widest, dtype=torch.bool)
        for row, tree in enumerate(trees):
            ids[row, : tree.width] = torch.from_numpy(tree.tokens)
            positions[row, : tree.width] = torch.from_numpy(tree.depths)
            visible[row, : tree.width, self.length : self.length + tree.width] = torch.from_numpy(tree.visible)
        device = self._source.model.device
        known = torch.arange(self.length)[None].expand(len(trees), -1)
        distance = positions[:, :, None] - torch.cat([known, positions], dim=1)[:, None, :]
        return self._source.states(
            ids,
            position_ids=positions.to(device),
            attention_mask=_masks(self._source.model, visible.to(device), distance.to(device)),
            **({"past_key_values": _repeated(self._cache, len(trees)), "use_cache": True} if self._cache else {}),
        )


@torch.inference_mode()
def sharing_error(source: NextToken, size: int) -> str:
    """Return why trees after a prefix do not score like separate sequences, or an empty string if they do."""
    if size < 4:
        return "the vocabulary is too small for the test"
    numbers = np.random.default_rng(0).integers(0, size, 24).tolist()
    head, question, endings = numbers[:8], numbers[8:14], (numbers[14:19], numbers[19:24])
    paths = [Path((*head, *question, *ending), len(head) + len(question)) for ending in endings]
    try:
        trees = [build_tree(paths, len(head)), build_tree(paths[:1], len(head))]
        found = PrefixCache(source, head).states(trees)
        for row, tree in enumerate(trees):
            for path, columns in zip(paths, tree.columns, strict=False):
                alone = source.states(torch.tensor([path.read]))[0, len(head) :].float()
                error = (found[row, columns].float() - alone).norm() / alone.norm()
                if not error <= (1e-3 if source.model.dtype == torch.float32 else 0.1):
                    return f"shared tokens give different hidden states (relative difference {float(error):.1g})"
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return ""


def shared_prefixes(jobs: Sequence[Sequence[Path]], worth: int) -> list[tuple[tuple[int, ...], list[int]]]:
    """Return groups of jobs as (prefix, indices); jobs that share no prefix come last, with an empty one.

    The grouping maximises the number of saved tokens over all groupings of jobs adjacent in the order of their ids.
    Each group saves at least ``worth`` tokens, because it needs batches of its own.
    """
    prefixes = [shareable_prefix(paths) for paths in jobs]
    order = sorted(range(len(jobs)), key=prefixes.__getitem__)
    common = np.array(
        [common_prefix_length(prefixes[one], prefixes[other]) for one, other in itertools.pairwise(order)],
        dtype=np.int64,
    )
    _, spans = _best_spans(common, 0, len(order) - 1, worth)
    groups = [(prefixes[order[first]][:length], order[first : last + 1]) for first, last, length in spans]
    chosen = {index for _, members in groups for index in members}
    rest = [index for index in range(len(jobs)) if index not in chosen]
    return [*groups, ((), rest)] if rest else groups


def _best_spans(
    common: "NDArray[np.int64]", first: int, last: int, worth: int
) -> tuple[int, list[tuple[int, int, int]]]:
    """Return the number of saved tokens and the spans (first, last, prefix length) for jobs ``first`` to ``last``."""
    if first >= last:
        return 0, []
    between = common[first:last]
    lowest = int(between.min())
    together = lowest * (last - first)
    borders = [first - 1, *(first + np.flatnonzero(between == lowest)).tolist(), last]
    parts = [_best_spans(common, left + 1, right, worth) for left, right in itertools.pairwise(borders)]
    apart = sum(saved for saved, _ in parts)
    if together >= max(apart, worth, 1):
        return together, [(first, last, lowest)]
    return apart, [span for _, spans in parts for span in spans]


def _empty(model: PreTrainedModel) -> Any:
    """Return a cache that keeps all columns, regardless of sliding windows."""
    if isinstance(model, EnsembleForCausalLM):
        return EnsembleCache([_empty(member) for member in model.members])  # type: ignore[arg-type]  # ModuleList
    return DynamicCache()


def _repeated(cache: Any, rows: int) -> Any:
    """Return a cache of ``rows`` rows that each begin with the single row of ``cache``, which is not modified."""
    if isinstance(cache, EnsembleCache):
        return EnsembleCache([_repeated(member, rows) for member in cache.members])
    copy: Any = DynamicCache()
    for layer in cache.layers:
        own = DynamicLayer()  # type: ignore[no-untyped-call]  # untyped in transformers
        own.lazy_initialization(layer.keys, layer.values)
        own.keys = layer.keys.expand(rows, -1, -1, -1)
        own.values = layer.values.expand(rows, -1, -1, -1)
        copy.layers.append(own)
    return copy


def _masks(model: PreTrainedModel, visible: torch.Tensor, distance: torch.Tensor) -> Any:
    """Return the attention mask as ``model`` expects it: a tensor, one per layer type, or one per member."""
    if isinstance(model, EnsembleForCausalLM):
        return [_masks(member, visible, distance) for member in model.members]  # type: ignore[arg-type]  # as above
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if unknown := kinds - {_FULL, _SLIDING}:
        raise ValueError(f"layers of type {', '.join(sorted(unknown))} cannot share a prefix")
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is None or kinds == {_FULL}:
        return _additive(visible, model.dtype)
    near = _additive(visible & (distance < window), model.dtype)
    return {_FULL: _additive(visible, model.dtype), _SLIDING: near} if kinds else near


def _additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
