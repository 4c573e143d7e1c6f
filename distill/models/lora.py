"""LoRA adapters, and weight sharing between teacher and student.

Hu et al., arXiv 2106.09685. Every linear map ``W`` of the transformer layers becomes ``W + (alpha / rank) B A`` with
``A ~ N(0, 1/rank^2)`` and ``B = 0``, so training starts from the original model. The embedding matrices are trained in
full: after a change of vocabulary there is little in them for a low-rank update to build on.

A model transferred to another tokenizer is its own teacher. With LoRA the two differ only in embeddings and adapters,
so :func:`share` builds the student as a second module tree over the same tensors. The weights are in memory once, and
adapters need not be toggled when the teacher runs.

:func:`merge` adds the adapters to copies of the weights, so the saved model is a plain one and the teacher is
unchanged.
"""

import copy
from collections.abc import Iterable
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

_NAME = "default"


def share(model: nn.Module) -> Any:
    """Return a copy of ``model`` that has its own embedding matrices and shares all other tensors with it."""
    own = {id(weight) for weight in embedding_matrices(model)}
    common: dict[int, Any] = {id(weight): weight for weight in model.parameters() if id(weight) not in own}
    common |= {id(buffer): buffer for buffer in model.buffers()}
    return copy.deepcopy(model, common)


def embedding_matrices(model: Any) -> list[nn.Parameter]:
    """Return the input matrix and, if it is a different one, the output matrix."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    found = [inputs.weight]
    return found if outputs is None or outputs.weight is inputs.weight else [*found, outputs.weight]


def attach(model: nn.Module, rank: int, alpha: int) -> None:
    """Add adapters to all linear maps of the transformer layers, in place, initialised from torch's random state."""
    maps = _linear_maps(model)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=[name for name, _ in maps],
        fan_in_fan_out=all(isinstance(module, Conv1D) for _, module in maps),
        init_lora_weights="gaussian",
    )
    peft.inject_adapter_in_model(config, model, _NAME)


def adapter_weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the adapters' matrices."""
    return [weight for name, weight in model.named_parameters() if ".lora_" in name]


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Merge every adapter into a new weight of its layer, in place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            layer: Any = module
            base = layer.get_base_layer()
            base.weight = nn.Parameter(base.weight + layer.get_delta_weight(_NAME).to(base.weight.dtype))
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, base)
    if hasattr(model, "peft_config"):  # else other programs expect adapters in the saved folder
        del model.peft_config


def bytes_held(models: Iterable[nn.Module]) -> int:
    """Return the bytes of memory of the parameters of ``models``, counting shared tensors once."""
    storages = {weight.untyped_storage().data_ptr(): weight for model in models for weight in model.parameters()}
    return sum(weight.untyped_storage().nbytes() for weight in storages.values())


def _linear_maps(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the linear maps of the layers, which are taken to be the longest ``ModuleList`` of the model."""
    stacks = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    longest = max(stacks, key=lambda name: len(stacks[name]))
    return [
        (f"{longest}.{name}", module)
        for name, module in stacks[longest].named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
    ]
