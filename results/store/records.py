"""The records of the store, one class per table; every field says what it means.

A *cell* is one model on one task under fixed settings and one seed. Its fingerprint covers everything that decides its
numbers, so a cell that is complete in the store is never measured again, whichever run asks for it.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 6
FRACTION: Final = "fraction"
"""Unit of a metric that is a share of documents or answers, between 0 and 1; shown in percent."""


class Progress(StrEnum):
    """How far a run or cell has come. Anything but ``COMPLETE`` is marked in every table."""

    RUNNING = "running"
    COMPLETE = "complete"
    PARTIAL = "partial"
    FAILED = "failed"


class Record(BaseModel):
    """Base of all records: immutable, unknown fields refused, NaN and infinity refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


class Run(Record):
    """One execution of a suite."""

    id: str = Field(description="Suite name and content fingerprint: a repeated command resumes it.")
    suite: str = Field(description="Name of the suite.")
    config: dict[str, Any] = Field(description="The suite file as read, with every default filled in.")
    environment: dict[str, Any] = Field(description="Versions, processor, device, thread count, git revision.")
    status: Progress = Field(description="Whether every cell of the run is complete.")
    started: datetime = Field(default_factory=now, description="When the run was first started, UTC.")
    finished: datetime | None = Field(default=None, description="When it last ended, UTC.")


class Model(Record):
    """A model that was measured: a source, a student or an ensemble."""

    fingerprint: str = Field(description="Of everything that decides its weights and tokenizer.")
    label: str = Field(description="What kind of model this is, in a few words for a table.")
    spec: dict[str, Any] = Field(description="Its entry in the suite file.")
    tokenizer: str = Field(description="Fingerprint of its tokenizer (bytes of every id, merges, specials).")
    parameters: int = Field(description="Number of distinct parameters, tied matrices counted once.")
    vocabulary: int = Field(description="Number of ids that the tokenizer can produce, specials included.")
    provenance: dict[str, Any] = Field(description="How it was made; the content of provenance.json.")
    build_s: float = Field(description="Seconds spent making it (training included), 0 for a source.")
    compute: dict[str, int] = Field(
        default_factory=dict,
        description="Operations that one token costs: body, head, context; see crosstok.results.tables.costs.",
    )


class Task(Record):
    """A benchmark as it was measured."""

    fingerprint: str = Field(description="Of version, settings, documents and data source.")
    name: str = Field(description="Name in the suite.")
    version: str = Field(description="The task's own version string.")
    settings: dict[str, Any] = Field(description="Options that it was built with.")
    source: dict[str, Any] = Field(description="Where the documents came from: kind, location, revision, sha256.")
    documents: int = Field(description="Number of documents.")
    available: int | None = Field(
        default=None, description="Documents of the whole benchmark, before a limit; None where nobody counted them."
    )
    metrics: list[dict[str, Any]] = Field(description="Name, unit and direction of each metric, headline first.")


class Cell(Record):
    """One model on one task."""

    fingerprint: str = Field(description="Of model, task, settings and seed.")
    model: str = Field(description="Fingerprint of the model.")
    task: str = Field(description="Fingerprint of the task.")
    seed: int = Field(description="Seed of the run; decides sampling only.")
    settings: dict[str, Any] = Field(description="Prompt style, decoding, dtype, sandbox backend and limits.")
    status: Progress = Field(description="Whether every document is measured and judged.")
    error: str = Field(default="", description="Why it is partial or failed, one line.")
    seconds: float = Field(default=0.0, description="Wall time spent on it, over all sessions.")
    spent: dict[str, float] = Field(
        default_factory=dict,
        description="Parts of it: generation, execution (nothing but programs ran), rest; programs runs beside them.",
    )


class Sample(Record):
    """One answer of a model to one document."""

    cell: str = Field(description="Fingerprint of the cell.")
    document: str = Field(description="Id of the document inside its task.")
    index: int = Field(default=0, description="Which of the n samples of this document.")
    prompt: str = Field(default="", description="The text that the model read, after any chat template.")
    text: str = Field(default="", description="The answer as text; bytes that are no UTF-8 are shown as U+FFFD.")
    stop_reason: str = Field(
        default="", description="stop, end, byte_budget, token_cap or context_full; empty for likelihoods."
    )
    prompt_bytes: int = Field(default=0, description="UTF-8 bytes read.")
    prompt_tokens: int = Field(default=0, description="Tokens read.")
    bytes: int = Field(description="UTF-8 bytes generated or scored.")
    tokens: int = Field(description="Tokens generated or scored, specials excluded.")
    nats: float | None = Field(default=None, description="Minus log-likelihood of the scored bytes.")
    seconds: float = Field(description="This sample's share of the wall time of its batch.")
    facts: dict[str, Any] = Field(
        default_factory=dict, description="Further observations: see crosstok.results.store.facts."
    )


class Verdict(Record):
    """What the sandbox said of one sample."""

    cell: str = Field(description="Fingerprint of the cell.")
    document: str = Field(description="Id of the document.")
    index: int = Field(default=0, description="Which sample.")
    status: str = Field(description="passed, failed, error, timeout, memory, output_limit, tampered or sandbox_error.")
    integrity: str = Field(description="split, guarded or none: how candidate and tests were kept apart.")
    tier: str = Field(description="Sandbox backend and the guarantees that it gave.")
    error: str = Field(default="", description="The failing assertion or the exception, one line.")
    wall_s: float = Field(default=0.0, description="Wall time in seconds.")
    cpu_s: float = Field(default=0.0, description="CPU time in seconds.")
    peak_memory_bytes: int = Field(default=0, description="Largest resident size.")
    stderr_tail: str = Field(default="", description="Last bytes of the program's error output.")


class Score(Record):
    """One sample's share of a metric: the metric is sum(value) / sum(weight) over the samples of a cell."""

    cell: str = Field(description="Fingerprint of the cell.")
    document: str = Field(description="Id of the document; intervals are clustered by it.")
    index: int = Field(default=0, description="Which sample.")
    metric: str = Field(description="Name of the metric.")
    value: float = Field(description="Numerator: 1 for a pass, bits for bits per byte.")
    weight: float = Field(default=1.0, description="Denominator: 1 for a pass, bytes for bits per byte.")
