"""Base class of code benchmarks whose documents are rows of data sets.

A benchmark defines three things for a document: the question, the program that judges the code of an answer, and the
reference solution. Base and chat models get the same question and the same opened code block, as in
:mod:`crosstok.tasks.code.humaneval`, so that the whole budget goes into code and no answer is lost to prose around it.
Benchmarks with a prompt of their own for base models (MBPP's three shots) override ``request`` and ``code``.
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
        default=None, ge=1, description="Maximum length of an answer in UTF-8 bytes; null: the benchmark's own."
    )


class SolutionTask(FromData, CodeTask):
    """Base class of benchmarks of programming problems with tests and a reference solution each."""

    options_type: ClassVar[type[TaskOptions]] = CodeOptions
    options: CodeOptions
    metrics = (Metric("pass@1", "fraction", higher_is_better=True),)
    published: ClassVar[str]
    """Name in the published list (``tasks/lists``), which gives the isolation mode of each document."""
    room: ClassVar[int] = 1024
    """Default maximum length of an answer in UTF-8 bytes."""

    @abstractmethod
    def question(self, document: Document) -> str:
        """Return the question in words."""

    @abstractmethod
    def judged(self, document: Document, code: str) -> Program:
        """Return the program that judges ``code``; the caller sets isolation mode and packages."""

    @abstractmethod
    def solution(self, document: Document) -> str:
        """Return the reference solution, a complete program."""

    def opening(self, document: Document) -> str:
        """Return the code that every answer starts with."""
        return ""

    def request(self, document: Document, style: PromptStyle) -> Generate:
        """Return a prompt with the question and an opened code block, which starts the answer of chat models."""
        question = self.question(document)
        answer = f"```python\n{self.opening(document)}"
        if style == "raw":
            return Generate(prompt=f"{question}\n\n{answer}", stops=(FENCE,), max_bytes=self.max_bytes)
        turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
        return Generate(messages=turns, stops=(FENCE,), max_bytes=self.max_bytes)

    def code(self, document: Document, text: str, style: PromptStyle) -> str:
        """Return the code of an answer, with its opening."""
        return complete_code(self.opening(document) + before_stop(text, (FENCE,)))

    def program(self, document: Document, answer: Generated, style: PromptStyle) -> Program:
        """Return the program that judges the code of an answer."""
        return self._finished(document, self.judged(document, self.code(document, answer.text, style)))

    def reference(self, document: Document) -> Program:
        """Return the program of the reference solution."""
        return self._finished(document, self.judged(document, self.solution(document)))

    def requires(self, document: Document) -> tuple[str, ...]:
        """Return the packages that the reference solution and its tests import."""
        program = self.judged(document, self.solution(document))
        return needed(program.candidate, program.setup, program.tests)

    @property
    def max_bytes(self) -> int:
        """Maximum length of an answer in UTF-8 bytes."""
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
        """Packages that any document needs, so that the same warm workers serve all documents."""
        return visible({name for document in self._all for name in self.requires(document)})
