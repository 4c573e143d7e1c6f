"""What a benchmark is: documents, the request that each one makes of a model, and how an answer is judged.

Requests and answers are plain data in UTF-8 text and bytes; nothing here knows of tokens, models or files of results.
A new benchmark is one class with ``documents``, ``request`` and ``score`` (see ``docs/adding-a-task.md``).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from crosstok.fingerprint import fingerprint
from crosstok.sandbox.program import Program

PromptStyle = Literal["raw", "chat"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where a task's documents came from, as stored with every result."""

    kind: str
    """``package``, ``data-folder``, ``hub``, ``stdlib``, ``docstrings`` or ``files``."""
    location: str
    """Package, path inside the data folder, or hub id; never an absolute path of this machine."""
    revision: str
    """Package version, Python version or hub commit."""
    sha256: str
    """Of the documents as read."""


@dataclass(frozen=True, slots=True)
class Document:
    """One item of a benchmark. ``fields`` is whatever the task needs to ask and to judge."""

    id: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn; the default is greedy."""

    temperature: float = 0.0
    """Divides the logits; 0 takes the most probable token."""
    top_p: float = 1.0
    """Keep the fewest tokens whose probability together reaches this."""
    top_k: int = 0
    """Keep this many most probable tokens; 0 keeps all."""

    @property
    def greedy(self) -> bool:
        """Whether nothing is left to chance."""
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True)
class Generate:
    """Ask for a continuation of ``prompt``, or for the answer to ``messages`` where those are given."""

    prompt: str = ""
    messages: tuple[Mapping[str, str], ...] | None = None
    """``role`` and ``content`` of each turn, for the model's chat template. A last turn of the assistant's is the
    beginning of the answer: it is continued, and the answer that comes back does not repeat it."""
    stops: tuple[str, ...] = ()
    """Generation ends on the byte that completes one of these; the stop itself is not part of the answer."""
    max_bytes: int = 1024
    """Room for the answer in UTF-8 bytes, the same for every tokenizer."""
    sampling: Sampling = Sampling()
    seeds: tuple[int, ...] = (0,)
    """One answer is drawn per seed, each independent of batch, order and neighbours; greedy answers need only one."""


@dataclass(frozen=True, slots=True)
class Rolling:
    """Ask for the likelihood of a whole text under sliding windows that are measured in bytes."""

    text: str
    window_bytes: int = 2048
    stride_bytes: int = 1024


@dataclass(frozen=True, slots=True)
class Continuations:
    """Ask how likely each of ``continuations`` is behind ``context``."""

    context: str
    continuations: tuple[str, ...]
    unconditional: str | None = None
    """A context that says nothing of the question ("Answer:"): every continuation is scored behind it as well."""
    exact: bool = False
    """Sum over all tokens that may stand across the border, instead of charging the token of one encoding."""


Request = Generate | Rolling | Continuations


@dataclass(frozen=True, slots=True)
class Generated:
    """A model's answer to :class:`Generate`."""

    text: str
    stop_reason: str


@dataclass(frozen=True, slots=True)
class Scored:
    """A model's answer to :class:`Rolling`: nats are summed over ``bytes`` bytes of text."""

    nats: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """A model's answer to :class:`Continuations`, one entry per continuation."""

    nats: tuple[float, ...]
    """Minus the log-likelihood of each continuation."""
    greedy: tuple[bool, ...]
    """Whether the model's most probable tokens spell it."""
    unconditional: tuple[float, ...] | None = None
    """Nats behind the unconditional context, where one was given."""


@dataclass(frozen=True, slots=True)
class Score:
    """One document's share of a metric: the metric of a task is sum(``value``) / sum(``weight``) over its documents."""

    metric: str
    value: float
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Metric:
    """What a metric's number means."""

    name: str
    unit: Literal["fraction", "bits/byte", "nats", "nats/word"]
    higher_is_better: bool


