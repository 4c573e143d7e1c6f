"""Scores of multiple-choice answers under four length normalisations.

The likelihood of a continuation decreases with its length, so long choices rarely win without normalisation. The choice
of normalisation affects rankings, and normalising by *tokens* would favour tokenizers with long tokens. crosstok
reports four scores that do not depend on the tokenizer:

| metric | the choice with the highest | |
|---|---|---|
| ``acc`` | log p(choice) | biased to short choices |
| ``acc_norm`` | log p / characters | lm-eval's ``acc_norm`` |
| ``acc_bytes`` | log p / UTF-8 bytes | the same in English, fair to other scripts |
| ``acc_pmi`` | log p(choice given question) - log p(choice given "Answer:") | Holtzman et al. 2021, arXiv 2104.08315 |
"""

from collections.abc import Callable, Collection, Sequence

from crosstok.tasks.task import Likelihoods, Metric, Score

__all__ = ["CHOICE_METRICS", "best", "choice_scores"]

CHOICE_METRICS = tuple(
    Metric(name, "fraction", higher_is_better=True) for name in ("acc", "acc_norm", "acc_bytes", "acc_pmi")
)


def choice_scores(choices: Sequence[str], gold: Collection[int], answer: Likelihoods) -> list[Score]:
    """Return the four scores, or three if the request had no unconditional context.

    Args:
        choices: Texts whose length normalises (without the space that joins them to the context).
        gold: Indices of the correct choices.
        answer: Likelihoods of the choices, in the same order.

    """
    nats = answer.nats
    measures: dict[str, Callable[[int], float]] = {
        "acc": lambda index: -nats[index],
        "acc_norm": lambda index: -nats[index] / max(len(choices[index]), 1),
        "acc_bytes": lambda index: -nats[index] / max(len(choices[index].encode()), 1),
    }
    if (unconditional := answer.unconditional) is not None:
        measures["acc_pmi"] = lambda index: unconditional[index] - nats[index]
    return [Score(metric, float(best(len(choices), measure) in gold)) for metric, measure in measures.items()]


def best(count: int, measure: Callable[[int], float]) -> int:
    """Return the index with the highest measure; the first one in a tie, as lm-eval does."""
    return max(range(count), key=measure)
