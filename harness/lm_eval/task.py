"""Benchmarks of lm-eval's library as tasks: lm-eval's documents, prompts and scoring code, unchanged.

lm-eval decides what to ask a model and how to score an answer. crosstok answers with its own engine, reads the rows
through its own data rule and keeps scores per document, as numerator and denominator, so that intervals and paired
tests apply (:mod:`crosstok.harness.lm_eval.metrics`).

The score of a group is the mean over all documents of its members (lm-eval's ``weight_by_size``). Few-shot examples are
those that lm-eval draws for each document in a full run, whatever the ``limit``.
"""

import functools
import inspect
import json
import os
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from typing import Any

from lm_eval.api.instance import Instance

from crosstok.errors import UserError
from crosstok.fingerprint import bytes_sha256, fingerprint
from crosstok.harness.lm_eval import metrics, requests
from crosstok.harness.lm_eval.definitions import FEWSHOT_SEED, Definition, read_definitions
from crosstok.harness.lm_eval.options import LmEvalOptions
from crosstok.tasks.choice import CHOICE_METRICS, choice_scores
from crosstok.tasks.choice.lm_eval_names import PREFIX, borrowed
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
    Score,
    Scored,
    Task,
    evenly_spaced,
)

_REQUEST_TYPES: dict[str, type[Request]] = {
    "generate_until": Generate,
    "loglikelihood": Continuations,
    "loglikelihood_rolling": Rolling,
    "multiple_choice": Continuations,
}


class LmEvalTask(Task):
    """One task, group or tag of lm-eval's library; ``kind`` names it."""

    version = "1"
    options_type = LmEvalOptions
    options: LmEvalOptions
    sampling_in_requests = True

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Metrics of lm-eval that are sums over documents, and the normalisations of multiple choice."""
        first = self.definitions[0].task
        filters = [ensemble.name for ensemble in first._filters]  # noqa: SLF001  (lm-eval has no other way to ask)
        found = [
            one
            for name, aggregate in first.aggregation().items()
            for kept in filters
            if (one := metrics.metric(name, aggregate, kept, higher=bool(first.higher_is_better().get(name, True))))
        ]
        ours = CHOICE_METRICS if self.options.pmi_context is not None else CHOICE_METRICS[:3]
        if first.OUTPUT_TYPE == "multiple_choice" and not first.multiple_input:
            found += [metric for metric in ours if metric.name not in {one.name for one in found}]
        if not found:
            raise UserError(f"lm-eval's {self.kind!r} has no metric that is a sum over documents.")
        return tuple({metric.name: metric for metric in found}.values())

    @property
    def request_types(self) -> Collection[type[Request]]:
        """Types of the requests that the members make."""
        return {_REQUEST_TYPES[one.task.OUTPUT_TYPE] for one in self.definitions}

    def documents(self) -> Sequence[Document]:
        """Return the documents of all members, or ``limit`` of them evenly spaced."""
        return self._documents

    def available(self) -> int:
        """Return the number of documents before a limit."""
        return sum(len(definition.task.task_docs) for definition in self.definitions)

    def source(self) -> DataSource:
        """Return where the rows of every split that was used came from."""
        used = [source for one in self.definitions if one.splits for source in one.splits.sources.values()]
        if not used:
            return DataSource("package", f"lm-eval: {self.kind}", version("lm-eval"), "")
        digest = bytes_sha256("\n".join(source.sha256 for source in used).encode())
        if len(used) == 1:
            return used[0]
        shared = os.path.commonpath([source.location for source in used])
        return DataSource(used[0].kind, shared or used[0].location, used[0].revision, digest)

    def fingerprint(self) -> str:
        """Identify rows, options, lm-eval's version and everything that its definitions say."""
        definitions = [definition_text(one.task.dump_config()) for one in self.definitions]
        return fingerprint({"task": super().fingerprint(), "lm_eval": version("lm-eval"), "definitions": definitions})

    def request(self, document: Document, style: PromptStyle) -> Request:
        """Return the first request of a document."""
        return self.requests(document, style)[0]

    def requests(self, document: Document, style: PromptStyle) -> Sequence[Request]:
        """Return the requests of a document: lm-eval's, with continuations of the same context together."""
        instances = self.instances(document, style)
        kind = instances[0].request_type
        if kind == "generate_until":
            return [requests.generation(one) for one in instances]
        if kind == "loglikelihood_rolling":
            options = self.options
            return [Rolling(one.args[0], options.window_bytes, options.stride_bytes) for one in instances]
        found, _ = requests.by_context([one.args[:2] for one in instances], self._unconditional(document))
        return found

    def instances(self, document: Document, style: PromptStyle) -> list[Instance]:
        """Return lm-eval's requests for a document. A chat prompt carries its turns (``Conversation``)."""
        definition, number = self._places[document.id]
        task = definition.task
        chat = style == "chat" and task.OUTPUT_TYPE == "generate_until"
        if definition.shots:
            task.sampler.sample = lambda *_, **__: self._examples(definition.name)[number]
        context = task.fewshot_context(
            document.fields,
            num_fewshot=definition.shots,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
            chat_template=requests.Conversation if chat else None,
            gen_prefix=task.doc_to_prefix(document.fields),
        )
        made = task.construct_requests(
            doc=document.fields,
            ctx=context,
            metadata=(definition.name, number, task.get_config("repeats") or 1),
            apply_chat_template=chat,
        )
        return made if isinstance(made, list) else [made]

    def score_answers(self, document: Document, answers: Sequence[Answer], style: PromptStyle) -> list[Score]:
        """Return lm-eval's scores of a document, and for multiple choice the other normalisations."""
        task = self._places[document.id][0].task
        instances = self.instances(document, style)
        _fill(instances, answers)
        found: dict[str, Score] = {}
        for ensemble in task._filters:  # noqa: SLF001  (as above)
            ensemble.apply(instances)
            filtered = [instance.filtered_resps[ensemble.name] for instance in instances]
            for name, value in task.process_results(document.fields, filtered).items():
                score = metrics.score(name, value, task.aggregation().get(name), ensemble.name)
                if score is not None:
                    found[score.metric] = score
        if task.OUTPUT_TYPE == "multiple_choice" and not task.multiple_input and isinstance(answers[0], Likelihoods):
            gold = metrics.gold(task, document)
            ours = choice_scores(task.doc_to_choice(document.fields), gold, answers[0])
            found = {score.metric: score for score in ours} | found
        return list(found.values())

    def _unconditional(self, document: Document) -> str | None:
        """Return the context of acc_pmi; None if the choices of the document stand in its contexts."""
        task = self._places[document.id][0].task
        return None if task.multiple_input or task.OUTPUT_TYPE != "multiple_choice" else self.options.pmi_context

    @cached_property
    def definitions(self) -> list[Definition]:
        """The definitions behind the name: of a task, or of the members of a group or tag."""
        entry = borrowed(self.kind)
        if entry is None:
            raise UserError(f"{self.kind!r} is not a benchmark of lm-eval.", hint=f"Write {PREFIX}NAME.")
        return read_definitions(entry, data=self.data, fewshot=self.options.fewshot, revision=self.options.revision)

    @cached_property
    def _places(self) -> dict[str, tuple[Definition, int]]:
        single = len(self.definitions) == 1
        return {
            str(number) if single else f"{one.name}/{number}": (one, number)
            for one in self.definitions
            for number in range(len(one.task.task_docs))
        }

    @cached_property
    def _documents(self) -> list[Document]:
        chosen = evenly_spaced(list(self._places.items()), self.options.limit)
        return [Document(name, one.task.task_docs[number]) for name, (one, number) in chosen]

    @functools.cache  # noqa: B019  (a task lives as long as its run)
    def _examples(self, name: str) -> list[Any]:
        """Return the examples of every document of a member, drawn in lm-eval's order with its seed."""
        [definition] = [one for one in self.definitions if one.name == name]
        task, sampler = definition.task, definition.task.sampler
        sampler.__dict__.pop("sample", None)
        task.set_fewshot_seed(FEWSHOT_SEED)
        itself = task.fewshot_cfg.split == task.config.test_split
        drawn = [sampler.sample(n=definition.shots, eval_doc=doc if itself else None) for doc in task.task_docs]
        return [list(examples) for examples in drawn]


