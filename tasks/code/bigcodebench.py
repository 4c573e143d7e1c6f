"""BigCodeBench: 1140 functions over many libraries, or the hard 148, with unittest cases (arXiv 2406.15877).

Base models continue signature and docstring (the paper's "complete" form); chat models get the request in words (its
"instruct" form), and their answer starts with imports and signature. The benchmark needs many libraries on the host;
`crosstok tasks check` lists the documents that this host cannot run.
"""

from collections.abc import Sequence

from crosstok.sandbox.program import Mode, Program
from crosstok.tasks.code.answers import before_stop, complete_code
from crosstok.tasks.code.solution import FENCE, SolutionTask
from crosstok.tasks.code.unittests import patches, runnable, without_main
from crosstok.tasks.data.rows import Row
from crosstok.tasks.task import Document, Generate, PromptStyle

RAW_STOPS = ("\ndef ", "\nclass ", "\nif __name__", "\nprint(", "\nassert ", "\nimport ", "\nfrom ", FENCE)


class BigCodeBenchHard(SolutionTask):
    """The hard subset."""

    version = "1"
    published = "bigcodebench_hard"
    room = 2560

    def paths(self) -> Sequence[str]:
        """Return the hard subset."""
        return ["hub/bigcode/bigcodebench-hard/default/v0.1.x"]

    def document(self, row: Row, number: int) -> Document:
        """Return the problem."""
        fields = {
            "complete": row["complete_prompt"],
            "instruct": row["instruct_prompt"],
            "head": row["code_prompt"],
            "solution": row["canonical_solution"],
            "tests": without_main(row["test"]),
            "entry_point": row["entry_point"],
        }
        return Document(row["task_id"], fields)

    def question(self, document: Document) -> str:
        """Return the request in words."""
        question: str = document.fields["instruct"]
        return question

    def opening(self, document: Document) -> str:
        """Return imports and signature."""
        head: str = document.fields["head"]
        return head

    def request(self, document: Document, style: PromptStyle) -> Generate:
        """Return a prompt for the rest of the function, after its docstring (raw) or its signature (chat)."""
        if style == "raw":
            return Generate(prompt=document.fields["complete"], stops=RAW_STOPS, max_bytes=self.max_bytes)
        asked = super().request(document, style)
        return Generate(messages=asked.messages, stops=(FENCE,), max_bytes=self.max_bytes)

    def code(self, document: Document, text: str, style: PromptStyle) -> str:
        """Return head and answer joined."""
        if style == "chat":
            return super().code(document, text, style)
        return complete_code(document.fields["complete"] + before_stop(text, RAW_STOPS))

    def judged(self, document: Document, code: str) -> Program:
        """Return ``code`` with the unittest cases."""
        fields = document.fields
        # The original harness runs code and tests as one module: tests use the prompt's imports.
        mode = Mode.GUARDED if patches(fields["tests"]) else Mode.SPLIT
        return Program(document.id, code, runnable(fields["tests"]), fields["entry_point"], mode=mode)

    def solution(self, document: Document) -> str:
        """Return signature and published body."""
        return f"{document.fields['head']}{document.fields['solution']}"


class BigCodeBench(BigCodeBenchHard):
    """All functions; guarded mode if their tests patch modules, split mode otherwise."""

    published = "bigcodebench"

    def paths(self) -> Sequence[str]:
        """Return the newest published version."""
        return ["hub/bigcode/bigcodebench/default/v0.1.4"]