class TaskOptions(BaseModel):
    """What a suite may say of a task besides its name; a task with options of its own extends this class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: int | None = Field(default=None, ge=1, description="Measure this many documents, evenly spaced over all.")


class Task(ABC):
    """A benchmark. Building one is cheap: documents are read on the first call of ``documents``."""

    options_type: ClassVar[type[TaskOptions]] = TaskOptions
    version: ClassVar[str]
    """Raised whenever a score could change: prompts, stops, post-processing, judging."""
    metrics: ClassVar[tuple[Metric, ...]]
    """The first one is the headline."""

    def __init__(self, name: str, options: TaskOptions, data: Path | None = None) -> None:
        """``name`` is the task's name in the suite; ``data`` the data folder, where one is set."""
        self.name = name
        self.kind = name
        """The benchmark's registered name."""
        self.options = options
        self.data = data
        self.remark = ""
        """What a reader of its scores must know, such as why only a part of it is measured."""

    @abstractmethod
    def documents(self) -> Sequence[Document]:
        """Return all documents that are measured, in a fixed order."""

    def available(self) -> int | None:
        """Return how many documents the whole benchmark has, before a limit; None where that is not known."""
        return None

    @abstractmethod
    def source(self) -> DataSource:
        """Return where the documents come from."""

    @abstractmethod
    def request(self, document: Document, style: PromptStyle) -> Request:
        """Return what is asked of the model for ``document``."""

    def unseen(self, trained: Iterable[str]) -> Mapping[str, Any]:  # noqa: ARG002  (most sets have no training part)
        """Return options to be changed because a model of the plan was trained on the texts named ``trained``.

        A benchmark that has training problems of its own leaves them out, for all models alike.
        """
        return {}

    def fingerprint(self) -> str:
        """Identify all that decides what is asked and how it is judged; the name that a suite gives it is no part."""
        return fingerprint(
            {
                "class": type(self).__name__,
                "version": self.version,
                "options": self.options.model_dump(mode="json"),
                "source": asdict(self.source()),
                "documents": [document.id for document in self.documents()],
            }
        )


class TextTask(Task):
    """A task that is judged by likelihood alone."""

    @abstractmethod
    def score(self, document: Document, answer: Scored) -> list[Score]:
        """Return the document's scores."""


class ChoiceTask(Task):
    """A task that is judged by which of several continuations is the most likely; ``request`` asks Continuations.

    See :func:`crosstok.tasks.choice.choice_scores` for the scores that most of them return.
    """

    @abstractmethod
    def score(self, document: Document, answer: Likelihoods) -> list[Score]:
        """Return the document's scores."""


class AnswerTask(Task):
    """A task whose generated answers are judged by a function of the text, without running anything."""

    @abstractmethod
    def score(self, document: Document, answer: Generated, style: PromptStyle) -> list[Score]:
        """Return the document's scores."""


class CodeTask(Task):
    """A task whose answers are programs, judged by running them."""

    @abstractmethod
    def program(self, document: Document, answer: Generated, style: PromptStyle) -> Program:
        """Return the program to run; its id is ``document.id``."""

    @abstractmethod
    def reference(self, document: Document) -> Program:
        """Return the program made of the document's own solution, which must pass."""

    def requires(self, document: Document) -> tuple[str, ...]:  # noqa: ARG002  (most need nothing)
        """Return the top-level names of packages outside of the standard library that the reference imports."""
        return ()

    def wrong(self, document: Document) -> Program | None:  # noqa: ARG002  (few sets publish one)
        """Return a program that the set publishes as wrong and that must not pass, where it has one."""
        return None


def evenly_spaced(documents: Sequence[T], limit: int | None) -> list[T]:
    """Return ``limit`` documents spread over the whole sequence, the first one included."""
    if limit is None or limit >= len(documents):
        return list(documents)
    return [documents[index * len(documents) // limit] for index in range(limit)]
