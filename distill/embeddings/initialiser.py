"""Base class of embedding initialisers.

An initialiser gets the rows of the source's embedding matrices and returns the rows of the target vocabulary, with the
origin of each row. Most initialisers copy the rows of special tokens and of tokens with equal bytes bit for bit, and
differ only in how they approximate the others (see ``approximation``).
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
"""The embedding matrix: input or output."""


@dataclass(frozen=True)
class Rows:
    """New matrices and the origin of each of their rows."""

    matrices: Mapping[Kind, Tensor]
    """``[target.size, d]`` each, in the dtype of the source's matrix."""
    origins: tuple[Origin, ...]
    """Origin of the row of each target id: ``special`` and ``exact`` rows are copied, ``mean`` averages the source's
    pieces, ``bytes`` averages byte tokens, ``approximated`` is any other rule, ``fallback`` is the mean row."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Further figures for the provenance."""

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each origin; the numbers add up to ``target.size``."""
        return dict(sorted(Counter(self.origins).items()))


@dataclass(frozen=True)
class SourceModel:
    """The unchanged source model and a text, for initialisers that read text."""

    model: PreTrainedModel
    bos_id: int | None
    """BOS id, only if the source was trained with one in front of every text."""
    texts: Texts


class Initialiser(Method, ABC):
    """Base class of initialisers; options are pydantic fields.

    Most initialisers need only the source's rows. One that reads text names it in :attr:`text_source`; its rows are
    then passed to :meth:`refine` together with the source model. One that reads another model names it in
    :attr:`model_source`. Text and model are part of the student's identity.
    """

    @property
    def text_source(self) -> str | None:
        """Text source to read; None for most initialisers."""
        return None

    @property
    def model_source(self) -> str | None:
        """Model source to read besides the source model; None for most initialisers."""
        return None

    def refine(
        self,
        rows: "Rows",
        source_model: SourceModel,
        source: TokenBytes,
        target: TokenBytes,
    ) -> "Rows":
        """Return improved ``rows``; called only if :attr:`text_source` is set."""
        return rows

    @abstractmethod
    def rows(
        self, matrices: Mapping[Kind, Tensor], source: TokenBytes, target: TokenBytes, specials: Mapping[int, int]
    ) -> Rows:
        """Return the rows of the vocabulary ``target``.

        ``matrices`` holds the source's matrices, ``[at least source.size, d]``: ``input`` always, ``output`` only if it
        is not tied to the input. ``specials`` maps target ids to the source ids with the same role.
        """
