"""Initialisers that look a missing token up in another model, the donor, which has an embedding of it.

The tokens that source and donor share give paired rows: ``A [n, d_donor]`` and ``B [n, d_source]``. A missing token's
donor row is expressed by rows of A, and the same combination of rows of B is its new row. The two spaces need not have
anything in common, not even their width.

The pairs are tokens with equal bytes in source, donor and target. Published programs compare the strings of the two
vocabularies, in which a leading space or a letter outside ASCII is written differently by every family, so most pairs
are never found. Input and output rows are paired separately; a side that the donor has tied gives its one matrix.
"""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from crosstok.distill.embeddings.approximation import Approximated, Approximation, Missing
from crosstok.distill.embeddings.initialiser import Kind
from crosstok.distill.models import checkpoints
from crosstok.distill.models.weights import input_weight, output_weight
from crosstok.distill.tokenizers.matching import match
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError


class Donated(Approximation):
    """Base of the initialisers with a donor."""

    donor: str
    """Any model source whose vocabulary holds the new tokens: a model that was trained with the new tokenizer."""

    @property
    def model_source(self) -> str:
        """The donor."""
        return self.donor

    @abstractmethod
    def combine(self, atoms: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Express each row of ``wanted [t, d]`` by rows of ``atoms [n, d]``.

        Returns the indices ``[t, k]`` int64 of the rows used and their coefficients ``[t, k]``.
        """

    def load_donor(self) -> tuple[dict[Kind, Tensor], TokenBytes]:
        """Return the donor's matrices and its tokenizer."""
        loaded = checkpoints.load(self.donor)
        inputs, outputs = input_weight(loaded.model).detach(), output_weight(loaded.model)
        return {"input": inputs, "output": inputs if outputs is None else outputs.detach()}, loaded.tokenbytes

    def approximate(self, matrices: Mapping[Kind, Tensor], missing: Missing) -> Approximated:
        """Return the combinations of the source's rows. Raises UserError if the donor shares no token."""
        donated, tokens = self.load_donor()
        rows, _ = match(tokens, missing.target, {})
        known = torch.from_numpy(rows)
        pairs = missing.shared[known[missing.shared[:, 0]] >= 0]
        here = torch.tensor(missing.tokens, dtype=torch.int64)
        has_row = known[here] >= 0
        made: dict[Kind, Tensor] = {}
        for kind, matrix in matrices.items():
            donor = donated[kind].float().to(matrix.device)
            atoms, images = donor[known[pairs[:, 0]]], matrix[pairs[:, 1]]
            usable = self.is_trained(atoms) & self.is_trained(images) if len(pairs) else has_row[:0]
            atoms, images = atoms[usable], images[usable]
            if not len(atoms):
                raise UserError(
                    f"The donor {self.donor} shares no token with both the model and its new tokenizer.",
                    hint="Name a model that was trained with the new tokenizer.",
                )
            new = matrix.new_zeros(len(here), matrix.shape[1])
            if bool(has_row.any()):
                indices, coefficients = self.combine(atoms, donor[known[here[has_row]]])
                new[has_row] = torch.einsum("tk,tkd->td", coefficients, images[indices])
            made[kind] = new
        return made, ["approximated" if found else "fallback" for found in has_row.tolist()]
