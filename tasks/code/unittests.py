"""Test files written for ``unittest``, made into tests that the sandbox runs split or guarded.

Split, the cases run in the referee, and what they call are proxies of the candidate's functions and classes: the
verdict cannot be forged. Guarded, the sandbox itself runs the cases inside the candidate's process, for tests that
patch modules or subclass the candidate's classes. One text does for both: the runner below acts only in the referee,
where the tests' namespace is called ``tests``.
"""

import ast
import re
from collections.abc import Mapping

CANDIDATE_MODULE = "solution"
"""What the sandbox calls the candidate's module."""

_RUNNER = """

if __name__ == "tests":
    import unittest as _unittest

    _cases = [
        _thing
        for _thing in list(globals().values())
        if isinstance(_thing, type) and issubclass(_thing, _unittest.TestCase)
        and _thing.__module__ == __name__
    ]
    _suite = _unittest.TestSuite(map(_unittest.TestLoader().loadTestsFromTestCase, _cases))
    _result = _unittest.TestResult()
    _suite.run(_result)
    for _case, _text in [*_result.failures, *_result.errors]:
        raise AssertionError(f"{_case.id()}: {_text.strip().splitlines()[-1]}")
    # A skip is the test file's own word here: the candidate has no way to raise one.
    assert _result.testsRun > len(_result.skipped) and not (_result.expectedFailures or _result.unexpectedSuccesses)
"""
_PATCHING = frozenset({"mock", "patch", "MagicMock", "Mock", "mock_open"})


def runnable(tests: str) -> str:
    """Return a test file with what runs its cases in the referee."""
    return tests + _RUNNER


def without_main(tests: str) -> str:
    """Drop the ``if __name__ == "__main__"`` block."""
    found = [
        node for node in ast.parse(tests).body if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
    ]
    return _replace(tests, dict.fromkeys(found, "pass"))


def without_imports_of(tests: str, module: str) -> str:
    """Drop the imports of the candidate's own ``module``: the sandbox puts its names into the tests.

    A renaming import becomes an assignment. ``import module`` becomes an import of what the sandbox calls it, which
    works guarded only; so do names of things to patch, which are changed along.
    """
    tree = ast.parse(tests)
    replaced: dict[ast.stmt, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == module:
            renamed = [
                f"{alias.asname} = {alias.name}" for alias in node.names if alias.asname not in (None, alias.name)
            ]
            replaced[node] = "; ".join(renamed) or "pass"
        elif isinstance(node, ast.Import) and any(alias.name == module for alias in node.names):
            replaced[node] = f"import {CANDIDATE_MODULE} as {node.names[0].asname or module}"
    return re.sub(rf"""(?<=["']){re.escape(module)}(?=\.)""", CANDIDATE_MODULE, _replace(tests, replaced))


def imported_from(tests: str, module: str) -> list[str]:
    """Return the names that tests import from ``module``, in their order."""
    found = [node for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.ImportFrom) and node.module == module]
    return [alias.name for node in found for alias in node.names]


def patches(tests: str) -> bool:
    """Return whether tests replace parts of modules, which reaches the candidate in its own process only."""
    names = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Attribute)}
    return bool(names & _PATCHING)


def _replace(source: str, replaced: Mapping[ast.stmt, str]) -> str:
    """Return ``source`` with whole statements replaced, every other line as it was."""
    lines = source.splitlines(keepends=True)
    for node, text in sorted(replaced.items(), key=lambda item: -item[0].lineno):
        lines[node.lineno - 1 : node.end_lineno] = [" " * node.col_offset + text + "\n"]
    return "".join(lines)
