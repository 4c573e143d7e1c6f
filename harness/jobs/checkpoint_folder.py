"""Detection of checkpoints that are completely written.

A trainer creates a folder before its files, and a file before its content. A checkpoint is complete if

- its name does not mark it as unfinished (a leading dot, ``tmp-``, or a trailing ``.tmp``, ``.part``, ``.work``);
- ``config.json`` and ``tokenizer.json`` exist and parse;
- its weights are safetensors files of the length that their headers give, with all shards that
  ``model.safetensors.index.json`` names;
- nothing in it has changed for ``settle`` seconds. With a marker file that the trainer writes last
  (``--marker COMPLETE``), there is no wait, and folders without the marker are ignored.

The lengths detect an interrupted copy; the wait detects a folder that is being overwritten.
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
"""Name, size in bytes and modification time in nanoseconds of every file, sorted by name."""


@dataclass
class CheckpointFolder:
    """A folder of checkpoints; each call of :meth:`ready` looks for complete ones."""

    folder: Path
    settle: float
    """Seconds without a change until a checkpoint is complete."""
    marker: str | None = None
    """Name of a file that the trainer writes last to a checkpoint."""
    waiting: dict[str, str] = field(default_factory=dict)
    """Reasons why the other checkpoints were incomplete in the last call, by name."""
    _seen: dict[str, tuple[Signature, float]] = field(default_factory=dict)

    def ready(self) -> dict[str, Signature]:
        """Return the complete checkpoints, ordered by the number in their names."""
        found: dict[str, Signature] = {}
        self.waiting = {}
        for path in sorted(self.folder.iterdir(), key=lambda path: step_and_name(path.name)):
            if not path.is_dir() or _UNFINISHED.fullmatch(path.name):
                continue
            try:
                present = signature(path)
                problem = self._problem(path, present)
            except FileNotFoundError:  # removed in the meantime
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
            return f"{self.marker} is missing"
        problem = incomplete(path)
        if not problem and not self.marker and time.monotonic() - since < self.settle:
            return "it changed recently"
        return problem


def signature(folder: Path) -> Signature:
    """Return the signature of a checkpoint, which changes if any of its files does."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return tuple((path.name, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files)


def incomplete(folder: Path) -> str:
    """Return why a checkpoint is incomplete, an empty string if it is complete."""
    for name in ("config.json", "tokenizer.json"):
        if _json(folder / name) is None:
            return f"{name} is missing or incomplete"
    weights = [path.name for path in folder.glob("*.safetensors")]
    if (folder / INDEX).exists():
        named = (_json(folder / INDEX) or {}).get("weight_map")
        if not isinstance(named, dict):
            return f"{INDEX} is incomplete"
        weights = sorted({str(name) for name in named.values()})
    if not weights and not (_json(folder / "config.json") or {}).get(
        "members"
    ):  # an ensemble has no weights of its own
        return "it has no safetensors files"
    short = [name for name in weights if not _whole(folder / name)]
    return f"{short[0]} is missing or incomplete" if short else ""


def step_and_name(name: str) -> tuple[int, str]:
    """Return a sort key: the last number in the name, then the name (``checkpoint-9`` before ``checkpoint-10``)."""
    numbers = re.findall(r"\d+", name)
    return (int(numbers[-1]) if numbers else -1, name)


def _whole(path: Path) -> bool:
    """Return whether a safetensors file has the length that its header gives."""
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
