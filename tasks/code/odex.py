"""ODEX, English part: 439 one-line requests from Stack Overflow, with tests (Wang et al., arXiv 2212.10481).

The prompt is the head of the function with the request as docstring, which the model continues; chat models get the
request as a question with an opened code block. Imports from the tests are part of the prompt, since the solution uses
them. The trailing space of the published prompts (``return ``) is left to the model: tokens usually start with a space,
and the effect of a trailing one depends on the tokenizer.
"""

import ast
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

from crosstok.sandbox.program import Mode, Program
from crosstok.tasks.code.answers import before_stop
from crosstok.tasks.code.solution import FENCE, SolutionTask
from crosstok.tasks.code.unittests import patches
from crosstok.tasks.data.rows import Row
from crosstok.tasks.task import Document, Generate, PromptStyle

RAW_STOPS = ("\n\n", "\ndef ", "\nclass ", "\n#", "\nif ", "\nprint", "\nassert ", "\nimport ", "\nfrom ", "\n>>>")


class ODEX(SolutionTask):
    """Short functions over the standard library, numpy, pandas and other packages."""

    version = "1"
    published = "odex"
    room = 384

    def paths(self) -> Sequence[str]:
        """Return the English test set."""
        return ["hub/neulab/odex/en/test"]

    def document(self, row: Row, number: int) -> Document:
        """Return the problem; several solutions of one request are numbered."""
        seen = self._seen[row["task_id"]]
        self._seen[row["task_id"]] += 1
        head, _, check = row["test_start"].partition("def check(")
        fields = {
            "intent": row["intent"],
            "prompt": row["prompt"],
            "suffix": row["suffix"],
            "solution": row["canonical_solution"],
            "imports": head.strip(),
            "tests": f"def check({check}{''.join(row['test'])}",
            "entry_point": row["entry_point"],
        }
        return Document(f"ODEX/{row['task_id']}.{seen}", fields)

    def question(self, document: Document) -> str:
        """Return the request."""
        return f"Complete this Python function: {document.fields['intent']}"

    def opening(self, document: Document) -> str:
        """Return imports, head and docstring, up to the solution."""
        fields = document.fields
        head, _, rest = fields["prompt"].partition("\n")
        imports = f"{fields['imports']}\n\n" if fields["imports"] else ""
        docstring = '\t"""' + fields["intent"].replace("\\", "\\\\").replace('"""', "'''") + ' """'
        return f"{imports}{head}\n{docstring}\n{rest}".rstrip(" ")

    def request(self, document: Document, style: PromptStyle) -> Generate:
        """Return a prompt for the rest of the function."""
        if style == "raw":
            return Generate(prompt=self.opening(document), stops=RAW_STOPS, max_bytes=self.max_bytes)
        asked = super().request(document, style)
        return Generate(messages=asked.messages, stops=(FENCE, *RAW_STOPS), max_bytes=self.max_bytes)

    def code(self, document: Document, text: str, style: PromptStyle) -> str:
        """Return head, answer and the published end of the function, joined."""
        answer = before_stop(text, (FENCE, *RAW_STOPS)).rstrip()
        opening = self.opening(document)
        gap = " " if opening[-1:].isalnum() and answer[:1] not in (" ", "\t", "\n", "") else ""
        return f"{opening}{gap}{answer}{document.fields['suffix']}\n"

    def judged(self, document: Document, code: str) -> Program:
        """Return ``code`` with the published ``check`` function."""
        fields = document.fields
        mode = Mode.GUARDED if patches(f"{fields['imports']}\n{fields['tests']}") else Mode.SPLIT
        return Program(
            document.id, code, fields["tests"], fields["entry_point"], setup=_imports(fields["imports"]), mode=mode
        )

    def solution(self, document: Document) -> str:
        """Return head, reference solution and end."""
        fields = document.fields
        return f"{fields['imports']}\n{fields['prompt']}{fields['solution']}{fields['suffix']}\n"

    @cached_property
    def _seen(self) -> Counter[str]:
        return Counter()


def _imports(head: str) -> str:
    """Return the text before the tests if it only has imports; otherwise it belongs to the tests."""
    return head if head and all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(head).body) else ""
