"""Exercism's Python track: 140 exercises with instructions, stub and unittest file (github.com/exercism/python)."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from crosstok.sandbox.program import Mode, Program
from crosstok.tasks.code.solution import SolutionTask
from crosstok.tasks.code.unittests import imported_from, patches, runnable, without_imports_of, without_main
from crosstok.tasks.data.rows import Row
from crosstok.tasks.task import Document


class Exercism(SolutionTask):
    """Practice exercises, from a few lines to small programs."""

    version = "1"
    published = "exercism"
    room = 3072

    def paths(self) -> Sequence[str]:
        """Return the exercises."""
        return ["raw/exercism_python/test"]

    def document(self, row: Row, number: int) -> Document:
        """Return the exercise; its tests start with their helper module, if they have one."""
        (stub_name, stub), *_ = row["solution_files"].items()
        module = PurePosixPath(stub_name).stem
        helpers = [text for name, text in row["test_files"].items() if not name.endswith("_test.py")]
        tests = [text for name, text in row["test_files"].items() if name.endswith("_test.py")]
        for name in row["test_files"]:
            if not name.endswith("_test.py"):
                tests = [without_imports_of(text, PurePosixPath(name).stem) for text in tests]
        names = [name for text in tests for name in imported_from(text, module)]
        tests = [without_imports_of(without_main(text), module) for text in [*helpers, *tests]]
        fields = {
            "instructions": row["instructions"].strip(),
            "stub": stub,
            "solution": "\n".join(row["example_files"].values()),
            "tests": "\n".join(tests),
            "entry_point": (names or ["object"])[0],  # any name, if the tests import the whole module
        }
        return Document(row["task_id"], fields)

    def question(self, document: Document) -> str:
        """Return the instructions and the stub."""
        fields = document.fields
        stub = f"```python\n{fields['stub']}```"
        return f"{fields['instructions']}\n\nWrite the whole module. Begin from this stub:\n\n{stub}"

    def judged(self, document: Document, code: str) -> Program:
        """Return ``code`` with the unittest file."""
        tests = document.fields["tests"]
        mode = Mode.GUARDED if patches(tests) or "import solution" in tests else Mode.SPLIT
        return Program(document.id, code, runnable(tests), document.fields["entry_point"], mode=mode)

    def solution(self, document: Document) -> str:
        """Return the example solution of the track."""
        code: str = document.fields["solution"]
        return code
