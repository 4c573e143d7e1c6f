"""Flips: documents on which exactly one of two models passes, with both answers and verdicts.

A difference of two points is a handful of documents, and reading them explains more than the interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from crosstok.results.compare.contrast import Contrast
from crosstok.results.store.records import Sample, Verdict
from crosstok.results.store.store import Store

CHARACTERS = 1200
"""Maximum length of a prompt or answer in :func:`flips_text`."""


@dataclass(frozen=True)
class Flip:
    """A document that either the model or the baseline passes, but not both."""

    document: str
    gained: bool
    before: Sample | None
    after: Sample | None
    verdict_before: Verdict | None
    verdict_after: Verdict | None


def flips(store: Store, one: Contrast) -> list[Flip]:
    """Return the documents that changed between passed and failed, with the first sample and verdict of both models."""
    first, second = one.baseline.answers(one.task, one.headline.name), one.model.answers(one.task, one.headline.name)
    if not one.headline.is_fraction or not first or not second:
        return []
    before, after = (dict(zip(side.documents, side.value / side.weight, strict=True)) for side in (first, second))
    changed = [name for name in before if name in after and (before[name] > 0) != (after[name] > 0)]
    mine, theirs = (side.cells[one.task].fingerprint for side in (one.baseline, one.model))
    return [
        Flip(
            name,
            bool(after[name] > 0),
            next(iter(store.samples(mine, name)), None),
            next(iter(store.samples(theirs, name)), None),
            next(iter(store.verdicts(mine, name)), None),
            next(iter(store.verdicts(theirs, name)), None),
        )
        for name in changed
    ]


def flips_text(one: Contrast, found: Sequence[Flip]) -> str:
    """Return the flips of a contrast as text for a terminal, with control characters replaced."""
    gained = sum(flip.gained for flip in found)
    lines = [f"{one.task}: {one.model.name} gains {gained} and loses {len(found) - gained} documents."]
    for flip in found:
        lines += ["", f"{'+' if flip.gained else '-'} {_safe(flip.document)}"]
        prompt = flip.after.prompt if flip.after else flip.before.prompt if flip.before else ""
        lines += ["  prompt:", _indented(prompt)] if prompt else []
        for side, sample, verdict in (
            (one.baseline, flip.before, flip.verdict_before),
            (one.model, flip.after, flip.verdict_after),
        ):
            said = (
                f"{verdict.status}{f', {_safe(verdict.error)}' if verdict.error else ''}" if verdict else "no verdict"
            )
            lines += [f"  {side.name}: {said}", _indented(sample.text if sample else "")]
    return "\n".join(lines) + "\n"


def _safe(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _indented(text: str) -> str:
    shown = text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]} [{len(text) - CHARACTERS} more characters]"
    return "\n".join(f"    | {_safe(line)}" for line in shown.split("\n"))
