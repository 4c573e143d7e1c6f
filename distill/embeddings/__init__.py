"""Initialisers of embedding rows, one class in one file each.

Initialisers are found by name in :mod:`crosstok.distill.registry`. An initialiser of another package registers itself
under the entry point group ``crosstok.embeddings``.
"""

from crosstok.distill.embeddings.initialiser import Initialiser, Kind, Rows, SourceModel
from crosstok.distill.tokenizers.matching import Origin, match

__all__ = ["Initialiser", "Kind", "Origin", "Rows", "SourceModel", "match"]
