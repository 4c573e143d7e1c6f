"""Conversion of lm-eval's metrics to sums over documents.

A mean over documents stays as it is. A perplexity becomes its logarithm in nats (``log_perplexity``,
``log_word_perplexity``), which is additive and allows paired tests. A metric of the whole corpus (F1, BLEU) is left
out, with a warning in the log.
"""

import logging
import math
from typing import Any

from crosstok.tasks.task import Document, Metric, Score

logger = logging.getLogger(__name__)


def metric(name: str, aggregate: Any, kept: str, *, higher: bool) -> Metric | None:
    """Return the metric for lm-eval's ``name`` after the filter ``kept``; None if it is left out."""
    own = f"{name},{kept}" if kept != "none" else name
    kind = getattr(aggregate, "__name__", "")
    if kind == "perplexity":
        return Metric(f"log_{own}", "nats", higher_is_better=False)
    if kind == "weighted_perplexity":
        return None if name.startswith("byte") else Metric(f"log_{own}", "nats/word", higher_is_better=False)
    if kind == "bits_per_byte":
        return Metric(own, "bits/byte", higher_is_better=False)
    if kind == "mean":
        # pass_at_k returns several values; the first one is pass@1.
        return Metric("pass@1" if name.startswith("pass_at_") else own, "fraction", higher_is_better=higher)
    logger.warning("lm-eval's %s is not a sum over documents and is left out.", own)
    return None


def score(name: str, value: Any, aggregate: Any, kept: str) -> Score | None:
    """Return a document's share of a metric; None if the metric is left out."""
    own = f"{name},{kept}" if kept != "none" else name
    kind = getattr(aggregate, "__name__", "mean")
    if kind == "perplexity":
        return Score(f"log_{own}", -float(value))
    if kind == "weighted_perplexity":
        return None if name.startswith("byte") else Score(f"log_{own}", -float(value[0]), float(value[1]))
    if kind == "bits_per_byte":
        return Score(own, -float(value[0]) / math.log(2), float(value[1]))
    if kind == "mean" and isinstance(value, int | float):
        return Score("pass@1" if name.startswith("pass@1") else own, float(value))
    return None


def gold(task: Any, document: Document) -> set[int]:
    """Return the indices of the correct choices."""
    target = task.doc_to_target(document.fields)
    choices = task.doc_to_choice(document.fields)
    right = target if isinstance(target, list) else [target]
    return {
        choices.index(one) if isinstance(one, str) else int(one)
        for one in right
        if not isinstance(one, str) or one in choices
    }
