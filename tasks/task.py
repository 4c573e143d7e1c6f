"""Interface of a benchmark: documents, the requests that each one makes of a model, and the scores of the answers.

Requests and answers are plain data in text and UTF-8 bytes. Nothing here depends on tokens, models or the store.
``docs/adding-a-task.md`` shows a complete benchmark.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
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
    """Origin of a benchmark's documents, stored with every result."""

    kind: str
    """``package``, ``data-folder``, ``hub``, ``stdlib``, ``docstrings`` or ``files``."""
    location: str
    """Package, path inside the data folder, or hub id; never an absolute path."""
    revision: str
    """Package version, Python version or hub commit."""
    sha256: str
    """Hash of the documents as read."""


@dataclass(frozen=True, slots=True)
class Document:
    """One item of a benchmark. ``fields`` holds whatever the task needs to make requests and to score answers."""

    id: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Decoding parameters; the default is greedy decoding."""

    temperature: float = 0.0
    """Divides the logits; 0 takes the most probable token."""
    top_p: float = 1.0
    """Keep the smallest set of most probable tokens whose probability mass reaches this value."""
    top_k: int = 0
    """Keep this many most probable tokens; 0 keeps all."""

    @property
    def greedy(self) -> bool:
        """Whether decoding is deterministic."""
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True)
class Generate:
    """Request for a continuation of ``prompt``, or for the answer to ``messages`` if those are given."""

    prompt: str = ""
    messages: tuple[Mapping[str, str], ...] | None = None
    """``role`` and ``content`` of each turn, for the model's chat template. If the last turn is the assistant's, the
    model continues it; the answer does not repeat it."""
    stops: tuple[str, ...] = ()
    """Generation ends on the byte that completes one of these strings; the answer excludes the stop string."""
    max_bytes: int = 1024
    """Maximum length of the answer in UTF-8 bytes, the same for every tokenizer."""
    sampling: Sampling = Sampling()
    seeds: tuple[int, ...] = (0,)
    """One answer is drawn per seed, independently of batch and order; greedy decoding needs only one."""


@dataclass(frozen=True, slots=True)
class Rolling:
    """Request for the likelihood of a whole text under sliding windows measured in bytes."""

    text: str
    window_bytes: int = 2048
    stride_bytes: int = 1024


@dataclass(frozen=True, slots=True)
class Continuations:
    """Request for the likelihood of each of ``continuations`` given ``context``."""

    context: str
    continuations: tuple[str, ...]
    unconditional: str | None = None
    """A context without the question ("Answer:"), under which every continuation is scored as well (for PMI)."""
    exact: bool = False
    """Sum over all tokenizations that cross the border between context and continuation, instead of scoring one."""


Request = Generate | Rolling | Continuations


@dataclass(frozen=True, slots=True)
class Generated:
    """Answer to :class:`Generate`, one per seed."""

    text: str
    stop_reason: str


@dataclass(frozen=True, slots=True)
class Scored:
    """Answer to :class:`Rolling`."""

    nats: float
    """Negative log-likelihood, summed over the text."""
    bytes: int
    """Length of the text in UTF-8 bytes."""


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Answer to :class:`Continuations`, one entry per continuation."""

    nats: tuple[float, ...]
    """Negative log-likelihood of each continuation."""
    greedy: tuple[bool, ...]
    """Whether greedy decoding produces the continuation."""
    unconditional: tuple[float, ...] | None = None
    """Nats under the unconditional context, if the request has one."""


Answer = Generated | Scored | Likelihoods
A = TypeVar("A", Generated, Scored, Likelihoods)


@dataclass(frozen=True, slots=True)
class Score:
    """One document's share of a metric. The metric of a task is sum(``value``) / sum(``weight``) over its documents."""

    metric: str
    value: float
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Metric:
    """Name, unit and direction of a metric."""

    name: str
    unit: Literal["fraction", "bits/byte", "nats", "nats/word"]
    higher_is_better: bool


PASS_AT_1 = Metric("pass@1", "fraction", higher_is_better=True)


