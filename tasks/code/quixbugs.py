"""QuixBugs: repair of 31 classic algorithms with one wrong line each (Lin et al., SPLASH 2017).

The prompt gives the wrong program and asks for the correct one. These are the 31 of 40 programs whose test cases are
data; the other nine work on linked objects. `crosstok tasks check` verifies that the wrong programs fail.
"""

import json
from collections.abc import Sequence

from crosstok.sandbox.program import Program
from crosstok.tasks.code.solution import SolutionTask
from crosstok.tasks.data.rows import Row
from crosstok.tasks.task import Document

_COMPARE = '''
def _plain(value):
    """Tuples and generators count as lists."""
    if isinstance(value, (list, tuple)) or hasattr(type(value), "__next__"):
        return [_plain(item) for item in value]
    return value


def check(candidate):
    for arguments, expected in CASES:
        found = _plain(candidate(*arguments))
        if isinstance(expected, float):
            assert abs(found - expected) <= TOLERANCE(arguments), (arguments, found, expected)
        else:
            assert found == expected, (arguments, found, expected)
'''
_TOLERANCE = {"sqrt": "lambda arguments: arguments[1]"}  # its second argument is the allowed error
_SLOW = {"knapsack": {9}, "levenshtein": {3}}
"""Cases for which even the correct program needs minutes or gigabytes."""


class QuixBugs(SolutionTask):
    """Repair of one wrong line."""

    version = "1"
    published = "quixbugs"
    room = 2048

    def paths(self) -> Sequence[str]:
        """Return the programs."""
        return ["raw/quixbugs/test"]

    def document(self, row: Row, number: int) -> Document | None:
        """Return the program; None if it has no test cases."""
        if not row["testcases_jsonl"]:
            return None
        name = row["task_id"].rpartition("/")[2]
        cases = []
        for index, line in enumerate(filter(str.strip, row["testcases_jsonl"].splitlines())):
            if index not in _SLOW.get(name, ()):
                arguments, expected = json.loads(line)
                cases.append((arguments if isinstance(arguments, list) else [arguments], expected))
        fields = {"name": name, "buggy": row["buggy"].strip() + "\n", "correct": row["correct"], "cases": cases}
        return Document(row["task_id"], fields)

    def question(self, document: Document) -> str:
        """Return the wrong program."""
        fields = document.fields
        return (
            f"This Python program has a bug in one line. Write {fields['name']} again, without the bug.\n\n"
            f"```python\n{fields['buggy']}```"
        )

    def judged(self, document: Document, code: str) -> Program:
        """Return ``code`` with the test cases."""
        fields = document.fields
        tolerance = _TOLERANCE.get(fields["name"], "lambda arguments: 1e-9")
        tests = f"CASES = {fields['cases']!r}\nTOLERANCE = {tolerance}\n{_COMPARE}"
        return Program(document.id, code, tests, entry_point=fields["name"])

    def solution(self, document: Document) -> str:
        """Return the correct program."""
        code: str = document.fields["correct"]
        return code

    def wrong(self, document: Document) -> Program:
        """Return the wrong program, which must fail."""
        return self._finished(document, self.judged(document, document.fields["buggy"]))
