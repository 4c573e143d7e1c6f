"""Embedding initialisers, one class in one file each, found by name.

An initialiser of another package registers itself under the entry point group ``crosstok.embeddings``.
"""

from crosstok.distill.embeddings.initialiser import Initialiser, Kind, Rows, SourceModel
from crosstok.distill.registry import Registry
from crosstok.distill.tokenizers.matching import Origin, match

INITIALISERS: Registry[Initialiser] = Registry(
    "initialiser",
    "crosstok.embeddings",
    Initialiser,  # type: ignore[type-abstract]  # only ever a base to compare with
    {
        "fvt": "crosstok.distill.embeddings.fvt:FVT",
        "subword": "crosstok.distill.embeddings.subword:Subword",
        "mean": "crosstok.distill.embeddings.mean:Mean",
        "hewitt": "crosstok.distill.embeddings.hewitt:Hewitt",
        "normal": "crosstok.distill.embeddings.normal:Normal",
        "zero": "crosstok.distill.embeddings.zero:Zero",
        "omp": "crosstok.distill.embeddings.omp:OMP",
        "nearest": "crosstok.distill.embeddings.nearest:Nearest",
        "token_distillation": "crosstok.distill.embeddings.token_distillation:TokenDistillation",
    },
)

__all__ = ["INITIALISERS", "Initialiser", "Kind", "Origin", "Rows", "SourceModel", "match"]
