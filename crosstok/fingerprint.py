"""Content addresses: equal inputs give equal names, on every machine.

Every piece of work (student, sample, verdict) is keyed by a fingerprint of all that decides its value, which is what
makes runs resumable and results comparable.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SHORT = 16  # hex digits: 64 bits, no accidental collision among the few thousand things in a store


def fingerprint(value: Mapping[str, Any] | list[Any]) -> str:
    """Return 16 hex digits that depend on every JSON value inside ``value`` and not on key order."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:_SHORT]


def bytes_sha256(data: bytes) -> str:
    """Return the full SHA-256 of ``data`` as hex."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the full SHA-256 of a file as hex, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
