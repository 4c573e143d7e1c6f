"""ClassEval: generation of 100 Python classes, with unittest cases (Du et al., arXiv 2308.01861).

Holistic form: the prompt gives the skeleton with the docstrings of all methods and asks for the whole class.
"""

from collections.abc import Sequence

from crosstok.sandbox.program import Mode, Program
from crosstok.tasks.code.solution import SolutionTask
from crosstok.tasks.code.unittests import patches, runnable, without_main
from crosstok.tasks.data.rows import Row
from crosstok.tasks.task import Document


class ClassEval(SolutionTask):
    """Generation of classes whose methods depend on each other."""

    version = "1"
    published = "classeval"
    room = 6144

    def paths(self) -> Sequence[str]:
        """Return the only split."""
        return ["hub/FudanSELab/ClassEval/default/test"]

    def document(self, row: Row, number: int) -> Document:
        """Return the class."""
        fields = {
            "name": row["class_name"],
            "skeleton": row["skeleton"].rstrip() + "\n",
            "imports": "\n".join(row["import_statement"]),
            "solution": row["solution_code"],
            "tests": without_main(row["test"]),
        }
        return Document(row["task_id"].replace("_", "/"), fields)

    def question(self, document: Document) -> str:
        """Return the instruction and the skeleton."""
        name, skeleton = document.fields["name"], document.fields["skeleton"]
        return f"Write the class {name} in full, with the body of every method:\n\n```python\n{skeleton}```"

    def opening(self, document: Document) -> str:
        """Return the imports and the head of the class."""
        imports = document.fields["imports"]
        return f"{imports}\n\n\nclass {document.fields['name']}" if imports else f"class {document.fields['name']}"

    def judged(self, document: Document, code: str) -> Program:
        """Return ``code`` with the unittest cases, which use the names of the class's imports."""
        fields = document.fields
        mode = Mode.GUARDED if patches(fields["tests"]) else Mode.SPLIT
        tests = runnable(f"{fields['imports']}\n{fields['tests']}")
        return Program(document.id, code, tests, fields["name"], mode=mode)

    def solution(self, document: Document) -> str:
        """Return the published class."""
        return f"{document.fields['imports']}\n{document.fields['solution']}"
