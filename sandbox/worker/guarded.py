"""Guarded mode: tests and candidate in one process, for tests that patch, subclass or inspect the candidate's objects.

The isolation from the machine is the same, but the verdict is weaker. Instead of a separate referee, a transcript
provides evidence: every passed assertion adds a mark, every unittest method counts, and the total must equal that of
the reference solution. An audit hook records when candidate code walks frames, searches the heap or sets a trace
function, which no solution needs. Code that knows the scheme can forge all of this; guarded verdicts are therefore
marked.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

_SUSPICIOUS = frozenset(
    {
        "sys._getframe",
        "sys._current_frames",
        "sys.settrace",
        "sys.setprofile",
        "sys.addaudithook",
        "gc.get_objects",
        "gc.get_referrers",
        "gc.get_referents",
        "ctypes.dlopen",
    }
)
_frame = sys._getframe  # noqa: SLF001  (documented; bound before any candidate code runs)


def install_audit_hook(candidate_file: str) -> list[str]:
    """Install the audit hook; return the list to which it adds suspicious events raised by ``candidate_file``."""
    recorded: list[str] = []
    note = recorded.append

    def hook(event: str, _: tuple[Any, ...], busy: list[bool] = []) -> None:  # noqa: B006  (state of the hook)
        if event in _SUSPICIOUS and not busy:
            busy.append(True)
            try:
                if _frame(1).f_code.co_filename == candidate_file:
                    note(event)
            finally:
                busy.clear()

    sys.addaudithook(hook)
    return recorded


def run(names: dict[str, Any], tests: str, entry_point: str, load: Callable[[], Any]) -> tuple[str, str, int]:
    """Load the candidate, run the tests in its namespace, and return status, error and number of passed checks."""
    # Imported before any candidate code, but only here: they are large, and most programs run in split mode.
    import ast
    import unittest

    class AssertionMarker(ast.NodeTransformer):
        """Adds a mark after every assert statement."""

        def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
            call = ast.Expr(ast.Call(ast.Name(mark, ast.Load()), [], []))
            return [node, ast.fix_missing_locations(ast.copy_location(call, node))]

    case_type, suite_type, result_type = unittest.TestCase, unittest.TestSuite, unittest.TestResult
    load_methods = unittest.TestLoader().loadTestsFromTestCase
    mark = f"_held_{os.urandom(8).hex()}"
    transcript: list[None] = []
    code = compile(AssertionMarker().visit(ast.parse(tests, "<tests>")), "<tests>", "exec", dont_inherit=True)
    load()
    names[mark] = lambda append=transcript.append: append(None)
    before = set(names)
    try:
        exec(code, names)  # noqa: S102  (the purpose of the sandbox)
        if not transcript and callable(names.get("check")):
            names["check"](eval(entry_point, names))  # noqa: S307  (trusted)
        new = [thing for name, thing in names.items() if name not in before]
        cases = [thing for thing in new if isinstance(thing, type) and issubclass(thing, case_type)]
        result = result_type()
        suite_type([load_methods(case) for case in cases]).run(result)
    except AssertionError as failed:
        return "failed", f"AssertionError: {failed}"[:500], len(transcript)
    except BaseException as raised:  # noqa: BLE001  (the candidate may raise anything)
        status = "memory" if isinstance(raised, MemoryError) else "error"
        return status, f"{type(raised).__name__}: {raised}"[:500], len(transcript)
    for case, text in [*result.failures, *result.errors, *result.skipped, *result.expectedFailures]:
        last_line = (text.strip().splitlines() or ["skipped"])[-1]
        return "failed", f"{case.id()}: {last_line}"[:500], len(transcript)
    checks = len(transcript) + result.testsRun
    if result.unexpectedSuccesses or not checks:
        return "failed", "no assertion was reached, or an expected failure did not occur", checks
    return "passed", "", checks
