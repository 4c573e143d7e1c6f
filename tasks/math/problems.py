"""GSM8K, SVAMP, MATH and MATH-500: chain-of-thought reasoning, scored by the final answer.

Base models continue after ``shots`` solved problems; chat models are asked to reason step by step and to box the
answer. Both default to zero-shot chain of thought. Solved problems come from the training split (GSM8K)
or, if there is none, from the benchmark itself, and never include the current problem.
"""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

from pydantic import Field

from crosstok.tasks.data.catalogue import MATH_SUBJECTS
from crosstok.tasks.data.documents import FromData
from crosstok.tasks.data.rows import Row, load_rows
from crosstok.tasks.math.equivalence import last_boxed, last_number, same_answer
from crosstok.tasks.sampling import SampledOptions
from crosstok.tasks.task import (
    AnswerTask,
    Document,
    Generate,
    Generated,
    Metric,
    PromptStyle,
    Score,
    TaskOptions,
)

_ASK = "{problem}\n\nReason step by step, and put your final answer within \\boxed{{}}."
_RAW_STOPS = ("\nQuestion:", "\n\nQuestion", "\nProblem:")


class MathOptions(SampledOptions):
    """Options of the mathematics benchmarks."""

    shots: int = Field(default=0, ge=0, le=16, description="Number of few-shot examples.")
    max_bytes: int = Field(default=2048, ge=1, description="Maximum length of an answer in UTF-8 bytes.")


class MathTask(FromData, AnswerTask):
    """Base class of problems with one final answer each."""

    version = "1"
    metrics = (Metric("accuracy", "fraction", higher_is_better=True),)
    options_type: ClassVar[type[TaskOptions]] = MathOptions
    options: MathOptions
    shot_path: ClassVar[str] = ""
    """Data set of the solved problems; empty for the benchmark's own documents."""

    @abstractmethod
    def document(self, row: Row, number: int) -> Document:
        """Return the problem with ``problem``, ``solution`` (in words) and ``answer``."""

    def request(self, document: Document, style: PromptStyle) -> Generate:
        """Return a prompt for reasoning and answer."""
        shots = [shot.fields for shot in self._solved if shot.id != document.id][: self.options.shots]
        problem = document.fields["problem"]
        if style == "raw":
            solved = "".join(f"Question: {shot['problem']}\nAnswer: {_worked(shot)}\n\n" for shot in shots)
            cue = "Answer:" if shots else "Answer: Let's think step by step."
            return Generate(f"{solved}Question: {problem}\n{cue}", stops=_RAW_STOPS, max_bytes=self.options.max_bytes)
        turns: list[dict[str, str]] = []
        for shot in shots:
            turns.append({"role": "user", "content": _ASK.format(problem=shot["problem"])})
            turns.append({"role": "assistant", "content": _worked(shot)})
        turns.append({"role": "user", "content": _ASK.format(problem=problem)})
        return Generate(messages=tuple(turns), max_bytes=self.options.max_bytes)

    def score(self, document: Document, answer: Generated, style: PromptStyle) -> list[Score]:
        """Return 1 if the final answer equals the published one."""
        return [Score("accuracy", float(self.equal(document.fields["answer"], answer.text)))]

    def reference(self, document: Document) -> Generated:
        """Return the published solution as an answer."""
        return Generated(_worked(document.fields), "end")

    def equal(self, expected: str, text: str) -> bool:
        """Return whether the final answer in ``text`` is ``expected``."""
        return same_answer(expected, text)

    @cached_property
    def _solved(self) -> list[Document]:
        if not self.options.shots:
            return []
        if not self.shot_path:
            return self._all[: self.options.shots + 1]
        rows = load_rows(self.shot_path, self.data).rows[: self.options.shots]
        return [Document(f"shot/{number}", self.document(row, number).fields) for number, row in enumerate(rows)]


class NumberTask(MathTask):
    """Base class of problems whose answer is a number; without a box, the last number in the text counts."""

    def equal(self, expected: str, text: str) -> bool:
        """Compare the box, else the last number on the line of the last ``####``, else the last number of the text."""
        boxed = last_boxed(text)
        marked = text.rpartition("####")[2].strip().partition("\n")[0] if "####" in text else text
        return same_answer(expected, f"\\boxed{{{boxed or last_number(marked)}}}")


class GSM8K(NumberTask):
    """Grade-school word problems (Cobbe et al., arXiv 2110.14168)."""

    shot_path = "hub/openai/gsm8k/main/train"

    def paths(self) -> Sequence[str]:
        """Return the test split."""
        return ["hub/openai/gsm8k/main/test"]

    def document(self, row: Row, number: int) -> Document:
        """Return the problem, without the calculator annotations of its solution."""
        words, _, answer = row["answer"].partition("####")
        solution = _without_notes(words).strip()
        fields = {"problem": row["question"], "solution": solution, "answer": answer.strip().replace(",", "")}
        return Document(f"GSM8K/{number}", fields)


class SVAMP(NumberTask):
    """One-step problems with varied wording (Patel et al., arXiv 2103.07191)."""

    def paths(self) -> Sequence[str]:
        """Return all 1000 problems."""
        return ["raw/svamp/all"]

    def document(self, row: Row, number: int) -> Document:
        """Return the problem."""
        body = row["Body"].strip()
        end = "" if body.endswith((".", "?", "!", ",")) else "."
        answer = f"{row['Answer']:g}" if abs(row["Answer"]) < 1e6 else str(row["Answer"])
        fields = {
            "problem": f"{body}{end} {row['Question'].strip()}",
            "solution": f"{row['Equation'].strip()} = {answer}",
            "answer": answer,
        }
        return Document(f"SVAMP/{row['ID']}", fields)


class Math(MathTask):
    """Competition problems (Hendrycks et al., arXiv 2103.03874), 5000 in seven subjects."""

    def paths(self) -> Sequence[str]:
        """Return the seven subjects."""
        return [f"hub/EleutherAI/hendrycks_math/{subject}/test" for subject in MATH_SUBJECTS]

    def document(self, row: Row, number: int) -> Document:
        """Return the problem; its answer is the last box of the solution."""
        fields = {"problem": row["problem"], "solution": row["solution"], "answer": last_boxed(row["solution"])}
        return Document(f"MATH/{number}", fields)


class Math500(MathTask):
    """500 of MATH's problems (Lightman et al., arXiv 2305.20050)."""

    def paths(self) -> Sequence[str]:
        """Return the subset."""
        return ["hub/HuggingFaceH4/MATH-500/default/test"]

    def document(self, row: Row, number: int) -> Document:
        """Return the problem."""
        fields = {name: row[name] for name in ("problem", "solution", "answer")}
        return Document(f"MATH-500/{number}", fields)


def _worked(fields: Row) -> str:
    """Return the solution in words, with a boxed answer."""
    solution: str = fields["solution"]
    return solution if "\\boxed" in solution else f"{solution} The answer is \\boxed{{{fields['answer']}}}."


def _without_notes(text: str) -> str:
    """Return ``text`` without GSM8K's calculator annotations, such as ``<<3*4=12>>``."""
    return "".join(part.partition(">>")[2] if ">>" in part else part for part in text.split("<<"))
