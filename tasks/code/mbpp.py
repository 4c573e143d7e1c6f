"""MBPP: 974 short Python problems, each with three asserts (Austin et al., arXiv 2108.07732).

Base models get the paper's three solved problems first (ids 2, 3 and 4), in the form that the paper and lm-eval use;
where one of these is itself asked, the next problem of the prompt split takes its place. Chat models get the question
and an opened block of code.

``split: test`` is the paper's test split (ids 11 to 510). Where any model of a suite was trained on MBPP, a plan asks
only that one of all its models (``unseen``). The published solutions have Windows line ends, which would teach a model
to write them; they are turned into plain ones.
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
        default="all", description="all 974 problems, or one split; test is ids 11 to 510."
    )
    challenge: bool = Field(default=False, description="Add the challenge tests, which 11 problems have.")


class MBPP(SolutionTask):
    """Functions asked for in one sentence and three asserts."""

    version = "1"
    published = "mbpp"
    options_type: ClassVar[type[TaskOptions]] = MBPPOptions
    options: MBPPOptions

    def paths(self) -> Sequence[str]:
        """Return all four splits, or the one that was chosen."""
        chosen = SPLITS if self.options.split == "all" else (self.options.split,)
        return [f"{FOLDER}/{split}" for split in chosen]

    def available(self) -> int:
        """Return the number of problems in all four splits, whichever is measured."""
        if self.options.split == "all":
            return len(self._all)
        return sum(CATALOGUE[f"{FOLDER}/{split}"].rows for split in SPLITS)

    def unseen(self, trained: Iterable[str]) -> Mapping[str, Any]:
        """Leave all but the test split out where a model was trained on any text of MBPP."""
        return only_test_split(self, self.options.split, trained)

    def document(self, row: Row, number: int) -> Document | None:  # noqa: ARG002  (rows have ids)
        """Return the problem."""
        return problem(row, challenge=self.options.challenge)

    def question(self, document: Document) -> str:
        """Return the sentence and the three asserts."""
        return _TASK.format(text=document.fields["text"], tests="\n".join(document.fields["shown"]))

    def request(self, document: Document, style: PromptStyle) -> Generate:
        """Ask after three solved problems (raw), or plainly (chat)."""
        if style == "chat":
            return super().request(document, style)
        shots = [shot for shot in self._solved if shot.id != document.id][:_SHOTS]
        solved = "".join(f"{self.question(shot)}\n[BEGIN]\n{shot.fields['code']}\n[DONE]\n\n" for shot in shots)
        prompt = f"{solved}{self.question(document)}\n[BEGIN]\n"
        return Generate(prompt=prompt, stops=("[DONE]", "\n[BEGIN]", "\nYou are an expert"), max_bytes=self.max_bytes)

    def code(self, document: Document, text: str, style: PromptStyle) -> str:
        """Return the answer up to the mark that ends it."""
        if style == "chat":
            return super().code(document, text, style)
        return complete_code(fenced_code(before_stop(text, ("[DONE]", "\n[BEGIN]"))))

    def judged(self, document: Document, code: str) -> Program:
        """Judge by the asserts."""
        fields = document.fields
        tests = "\n".join([fields["setup"], *fields["tests"]])
        return Program(document.id, code, tests, entry_point=called(fields["shown"][0], fields["code"]))

    def solution(self, document: Document) -> str:
        """Return the published code."""
        code: str = document.fields["code"]
        return code

    @cached_property
    def _solved(self) -> list[Document]:
        """Problems 2 to 5: three of them are shown, whichever is asked."""
        rows = load_rows(f"{FOLDER}/prompt", self.data).rows
        return [problem(row) for row in rows if row["task_id"] in range(2, 2 + _SHOTS + 1)]


def problem(row: Row, *, challenge: bool = False) -> Document:
    """Return a row as a document."""
    fields = {
        "text": row["text"],
        "code": row["code"].replace("\r\n", "\n"),
        "tests": [*row["test_list"], *(row["challenge_test_list"] if challenge else [])],
        "shown": row["test_list"],
        "setup": row["test_setup_code"],
    }
    return Document(f"MBPP/{row['task_id']}", fields)


def only_test_split(task: Task, split: str, trained: Iterable[str]) -> dict[str, str]:
    """Return the option that leaves training problems out of ``task``, if any name in ``trained`` is a text of MBPP."""
    texts = sorted({name for name in trained if HUB in name})
    if texts and split == "train":
        raise UserError(
            f"Task {task.name!r} asks the split 'train', and a model was trained on {texts[0]}.",
            hint="Set split: test.",
        )
    return {"split": "test"} if texts and split == "all" else {}


def called(test: str, code: str) -> str:
    """Return the name of the function of ``code`` that an assert calls first."""
    defined = {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    calls = [node for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Call)]
    names = [node.func.id for node in calls if isinstance(node.func, ast.Name) and node.func.id in defined]
    return names[0] if names else min(defined, default="")
