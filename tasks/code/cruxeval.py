"""CRUXEval, output prediction for 800 functions (Gu et al., arXiv 2401.03065).

The answer is an expression, which the sandbox evaluates and compares. The answer's program does not contain the
function, so an answer that merely calls it fails.
"""

from collections.abc import Sequence

from crosstok.sandbox.program import Program
from crosstok.tasks.code.answers import before_stop
from crosstok.tasks.code.solution import FENCE, SolutionTask
from crosstok.tasks.data.rows import Row
from crosstok.tasks.task import Document, Generate, PromptStyle

_INSTRUCTION = (
    "Given a Python function and a call of it, complete the assertion with the value that the call returns. Write only"
    " that value, as a Python literal."
)
_SHOTS = (
    ("def f(words):\n    return [w[::-1] for w in words if len(w) > 2]", "['ab', 'cat', 'tree']", "['tac', 'eert']"),
    ("def f(text, n):\n    return text.upper() + '-' * n", "'ok', 3", "'OK---'"),
)
STOPS = ("\n", FENCE)


class CRUXEval(SolutionTask):
    """Prediction of the value of a call."""

    version = "1"
    published = "cruxeval"
    room = 256

    def paths(self) -> Sequence[str]:
        """Return the functions."""
        return ["hub/cruxeval-org/cruxeval/default/test"]

    def document(self, row: Row, number: int) -> Document:
        """Return the function with its call."""
        return Document(f"CRUXEval/{row['id']}", {name: row[name] for name in ("code", "input", "output")})

    def question(self, document: Document) -> str:
        """Return instruction, two solved examples and the function."""
        solved = "\n\n".join(f"{_asked(code, given)} {output}" for code, given, output in _SHOTS)
        return f"{_INSTRUCTION}\n\n{solved}\n\n{_asked(document.fields['code'], document.fields['input'])}"

    def request(self, document: Document, style: PromptStyle) -> Generate:
        """Return a prompt for the rest of the assertion."""
        question = self.question(document)
        if style == "raw":
            return Generate(prompt=question, stops=STOPS, max_bytes=self.max_bytes)
        call = f"assert f({document.fields['input']}) =="
        turns = ({"role": "user", "content": question}, {"role": "assistant", "content": call})
        return Generate(messages=turns, stops=STOPS, max_bytes=self.max_bytes)

    def code(self, document: Document, text: str, style: PromptStyle) -> str:
        """Return a function that returns the answer's expression."""
        return _answer(before_stop(text.lstrip(" "), STOPS))

    def judged(self, document: Document, code: str) -> Program:
        """Return a comparison of the value with the published one."""
        return Program(document.id, code, f"assert answer() == {document.fields['output']}\n", entry_point="answer")

    def solution(self, document: Document) -> str:
        """Return the published value."""
        return _answer(document.fields["output"])


def _asked(code: str, given: str) -> str:
    return f"{code}\nassert f({given}) =="


def _answer(expression: str) -> str:
    return f"def answer():\n    return ({expression})\n"
