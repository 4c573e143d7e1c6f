"""Weights in the order in which a processor multiplies them, for as long as a batch is answered.

A matrix product in bfloat16 on a CPU begins by rearranging the weights, each time anew. In a step of few rows that
takes as long as all the rest: of SmolLM2-135M's matrices on two cores, 576 by 1536 takes 207 microseconds for 10 rows,
100 rearranged; 576 by 49152 (the output) 4.5 milliseconds against 2.4. Products are the same, bit for bit.

Covered: ``torch.nn.Linear`` in bfloat16 on an x86 processor, where the copy of the weights (one for members of an
ensemble that share a matrix) takes no more than a quarter of the memory that is known to be available. Not covered, and
run as they are: other types and devices, subclasses of ``Linear``, layers that something else has hooked into, GPT-2's
``Conv1D``, scoring (whose passes have rows enough to make little of it).
"""

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from crosstok.machine import available_memory

_SHARE = 4  # of the memory that is available, one part in so many
_MKLDNN = torch.ops.mkldnn
_OPERATORS = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
_POSSIBLE = platform.machine() in {"x86_64", "AMD64"} and all(hasattr(_MKLDNN, name) for name in _OPERATORS)


class PackedWeights:
    """Copies of a model's matrices as the processor wants them; the model's own stay as they are."""

    def __init__(self, model: nn.Module) -> None:
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and _can_be_packed(layer)]
        matrices = {_place(layer.weight): layer.weight.detach() for layer in layers}
        if sum(matrix.nbytes for matrix in matrices.values()) * _SHARE > available_memory():
            layers, matrices = [], {}
        packed = {place: _packed(matrix) for place, matrix in matrices.items()}
        self._forwards = [(layer, _product(packed[_place(layer.weight)], layer.bias)) for layer in layers]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let the model multiply by the copies; no gradients. When the block ends, it is as it was before."""
        # Past `nn.Module.__setattr__`, whose checks take as long as a small product.
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


def _place(matrix: Tensor) -> tuple[int, torch.Size]:
    return matrix.data_ptr(), matrix.shape


def _packed(matrix: Tensor) -> Tensor:
    # PyTorch's compiler calls this operator and the next one for frozen weights; there are no public names for them.
    found: Tensor = _MKLDNN._reorder_linear_weight(matrix)  # noqa: SLF001
    return found


def _product(packed: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    multiply = _MKLDNN._linear_pointwise.default  # noqa: SLF001

    def forward(rows: Tensor) -> Tensor:
        found: Tensor = multiply(rows, packed, bias, "none", [], "")
        return found

    return forward
