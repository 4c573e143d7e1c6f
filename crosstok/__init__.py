"""The floor that the five packages stand on: errors, fingerprints, folders and text sources.

``harness`` conducts, ``distill`` makes students, ``tasks`` says what is measured, ``sandbox`` runs untrusted programs,
``results`` keeps and compares what was measured. Only ``harness`` imports the other four. What more than one of them
needs, and nothing else, stands here; this package imports none of them, and no torch.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("crosstok")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+source"