class TaskOptions(BaseModel):
    """Options that a suite sets on a task. Extend this class for a task with options of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: int | None = Field(default=None, ge=1, description="Measure only this many documents, evenly spaced.")


class Task(ABC):
    """A benchmark.

    Most benchmarks make one request per document and extend the base class for its kind: :class:`AnswerTask`
    (a function scores generated text), :class:`CodeTask` (the sandbox runs generated programs), :class:`ChoiceTask`
    (multiple choice by likelihood) or :class:`TextTask` (likelihood of text). Extend ``Task`` itself for a benchmark
    that makes several requests per document; override ``requests`` and ``score_answers``.

    Constructing a task is cheap: it reads its documents on the first call of :meth:`documents`.
    """

    options_type: ClassVar[type[TaskOptions]] = TaskOptions
    version: ClassVar[str]
    """Raise it whenever a score could change: prompts, stop strings, post-processing, scoring."""
    needs_sandbox: ClassVar[bool] = False
    """Whether answers are programs that the sandbox judges."""
    scores_each_answer: ClassVar[bool] = False
    """Whether each generated answer is scored by itself. If not, a document is scored once, when all of its answers
    are there."""
    sampling_in_requests: ClassVar[bool] = False
    """Whether requests carry their own sampling parameters and seeds. If not, the task's options and the seed of the
    run decide."""
    uses_prompt_style: ClassVar[bool] = True
    """Whether requests depend on the prompt style of a model."""

    def __init__(self, name: str, options: TaskOptions, data: Path | None = None) -> None:
        """``name`` is the task's name in the suite; ``data`` the data folder, if one is set."""
        self.name = name
        self.kind = name
        """The registered name of the benchmark."""
        self.options = options
        self.data = data
        self.remark = ""
        """A note for readers of the scores, such as why only a part of the benchmark is measured."""

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """Metrics of the task, the headline first. A subclass may set a class attribute."""

    @property
    @abstractmethod
    def request_types(self) -> Collection[type[Request]]:
        """Types of the requests that the task makes. A subclass may set a class attribute."""

    @abstractmethod
    def documents(self) -> Sequence[Document]:
        """Return all documents to measure, in a fixed order."""

    def available(self) -> int | None:
        """Return the number of documents of the whole benchmark, before a limit; None if unknown."""
        return None

    @abstractmethod
    def source(self) -> DataSource:
        """Return the origin of the documents."""

    @abstractmethod
    def request(self, document: Document, style: PromptStyle) -> Request:
        """Return the request that ``document`` makes of a model; the first one if there are several."""

    def requests(self, document: Document, style: PromptStyle) -> Sequence[Request]:
        """Return all requests that ``document`` makes, all of one type; by default the one of :meth:`request`."""
        return (self.request(document, style),)

    def score_answers(self, document: Document, answers: Sequence[Answer], style: PromptStyle) -> list[Score]:
        """Return the scores of ``answers``; not called if :attr:`needs_sandbox`.

        Args:
            document: The document.
            answers: One answer per request (and seed), in their order; a single one if :attr:`scores_each_answer`.
            style: The prompt style that the requests were made in.

        """
        raise NotImplementedError(f"{type(self).__name__} has no score_answers")

    def unseen(self, trained: Iterable[str]) -> Mapping[str, Any]:
        """Return changes of the options for a plan whose models were trained on the texts named ``trained``.

        A benchmark with training problems of its own leaves those out, for all models alike.
        """
        return {}

    def fingerprint(self) -> str:
        """Return a hash of everything that decides requests and scores; the name in a suite is not part of it."""
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
    """A benchmark of the likelihood of text."""

    request_types = (Rolling,)
    uses_prompt_style = False

    @abstractmethod
    def request(self, document: Document, style: PromptStyle) -> Rolling:
        """Return the text to score, with its windows."""

    @abstractmethod
    def score(self, document: Document, answer: Scored, style: PromptStyle) -> list[Score]:
        """Return the scores of a document."""

    def score_answers(self, document: Document, answers: Sequence[Answer], style: PromptStyle) -> list[Score]:
        """Return the scores of the one answer."""
        return self.score(document, _only(answers, Scored), style)


class ChoiceTask(Task):
    """A multiple-choice benchmark: the most likely continuation is the model's choice.

    :func:`crosstok.tasks.choice.choice_scores` computes the usual scores.
    """

    request_types = (Continuations,)

    @abstractmethod
    def request(self, document: Document, style: PromptStyle) -> Continuations:
        """Return the context and its choices."""

    @abstractmethod
    def score(self, document: Document, answer: Likelihoods, style: PromptStyle) -> list[Score]:
        """Return the scores of a document."""

    def score_answers(self, document: Document, answers: Sequence[Answer], style: PromptStyle) -> list[Score]:
        """Return the scores of the one answer."""
        return self.score(document, _only(answers, Likelihoods), style)


class AnswerTask(Task):
    """A benchmark whose generated answers are scored by a function of their text; nothing is executed."""

    request_types = (Generate,)
    scores_each_answer = True

    @abstractmethod
    def request(self, document: Document, style: PromptStyle) -> Generate:
        """Return the prompt, with stop strings and the maximum length of the answer."""

    @abstractmethod
    def score(self, document: Document, answer: Generated, style: PromptStyle) -> list[Score]:
        """Return the scores of one answer, the headline metric first."""

    def score_answers(self, document: Document, answers: Sequence[Answer], style: PromptStyle) -> list[Score]:
        """Return the scores of the one answer."""
        return self.score(document, _only(answers, Generated), style)


class CodeTask(Task):
    """A benchmark whose answers are programs, judged by running them in the sandbox."""

    metrics = (PASS_AT_1,)
    request_types = (Generate,)
    scores_each_answer = True
    needs_sandbox = True

    @abstractmethod
    def request(self, document: Document, style: PromptStyle) -> Generate:
        """Return the prompt, with stop strings and the maximum length of the answer."""

    @abstractmethod
    def program(self, document: Document, answer: Generated, style: PromptStyle) -> Program:
        """Return the program that judges ``answer``; its id is ``document.id``."""

    @abstractmethod
    def reference(self, document: Document) -> Program:
        """Return the program made of the document's own solution, which must pass."""

    def requires(self, document: Document) -> tuple[str, ...]:
        """Return the top-level names of third-party packages that the reference imports."""
        return ()

    def wrong(self, document: Document) -> Program | None:
        """Return a program that the benchmark publishes as wrong, which must fail; None if it publishes none."""
        return None


def evenly_spaced(documents: Sequence[T], limit: int | None) -> list[T]:
    """Return ``limit`` documents spread over the whole sequence, the first one included."""
    if limit is None or limit >= len(documents):
        return list(documents)
    return [documents[index * len(documents) // limit] for index in range(limit)]


def _only(answers: Sequence[Answer], kind: type[A]) -> A:
    """Return the single answer, which must be of type ``kind``."""
    [answer] = answers
    if not isinstance(answer, kind):
        raise TypeError(f"expected an answer of type {kind.__name__}, not {type(answer).__name__}")
    return answer