def _fill(instances: Sequence[Instance], answers: Sequence[Answer]) -> None:
    """Set the responses of ``instances`` to ``answers``, which are in the order of :meth:`LmEvalTask.requests`."""
    texts = iter([answer.text for answer in answers if isinstance(answer, Generated)])
    nats = iter([answer.nats for answer in answers if isinstance(answer, Scored)])
    choices = [answer for answer in answers if isinstance(answer, Likelihoods)]
    for instance in instances:
        if instance.request_type == "generate_until":
            instance.resps = list(islice(texts, len(requests.generation(instance).seeds)))
        elif instance.request_type == "loglikelihood_rolling":
            instance.resps = [-next(nats)]
    if choices:
        _, places = requests.by_context([one.args[:2] for one in instances])
        for own, answer in zip(places, choices, strict=True):
            for place, value, greedy in zip(own, answer.nats, answer.greedy, strict=True):
                instances[place].resps = [(-value, greedy)]


def definition_text(config: Mapping[str, Any]) -> str:
    """Return a definition as text that is the same on every machine and in every process.

    It leaves out the path of the definition's file, and represents functions by their source code.
    """
    metadata = {key: value for key, value in (config.get("metadata") or {}).items() if key != "config_source"}
    return json.dumps({**config, "metadata": metadata}, default=_source)


def _source(value: object) -> str:
    if not callable(value):
        return str(value)
    try:
        return inspect.getsource(value)
    except (TypeError, OSError):  # not written in Python, or an instance
        return getattr(value, "__qualname__", type(value).__qualname__)
