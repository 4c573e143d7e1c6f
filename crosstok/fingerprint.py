"""Content fingerprints: equal inputs give equal names on every machine.

Every unit of work (student, sample, verdict) is keyed by a fingerprint of everything that determines its value, which
makes runs resumable and results comparable.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SHORT = 16  # hex digits: 64 bits, enough to avoid collisions among the thousands of entries of a store


def fingerprint(value: Mapping[str, Any] | list[Any]) -> str:
    """Return 16 hex digits that depend on every JSON value in ``value`` but not on the order of keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:_SHORT]


def bytes_sha256(data: bytes) -> str:
    """Return the full SHA-256 of ``data`` as hex."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the full SHA-256 of a file as hex, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
