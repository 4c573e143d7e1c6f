"""Keys and values of a prefix that many sequences begin with: computed once, read by every batch.

The few-shot examples in front of each question of a task are most of what lm-eval computes, again and again. Here they
are read once, in one row, and their keys and values stand in front of every batch. What such a batch needs of a model
is an attention mask of our own making (:mod:`crosstok.harness.likelihood.token_tree`), which nearly all architectures
take. Sliding-window layers keep the whole prefix, and their mask hides by position what lies outside of the window.

A model may ignore such a mask, or have a state that cannot be shared (recurrent layers), without saying so. So nothing
is assumed: :func:`can_share` compares a small tree behind a prefix with the same sequences read one by one, and a model
that disagrees is scored plainly.
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
from crosstok.harness.likelihood.token_tree import Path, Tree, grow, shared, stem

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FULL, _SLIDING = "full_attention", "sliding_attention"


class PrefixCache:
    """The keys and values of ``ids`` in one model; without ids, of nothing."""

    def __init__(self, source: NextToken, ids: Sequence[int] = ()) -> None:
        self._source = source
        self.length = len(ids)
        self._cache: Any = None
        if ids:
            self._cache = _empty(source.model)
            source.states(torch.tensor([ids]), past_key_values=self._cache, use_cache=True)

    def states(self, trees: Sequence[Tree]) -> torch.Tensor:
        """Return the states of all columns ``[trees, widest, width]``; every tree continues this prefix."""
        widest = max(tree.width for tree in trees)
        ids = torch.zeros(len(trees), widest, dtype=torch.long)
        positions = torch.zeros(len(trees), widest, dtype=torch.long)
        sees = torch.zeros(len(trees), widest, self.length + widest, dtype=torch.bool)
        sees[:, :, : self.length] = True
        sees[:, :, self.length :] |= torch.eye(widest, dtype=torch.bool)  # padding sees itself: no row is empty
        for row, tree in enumerate(trees):
            ids[row, : tree.width] = torch.from_numpy(tree.tokens)
            positions[row, : tree.width] = torch.from_numpy(tree.depths)
            sees[row, : tree.width, self.length : self.length + tree.width] = torch.from_numpy(tree.sees)
        device = self._source.model.device
        known = torch.arange(self.length)[None].expand(len(trees), -1)
        distance = positions[:, :, None] - torch.cat([known, positions], dim=1)[:, None, :]
        return self._source.states(
            ids,
            position_ids=positions.to(device),
            attention_mask=_masks(self._source.model, sees.to(device), distance.to(device)),
            **({"past_key_values": _repeated(self._cache, len(trees)), "use_cache": True} if self._cache else {}),
        )


@torch.inference_mode()
def can_share(source: NextToken, size: int) -> str:
    """Return an empty string where trees behind a prefix score like sequences by themselves, else why they do not."""
    if size < 4:
        return "the vocabulary is too small to tell"
    numbers = np.random.default_rng(0).integers(0, size, 24).tolist()
    head, question, endings = numbers[:8], numbers[8:14], (numbers[14:19], numbers[19:24])
    paths = [Path((*head, *question, *ending), len(head) + len(question)) for ending in endings]
    try:
        trees = [grow(paths, len(head)), grow(paths[:1], len(head))]
        found = PrefixCache(source, head).states(trees)
        for row, tree in enumerate(trees):
            for path, columns in zip(paths, tree.columns, strict=False):
                alone = source.states(torch.tensor([path.read]))[0, len(head) :].float()
                error = (found[row, columns].float() - alone).norm() / alone.norm()
                if not error <= (1e-3 if source.model.dtype == torch.float32 else 0.1):
                    return f"shared tokens give other states (relative difference {float(error):.1g})"
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
    return ""


def shared_prefixes(jobs: Sequence[Sequence[Path]], worth: int) -> list[tuple[tuple[int, ...], list[int]]]:
    """Return groups of jobs (by index) with the prefix that each group shares; the last group may share none.

    Of all ways to group jobs that stand side by side in the order of their ids the one that saves the most tokens is
    taken. A group exists only where it saves reading at least ``worth`` tokens: each one is a batch of its own.
    """
    stems = [stem(paths) for paths in jobs]
    order = sorted(range(len(jobs)), key=stems.__getitem__)
    common = np.array([shared(stems[one], stems[other]) for one, other in itertools.pairwise(order)], dtype=np.int64)
    _, spans = _best_spans(common, 0, len(order) - 1, worth)
    groups = [(stems[order[first]][:length], order[first : last + 1]) for first, last, length in spans]
    chosen = {index for _, members in groups for index in members}
    rest = [index for index in range(len(jobs)) if index not in chosen]
    return [*groups, ((), rest)] if rest else groups


def _best_spans(
    common: "NDArray[np.int64]", first: int, last: int, worth: int
) -> tuple[int, list[tuple[int, int, int]]]:
    """Return the tokens saved and the spans (first, last, shared length) that save them, between two neighbours."""
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
    """Return a cache that keeps everything, whatever windows the layers have."""
    if isinstance(model, EnsembleForCausalLM):
        return EnsembleCache([_empty(member) for member in model.members])  # type: ignore[arg-type]  # ModuleList
    return DynamicCache()


def _repeated(cache: Any, rows: int) -> Any:
    """Return a cache for ``rows`` rows that begins with the one row of ``cache``, which stays as it is."""
    if isinstance(cache, EnsembleCache):
        return EnsembleCache([_repeated(member, rows) for member in cache.members])
    copy: Any = DynamicCache()
    for layer in cache.layers:
        own = DynamicLayer()  # type: ignore[no-untyped-call]  # transformers annotates half of its classes
        own.lazy_initialization(layer.keys, layer.values)
        own.keys = layer.keys.expand(rows, -1, -1, -1)
        own.values = layer.values.expand(rows, -1, -1, -1)
        copy.layers.append(own)
    return copy


def _masks(model: PreTrainedModel, sees: torch.Tensor, distance: torch.Tensor) -> Any:
    """Return what ``model`` takes as attention mask: one for all layers, one per kind of layer, or one per member."""
    if isinstance(model, EnsembleForCausalLM):
        return [_masks(member, sees, distance) for member in model.members]  # type: ignore[arg-type]  # as above
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if unknown := kinds - {_FULL, _SLIDING}:
        raise ValueError(f"layers of kind {', '.join(sorted(unknown))} cannot share a prefix")
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is None or kinds == {_FULL}:
        return _additive(sees, model.dtype)
    near = _additive(sees & (distance < window), model.dtype)
    return {_FULL: _additive(sees, model.dtype), _SLIDING: near} if kinds else near


def _additive(sees: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    mask = torch.zeros(sees.shape, dtype=dtype, device=sees.device)
    return mask.masked_fill_(~sees, torch.finfo(dtype).min)[:, None]
