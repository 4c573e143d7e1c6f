"""Checksums of samples, which reveal later changes.

They protect against accidents and edits of single rows. Whoever can rewrite the whole store can recompute them; only a
copy of the store elsewhere protects against that.
"""

import hashlib
import json

from crosstok.results.store.records import Sample


def sample_checksum(sample: Sample) -> str:
    """Return the SHA-256 of a sample's fields as hex."""
    canonical = json.dumps(sample.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()
