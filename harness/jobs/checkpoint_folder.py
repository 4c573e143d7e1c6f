"""Which folders hold a checkpoint that is completely written.

A folder appears before its files do, and a file grows before it is whole. A checkpoint counts when all of this holds:

- its name does not mark it as unfinished (a leading dot, ``tmp-``, a trailing ``.tmp``, ``.part`` or ``.work``);
- ``config.json`` and ``tokenizer.json`` are there and are whole JSON;
- its weights are safetensors, every one as long as its own header says; where ``model.safetensors.index.json`` names
  shards, all of them are there;
- nothing in it has changed for ``settle`` seconds. A trainer that writes a marker as its last act
  (``--marker COMPLETE``) makes that wait unnecessary; folders without the marker are then never looked at.

The lengths alone would notice an interrupted copy; the wait notices a folder that is being written over.
"""

import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_UNFINISHED = re.compile(r"\..*|tmp-.*|.*\.(tmp|part|partial|work)")
INDEX = "model.safetensors.index.json"

Signature = tuple[tuple[str, int, int], ...]
"""Name, size and time of change (ns) of every file, ordered by name."""


@dataclass
class Arrivals:
    """Looks at a folder again and again and tells which checkpoints in it are ready."""

    folder: Path
    settle: float
    """Seconds without a change."""
    marker: str | None = None
    """A file that is written last."""
    waiting: dict[str, str] = field(default_factory=dict)
    """Why the others are not ready, by name; of the last look."""
    _seen: dict[str, tuple[Signature, float]] = field(default_factory=dict)

    def ready(self) -> dict[str, Signature]:
        """Return the checkpoints that are complete now, in the order of the numbers in their names."""
        found: dict[str, Signature] = {}
        self.waiting = {}
        for path in sorted(self.folder.iterdir(), key=lambda path: step_and_name(path.name)):
            if not path.is_dir() or _UNFINISHED.fullmatch(path.name):
                continue
            try:
                present = signature(path)
                problem = self._problem(path, present)
            except FileNotFoundError:  # removed while we were looking
                continue
            if problem:
                self.waiting[path.name] = problem
            else:
                found[path.name] = present
        return found

    def _problem(self, path: Path, present: Signature) -> str:
        before, since = self._seen.get(path.name, (None, 0.0))
        if before != present:
            since = time.monotonic()
            self._seen[path.name] = (present, since)
        if self.marker and not (path / self.marker).exists():
            return f"{self.marker} is not there"
        problem = incomplete(path)
        if not problem and not self.marker and time.monotonic() - since < self.settle:
            return "it may still be written"
        return problem


def signature(folder: Path) -> Signature:
    """Return what changes when any file of a checkpoint does."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return tuple((path.name, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files)


def incomplete(folder: Path) -> str:
    """Return what a checkpoint lacks, or nothing."""
    for name in ("config.json", "tokenizer.json"):
        if _json(folder / name) is None:
            return f"{name} is not there or not whole"
    weights = [path.name for path in folder.glob("*.safetensors")]
    if (folder / INDEX).exists():
        named = (_json(folder / INDEX) or {}).get("weight_map")
        if not isinstance(named, dict):
            return f"{INDEX} is not whole"
        weights = sorted({str(name) for name in named.values()})
    if not weights and not (_json(folder / "config.json") or {}).get("members"):  # an ensemble has none of its own
        return "it has no safetensors"
    short = [name for name in weights if not _whole(folder / name)]
    return f"{short[0]} is not there or not whole" if short else ""


def step_and_name(name: str) -> tuple[int, str]:
    """Order ``checkpoint-9`` before ``checkpoint-10``: by the last number in a name, then by the name."""
    numbers = re.findall(r"\d+", name)
    return (int(numbers[-1]) if numbers else -1, name)


def _whole(path: Path) -> bool:
    """Return whether a safetensors file is as long as its header says."""
    try:
        with path.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if not 0 < size < 1 << 30:
                return False
            header = json.loads(stream.read(size))
            length = path.stat().st_size
    except (OSError, ValueError):
        return False
    if not isinstance(header, dict):
        return False
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return bool(length == 8 + size + max(ends, default=0))


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
