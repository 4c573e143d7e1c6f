"""Embedding initialisers, one class in one file each, found by name.

An initialiser of another package registers itself under the entry point group ``crosstok.embeddings``.
"""

from distill.embeddings.initialiser import Initialiser, Kind, Origin, Rows, Scene, match
from distill.registry import Registry

INITIALISERS: Registry[Initialiser] = Registry(
    "initialiser",
    "crosstok.embeddings",
    Initialiser,  # type: ignore[type-abstract]  # only ever a base to compare with
    {
        "fvt": "distill.embeddings.fvt:FVT",
        "subword": "distill.embeddings.subword:Subword",
        "mean": "distill.embeddings.mean:Mean",
        "hewitt": "distill.embeddings.hewitt:Hewitt",
        "normal": "distill.embeddings.normal:Normal",
        "zero": "distill.embeddings.zero:Zero",
        "omp": "distill.embeddings.omp:OMP",
        "nearest": "distill.embeddings.nearest:Nearest",
        "token_distillation": "distill.embeddings.token_distillation:TokenDistillation",
    },
)

__all__ = ["INITIALISERS", "Initialiser", "Kind", "Origin", "Rows", "Scene", "match"]
