"""Rows of new tokens kept while a student is trained, so that their way can be looked at afterwards.

The states that training saves are there to continue from and are deleted with it. What is kept here is small: the rows
of at most some hundred new tokens, at a few steps evenly spaced, in ``row-snapshots/step-N.safetensors`` beside the
student's weights (``ids [n]``, ``input [n, d]``, and ``output [n, d]`` where it is another matrix).
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from crosstok.distill.inspection.tokens import compare, spaced
from crosstok.distill.models.lora import embedding_matrices
from crosstok.distill.tokenizers.tokenbytes import TokenBytes

FOLDER = "row-snapshots"
WATCHED = 512
"""New tokens whose rows are kept."""


class RowSnapshots:
    """Called with the number of steps done and the network; keeps rows at the beginning, at the end and between."""

    def __init__(self, folder: Path, ids: list[int], steps: int, count: int) -> None:
        self.folder = folder
        self._ids = torch.tensor(ids, dtype=torch.long)
        self._wanted = {round(steps * place / count) for place in range(count + 1)} if ids and count else set()

    @classmethod
    def of(cls, folder: Path, student: TokenBytes, parent: TokenBytes, *, steps: int, count: int) -> "RowSnapshots":
        """Return what watches the tokens that ``parent`` does not have, ``count`` times after the beginning."""
        return cls(folder / FOLDER, spaced(compare(student, parent).new, WATCHED), steps, count)

    @torch.no_grad()
    def __call__(self, step: int, network: Any) -> None:
        """Keep the rows if this is one of the steps."""
        if step not in self._wanted:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {"ids": self._ids}
        for name, matrix in zip(("input", "output"), embedding_matrices(network), strict=False):
            kept[name] = matrix[self._ids.to(matrix.device)].float().cpu()
        save_file(kept, self.folder / f"step-{step}.safetensors")


def read_snapshots(student: Path) -> list[tuple[int, dict[str, Tensor]]]:
    """Return (steps done, tensors) of what was kept, in the order of steps; none if nothing was."""
    found = {int(path.stem.removeprefix("step-")): path for path in (student / FOLDER).glob("step-*.safetensors")}
    return [(step, load_file(found[step])) for step in sorted(found)]
