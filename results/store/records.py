"""Records of the store: one class per table, with a description of every field.

A *cell* is one model on one task under fixed settings and one seed. Its fingerprint covers everything that determines
its results, so a complete cell is never measured again, whichever run asks for it.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 6
FRACTION: Final = "fraction"
"""Unit of a metric that is a share of documents or answers, between 0 and 1; shown in percent."""


class Progress(StrEnum):
    """Status of a run or cell. Tables mark everything that is not ``COMPLETE``."""

    RUNNING = "running"
    COMPLETE = "complete"
    PARTIAL = "partial"
    FAILED = "failed"


class Record(BaseModel):
    """Base class of all records: immutable; rejects unknown fields, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


class Run(Record):
    """One execution of a suite."""

    id: str = Field(description="Suite name and content fingerprint; repeating the command resumes the run.")
    suite: str = Field(description="Name of the suite.")
    config: dict[str, Any] = Field(description="The suite with all defaults filled in.")
    environment: dict[str, Any] = Field(description="Versions, processor, device, thread count, git revision.")
    status: Progress = Field(description="Whether every cell of the run is complete.")
    started: datetime = Field(default_factory=now, description="First start of the run, UTC.")
    finished: datetime | None = Field(default=None, description="Last end of the run, UTC.")


class Model(Record):
    """A measured model: a source, a student or an ensemble."""

    fingerprint: str = Field(description="Fingerprint of everything that determines weights and tokenizer.")
    label: str = Field(description="Short description for tables.")
    spec: dict[str, Any] = Field(description="Its entry in the suite file.")
    tokenizer: str = Field(description="Fingerprint of its tokenizer (bytes of every id, merges, specials).")
    parameters: int = Field(description="Number of parameters, tied matrices counted once.")
    vocabulary: int = Field(description="Number of token ids, special tokens included.")
    provenance: dict[str, Any] = Field(description="How it was made: the content of provenance.json.")
    build_s: float = Field(description="Seconds spent making it, training included; 0 for a source.")
    compute: dict[str, int] = Field(
        default_factory=dict,
        description="Operations per token: body, head, context; see crosstok.results.tables.costs.",
    )


class Task(Record):
    """A benchmark with its options and data."""

    fingerprint: str = Field(description="Fingerprint of version, settings, documents and data source.")
    name: str = Field(description="Name in the suite.")
    version: str = Field(description="The task's own version string.")
    settings: dict[str, Any] = Field(description="Options of the task.")
    source: dict[str, Any] = Field(description="Origin of the documents: kind, location, revision, sha256.")
    documents: int = Field(description="Number of documents.")
    available: int | None = Field(
        default=None, description="Documents of the whole benchmark, before a limit; None if unknown."
    )
    metrics: list[dict[str, Any]] = Field(
        description="Name, unit and direction of each metric, the headline metric first."
    )


class Cell(Record):
    """One model on one task."""

    fingerprint: str = Field(description="Fingerprint of model, task, settings and seed.")
    model: str = Field(description="Fingerprint of the model.")
    task: str = Field(description="Fingerprint of the task.")
    seed: int = Field(description="Seed of the run; affects sampling only.")
    settings: dict[str, Any] = Field(description="Prompt style, decoding, dtype, sandbox backend and limits.")
    status: Progress = Field(description="Whether every document is measured and judged.")
    error: str = Field(default="", description="Why it is partial or failed, in one line.")
    seconds: float = Field(default=0.0, description="Wall time over all sessions.")
    spent: dict[str, float] = Field(
        default_factory=dict,
        description="Its parts: generation, execution (only programs ran), rest; programs overlaps with them.",
    )


class Sample(Record):
    """One answer of a model to a document, or the likelihood of a text."""

    cell: str = Field(description="Fingerprint of the cell.")
    document: str = Field(description="Id of the document inside its task.")
    index: int = Field(default=0, description="Index among the samples of this document.")
    prompt: str = Field(default="", description="Prompt after the chat template, if any.")
    text: str = Field(default="", description="Answer; invalid UTF-8 is replaced by U+FFFD.")
    stop_reason: str = Field(
        default="", description="stop, end, byte_budget, token_cap or context_full; empty for likelihoods."
    )
    prompt_bytes: int = Field(default=0, description="UTF-8 bytes of the prompt.")
    prompt_tokens: int = Field(default=0, description="Tokens of the prompt.")
    bytes: int = Field(description="UTF-8 bytes generated or scored.")
    tokens: int = Field(description="Tokens generated or scored, special tokens excluded.")
    nats: float | None = Field(default=None, description="Negative log-likelihood of the scored bytes.")
    seconds: float = Field(description="Share of the wall time of its batch.")
    facts: dict[str, Any] = Field(
        default_factory=dict, description="Further observations: see crosstok.results.store.facts."
    )


class Verdict(Record):
    """Verdict of the sandbox on one sample."""

    cell: str = Field(description="Fingerprint of the cell.")
    document: str = Field(description="Id of the document.")
    index: int = Field(default=0, description="Index of the sample.")
    status: str = Field(description="passed, failed, error, timeout, memory, output_limit, tampered or sandbox_error.")
    integrity: str = Field(description="How candidate and tests were separated: split, guarded or none.")
    tier: str = Field(description="Sandbox backend and its guarantees.")
    error: str = Field(default="", description="Failed assertion or exception, in one line.")
    wall_s: float = Field(default=0.0, description="Wall time in seconds.")
    cpu_s: float = Field(default=0.0, description="CPU time in seconds.")
    peak_memory_bytes: int = Field(default=0, description="Peak resident memory in bytes.")
    stderr_tail: str = Field(default="", description="End of the program's standard error.")


class Score(Record):
    """Contribution of a sample to a metric, which is sum(value) / sum(weight) over the samples of a cell."""

    cell: str = Field(description="Fingerprint of the cell.")
    document: str = Field(description="Id of the document; intervals are clustered by it.")
    index: int = Field(default=0, description="Index of the sample.")
    metric: str = Field(description="Name of the metric.")
    value: float = Field(description="Numerator: 1 for a pass, bits for bits per byte.")
    weight: float = Field(default=1.0, description="Denominator: 1 for a pass, bytes for bits per byte.")
