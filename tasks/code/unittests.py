"""Conversion of ``unittest`` files to tests that the sandbox runs in split or guarded mode.

In split mode, the test cases run in the referee and call proxies of the candidate's functions and classes, so the
verdict cannot be forged. In guarded mode, the sandbox runs the cases inside the candidate's process, for tests that
patch modules or subclass the candidate's classes. The same text works in both modes: the runner below acts only in the
referee, where the module of the tests is named ``tests``.
"""

import ast
import re
from collections.abc import Mapping

CANDIDATE_MODULE = "solution"
"""Name of the candidate's module in the sandbox."""

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
    """Return a test file with a runner of its cases for the referee."""
    return tests + _RUNNER


def without_main(tests: str) -> str:
    """Return ``tests`` without the ``if __name__ == "__main__"`` block."""
    found = [
        node for node in ast.parse(tests).body if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
    ]
    return _replace(tests, dict.fromkeys(found, "pass"))


def without_imports_of(tests: str, module: str) -> str:
    """Return ``tests`` without imports from the candidate's ``module``, whose names the sandbox provides.

    An import with a new name becomes an assignment. ``import module`` becomes an import of the sandbox's name for it,
    which works in guarded mode only; targets of ``patch`` are renamed as well.
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
    """Return the names that tests import from ``module``, in order."""
    found = [node for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.ImportFrom) and node.module == module]
    return [alias.name for node in found for alias in node.names]


def patches(tests: str) -> bool:
    """Return whether tests patch modules, which affects the candidate only inside its own process."""
    names = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Attribute)}
    return bool(names & _PATCHING)


def _replace(source: str, replaced: Mapping[ast.stmt, str]) -> str:
    """Return ``source`` with whole statements replaced and all other lines unchanged."""
    lines = source.splitlines(keepends=True)
    for node, text in sorted(replaced.items(), key=lambda item: -item[0].lineno):
        lines[node.lineno - 1 : node.end_lineno] = [" " * node.col_offset + text + "\n"]
    return "".join(lines)
