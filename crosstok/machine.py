"""Resources of this machine."""

import contextlib
from pathlib import Path


def available_memory() -> int:
    """Return the available memory in bytes; 0 if unknown."""
    with contextlib.suppress(OSError, StopIteration), Path("/proc/meminfo").open(encoding="ascii") as lines:
        return int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) << 10
    return 0
