"""Tests and candidate in one process, for tests that patch, subclass or inspect the candidate's objects.

The walls are the same; the verdict is not as good. What stands in for the referee's distance is a transcript: every
assertion that held leaves a mark, every unittest method is counted, and the number must be what the reference solution
leaves. An audit hook notes when candidate code walks frames, searches the heap or sets a trace function, which no
solution needs. All of this can be forged by code that knows it; that is why such verdicts carry their own integrity.
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
_frame = sys._getframe  # noqa: SLF001  (public in all but name; taken before any candidate code runs)


def watch(candidate_file: str) -> list[str]:
    """Start the audit hook and return the list in which it notes what code of ``candidate_file`` does."""
    noted: list[str] = []
    note = noted.append

    def hook(event: str, _: tuple[Any, ...], busy: list[bool] = []) -> None:  # noqa: B006  (the hook's own state)
        if event in _SUSPICIOUS and not busy:
            busy.append(True)
            try:
                if _frame(1).f_code.co_filename == candidate_file:
                    note(event)
            finally:
                busy.clear()

    sys.addaudithook(hook)
    return noted


def run(names: dict[str, Any], tests: str, entry_point: str, load: Callable[[], Any]) -> tuple[str, str, int]:
    """Load the candidate, run the tests in its namespace, and return status, error and the length of the transcript."""
    # Before any candidate code, and no earlier: they are large, and most programs are judged split.
    import ast  # noqa: PLC0415
    import unittest  # noqa: PLC0415

    class Marked(ast.NodeTransformer):
        """Puts a mark behind every assert statement."""

        def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
            call = ast.Expr(ast.Call(ast.Name(mark, ast.Load()), [], []))
            return [node, ast.fix_missing_locations(ast.copy_location(call, node))]

    case_type, suite_type, result_type = unittest.TestCase, unittest.TestSuite, unittest.TestResult
    load_methods = unittest.TestLoader().loadTestsFromTestCase
    mark = f"_held_{os.urandom(8).hex()}"
    transcript: list[None] = []
    code = compile(Marked().visit(ast.parse(tests, "<tests>")), "<tests>", "exec", dont_inherit=True)
    load()
    names[mark] = lambda append=transcript.append: append(None)
    before = set(names)
    try:
        exec(code, names)  # noqa: S102  (its purpose)
        if not transcript and callable(names.get("check")):
            names["check"](eval(entry_point, names))  # noqa: S307  (trusted)
        new = [thing for name, thing in names.items() if name not in before]
        cases = [thing for thing in new if isinstance(thing, type) and issubclass(thing, case_type)]
        result = result_type()
        suite_type([load_methods(case) for case in cases]).run(result)
    except AssertionError as failed:
        return "failed", f"AssertionError: {failed}"[:500], len(transcript)
    except BaseException as raised:  # noqa: BLE001  (anything at all may come out of a candidate)
        status = "memory" if isinstance(raised, MemoryError) else "error"
        return status, f"{type(raised).__name__}: {raised}"[:500], len(transcript)
    for case, text in [*result.failures, *result.errors, *result.skipped, *result.expectedFailures]:
        last_line = (text.strip().splitlines() or ["skipped"])[-1]
        return "failed", f"{case.id()}: {last_line}"[:500], len(transcript)
    held = len(transcript) + result.testsRun
    if result.unexpectedSuccesses or not held:
        return "failed", "no assertion was reached, or a test that was to fail did not", held
    return "passed", "", held
