"""FVT: the row of a new token is the mean of the rows of its pieces under the source tokenizer.

Gee et al., "Fast Vocabulary Transfer for Language Model Compression", EMNLP 2022 industry track (arXiv 2402.09977);
also the initialisation of ALM (arXiv 2503.20083, section 4). For each target token, the first applicable rule is used:
special token with the same role, exact byte string, mean over the source's encoding of its text, mean over the longest
source tokens that spell its bytes, mean of all rows.

Difference from published code: if a token is not valid UTF-8 (part of a character), or the source does not preserve its
text byte for byte (e.g. a dummy prefix space), it is spelt with source tokens by longest match over bytes. Published
code uses random noise in the former case and keeps the additional space in the latter. Input and output matrices use
the same pieces, each with its own rows; sums are in fp32.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from crosstok.distill.embeddings.approximation import Approximated, Approximation, Missing
from crosstok.distill.embeddings.initialiser import Kind
from crosstok.distill.tokenizers.matching import Origin
from crosstok.distill.tokenizers.tokenbytes import RoundTripError, TokenBytes


class FVT(Approximation):
    """Mean of the rows of a token's pieces."""

    name: ClassVar[str] = "fvt"

    def approximate(self, matrices: Mapping[Kind, Tensor], missing: Missing) -> Approximated:
        """Return the means; takes seconds for a vocabulary of 256k tokens."""
        pieces = constituents(missing.source, missing.data)
        ids = [found for found, _ in pieces]
        evenly = [[1 / max(1, len(found))] * len(found) for found in ids]
        return (
            {kind: weighted_sums(matrix, ids, evenly) for kind, matrix in matrices.items()},
            [origin for _, origin in pieces],
        )


def constituents(source: TokenBytes, tokens: list[bytes]) -> list[tuple[list[int], Origin]]:
    """Return, for each byte string, the source ids that spell it, and whether its text or its bytes were matched.

    An empty list with ``fallback`` means that no source token spells any part of it.
    """
    texts: dict[int, str] = {}
    for index, data in enumerate(tokens):
        try:
            texts[index] = data.decode("utf-8")
        except UnicodeDecodeError:
            continue
    found: list[tuple[list[int], Origin]] = [([], "fallback")] * len(tokens)
    for index, ids in zip(texts, _encode_each(source, list(texts.values())), strict=True):
        if ids:
            found[index] = (ids, "mean")
    for index, (ids, _) in enumerate(found):
        if not ids:
            spelt = _spell(source, tokens[index])
            found[index] = (spelt, "bytes") if spelt else ([], "fallback")
    return found


def _encode_each(source: TokenBytes, texts: list[str]) -> list[list[int]]:
    """Return the ids of each text; none if they do not spell its bytes or add a dummy prefix space."""
    return [
        [] if isinstance(encoding, RoundTripError) or encoding.prefix else encoding.ids.tolist()
        for encoding in source.try_encode_many(texts)
    ]


def _spell(source: TokenBytes, data: bytes) -> list[int]:
    """Return the source ids of the longest matches from left to right; bytes that the source lacks are skipped."""
    ids = []
    start = 0
    while start < len(data):
        for stop in range(len(data), start, -1):
            found = source.id_of(data[start:stop])
            if found is not None:
                ids.append(found)
                start = stop
                break
        else:
            start += 1
    return ids


def weighted_sums(matrix: Tensor, pieces: list[list[int]], weights: list[list[float]]) -> Tensor:
    """Return ``[len(pieces), d]``: row t is the sum of ``weights[t][i] * matrix[pieces[t][i]]``, 0 without pieces."""
    place = matrix.device
    owner = torch.tensor([row for row, ids in enumerate(pieces) for _ in ids], dtype=torch.int64, device=place)
    used = torch.tensor([piece for ids in pieces for piece in ids], dtype=torch.int64, device=place)
    share = torch.tensor([weight for row in weights for weight in row], dtype=matrix.dtype, device=place)
    return matrix.new_zeros(len(pieces), matrix.shape[1]).index_add_(0, owner, matrix[used] * share[:, None])
