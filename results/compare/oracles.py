"""What the members of an ensemble could reach together: each document by the member that did best on it (oracle-any).

Where a document has one answer that passes or does not, this is the share of documents that at least one member has
right. Nobody can choose so without knowing the result; it says how differently the members fail. An
ensemble lives on members that are right where others are wrong, and one no better than its best member has made nothing
of it. It can still beat this oracle, because a mixture can say what no member says.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from crosstok.results.compare.answers import Answers, Headline
from crosstok.results.compare.statistics import Estimate
from crosstok.results.store.model_names import ModelName
from crosstok.results.store.records import Run


@dataclass(frozen=True, slots=True)
class Oracle:
    """The members of one ensemble on one task, the best of them chosen for every document."""

    members: tuple[str, ...]
    estimate: Estimate


def oracles(
    run: Run,
    headline: Headline,
    known: Mapping[str, Answers],
    unlike: Mapping[str, str],
    names: Mapping[str, ModelName],
) -> dict[str, Oracle]:
    """Return the oracle of each ensemble all of whose members were measured alike, by the ensemble's name.

    ``known`` are the models' answers to one task and ``unlike`` those that cannot be compared; only documents that all
    members answered count.
    """
    found = {}
    for name in known:
        members = tuple(dict.fromkeys(members_of(run, names[name], names)))
        if len(members) > 1 and all(member in known and member not in unlike for member in members):
            together = functools.reduce(
                functools.partial(_better, higher=headline.higher_is_better), [known[member] for member in members]
            )
            if len(together.documents):
                found[name] = Oracle(members, together.estimate(headline))
    return found


def members_of(run: Run, name: ModelName, names: Mapping[str, ModelName]) -> tuple[str, ...]:
    """Return the names of an ensemble's members as shown in tables, none for a model that is no ensemble.

    ``names`` are the models of the run. A member that was made once per seed is the one of the ensemble's own seed.
    """
    models = run.config.get("models")
    entry = models.get(name.model) if isinstance(models, Mapping) else None
    ensemble = entry.get("ensemble") if isinstance(entry, Mapping) else None
    members = ensemble.get("members", ()) if isinstance(ensemble, Mapping) else ()
    shown = {known: text for text, known in names.items()}
    return tuple(shown.get(ModelName(member, name.seed), member) for member in members)


def _better(first: Answers, second: Answers, *, higher: bool) -> Answers:
    _, mine, theirs = np.intersect1d(first.documents, second.documents, assume_unique=True, return_indices=True)
    ours = first.value[mine] * second.weight[theirs], second.value[theirs] * first.weight[mine]
    take_first = ours[0] >= ours[1] if higher else ours[0] <= ours[1]
    return type(first)(
        first.documents[mine],
        np.where(take_first, first.value[mine], second.value[theirs]),
        np.where(take_first, first.weight[mine], second.weight[theirs]),
        first.single and second.single,
    )
