"""HumanEvalFix, the Python part of HumanEvalPack: repair of 164 wrong functions (Muennighoff et al., arXiv 2308.07124).

The prompt shows the wrong function with its tests (the paper's main form) or with its docstring. The wrong functions
are also a negative control of the sandbox: `crosstok tasks check humanevalpack` fails if one of them passes.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from crosstok.sandbox.program import Program
from crosstok.tasks.code.humaneval import shared_code
from crosstok.tasks.code.solution import CodeOptions, SolutionTask
from crosstok.tasks.data.rows import Row
from crosstok.tasks.task import Document, TaskOptions


class HumanEvalPackOptions(CodeOptions):
    """Options of ``humanevalpack``."""

    given: Literal["tests", "docstring"] = Field(
        default="tests", description="Specification shown with the wrong function."
    )


class HumanEvalPack(SolutionTask):
    """Repair of wrong HumanEval solutions."""

    version = "1"
    published = "humanevalpack"
    options_type: ClassVar[type[TaskOptions]] = HumanEvalPackOptions
    options: HumanEvalPackOptions

    def paths(self) -> Sequence[str]:
        """Return the Python part."""
        return ["hub/bigcode/humanevalpack/python/test"]

    def document(self, row: Row, number: int) -> Document:
        """Return the problem."""
        names = ("prompt", "declaration", "buggy_solution", "canonical_solution", "test", "entry_point")
        return Document(row["task_id"], {name: row[name] for name in names})

    def question(self, document: Document) -> str:
        """Return the wrong function, with tests or docstring."""
        fields = document.fields
        if self.options.given == "tests":
            shown = f"{fields['declaration'].strip()}\n{fields['buggy_solution']}\n{fields['test'].strip()}\n"
        else:
            shown = f"{fields['prompt'].strip()}\n{fields['buggy_solution']}"
        return f"Fix the bug in {fields['entry_point']}:\n\n```python\n{shown}```"

    def opening(self, document: Document) -> str:
        """Return the head of the function."""
        opening: str = document.fields["declaration"].lstrip("\n")
        return opening

    def judged(self, document: Document, code: str) -> Program:
        """Return ``code`` with HumanEval's tests."""
        fields = document.fields
        return Program(
            document.id,
            code,
            fields["test"],
            fields["entry_point"],
            setup=shared_code(fields["declaration"], fields["entry_point"]),
        )

    def solution(self, document: Document) -> str:
        """Return the reference function."""
        return f"{document.fields['declaration']}{document.fields['canonical_solution']}"

    def wrong(self, document: Document) -> Program:
        """Return the wrong function, which must fail."""
        code = f"{document.fields['declaration']}{document.fields['buggy_solution']}"
        return self._finished(document, self.judged(document, code))
