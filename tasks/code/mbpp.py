"""MBPP: 974 short Python problems with three asserts each (Austin et al., arXiv 2108.07732).

Base models get the paper's three few-shot examples (ids 2, 3 and 4), in the format of the paper and of lm-eval; for one
of these, the next problem of the prompt split takes its place. Chat models get the question and an opened code block.

``split: test`` is the paper's test split (ids 11 to 510). If any model of a suite was trained on MBPP, all models of
the suite are measured on that split alone (``unseen``). The Windows line endings of the published solutions are
converted, so that few-shot examples do not teach them.
"""

import ast
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field

from crosstok.errors import UserError
from crosstok.sandbox.program import Program
from crosstok.tasks.code.answers import before_stop, complete_code, fenced_code
from crosstok.tasks.code.solution import CodeOptions, SolutionTask
from crosstok.tasks.data.catalogue import CATALOGUE
from crosstok.tasks.data.rows import Row, load_rows
from crosstok.tasks.task import Document, Generate, PromptStyle, Task, TaskOptions

HUB = "google-research-datasets/mbpp"
FOLDER = f"hub/{HUB}/full"
SPLITS = ("prompt", "test", "validation", "train")  # ids 1-10, 11-510, 511-600, 601-974
_TASK = (
    "You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:\n\n{tests}"
)
_SHOTS = 3


class MBPPOptions(CodeOptions):
    """Options of ``mbpp``."""

    split: Literal["all", "prompt", "test", "validation", "train"] = Field(
        default="all", description="All 974 problems, or one split; test is ids 11 to 510."
    )
    challenge: bool = Field(default=False, description="Add the challenge tests of the 11 problems that have some.")


class MBPP(SolutionTask):
    """Functions described by one sentence and three asserts."""

    version = "1"
    published = "mbpp"
    options_type: ClassVar[type[TaskOptions]] = MBPPOptions
    options: MBPPOptions

    def paths(self) -> Sequence[str]:
        """Return all four splits, or the chosen one."""
        chosen = SPLITS if self.options.split == "all" else (self.options.split,)
        return [f"{FOLDER}/{split}" for split in chosen]

    def available(self) -> int:
        """Return the number of problems in all four splits."""
        if self.options.split == "all":
            return len(self._all)
        return sum(CATALOGUE[f"{FOLDER}/{split}"].rows for split in SPLITS)

    def unseen(self, trained: Iterable[str]) -> Mapping[str, Any]:
        """Return the option for the test split alone if a model was trained on MBPP."""
        return only_test_split(self, self.options.split, trained)

    def document(self, row: Row, number: int) -> Document | None:
        """Return the problem."""
        return problem(row, challenge=self.options.challenge)

    def question(self, document: Document) -> str:
        """Return the description and the three asserts."""
        return _TASK.format(text=document.fields["text"], tests="\n".join(document.fields["shown"]))

    def request(self, document: Document, style: PromptStyle) -> Generate:
        """Return a three-shot prompt (raw) or the question (chat)."""
        if style == "chat":
            return super().request(document, style)
        shots = [shot for shot in self._solved if shot.id != document.id][:_SHOTS]
        solved = "".join(f"{self.question(shot)}\n[BEGIN]\n{shot.fields['code']}\n[DONE]\n\n" for shot in shots)
        prompt = f"{solved}{self.question(document)}\n[BEGIN]\n"
        return Generate(prompt=prompt, stops=("[DONE]", "\n[BEGIN]", "\nYou are an expert"), max_bytes=self.max_bytes)

    def code(self, document: Document, text: str, style: PromptStyle) -> str:
        """Return the answer up to its end marker."""
        if style == "chat":
            return super().code(document, text, style)
        return complete_code(fenced_code(before_stop(text, ("[DONE]", "\n[BEGIN]"))))

    def judged(self, document: Document, code: str) -> Program:
        """Return ``code`` with the asserts."""
        fields = document.fields
        tests = "\n".join([fields["setup"], *fields["tests"]])
        return Program(document.id, code, tests, entry_point=called(fields["shown"][0], fields["code"]))

    def solution(self, document: Document) -> str:
        """Return the reference solution."""
        code: str = document.fields["code"]
        return code

    @cached_property
    def _solved(self) -> list[Document]:
        """Problems 2 to 5, from which the three few-shot examples are taken."""
        rows = load_rows(f"{FOLDER}/prompt", self.data).rows
        return [problem(row) for row in rows if row["task_id"] in range(2, 2 + _SHOTS + 1)]


def problem(row: Row, *, challenge: bool = False) -> Document:
    """Return the document of a row."""
    fields = {
        "text": row["text"],
        "code": row["code"].replace("\r\n", "\n"),
        "tests": [*row["test_list"], *(row["challenge_test_list"] if challenge else [])],
        "shown": row["test_list"],
        "setup": row["test_setup_code"],
    }
    return Document(f"MBPP/{row['task_id']}", fields)


def only_test_split(task: Task, split: str, trained: Iterable[str]) -> dict[str, str]:
    """Return the option that leaves training problems out of ``task`` if ``trained`` contains a text of MBPP."""
    texts = sorted({name for name in trained if HUB in name})
    if texts and split == "train":
        raise UserError(
            f"Task {task.name!r} asks the split 'train', and a model was trained on {texts[0]}.",
            hint="Set split: test.",
        )
    return {"split": "test"} if texts and split == "all" else {}


def called(test: str, code: str) -> str:
    """Return the name of the function of ``code`` that the asserts call first."""
    defined = {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    calls = [node for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Call)]
    names = [node.func.id for node in calls if isinstance(node.func, ast.Name) and node.func.id in defined]
    return names[0] if names else min(defined, default="")
