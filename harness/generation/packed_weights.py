"""Packed weights: matrices prepacked for bfloat16 products on x86 CPUs, for the duration of a batch.

A bfloat16 matrix product on a CPU first reorders the weights, at every call. In a decoding step with few rows this
takes as long as the product itself. For matrices of SmolLM2-135M on two cores: 576 x 1536 takes 207 microseconds for 10
rows, and 100 with packed weights; 576 x 49152 (the output head) takes 4.5 milliseconds, and 2.4. The results are equal
bit for bit.

Packed are ``torch.nn.Linear`` layers in bfloat16 on an x86 CPU, if the copies (one for members of an ensemble that
share a matrix) take at most a quarter of the available memory. Not packed: other dtypes and devices, subclasses of
``Linear``, layers whose ``forward`` is already replaced, GPT-2's ``Conv1D``, and scoring, whose passes have enough rows
to make the gain small.
"""

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from crosstok.machine import available_memory

_MEMORY_DIVISOR = 4  # the copies may take this fraction of the available memory
_MKLDNN = torch.ops.mkldnn
_OPERATORS = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
_POSSIBLE = platform.machine() in {"x86_64", "AMD64"} and all(hasattr(_MKLDNN, name) for name in _OPERATORS)


class PackedWeights:
    """Packed copies of a model's matrices; the model itself is not changed outside of :meth:`active`."""

    def __init__(self, model: nn.Module) -> None:
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and _can_be_packed(layer)]
        matrices = {_storage_key(layer.weight): layer.weight.detach() for layer in layers}
        if sum(matrix.nbytes for matrix in matrices.values()) * _MEMORY_DIVISOR > available_memory():
            layers, matrices = [], {}
        packed = {key: _packed(matrix) for key, matrix in matrices.items()}
        self._forwards = [(layer, _product(packed[_storage_key(layer.weight)], layer.bias)) for layer in layers]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the model use the packed copies inside the block. Does not support gradients."""
        # Bypasses `nn.Module.__setattr__`, whose checks take as long as a small product.
        for layer, forward in self._forwards:
            vars(layer)["forward"] = forward
        try:
            yield
        finally:
            for layer, _ in self._forwards:
                del vars(layer)["forward"]


def _can_be_packed(layer: nn.Linear) -> bool:
    return (
        _POSSIBLE
        and type(layer) is nn.Linear
        and "forward" not in vars(layer)
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype is torch.bfloat16
        and bool(_MKLDNN._is_mkldnn_bf16_supported())  # noqa: SLF001  (see _packed)
    )


def _storage_key(matrix: Tensor) -> tuple[int, torch.Size]:
    return matrix.data_ptr(), matrix.shape


def _packed(matrix: Tensor) -> Tensor:
    # torch.compile uses this operator and _linear_pointwise for frozen weights; neither has a public name.
    found: Tensor = _MKLDNN._reorder_linear_weight(matrix)  # noqa: SLF001
    return found


def _product(packed: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    multiply = _MKLDNN._linear_pointwise.default  # noqa: SLF001

    def forward(rows: Tensor) -> Tensor:
        found: Tensor = multiply(rows, packed, bias, "none", [], "")
        return found

    return forward
