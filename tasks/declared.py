r"""Benchmarks declared without code: a YAML file that names a JSON Lines file, a template and a metric.

    data: problems.jsonl              # beside the YAML file
    prompt: "Question: {{question}}\nAnswer:"
    answer: "{{answer}}"
    metric: exact                     # exact, contains, math, or tests
    stops: ["\n"]

Templates are Jinja over the fields of a row. With ``metric: tests`` the answer is a program, judged in the sandbox:
``tests`` and ``entry_point`` are templates too, and ``reference`` gives the solution that must pass. In a suite the
task is named ``yaml:PATH``.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from crosstok.errors import UserError, unknown_name
from crosstok.fingerprint import fingerprint
from crosstok.sandbox.program import Program
from crosstok.tasks.data.rows import read_rows, rows_sha256
from crosstok.tasks.task import (
    AnswerTask,
    CodeTask,
    DataSource,
    Document,
    Generate,
    Generated,
    Metric,
    PromptStyle,
    Score,
    Task,
    TaskOptions,
    evenly_spaced,
)
from crosstok.yaml_text import parse_yaml

_TEMPLATES = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # no HTML


class Declaration(BaseModel):
    """Content of a task file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = Field(description="JSON Lines or Parquet file, relative to the task file.")
    prompt: str = Field(description="Template of the prompt.")
    metric: Literal["exact", "contains", "math", "tests"]
    answer: str = Field(default="", description="Template of the correct answer (exact, contains, math).")
    id: str = Field(default="", description="Template of the document id; default: the row number.")
    stops: tuple[str, ...] = Field(default=(), description="Stop strings.")
    max_bytes: int = Field(default=1024, ge=1, description="Maximum length of an answer in UTF-8 bytes.")
    tests: str = Field(default="", description="Template of the tests (tests).")
    entry_point: str = Field(default="", description="Template of the name of the tested function (tests).")
    reference: str = Field(default="", description="Template of a complete program that passes (tests).")
    joined: bool = Field(default=False, description="Whether the program starts with the prompt (tests).")
    version: str = Field(default="1", description="Raise it whenever a score could change.")

    @model_validator(mode="after")
    def _whole(self) -> "Declaration":
        needed = ("tests", "entry_point", "reference") if self.metric == "tests" else ("answer",)
        for key in needed:
            if not getattr(self, key):
                raise ValueError(f"metric {self.metric} needs the key {key!r}")
        return self


def declared_task(kind: str, options: TaskOptions, name: str, data: Path | None) -> Task:
    """Return the task declared by the file that ``yaml:PATH`` names. Raises ``UserError`` for an invalid file."""
    path = Path(kind.partition(":")[2]).expanduser()
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read the task file {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {str(error).splitlines()[0]}.") from None
    try:
        declaration = Declaration.model_validate(content)
    except ValidationError as error:
        raise _wrong(path, error) from None
    task_type = DeclaredPrograms if declaration.metric == "tests" else DeclaredAnswers
    task = task_type(name, options, data)
    task.path, task.declaration = path, declaration
    return task


class Declared(Task):
    """Base class of declared tasks."""

    version = "1"
    path: Path
    declaration: Declaration

    def documents(self) -> Sequence[Document]:
        """Return the rows, or ``limit`` of them evenly spaced."""
        return evenly_spaced(self._documents, self.options.limit)

    def available(self) -> int:
        """Return the number of rows."""
        return len(self._documents)

    def source(self) -> DataSource:
        """Return the data file."""
        return DataSource("files", self.declaration.data, self.declaration.version, rows_sha256(self._rows))

    def request(self, document: Document, style: PromptStyle) -> Generate:
        """Return the rendered prompt, as text or as a user turn."""
        asked = self.filled(self.declaration.prompt, document)
        stops, room = self.declaration.stops, self.declaration.max_bytes
        if style == "raw":
            return Generate(prompt=asked, stops=stops, max_bytes=room)
        return Generate(messages=({"role": "user", "content": asked},), stops=stops, max_bytes=room)

    def fingerprint(self) -> str:
        """Return a hash of rows, options and the whole task file."""
        return fingerprint({"task": super().fingerprint(), "declaration": self.declaration.model_dump(mode="json")})

    def filled(self, template: str, document: Document) -> str:
        """Return ``template`` rendered with the fields of ``document``."""
        return self._fill(template, document.fields, document.id)

    def _fill(self, template: str, fields: Mapping[str, Any], name: str) -> str:
        try:
            return _TEMPLATES.from_string(template).render(fields)
        except TemplateError as error:
            raise UserError(f"{self.path}, document {name}: {error}.", hint="Correct the template.") from None

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return read_rows(self.path.parent / self.declaration.data)

    @cached_property
    def _documents(self) -> list[Document]:
        template = self.declaration.id
        ids = [self._fill(template, row, f"row {n}") if template else str(n) for n, row in enumerate(self._rows)]
        if len(set(ids)) < len(ids) or not ids:
            raise UserError(f"{self.path}: {'ids repeat' if ids else 'the data has no rows'}.", hint="Correct `id`.")
        return [Document(name, row) for name, row in zip(ids, self._rows, strict=True)]


class DeclaredAnswers(Declared, AnswerTask):
    """A declared task that compares answers with the correct one."""

    metrics = (Metric("accuracy", "fraction", higher_is_better=True),)

    def score(self, document: Document, answer: Generated, style: PromptStyle) -> list[Score]:
        """Return 1 if the answer equals the correct one (after stripping), contains it, or equals it mathematically."""
        expected = self.filled(self.declaration.answer, document).strip()
        if self.declaration.metric == "math":
            from crosstok.tasks.math.equivalence import same_answer  # computer algebra, for this metric only

            right = same_answer(expected, answer.text)
        elif self.declaration.metric == "contains":
            right = expected in answer.text
        else:
            right = expected == answer.text.strip()
        return [Score("accuracy", float(right))]


class DeclaredPrograms(Declared, CodeTask):
    """A declared task whose answers are programs."""

    metrics = (Metric("pass@1", "fraction", higher_is_better=True),)

    def program(self, document: Document, answer: Generated, style: PromptStyle) -> Program:
        """Return prompt and answer joined if ``joined`` is set, otherwise the code in the answer."""
        from crosstok.tasks.code.answers import complete_code, fenced_code  # for this metric only

        joined = self.declaration.joined and style == "raw"
        opening = self.filled(self.declaration.prompt, document) if joined else ""
        return self._judged(document, complete_code(opening + (answer.text if joined else fenced_code(answer.text))))

    def reference(self, document: Document) -> Program:
        """Return the program of the declared solution."""
        return self._judged(document, self.filled(self.declaration.reference, document))

    def _judged(self, document: Document, code: str) -> Program:
        tests = self.filled(self.declaration.tests, document)
        return Program(document.id, code, tests, self.filled(self.declaration.entry_point, document).strip())


def _wrong(path: Path, error: ValidationError) -> UserError:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return UserError(f"{path}: {unknown_name('key', key, Declaration.model_fields)}")
    return UserError(f"{path}: {key + ': ' if key else ''}{problem['msg'].removeprefix('Value error, ')}.")
