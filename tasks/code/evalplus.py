"""HumanEval+ and MBPP+: HumanEval and MBPP with the extended tests of EvalPlus (Liu et al., arXiv 2305.01210).

The prompts are those of HumanEval and MBPP; only the tests differ. The documents come from the data folder or the hub.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field

from crosstok.sandbox.program import Program
from crosstok.tasks.code.humaneval import HumanEval
from crosstok.tasks.code.libraries import LIMITS, needed, visible
from crosstok.tasks.code.mbpp import MBPP, only_test_split
from crosstok.tasks.code.solution import CodeOptions
from crosstok.tasks.data.rows import Row, Rows, load_rows
from crosstok.tasks.task import DataSource, Document, TaskOptions

TEST_SPLIT = range(11, 511)
"""Ids of MBPP's test split."""


class HumanEvalPlus(HumanEval):
    """HumanEval with about eighty times as many tests."""

    version = "1"

    def source(self) -> DataSource:
        """Return the origin of the rows."""
        source: DataSource = self._part.source
        return source

    def requires(self, document: Document) -> tuple[str, ...]:
        """Return the packages that the tests import; they compare numbers with numpy."""
        return needed(document.fields["prompt"], document.fields["test"])

    def _judge(self, document: Document, candidate: str) -> Program:
        packages = visible(self.requires(document))
        return replace(super()._judge(document, candidate), packages=packages, limits=LIMITS)

    @cached_property
    def _part(self) -> Rows:
        return load_rows("hub/evalplus/humanevalplus/default/test", self.data)

    @cached_property
    def _rows(self) -> list[dict[str, str]]:
        return [dict(row) for row in self._part.rows]


class MBPPPlusOptions(CodeOptions):
    """Options of ``mbpp_plus``."""

    split: Literal["all", "test"] = Field(default="all", description="all 378 problems, or those with ids 11 to 510.")


class MBPPPlus(MBPP):
    """The problems of MBPP whose statement and solution EvalPlus verified."""

    version = "1"
    published = "mbpp_plus"
    options_type: ClassVar[type[TaskOptions]] = MBPPPlusOptions
    options: MBPPPlusOptions  # type: ignore[assignment]  # no challenge tests, and fewer splits

    def paths(self) -> Sequence[str]:
        """Return the only split."""
        return ["hub/evalplus/mbppplus/default/test"]

    def available(self) -> int:
        """Return the number of problems before filtering."""
        return sum(len(part.rows) for part in self._parts)

    def unseen(self, trained: Iterable[str]) -> Mapping[str, Any]:
        """Return the option for MBPP's test split alone if a model was trained on MBPP."""
        return only_test_split(self, self.options.split, trained)

    def document(self, row: Row, number: int) -> Document | None:
        """Return the problem."""
        if self.options.split == "test" and row["task_id"] not in TEST_SPLIT:
            return None
        fields = {
            "text": row["prompt"],
            "code": row["code"].replace("\r\n", "\n"),
            "tests": [row["test"]],
            "shown": row["test_list"],
            "setup": "\n".join(row["test_imports"]),
        }
        return Document(f"MBPP/{row['task_id']}", fields)
