"""A benchmark of lm-eval's library as a task of ours: its documents, prompts and scores, untouched.

What is asked of the model, and how an answer is turned into numbers, is lm-eval's own code. What differs is who answers
(our engine), where the rows come from (our data rule) and how scores are kept: per document, as a numerator and a
denominator, so that intervals and paired tests apply (:mod:`crosstok.harness.lm_eval.metrics`).

The score of a group is the average over all its documents (lm-eval's ``weight_by_size``). Few-shot examples are those
that lm-eval draws for each document in a whole run, whatever the ``limit``.
"""

import functools
import json
import os
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any

from lm_eval.api.instance import Instance

from crosstok.errors import UserError
from crosstok.fingerprint import bytes_sha256, fingerprint
from crosstok.harness.lm_eval import metrics, requests
from crosstok.harness.lm_eval.definitions import FEWSHOT_SEED, Definition, read_definitions
from crosstok.harness.lm_eval.options import LmEvalOptions
from crosstok.harness.measure.engines import Engine
from crosstok.harness.measure.external_task import ForeignTask
from crosstok.harness.plan.planned import PlannedCell
from crosstok.progress import Advance
from crosstok.results.store.store import Store
from crosstok.tasks.choice import CHOICE_METRICS, choice_scores
from crosstok.tasks.choice.lm_eval_names import PREFIX, borrowed
from crosstok.tasks.task import (
    Continuations,
    DataSource,
    Document,
    Generate,
    Likelihoods,
    Metric,
    PromptStyle,
    Request,
    Rolling,
    Score,
    evenly_spaced,
)


class LmEvalTask(ForeignTask):
    """One task, group or tag of lm-eval's; ``kind`` says which."""

    version = "1"
    options_type = LmEvalOptions
    options: LmEvalOptions

    @property
    def metrics(self) -> tuple[Metric, ...]:  # type: ignore[override]  # known once the definition is read
        """Return lm-eval's metrics that can be kept per document, and ours for multiple choice."""
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
        definitions = [json.dumps(_portable(one.task.dump_config()), default=str) for one in self.definitions]
        return fingerprint({"task": super().fingerprint(), "lm_eval": version("lm-eval"), "definitions": definitions})

    def request(self, document: Document, style: PromptStyle) -> Request:
        """Return the first request that a document makes; :meth:`instances` has them all."""
        first, *others = self.instances(document, style)
        if first.request_type == "generate_until":
            return self.generation(first)
        if first.request_type == "loglikelihood_rolling":
            return Rolling(first.args[0], self.options.window_bytes, self.options.stride_bytes)
        alike = [one for one in (first, *others) if one.args[0] == first.args[0]]
        return Continuations(first.args[0], tuple(one.args[1] for one in alike), self.unconditional(document))

    def measure(self, cell: PlannedCell, engine: Engine, store: Store, advance: Advance) -> None:
        """Ask and judge every document that the store lacks."""
        from crosstok.harness.lm_eval.measure import measure_lm_eval  # noqa: PLC0415  (it imports this module)

        measure_lm_eval(cell, self, engine, store, advance)

    def instances(self, document: Document, style: PromptStyle) -> list[Instance]:
        """Return what lm-eval asks about a document. A chat prompt is carried as its turns (``Conversation``)."""
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

    def unconditional(self, document: Document) -> str | None:
        """Return the context for scores of the choices by themselves; None where they are not told apart by it."""
        task = self._places[document.id][0].task
        return None if task.multiple_input or task.OUTPUT_TYPE != "multiple_choice" else self.options.pmi_context

    def generation(self, instance: Instance) -> Generate:
        """Return what a generate_until instance asks for, its budget turned into bytes."""
        return requests.generation(instance)

    def scores(self, document: Document, instances: Sequence[Instance], beside: Likelihoods | None) -> list[Score]:
        """Return the scores of a document whose ``instances`` are answered; ``beside`` adds our normalisations."""
        task = self._places[document.id][0].task
        found: dict[str, Score] = {}
        for ensemble in task._filters:  # noqa: SLF001  (as above)
            ensemble.apply(instances)
            answers = [instance.filtered_resps[ensemble.name] for instance in instances]
            for name, value in task.process_results(document.fields, answers).items():
                score = metrics.score(name, value, task.aggregation().get(name), ensemble.name)
                if score is not None:
                    found[score.metric] = score
        if beside is not None and beside.nats and not task.multiple_input:
            gold = metrics.gold(task, document)
            ours = choice_scores(task.doc_to_choice(document.fields), gold, beside)
            found = {score.metric: score for score in ours} | found
        return list(found.values())

    @cached_property
    def definitions(self) -> list[Definition]:
        """lm-eval's tasks behind the name."""
        entry = borrowed(self.kind)
        if entry is None:
            raise UserError(f"{self.kind!r} is no benchmark of lm-eval's.", hint=f"Write {PREFIX}NAME.")
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


def _portable(config: dict[str, Any]) -> dict[str, Any]:
    """Return a definition without the path that it was read from, which differs from machine to machine."""
    metadata = {key: value for key, value in (config.get("metadata") or {}).items() if key != "config_source"}
    return {**config, "metadata": metadata}
