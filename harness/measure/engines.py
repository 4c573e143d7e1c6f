"""A model that is ready to be measured: what is recorded of it, and who answers for it.

Either a model in this process, which answers prompts and scores texts, or one behind a server, which answers prompts
alone: the servers' interfaces give no likelihoods of text that was not generated, so a plan that asks a served model
for one is refused (:mod:`crosstok.harness.plan.answerable`).
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
    """A model that is ready to be asked."""

    facts: AnswerFacts
    """What a tokenizer does to its answers."""

    @property
    def generator(self) -> AnswerSource:
        """Answers prompts."""
        ...

    @property
    def scorer(self) -> Scorer:
        """Scores texts. Raises :class:`UserError` where nobody can."""
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
        """The engine of ``crosstok.harness.generation.generator``."""
        return Generator(self.checkpoint, max_batch_rows=self._rows, heal=self._heal)

    @cached_property
    def scorer(self) -> Scorer:
        """The engine of likelihoods. Raises :class:`UserError` for a union of top-k tokens."""
        if getattr(self.checkpoint.model.config, "tokens", None) == "union":
            raise UserError(
                f"{self.checkpoint.source} gives no probability to tokens that no member puts up, so texts have no "
                "likelihood under it.",
                hint="Ask it for answers alone, or combine its members with tokens: mined.",
            )
        return Scorer(self.checkpoint, max_batch_tokens=self._tokens)


class ServedEngine:
    """A model behind a server; ``rows`` answers are asked for at a time."""

    def __init__(self, served: ServedModel, *, rows: int = 32) -> None:
        self.served = served
        self.facts = AnswerFacts(None)
        self._rows = rows

    @cached_property
    def generator(self) -> AnswerSource:
        """The client of ``crosstok.harness.openai.generator``."""
        return ServerGenerator(self.served.source, parallel=self._rows)

    @property
    def scorer(self) -> Scorer:
        """Raise: no server scores text."""
        raise UserError(f"{self.served.source} answers prompts and scores no text.")
