"""The protocol of an embedding initialiser, and the part that all of them share.

An initialiser is given the rows of the source's matrices and says what the rows of the target's vocabulary are. Most
of them differ only in how they approximate a token that the source does not have: special tokens are matched first,
then exact byte strings, and both are copied bit for bit. Where each row came from is recorded.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor
from transformers import PreTrainedModel

from crosstok.corpora import Texts
from crosstok.distill.method import Method
from crosstok.distill.tokenizers.matching import Origin
from crosstok.distill.tokenizers.tokenbytes import TokenBytes

Kind = Literal["input", "output"]


@dataclass(frozen=True)
class Rows:
    """New matrices and the origin of each of their rows."""

    matrices: Mapping[Kind, Tensor]
    """``[target.size, d]`` each, in the dtype of the source's."""
    origins: tuple[Origin, ...]
    """Per target id: copied from a special or an exact row, mean of the source's pieces, made of byte pieces, made in
    another way of the initialiser's, fallback."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What the initialiser has to report of itself."""

    def counts(self) -> dict[str, int]:
        """Return how many rows have each origin; the counts add up to the vocabulary."""
        return dict(sorted(Counter(self.origins).items()))


@dataclass(frozen=True)
class SourceModel:
    """What an initialiser may use beyond the rows, if it asks for text: the source itself, still unchanged."""

    model: PreTrainedModel
    bos_id: int | None
    """The id in front of every text, where the source was trained with one."""
    texts: Texts


class Initialiser(Method, ABC):
    """One way of making rows for a new vocabulary. Its options are its fields.

    Most need the source's rows alone. One that reads text names it in ``text_source``; its rows are then handed to
    :meth:`refine` together with the source's model. One that looks into another model names it in ``model_source``.
    Both belong to what decides a student.
    """

    @property
    def text_source(self) -> str | None:
        """The corpus that it reads; None for nearly all."""
        return None

    @property
    def model_source(self) -> str | None:
        """The model, besides the source, that it reads; None for nearly all."""
        return None

    def refine(
        self,
        rows: "Rows",
        source_model: SourceModel,  # noqa: ARG002  (for those that read text)
        source: TokenBytes,  # noqa: ARG002
        target: TokenBytes,  # noqa: ARG002
    ) -> "Rows":
        """Return ``rows`` made better with the help of model and text; called only where ``text_source`` is given."""
        return rows

    @abstractmethod
    def rows(
        self, matrices: Mapping[Kind, Tensor], source: TokenBytes, target: TokenBytes, specials: Mapping[int, int]
    ) -> Rows:
        """Return the rows of ``target``.

        ``matrices`` holds the source's ``[>= source.size, d]``: ``input`` always, ``output`` only where it is untied.
        ``specials`` maps target ids to the source ids that play the same role.
        """
