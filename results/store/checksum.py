"""The seal of a sample: a hash of all its fields, by which a later alteration is noticed.

It guards against accident and against edits of single rows. Who can rewrite the whole store can also seal anew; against
that helps only a copy of the store elsewhere.
"""

import hashlib
import json

from crosstok.results.store.records import Sample


def seal(sample: Sample) -> str:
    """Return the SHA-256 of a sample's fields as hex."""
    canonical = json.dumps(sample.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()
