"""The measuring loop with requests of every type, and with several requests per document; a counting engine answers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crosstok.errors import UserError
from crosstok.harness.generation.answer_facts import AnswerFacts
from crosstok.harness.generation.answers import Generation
from crosstok.harness.jobs.records import cell_record
from crosstok.harness.likelihood.continuations import ContinuationScore
from crosstok.harness.likelihood.rolling import RollingScore
from crosstok.harness.measure.measure import measure
from crosstok.harness.plan.plan import make_plan
from crosstok.harness.plan.planned import PlannedCell
from crosstok.harness.plan.suite import check_suite
from crosstok.results.store.integrity import check
from crosstok.results.store.records import Progress
from crosstok.results.store.store import Store
from crosstok.tasks.task import (
    Answer,
    Continuations,
    DataSource,
    Document,
    Generate,
    Generated,
    Likelihoods,
    Metric,
    PromptStyle,
    Request,
    Rolling,
    Sampling,
    Score,
    Scored,
    Task,
    TaskOptions,
)


class Mixed(Task):
    """Documents that make the requests in their field ``requests``; a document's score is the number of its answers."""

    version = "1"
    metrics = (Metric("answers", "fraction", higher_is_better=True),)
    request_types = (Generate, Continuations, Rolling)
    sampling_in_requests = True

    def __init__(self, made: dict[str, Sequence[Request]]) -> None:
        super().__init__("mixed", TaskOptions())
        self.made = made
        self.scored: dict[str, list[Answer]] = {}

    def documents(self) -> Sequence[Document]:
        return [Document(name, {}) for name in self.made]

    def source(self) -> DataSource:
        return DataSource("files", "here", "1", "")

    def request(self, document: Document, style: PromptStyle) -> Request:
        return self.requests(document, style)[0]

    def requests(self, document: Document, style: PromptStyle) -> Sequence[Request]:
        return self.made[document.id]

    def score_answers(self, document: Document, answers: Sequence[Answer], style: PromptStyle) -> list[Score]:
        assert document.id not in self.scored, "scored twice"
        self.scored[document.id] = list(answers)
        return [Score("answers", float(len(answers)))]


class Engine:
    """Answers that repeat the prompt and its seed; the model is taken away after ``limit`` of them."""

    facts = AnswerFacts(None)

    def __init__(self, limit: int = 1000) -> None:
        self.limit = limit
        self.asked: list[str] = []

    @property
    def generator(self) -> "Engine":
        return self

    scorer = generator

    def generate(self, requests: Sequence[Generate]) -> Iterator[Generation]:
        for index, request in reversed(list(enumerate(requests))):
            for sample, seed in enumerate(request.seeds):
                if len(self.asked) == self.limit:
                    raise KeyboardInterrupt
                text = f"{request.prompt} {seed}"
                self.asked.append(text)
                yield Generation(index, sample, text.encode(), text, 1, 1, request.prompt, 1, 1, "end", 0.0)

    def continuations(self, requests: Sequence[Continuations]) -> Iterator[ContinuationScore]:
        for index, request in reversed(list(enumerate(requests))):
            self.asked.append(request.context)
            nats = tuple(float(len(text)) for text in request.continuations)
            likelihoods = Likelihoods(nats, tuple(False for _ in nats))
            yield ContinuationScore(index, likelihoods, 1, tuple(1 for _ in nats), tuple(1 for _ in nats))

    def rolling(self, requests: Sequence[Rolling]) -> Iterator[RollingScore]:
        for index, request in enumerate(requests):
            self.asked.append(request.text)
            yield RollingScore(index, 2.0, len(request.text), 1, 1, 0.0, None, "<s>", 0.0)


@pytest.fixture
def cell_of(suite_content: Callable[..., dict[str, Any]]) -> Callable[[Task], PlannedCell]:
    content = suite_content()
    suite = check_suite({**content, "models": {"base": content["models"]["base"]}, "tasks": content["tasks"][1:]}, "t")
    [cell] = make_plan(suite).cells
    return lambda task: replace(cell, task=task)


def sampled(prompt: str, *seeds: int) -> Generate:
    return Generate(prompt, sampling=Sampling(1.0), seeds=seeds)


