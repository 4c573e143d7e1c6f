"""Implementation of ``crosstok sandbox check``: verdicts for the programs of a JSON Lines file.

Each line is an object with the keys ``id``, ``candidate``, ``tests`` and ``entry_point``, and optionally ``setup``,
``mode``, ``packages`` and ``limits``. The file is read twice: once to validate it, so that an error in line 5,000 is
reported before anything runs, and once while the programs run, so that it need not fit into memory.
"""

import importlib.util
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from crosstok.errors import UserError, unknown_name
from crosstok.sandbox.pool import Pool
from crosstok.sandbox.program import Limits, Mode, Program
from crosstok.sandbox.verdict import Status, Verdict

_TEXTS = ("candidate", "tests", "entry_point")
_KNOWN = ("id", *_TEXTS, "setup", "mode", "packages", "limits")
_MAXIMA = {"processes": 1 << 16, "files": 1 << 16, "cpu_s": 1e6, "wall_s": 1e6}
"""Largest accepted limits; 2^48 for those in bytes."""


def check(
    path: Path, out: TextIO, pool: Pool, progress: Callable[[int, int], None] = lambda _done, _of: None
) -> dict[Status, int]:
    """Run every program of ``path``, write one line each to ``out`` in input order, and return counts by status.

    ``progress`` is called after each verdict with the number of verdicts and the total. Raises UserError for an invalid
    file, naming the line.
    """
    total = sum(1 for _ in read_programs(path))
    names: dict[str, Any] = {}
    counts: dict[Status, int] = {}
    waiting: dict[int, Verdict] = {}
    written = 0

    def programs() -> Iterator[Program]:
        for name, program in read_programs(path):
            names[program.id] = name
            yield program

    for verdict in pool.run(programs()):
        counts[verdict.status] = counts.get(verdict.status, 0) + 1
        progress(sum(counts.values()), total)
        waiting[int(verdict.id)] = verdict
        while written in waiting:
            ready = waiting.pop(written)
            out.write(json.dumps(_line(names.pop(ready.id), ready)) + "\n")
            written += 1
    return counts


def read_programs(path: Path) -> Iterator[tuple[Any, Program]]:
    """Yield the id and the program of every line; ``Program.id`` is the position in the file instead."""
    try:
        with path.open("rb") as lines:
            number = 0
            for place, line in enumerate(lines, start=1):
                if line.strip():
                    yield _program(line, number, f"{path}, line {place}")
                    number += 1
    except OSError as fault:
        raise UserError(f"Cannot read {path}: {fault.strerror}.") from fault


def _program(line: bytes, number: int, where: str) -> tuple[Any, Program]:
    row = _row(line, where)
    texts = {key: row.get(key, "") for key in (*_TEXTS, "setup")}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise UserError(f"{where}: {key!r} must be a string.")
    packages = row.get("packages", [])
    if not isinstance(packages, list) or not all(isinstance(package, str) for package in packages):
        raise UserError(f"{where}: 'packages' must be a list of names.")
    for package in packages:
        if not _installed(package):
            raise UserError(
                f"{where}: the package {package!r} is not installed.", hint="Install it with pip, or remove the line."
            )
    if row.get("mode", "split") not in list(Mode):
        raise unknown_name(f"mode in {where}", str(row["mode"]), [mode.value for mode in Mode])
    program = Program(
        id=str(number),
        mode=Mode(row.get("mode", "split")),
        packages=tuple(packages),
        limits=_limits(row.get("limits", {}), where),
        **texts,
    )
    return row["id"], program


@cache
def _installed(package: str) -> bool:
    return package.isidentifier() and importlib.util.find_spec(package) is not None


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as fault:
        raise UserError(f"{where} is not JSON: {fault}.") from fault
    if not isinstance(row, dict):
        raise UserError(f"{where} is not a JSON object.")
    for key in row:
        if key not in _KNOWN:
            raise unknown_name(f"key in {where}", key, _KNOWN)
    for key in ("id", *_TEXTS):
        if key not in row:
            raise UserError(f"{where} has no {key!r}.")
    return row


def _limits(wanted: Any, where: str) -> Limits:
    if not isinstance(wanted, dict):
        raise UserError(f"{where}: 'limits' must be a JSON object.")
    known = [field.name for field in fields(Limits)]
    for key, value in wanted.items():
        if key not in known:
            raise unknown_name(f"limit in {where}", key, known)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value) or value <= 0:
            raise UserError(f"{where}: the limit {key!r} must be a positive number.")
        if value > _MAXIMA.get(key, 1 << 48):
            raise UserError(f"{where}: the limit {key!r} must be at most {_MAXIMA.get(key, 1 << 48):.0f}.")
        if not key.endswith("_s") and not isinstance(value, int):
            raise UserError(f"{where}: the limit {key!r} must be an integer.")
    return Limits(**wanted)


def _line(name: Any, verdict: Verdict) -> dict[str, Any]:
    return {
        "id": name,
        "verdict": verdict.status.value,
        "tier": verdict.tier,
        "integrity": verdict.integrity,
        "error": verdict.error,
        "wall_s": verdict.wall_s,
        "cpu_s": verdict.cpu_s,
        "peak_memory_bytes": verdict.peak_memory_bytes,
        "stderr_tail": verdict.stderr_tail,
    }
