"""Extraction of the program from an answer, in time linear in its length.

Models wrap code in Markdown fences, and base models continue after the end of the function. This module removes both,
in the same way for every model; it repairs nothing.
"""

import ast
import re

_FENCE = re.compile(r"^ {0,3}(```+|~~~+)[ \t]*[\w+.-]*[ \t]*$")


def before_stop(text: str, stops: tuple[str, ...]) -> str:
    """Return ``text`` up to the first occurrence of any stop."""
    ends = [found for stop in stops if (found := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def fenced_code(text: str) -> str:
    """Return the content of the first non-empty fenced block; without a fence, the whole text.

    A block without a closing fence ends with the text.
    """
    block: list[str] | None = None
    fence = ""
    for line in text.splitlines(keepends=True):
        found = _FENCE.match(line.rstrip("\r\n"))
        if block is None:
            if found:
                block, fence = [], found[1]
        elif found and found[1].startswith(fence) and line.strip() == found[1]:
            if "".join(block).strip():
                return "".join(block)
            block = None
        else:
            block.append(line)
    return text if block is None else "".join(block)


def complete_code(text: str) -> str:
    """Return ``text`` without trailing top-level statements that do not parse, such as those of a truncated answer.

    Code whose first statement does not parse is returned unchanged, so that it fails.
    """
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        # Everything before the statement with the first error parses, so one pass is enough.
        return _without_statement_at(text, getattr(error, "lineno", None) or 0) or text
    return text


def _without_statement_at(code: str, line_number: int) -> str:
    lines = code.splitlines(keepends=True)
    for index in range(min(line_number, len(lines)) - 1, -1, -1):
        if lines[index][:1] not in ("", " ", "\t", "\n", "\r", "#", ")", "]", "}"):
            while index and lines[index - 1].startswith("@"):
                index -= 1  # noqa: PLW2901  (a decorator belongs to what it decorates)
            kept = "".join(lines[:index])
            return kept if kept.strip() else ""
    return ""
