"""Records of an inspection; the field descriptions are the explanations shown on the page."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """Base class of all records: immutable, unknown keys are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(Record):
    """Distribution of a figure over tokens."""

    n: int = Field(description="Number of tokens.")
    mean: float | None = Field(description="Mean; null without tokens.")
    low: float | None = Field(description="5th percentile.")
    median: float | None = Field(description="Median.")
    high: float | None = Field(description="95th percentile.")


class Group(Record):
    """Statistics of the rows of new or old tokens."""

    norms: Spread = Field(
        description="L2 norm of a row. Output rows much longer than old ones make their tokens too likely in many "
        "contexts; much shorter rows have little effect."
    )
    effective_rank: float = Field(
        description="Effective number of dimensions: the exponential of the entropy of the normalised singular values "
        "of the centred rows (Roy and Vetterli 2007). 1 means that all rows lie on a line; the maximum is the smaller "
        "of the number of rows and their width."
    )
    mean_cosine: float | None = Field(
        description="Mean cosine between different rows: about 0 for random directions, near 1 if all are parallel."
    )


class Matrix(Record):
    """One embedding matrix: new rows compared with old ones."""

    kind: str = Field(description="input, output, or both if they are tied.")
    width: int = Field(description="Dimensions of a row.")
    new: Group = Field(description="All new tokens.")
    old: Group = Field(description="Tokens shared with the parent, with the student's rows.")
    matched_rank: float = Field(
        description="Effective rank of a random sample of old rows of the same size as the new ones. This is the fair "
        "comparison, because the rank is limited by the number of rows."
    )
    norm_ratio: float | None = Field(description="Median norm of new rows divided by that of old rows.")
    to_constituents: Spread = Field(
        description="Cosine of a new row with the mean of the rows of its old spelling. FVT starts at 1, and training "
        "moves rows away from it; a row near 0 is unrelated to its pieces."
    )
    to_centre: Spread = Field(
        description="Cosine of a new row with the mean of all old rows. If it is as high as the cosine with the "
        "spelling, the row carries no information specific to its token."
    )
    between: float | None = Field(description="Mean cosine between new and old rows.")
    nearest_is_part: float | None = Field(
        description="Share of new tokens whose nearest old token is one of their pieces."
    )
    part_rank: float | None = Field(
        description="Median rank by cosine of a token's nearest piece among all old tokens; 1 is the nearest."
    )
    old_moved: float | None = Field(
        description="Share of old rows that differ from the parent's in at least one bit; 0 if old rows were frozen."
    )
    axes: tuple[float, float] = Field(
        description="Share of the variance of old rows explained by each axis of the projection (PCA of old rows)."
    )
    old_places: list[tuple[float, float]] = Field(description="Coordinates of a sample of old rows on these axes.")


class Neighbour(Record):
    """An old token near a new one."""

    id: int = Field(description="Id in the student.")
    text: str = Field(description="Bytes as text, with invalid UTF-8 escaped.")
    cosine: float = Field(description="Cosine of the two rows.")
    part: bool = Field(description="Whether it is one of the new token's pieces.")


class Row(Record):
    """A new token in one matrix."""

    norm: float = Field(description="L2 norm of the row.")
    to_constituents: float | None = Field(description="Cosine with the mean row of its old spelling.")
    to_centre: float = Field(description="Cosine with the mean of all old rows.")
    part_rank: int | None = Field(description="Rank by cosine of its nearest piece among all old tokens.")
    place: tuple[float, float] = Field(description="Coordinates on the axes of the projection.")
    neighbours: list[Neighbour] = Field(description="Old tokens with the largest cosine, nearest first.")


class NewToken(Record):
    """A new token with its rows."""

    id: int = Field(description="Id in the student.")
    text: str = Field(description="Bytes as text, with invalid UTF-8 escaped.")
    pieces: list[str] = Field(description="The parent's tokens for these bytes.")
    rows: dict[str, Row] = Field(description="Row in each matrix, by kind of matrix.")


class Moment(Record):
    """Rows at one step of the training."""

    step: int = Field(description="Number of optimizer steps done.")
    distance: Spread = Field(description="Distance from the initial row, divided by the initial norm.")
    to_start: Spread = Field(
        description="Cosine with the initial row: whether the row changed direction and not only length."
    )
    to_constituents: Spread = Field(description="Cosine with the mean row of the old spelling, using the current rows.")
    norms: Spread = Field(description="L2 norm of the row.")


class Movement(Record):
    """Movement of the rows of one matrix during training."""

    kind: str = Field(description="input, output, or both if they are tied.")
    moments: list[Moment] = Field(description="Snapshots in the order of steps.")
    paths: dict[str, list[tuple[float, float]]] = Field(
        description="Coordinates of some tokens on the axes of the projection, per snapshot."
    )


class Guess(Record):
    """A next-token prediction of a layer."""

    text: str = Field(description="The token.")
    probability: float = Field(description="Probability under the logit lens.")


class Layer(Record):
    """One layer under the logit lens."""

    layer: int = Field(description="0 is the embedding; the last layer gives the model's own predictions.")
    cosine: float = Field(
        description="Cosine of the student's state after the new token with the parent's state after the old spelling: "
        "how similar the two are for all later layers."
    )
    kl: float = Field(
        description="KL divergence (nats) of the student's next-token distribution from the parent's, on shared tokens."
    )
    log_new: float = Field(description="Log-probability (nats) of the new token given the context, in the student.")
    log_old: float = Field(
        description="Log-probability (nats) of the old spelling in the parent: the sum over its pieces."
    )
    student: list[Guess] = Field(description="The student's most likely tokens after the new token.")
    parent: list[Guess] = Field(description="The parent's most likely tokens after the old spelling.")


class Trace(Record):
    """Layer-wise comparison of a new token with its old spelling."""

    id: int = Field(description="The new token.")
    text: str = Field(description="Bytes as text.")
    pieces: list[str] = Field(description="The old spelling.")
    context: str = Field(description="The preceding text; empty if the token was not found in the corpus.")
    layers: list[Layer] = Field(description="Layers from the embedding to the output.")


class Inspection(Record):
    """The full result of an inspection."""

    model: str = Field(description="The student.")
    fingerprint: str = Field(description="Fingerprint of the student's weights and tokenizer.")
    parent: str = Field(description="The model to compare with.")
    parent_fingerprint: str = Field(description="Fingerprint of the parent.")
    provenance: dict[str, Any] = Field(description="Provenance record of the student.")
    new_tokens: int = Field(description="Number of tokens of the student whose bytes are no token of the parent.")
    old_tokens: int = Field(description="Number of tokens shared with the parent.")
    examined: int = Field(description="Number of new tokens examined individually, evenly spaced over all of them.")
    matrices: list[Matrix] = Field(description="Input and output matrix, or one matrix if they are tied.")
    tokens: list[NewToken] = Field(description="The tokens examined individually.")
    movement: list[Movement] = Field(description="Movement of rows; empty without row snapshots.")
    traces: list[Trace] = Field(description="Layer-wise traces; empty if the logit lens does not support the model.")
    corpus: str = Field(description="Text source of the contexts of the traces.")
    notes: list[str] = Field(description="Missing parts and the reasons.")
