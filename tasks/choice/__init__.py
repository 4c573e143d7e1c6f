"""Judging multiple choice: one answer under four normalisations.

The likelihood of a continuation falls with its length, so the longest choice rarely wins on the bare sum. What to
divide by decides rankings, and dividing by *tokens* would favour tokenizers with long ones. Four measures that
no tokenizer enters are reported side by side:

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
    """Return the four scores, or three where nothing was asked behind an unconditional context.

    ``choices`` are the texts whose length counts (without the blank that joins them to the context), ``gold`` the
    indices of the right ones.
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
    """Return the index with the highest measure; of equals the first, as everyone else does."""
    return max(range(count), key=measure)
