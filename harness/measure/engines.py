"""Engines: a loaded or served model that answers requests.

A model in this process generates answers and scores text. A served model only generates: the API of the servers has no
likelihood of given text, so a plan refuses tasks that need it (:mod:`crosstok.harness.plan.answerable`).
"""

from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from crosstok.errors import UserError
from crosstok.harness.generation.answer_facts import AnswerFacts
from crosstok.harness.generation.answers import AnswerSource
from crosstok.harness.generation.generator import Generator
from crosstok.harness.likelihood.rolling import Scorer
from crosstok.harness.openai.generator import ServerGenerator
from crosstok.harness.openai.protocol import ServedModel

if TYPE_CHECKING:
    from crosstok.distill.models.checkpoints import Checkpoint


class Engine(Protocol):
    """A model that answers requests."""

    facts: AnswerFacts
    """Facts about tokenization to store with each answer."""

    @property
    def generator(self) -> AnswerSource:
        """Generator of answers."""
        ...

    @property
    def scorer(self) -> Scorer:
        """Scorer of likelihoods. Raises :class:`UserError` if the model cannot score text."""
        ...


class LocalEngine:
    """A model in this process."""

    def __init__(
        self,
        checkpoint: "Checkpoint",
        facts: AnswerFacts,
        *,
        batch_rows: int = 32,
        batch_tokens: int = 4096,
        heal: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self.facts = facts
        self._rows = batch_rows
        self._tokens = batch_tokens
        self._heal = heal

    @cached_property
    def generator(self) -> AnswerSource:
        """Generator of answers."""
        return Generator(self.checkpoint, max_batch_rows=self._rows, heal=self._heal)

    @cached_property
    def scorer(self) -> Scorer:
        """Scorer of likelihoods. Raises :class:`UserError` for an ensemble over the union of top-k tokens."""
        if getattr(self.checkpoint.model.config, "tokens", None) == "union":
            raise UserError(
                f"{self.checkpoint.source} gives no probability to tokens outside its members' top-k, so text has no "
                "likelihood under it.",
                hint="Use it for generation only, or combine its members with tokens: mined.",
            )
        return Scorer(self.checkpoint, max_batch_tokens=self._tokens)


class ServedEngine:
    """A served model; ``rows`` requests run in parallel."""

    def __init__(self, served: ServedModel, *, rows: int = 32) -> None:
        self.served = served
        self.facts = AnswerFacts(None)
        self._rows = rows

    @cached_property
    def generator(self) -> AnswerSource:
        """Client of the server."""
        return ServerGenerator(self.served.source, parallel=self._rows)

    @property
    def scorer(self) -> Scorer:
        """Raise :class:`UserError`: servers do not score text."""
        raise UserError(f"{self.served.source} is a served model, which cannot score text.")
