"""Row snapshots: the rows of new tokens, saved during training for later inspection.

Training checkpoints are deleted after training. Snapshots are small: the rows of at most a few hundred new tokens, at a
few evenly spaced steps, in ``row-snapshots/step-N.safetensors`` beside the student's weights (``ids [n]``, ``input [n,
d]``, and ``output [n, d]`` if the embeddings are untied).
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from crosstok.distill.inspection.tokens import compare_vocabularies, evenly_spaced
from crosstok.distill.models.lora import embedding_matrices
from crosstok.distill.tokenizers.tokenbytes import TokenBytes

FOLDER = "row-snapshots"
WATCHED = 512
"""Maximum number of new tokens whose rows are saved."""


class RowSnapshots:
    """Training callback that saves rows at the start, at the end and in between."""

    def __init__(self, folder: Path, ids: list[int], steps: int, count: int) -> None:
        self.folder = folder
        self._ids = torch.tensor(ids, dtype=torch.long)
        self._wanted = {round(steps * place / count) for place in range(count + 1)} if ids and count else set()

    @classmethod
    def of(cls, folder: Path, student: TokenBytes, parent: TokenBytes, *, steps: int, count: int) -> "RowSnapshots":
        """Return a callback for the tokens that ``parent`` lacks, with ``count`` snapshots after the first."""
        return cls(folder / FOLDER, evenly_spaced(compare_vocabularies(student, parent).new, WATCHED), steps, count)

    @torch.no_grad()
    def __call__(self, step: int, network: Any) -> None:
        """Save the rows if ``step`` is due."""
        if step not in self._wanted:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {"ids": self._ids}
        for name, matrix in zip(("input", "output"), embedding_matrices(network), strict=False):
            kept[name] = matrix[self._ids.to(matrix.device)].float().cpu()
        save_file(kept, self.folder / f"step-{step}.safetensors")


def read_snapshots(student: Path) -> list[tuple[int, dict[str, Tensor]]]:
    """Return the snapshots as (steps done, tensors), ordered by step; an empty list if there are none."""
    found = {int(path.stem.removeprefix("step-")): path for path in (student / FOLDER).glob("step-*.safetensors")}
    return [(step, load_file(found[step])) for step in sorted(found)]
