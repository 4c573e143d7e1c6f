"""Provenance records: how a model was made, stored as ``provenance.json`` beside its weights and in the results store.

A transferred model whose recipe is lost can be neither reproduced nor trusted. The record holds everything that
determines the result: sources and licences, tokenizers by content, the initialisation and its statistics, losses and
their settings, the training text, the seed, and the state of the embedding matrix. Fields that do not apply stay empty.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crosstok.errors import UserError
from crosstok.version import __version__

FILE = "provenance.json"


class Provenance(BaseModel):
    """The record of one model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["source", "student", "ensemble"] = Field(
        description="source: an unchanged model; student: derived from another one; ensemble: several in lockstep."
    )
    source: str = Field(description="The original model; for an ensemble, its members joined by ' + '.")
    source_fingerprint: str = Field(
        description="Fingerprint of the model that it was derived from: the original model or a student of it."
    )
    root_fingerprint: str = Field(default="", description="Fingerprint of the original model named by source.")
    teacher: dict[str, Any] = Field(
        default_factory=dict, description="A teacher other than the source: source, fingerprint, tokenizer, licence."
    )
    licence: str = Field(default="", description="Licence of the source, if known; inherited by students.")
    source_tokenizer: str = Field(default="", description="Fingerprint of the source's tokenizer.")
    target_tokenizer: str = Field(default="", description="Fingerprint of the model's own tokenizer.")
    tokenizer_source: str = Field(default="", description="Source of the model's own tokenizer.")
    initialiser: dict[str, Any] = Field(
        default_factory=dict, description="Initialisation method, options and statistics."
    )
    expansion: dict[str, Any] = Field(
        default_factory=dict, description="Added tokens: first new id, count, selection, savings."
    )
    ngrams: int | None = Field(default=None, description="Number of old tokens in the n-gram table of the input.")
    specials: str = Field(default="", description="Treatment of special tokens.")
    losses: list[dict[str, Any]] = Field(default_factory=list, description="Each loss with its weight and options.")
    data: list[dict[str, Any]] = Field(default_factory=list, description="Training texts: name, revision, sha256.")
    training: dict[str, Any] = Field(
        default_factory=dict, description="Training options: steps, batch, window, rates, precision."
    )
    seed: int | None = Field(default=None, description="Seed of the initialisation and the data order.")
    tied: bool | None = Field(default=None, description="Whether input and output embeddings are one matrix.")
    rows: int | None = Field(default=None, description="Rows of the embedding matrix.")
    valid_rows: int | None = Field(default=None, description="Rows used by the tokenizer; the others are masked.")
    dtype: str = Field(default="", description="Type of the stored weights.")
    combine: str = Field(default="", description="How an ensemble combines the members' distributions.")
    members: list[dict[str, Any]] = Field(default_factory=list, description="An ensemble's members and weights.")
    metrics: dict[str, Any] = Field(default_factory=dict, description="Held-out figures before and after training.")
    versions: dict[str, str] = Field(
        default_factory=lambda: {"crosstok": __version__}, description="Versions of the packages that made it."
    )

    def as_dict(self) -> dict[str, Any]:
        """Return the non-empty fields as JSON values."""
        return {key: value for key, value in self.model_dump(mode="json").items() if value not in ("", None, [], {})}


def read(folder: Path) -> Provenance | None:
    """Return the record in ``folder``, or None if there is none. Raises UserError for an invalid one."""
    path = folder / FILE
    try:
        return Provenance.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f"{path} is not a valid provenance record: {where}: {first['msg']}.", hint="Restore or delete it."
        ) from error


def write(folder: Path, record: Provenance | Mapping[str, Any]) -> None:
    """Write the record to ``folder``. A mapping is validated first; raises ValidationError for unknown keys."""
    checked = record if isinstance(record, Provenance) else Provenance.model_validate(dict(record))
    text = json.dumps(checked.as_dict(), indent=2, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")
