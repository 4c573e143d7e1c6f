"""Oracle scores of ensembles: each document answered by the member that does best on it.

For pass/fail tasks this is the share of documents that at least one member solves. The oracle cannot be achieved by any
selection rule without the results; it measures how different the failures of the members are. An ensemble helps if
members are right where others are wrong, and one that does not beat its best member gains nothing. It can beat the
oracle, because a mixture can produce answers that no member gives.
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
    """Members of an ensemble, and the score of the best member chosen for each document of a task."""

    members: tuple[str, ...]
    estimate: Estimate


def oracles(
    run: Run,
    headline: Headline,
    known: Mapping[str, Answers],
    unlike: Mapping[str, str],
    names: Mapping[str, ModelName],
) -> dict[str, Oracle]:
    """Return the oracle of each ensemble whose members are all comparable, by name of the ensemble.

    ``known`` are the answers of the models on a task, ``unlike`` the models that are not comparable, and ``names`` the
    models of the run. Only documents that all members answered count.
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
    """Return the shown names of the members of an ensemble; empty for other models.

    ``names`` are the models of the run. Of a member made once per seed, the one with the ensemble's seed is returned.
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
