"""Page of a run: one self-contained HTML file with tables, findings, plots, environment and answers.

The file has no scripts and loads nothing. Answers of models are untrusted input: the template escapes them, control
characters are shown as Unicode pictures, sizes are capped, and the content security policy forbids scripts.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosstok.errors import UserError
from crosstok.results.compare.comparison import TaskComparison, compare
from crosstok.results.store.records import Run
from crosstok.results.store.store import Store
from crosstok.results.tables.frame import frame_of, render
from crosstok.results.tables.number_format import counted
from crosstok.results.web.templates import render_template, replace_file

if TYPE_CHECKING:
    import pandas as pd

DOCUMENTS = 60
"""Maximum number of documents per task whose answers are shown."""
CHARACTERS = 4000
"""Maximum length of an answer, prompt or error."""

_TEMPLATE = Path(__file__).parent / "page.html.j2"
_CONTROLS = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {127: "\u2421"}


@dataclass(frozen=True, slots=True)
class _Answer:
    model: str
    status: str
    stop_reason: str
    bytes: int
    tokens: int
    text: str
    error: str
    prompt: str
    """Empty if it is the same as the prompt of the document."""


@dataclass(frozen=True, slots=True)
class _Document:
    id: str
    prompt: str
    answers: list[_Answer]


@dataclass(frozen=True, slots=True)
class _Task:
    name: str
    documents: list[_Document]
    left_out: int


@dataclass(frozen=True, slots=True)
class _Plot:
    label: str
    svg: Any


def write_page(store: Store, run: Run | str | None, path: Path) -> Path:
    """Write the page of ``run`` (default: the latest) to ``path`` and return it.

    Missing folders are created. An existing page is replaced atomically.

    Raises:
        UserError: there is no such run, or the file cannot be written.

    """
    text = page(store, run if isinstance(run, Run) else store.run(run))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text)
    except OSError as error:
        hint = "Choose another path for the page."
        raise UserError(f"The page {path} cannot be written: {error.strerror}.", hint=hint) from error
    return path


def page(store: Store, run: Run) -> str:
    """Return the page of a run as HTML."""
    from markupsafe import Markup  # only pages need it

    comparison = compare(store, run)
    frame = frame_of(store, comparison)
    # The table and the plots are HTML already and escape names themselves.
    return render_template(
        _TEMPLATE,
        title=f"{run.suite}: {counted(len(comparison.models), 'model')}, {counted(len(comparison.tasks), 'task')}",
        about=run.config.get("about", ""),
        run=run,
        table=Markup(render(frame, "html")),  # noqa: S704
        plots=[_Plot(label, Markup(svg)) for label, svg in _plots(frame)],  # noqa: S704
        tasks=[_answers(store, task) for task in comparison.tasks if _generates(frame, task)],
        environment=[(name, _plain(value)) for name, value in run.environment.items()],
        config=visible(json.dumps(run.config, indent=2, ensure_ascii=False)),
    )


def _plots(frame: "pd.DataFrame") -> Iterator[tuple[str, str]]:
    from crosstok.results.web import plots  # loads matplotlib

    for task in frame["task"].unique():
        drawing = plots.intervals(frame[frame["task"] == task], visible(task))
        if drawing:
            yield f"{task}: scores of all models with 95 % confidence intervals, as in the table", drawing


def _generates(frame: "pd.DataFrame", task: TaskComparison) -> bool:
    return bool((frame[frame["task"] == task.task.name]["stops"] != "").any())


def _answers(store: Store, task: TaskComparison) -> _Task:
    known = sorted(
        {document for cell in task.cells.values() for document in store.done_documents(cell.fingerprint)}, key=natural
    )
    size = min(len(known), DOCUMENTS)
    chosen = [known[index * len(known) // size] for index in range(size)]
    return _Task(task.task.name, [_document(store, task, name) for name in chosen], len(known) - size)


def _document(store: Store, task: TaskComparison, name: str) -> _Document:
    answers: list[_Answer] = []
    prompt: str | None = None
    for model, cell in task.cells.items():
        verdicts = {verdict.index: verdict for verdict in store.verdicts(cell.fingerprint, name)}
        for sample in store.samples(cell.fingerprint, name):
            prompt = sample.prompt if prompt is None else prompt
            verdict = verdicts.get(sample.index)
            answers.append(
                _Answer(
                    model=f"{model} #{sample.index}" if sample.index else model,
                    status=verdict.status if verdict else "no verdict",
                    stop_reason=sample.stop_reason or "none",
                    bytes=sample.bytes,
                    tokens=sample.tokens,
                    text=visible(sample.text),
                    error=visible(verdict.error) if verdict else "",
                    prompt=visible(sample.prompt) if sample.prompt != prompt else "",
                )
            )
    return _Document(visible(name), visible(prompt or ""), answers)


def natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that orders ``HumanEval/9`` before ``HumanEval/10``."""
    parts = "".join(letter if letter.isdigit() else f" {letter} " for letter in name).split()
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def visible(text: str) -> str:
    """Return ``text`` with control characters shown as Unicode pictures, cut to ``CHARACTERS``."""
    shown = text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}\n[{len(text) - CHARACTERS} more characters]"
    return shown.translate(_CONTROLS)


def _plain(value: Any) -> str:
    return visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
