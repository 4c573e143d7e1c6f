"""How a model was made, as a file beside its weights (``provenance.json``) and as a column of the store.

A transferred model whose recipe is lost can neither be repeated nor trusted. The record holds what decides the result:
sources and their licences, tokenizers by content, initialisation with its statistics, losses with their settings, the
text it saw, the seed, and the state of the embedding matrix. Fields that do not apply to a kind of model stay empty.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crosstok import __version__
from crosstok.errors import UserError

FILE = "provenance.json"


class Provenance(BaseModel):
    """The record of one model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["source", "student", "ensemble"] = Field(
        description="Taken as it is; made from another; or several models in lockstep."
    )
    source: str = Field(description="The model that it is or was made from; an ensemble's members joined by ' + '.")
    source_fingerprint: str = Field(
        description="Of the content of the model that it was made from: that model, or a student of it."
    )
    root_fingerprint: str = Field(
        default="", description="Of the content of the model named by source, which the first student was made from."
    )
    teacher: dict[str, Any] = Field(
        default_factory=dict, description="Another model that taught it: source, fingerprint, tokenizer, licence."
    )
    licence: str = Field(default="", description="Of the source, where it is known; a student inherits it.")
    source_tokenizer: str = Field(default="", description="Fingerprint of the source's tokenizer.")
    target_tokenizer: str = Field(default="", description="Fingerprint of the model's own tokenizer.")
    tokenizer_source: str = Field(default="", description="Where the model's own tokenizer came from.")
    initialiser: dict[str, Any] = Field(default_factory=dict, description="Method, options and statistics.")
    expansion: dict[str, Any] = Field(
        default_factory=dict, description="Tokens added: the first new id, how many, how chosen, what they gain."
    )
    ngrams: int | None = Field(default=None, description="Old tokens that the bytes of its input are looked up in.")
    specials: str = Field(default="", description="What was done with special tokens.")
    losses: list[dict[str, Any]] = Field(default_factory=list, description="Each loss with its weight and options.")
    data: list[dict[str, Any]] = Field(default_factory=list, description="Texts trained on: name, revision, sha256.")
    training: dict[str, Any] = Field(default_factory=dict, description="Steps, batch, lengths, rates, precision.")
    seed: int | None = Field(default=None, description="Of initialisation and order of the data.")
    tied: bool | None = Field(default=None, description="Whether input and output embeddings are one matrix.")
    rows: int | None = Field(default=None, description="Rows of the embedding matrix.")
    valid_rows: int | None = Field(default=None, description="Rows that the tokenizer uses; the others are masked.")
    dtype: str = Field(default="", description="Of the stored weights.")
    combine: str = Field(default="", description="How an ensemble combines its members.")
    members: list[dict[str, Any]] = Field(default_factory=list, description="An ensemble's members and weights.")
    metrics: dict[str, Any] = Field(default_factory=dict, description="Measured while it was made, before and after.")
    versions: dict[str, str] = Field(
        default_factory=lambda: {"crosstok": __version__}, description="Of the packages that made it."
    )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that say something, as JSON values."""
        return {key: value for key, value in self.model_dump(mode="json").items() if value not in ("", None, [], {})}


def read(folder: Path) -> Provenance | None:
    """Return the record in ``folder``, or None where there is none. Raises UserError for a broken one."""
    path = folder / FILE
    try:
        return Provenance.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{path} is broken: {where}: {first['msg']}.", hint="Restore it, or delete it.") from error


def write(folder: Path, record: Provenance | Mapping[str, Any]) -> None:
    """Write the record to ``folder``; a mapping is checked first. Raises ValidationError for unknown keys."""
    checked = record if isinstance(record, Provenance) else Provenance.model_validate(dict(record))
    text = json.dumps(checked.as_dict(), indent=2, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")
