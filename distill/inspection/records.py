"""What an inspection says, as records. The descriptions of fields are what the page explains its numbers with."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """Base of all parts: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(Record):
    """How a number is spread over tokens."""

    n: int = Field(description="Tokens it was measured on.")
    mean: float | None = Field(description="Their mean; null without tokens.")
    low: float | None = Field(description="One in twenty lies below (5th percentile).")
    median: float | None = Field(description="Half lie below.")
    high: float | None = Field(description="One in twenty lies above (95th percentile).")


class Group(Record):
    """Rows of one kind of token."""

    norms: Spread = Field(
        description="Length of a row (L2). New rows much longer than old ones shout, much shorter ones are not heard."
    )
    effective_rank: float = Field(
        description="How many directions the rows use evenly: e to the entropy of their singular values, taken around "
        "their mean and divided by their sum (Roy and Vetterli 2007). 1 means all lie on a line; it cannot exceed the "
        "number of rows or their width."
    )
    mean_cosine: float | None = Field(
        description="Mean cosine of two different rows: 0 if they point anywhere, near 1 if all point the same way."
    )


class Matrix(Record):
    """One embedding matrix: what new rows are beside old ones."""

    kind: str = Field(description="input, output, or both where they are tied.")
    width: int = Field(description="Numbers per row.")
    new: Group = Field(description="All new tokens.")
    old: Group = Field(description="Tokens that the parent has too, as they are in the student.")
    matched_rank: float = Field(
        description="Effective rank of as many old rows as there are new ones, drawn at random: the fair comparison, "
        "because few rows cannot have a high rank."
    )
    norm_ratio: float | None = Field(description="Median norm of new rows divided by that of old rows; 1 is alike.")
    to_constituents: Spread = Field(
        description="Cosine of a new row with the mean of the rows of its old spelling. 1 is where FVT starts and "
        "training may leave it; a row near 0 has nothing to do with its parts."
    )
    to_centre: Spread = Field(
        description="Cosine of a new row with the mean of all old rows. If this is as high as the one above, the row "
        "is just an average token."
    )
    between: float | None = Field(description="Mean cosine of a new row with an old row.")
    nearest_is_part: float | None = Field(
        description="Share of new tokens whose nearest old token is one of their own constituents."
    )
    part_rank: float | None = Field(
        description="Median place of a token's nearest constituent among all old tokens by cosine; 1 is the nearest."
    )
    old_moved: float | None = Field(
        description="Share of old rows that differ from the parent's in at least one bit; 0 where old rows were frozen."
    )
    axes: tuple[float, float] = Field(
        description="Share of the variance of old rows along the two axes of the projection (PCA of old rows)."
    )
    old_places: list[tuple[float, float]] = Field(description="A sample of old rows on these axes.")


class Neighbour(Record):
    """An old token near a new one."""

    id: int = Field(description="Its id in the student.")
    text: str = Field(description="Its bytes as text; what is no UTF-8 is escaped.")
    cosine: float = Field(description="Of the two rows.")
    part: bool = Field(description="Whether it is one of the token's constituents.")


class Row(Record):
    """A new token in one matrix."""

    norm: float = Field(description="Length of its row.")
    to_constituents: float | None = Field(description="Cosine with the mean row of its old spelling.")
    to_centre: float = Field(description="Cosine with the mean of all old rows.")
    part_rank: int | None = Field(description="Place of its nearest constituent among all old tokens.")
    place: tuple[float, float] = Field(description="On the axes of the projection.")
    neighbours: list[Neighbour] = Field(description="The old tokens with the largest cosine, the nearest first.")


class NewToken(Record):
    """A new token and its rows."""

    id: int = Field(description="Its id in the student.")
    text: str = Field(description="Its bytes as text; what is no UTF-8 is escaped.")
    pieces: list[str] = Field(description="How the parent spells these bytes.")
    rows: dict[str, Row] = Field(description="By kind of matrix.")


class Moment(Record):
    """Rows at one moment of the training."""

    step: int = Field(description="Optimizer steps done.")
    distance: Spread = Field(description="Distance from where the row began, divided by its norm there.")
    to_start: Spread = Field(description="Cosine with where it began: whether it turned, and not only grew.")
    to_constituents: Spread = Field(description="Cosine with the mean row of the old spelling, as these rows are now.")
    norms: Spread = Field(description="Length of the row.")


class Movement(Record):
    """How rows of one matrix went through the training."""

    kind: str = Field(description="input, output, or both where they are tied.")
    moments: list[Moment] = Field(description="In the order of steps.")
    paths: dict[str, list[tuple[float, float]]] = Field(
        description="Places of some tokens on the axes of the projection, moment by moment."
    )


class Guess(Record):
    """What a layer would say next."""

    text: str = Field(description="The token.")
    probability: float = Field(description="Under the logit lens.")


class Layer(Record):
    """One layer, looked at through the output head (logit lens)."""

    layer: int = Field(description="0 is the embedding, the last one is what the model says.")
    cosine: float = Field(
        description="Of the state behind the new token (student) with that behind its old spelling (parent): how alike "
        "the two are to what comes later."
    )
    kl: float = Field(
        description="Nats between what the two would say next here, parent from student, over the tokens both have."
    )
    log_new: float = Field(description="Log-probability (nats) of the new token where it is due, in the student.")
    log_old: float = Field(description="The same of its whole old spelling, in the parent: the sum over its pieces.")
    student: list[Guess] = Field(description="What the student would say behind the new token.")
    parent: list[Guess] = Field(description="What the parent would say behind the old spelling.")


class Trace(Record):
    """How the meaning of one new token forms across layers."""

    id: int = Field(description="The new token.")
    text: str = Field(description="Its bytes as text.")
    pieces: list[str] = Field(description="Its old spelling.")
    context: str = Field(description="The text that stands before it; empty if it was not found in the corpus.")
    layers: list[Layer] = Field(description="From the embedding to the output.")


class Inspection(Record):
    """Everything."""

    model: str = Field(description="The student.")
    fingerprint: str = Field(description="Of its weights and tokenizer.")
    parent: str = Field(description="The model that it is compared with.")
    parent_fingerprint: str = Field(description="Of that model.")
    provenance: dict[str, Any] = Field(description="How the student was made.")
    new_tokens: int = Field(description="Tokens of the student that spell bytes which are no token of the parent's.")
    old_tokens: int = Field(description="Tokens of the student that the parent has too.")
    examined: int = Field(description="New tokens looked at one by one, evenly spaced over all of them.")
    matrices: list[Matrix] = Field(description="Input and output, or one if they are tied.")
    tokens: list[NewToken] = Field(description="The tokens that were looked at one by one.")
    movement: list[Movement] = Field(description="Empty where no rows were kept during training.")
    traces: list[Trace] = Field(description="Empty where the lens does not fit the model.")
    corpus: str = Field(description="Where the contexts of the traces are from.")
    notes: list[str] = Field(description="What is missing, and why.")
