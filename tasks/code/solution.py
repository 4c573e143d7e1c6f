"""The common base of the code benchmarks that are read from the data rule.

A set says three things of a document: the question, how the code of an answer becomes a program, and the published
solution. Base and chat models get the same question and the same opened code block, as in
:mod:`crosstok.tasks.code.humaneval`: all room goes into code, and no answer is lost to prose around it. Sets with a
form of their own for base models (MBPP's three shots, a function to be continued) override ``request`` and ``code``.
"""

from abc import abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

from pydantic import Field

from crosstok.sandbox.program import Mode, Program
from crosstok.tasks.code.answers import before_stop, complete_code
from crosstok.tasks.code.libraries import LIMITS, needed, visible
from crosstok.tasks.data.documents import FromData
from crosstok.tasks.lists import listed_modes
from crosstok.tasks.sampling import SampledOptions
from crosstok.tasks.task import CodeTask, Document, Generate, Generated, Metric, PromptStyle, TaskOptions

FENCE = "\n```"


class CodeOptions(SampledOptions):
    """Options of every code benchmark."""

    max_bytes: int | None = Field(
        default=None, ge=1, description="Room for each answer, in UTF-8 bytes; null: the set's own."
    )


class SolutionTask(FromData, CodeTask):
    """A set of programming problems with tests and a published solution each."""

    options_type: ClassVar[type[TaskOptions]] = CodeOptions
    options: CodeOptions
    metrics = (Metric("pass@1", "fraction", higher_is_better=True),)
    published: ClassVar[str]
    """Name of the set in the published list (``tasks/lists``), which says which documents are judged guarded."""
    room: ClassVar[int] = 1024
    """Bytes for an answer."""

    @abstractmethod
    def question(self, document: Document) -> str:
        """Return what is asked, in words."""

    @abstractmethod
    def judged(self, document: Document, code: str) -> Program:
        """Return the program that judges ``code``; mode and packages are filled in by the caller."""

    @abstractmethod
    def solution(self, document: Document) -> str:
        """Return the published solution, a whole program."""

    def opening(self, document: Document) -> str:  # noqa: ARG002  (most sets open nothing)
        """Return the code that every answer begins with."""
        return ""

    def request(self, document: Document, style: PromptStyle) -> Generate:
        """Ask the question and open a block of code, in the answer itself for chat models."""
        question = self.question(document)
        answer = f"```python\n{self.opening(document)}"
        if style == "raw":
            return Generate(prompt=f"{question}\n\n{answer}", stops=(FENCE,), max_bytes=self.max_bytes)
        turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
        return Generate(messages=turns, stops=(FENCE,), max_bytes=self.max_bytes)

    def code(self, document: Document, text: str, style: PromptStyle) -> str:  # noqa: ARG002  (sets override it)
        """Return the program in an answer, its opening included."""
        return complete_code(self.opening(document) + before_stop(text, (FENCE,)))

    def program(self, document: Document, answer: Generated, style: PromptStyle) -> Program:
        """Judge the code of an answer."""
        return self._finished(document, self.judged(document, self.code(document, answer.text, style)))

    def reference(self, document: Document) -> Program:
        """Judge the published solution."""
        return self._finished(document, self.judged(document, self.solution(document)))

    def requires(self, document: Document) -> tuple[str, ...]:
        """Return the packages that the published solution and its tests import."""
        program = self.judged(document, self.solution(document))
        return needed(program.candidate, program.setup, program.tests)

    @property
    def max_bytes(self) -> int:
        """Room for an answer, in bytes."""
        return self.options.max_bytes or self.room

    def _finished(self, document: Document, program: Program) -> Program:
        mode = Mode(self._modes.get(document.id, program.mode))
        if not self._packages:
            return replace(program, mode=mode)
        return replace(program, mode=mode, packages=self._packages, limits=LIMITS)

    @cached_property
    def _modes(self) -> dict[str, str]:
        return listed_modes(self.published)

    @cached_property
    def _packages(self) -> tuple[str, ...]:
        """Packages that any document of the set needs: one set of warm workers serves all of them."""
        return visible({name for document in self._all for name in self.requires(document)})
