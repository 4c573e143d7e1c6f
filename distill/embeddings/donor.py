"""Base class of the initialisers that use the embeddings of a second model, the donor.

The tokens shared by source and donor give paired rows ``A [n, d_donor]`` and ``B [n, d_source]``. The donor's row of a
missing token is expressed as a combination of rows of A, and the same combination of rows of B is the new row. The two
embedding spaces need not be related, and their widths may differ.

Tokens are paired if source, donor and target have the same bytes. Other implementations compare token strings, in which
model families encode spaces and non-ASCII characters differently, and so miss most pairs. Input and output rows are
paired separately; a donor with tied embeddings uses its one matrix for both.
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


class DonorInitialiser(Approximation):
    """Base class of initialisers with a donor."""

    donor: str
    """Model source whose vocabulary has the new tokens, e.g. a model trained with the new tokenizer."""

    @property
    def model_source(self) -> str:
        """The donor."""
        return self.donor

    @abstractmethod
    def combine(self, atoms: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Express each row of ``wanted [t, d]`` as a combination of rows of ``atoms [n, d]``.

        Returns the indices ``[t, k]`` int64 of the rows used and their coefficients ``[t, k]``.
        """

    def load_donor(self) -> tuple[dict[Kind, Tensor], TokenBytes]:
        """Return the donor's matrices and its token bytes."""
        loaded = checkpoints.load(self.donor)
        inputs, outputs = input_weight(loaded.model).detach(), output_weight(loaded.model)
        return {"input": inputs, "output": inputs if outputs is None else outputs.detach()}, loaded.tokenbytes

    def approximate(self, matrices: Mapping[Kind, Tensor], missing: Missing) -> Approximated:
        """Return the combinations of the source's rows. Raises UserError if no token is shared with the donor."""
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
                    hint="Choose a donor that was trained with the new tokenizer.",
                )
            new = matrix.new_zeros(len(here), matrix.shape[1])
            if bool(has_row.any()):
                indices, coefficients = self.combine(atoms, donor[known[here[has_row]]])
                new[has_row] = torch.einsum("tk,tkd->td", coefficients, images[indices])
            made[kind] = new
        return made, ["approximated" if found else "fallback" for found in has_row.tolist()]
