"""Readers of JSON files and JSON lines that other harnesses wrote."""

import json
from pathlib import Path
from typing import Any

from crosstok.errors import UserError


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if the file has another kind of value.

    Raises:
        UserError: the file cannot be read or is not JSON.

    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not a JSON file.") from error
    return content if isinstance(content, dict) else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines; empty lines are skipped.

    Raises:
        UserError: the file cannot be read, or a line is not a JSON object.

    """
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{path}, line {number}: not JSON.") from error
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: every line must be a JSON object.")
    return rows
