"""Errors that end a command, and their exit codes.

0: success; 1: regression found; 2: user error; 3: run incomplete; 130: interrupted. A traceback is shown only for a
defect of crosstok itself, or with ``--debug``.
"""

import difflib
import re
from collections.abc import Iterable


class CrosstokError(Exception):
    """Base class of all errors that are shown as one line instead of a traceback."""

    exit_code = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class UserError(CrosstokError):
    """An error that the user can fix: ``message`` says what and where, ``hint`` how."""


class RunIncomplete(CrosstokError):
    """The run ended before every cell was measured; starting it again resumes it."""

    exit_code = 3


class RegressionFound(CrosstokError):
    """A rule of the regression gate failed."""

    exit_code = 1


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for an unknown name, with the closest known name or the list of all names as its hint."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(names) or 'none'}."
    return UserError(f"Unknown {kind} {name!r}.", hint=hint)


def invalid_value(message: str) -> str:
    """Return a message of pydantic in the terms of the file that has the invalid value."""
    message = message.removeprefix("Value error, ")
    message = re.sub(r"^Tuple\b", "List", message)
    return re.sub(r"valid dictionary or instance of \w+|valid dictionary", "mapping", message).replace(
        "valid tuple", "list"
    )