def test_one_task_may_make_requests_of_all_types_and_several_for_a_document(
    cell_of: Callable[[Task], PlannedCell], tmp_path: Path
) -> None:
    task = Mixed(
        {
            "text": [Rolling("abc")],
            "two prompts": [sampled("a", 3, 4), sampled("b", 5)],
            "choices": [Continuations("c", ("x", "yy"))],
            "contexts": [Continuations("d", ("zzz",)), Continuations("e", ("z",))],
        }
    )
    cell = cell_of(task)
    with Store(tmp_path / "s.db") as store:
        store.begin_cell(cell_record(cell), "run", "base")
        measure(cell, Engine(), store, lambda *_: None)
        samples = {(sample.document, sample.index): sample for sample in store.samples(cell.fingerprint)}
        scores = {score.document: (score.index, score.value) for score in store.scores(cell.fingerprint)}
    assert task.scored["text"] == [Scored(2.0, 3)]
    assert task.scored["two prompts"] == [Generated(text, "end") for text in ("a 3", "a 4", "b 5")]
    assert [answer.nats for answer in task.scored["contexts"] if isinstance(answer, Likelihoods)] == [(3.0,), (1.0,)]
    assert scores == {"text": (0, 1.0), "two prompts": (0, 3.0), "choices": (0, 1.0), "contexts": (0, 2.0)}
    assert samples["two prompts", 2].text == "b 5"
    assert samples["choices", 0].text == "x"
    assert samples["contexts", 0].facts["choices"] == [3.0, 1.0]
    assert len(samples) == 6


@pytest.mark.parametrize("limit", range(6))
def test_an_interrupted_document_is_completed_and_scored_once_from_all_of_its_answers(
    cell_of: Callable[[Task], PlannedCell], tmp_path: Path, limit: int
) -> None:
    made = {"one": [sampled("a", 1, 2, 3)], "other": [sampled("b", 4), sampled("c", 5, 6)]}
    cell = cell_of(Mixed(made))
    with Store(tmp_path / "s.db") as store:
        store.begin_cell(cell_record(cell), "run", "base")
        first = Engine(limit)
        with pytest.raises(KeyboardInterrupt):
            measure(cell, first, store, lambda *_: None)
        task = Mixed(made)
        second = Engine()
        moved: list[float] = []
        measure(cell_of(task), second, store, lambda amount, _: moved.append(amount))
        scores = {score.document: score.value for score in store.scores(cell.fingerprint)}
    assert sorted(first.asked + second.asked) == ["a 1", "a 2", "a 3", "b 4", "c 5", "c 6"], "each asked once"
    assert scores == {"one": 3.0, "other": 3.0}
    assert sum(moved) == pytest.approx(2)
    for name, prompts in (("one", ["a 1", "a 2", "a 3"]), ("other", ["b 4", "c 5", "c 6"])):
        if name in task.scored:
            assert task.scored[name] == [Generated(text, "end") for text in prompts]


def test_a_store_with_documents_that_are_scored_as_a_whole_is_clean(
    cell_of: Callable[[Task], PlannedCell], tmp_path: Path
) -> None:
    cell = cell_of(Mixed({"one": [sampled("a", 1, 2, 3)]}))
    with Store(tmp_path / "s.db") as store:
        store.begin_cell(cell_record(cell), "run", "base")
        measure(cell, Engine(), store, lambda *_: None)
        store.end_cell(cell.fingerprint, Progress.COMPLETE)
        assert not [finding for finding in map(str, check(store)) if "without a score" in finding]


class OneType(Mixed):
    request_types = (Generate,)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (OneType({"d": [Rolling("a")]}), "made a Rolling request but declares only Generate"),
        (Mixed({"d": [Rolling("a"), Generate("b")]}), "Document d of the task 'mixed' makes 2 requests of 2 types"),
        (Mixed({"d": [Rolling("a"), Rolling("b")]}), "one Rolling request"),
        (Mixed({"d": []}), "makes 0 requests"),
    ],
)
def test_requests_that_cannot_be_answered_are_one_line(
    cell_of: Callable[[Task], PlannedCell], tmp_path: Path, task: Task, said: str
) -> None:
    with Store(tmp_path / "s.db") as store, pytest.raises(UserError, match=said):
        measure(cell_of(task), Engine(), store, lambda *_: None)
