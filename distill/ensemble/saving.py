"""Creation of ensemble folders: validation of the members, configuration, tokenizer and provenance."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from crosstok.distill.ensemble.canonical import ensemble_tokenizer
from crosstok.distill.ensemble.lockstep import COMBINE, Combine, EnsembleConfig, EnsembleForCausalLM
from crosstok.distill.ensemble.members import check_shares
from crosstok.distill.ensemble.own_tokens import OwnTokensConfig, OwnTokensEnsemble
from crosstok.distill.ensemble.vocabularies import KINDS, MAPS, Ids, Tokens, token_maps
from crosstok.distill.models import provenance
from crosstok.distill.models.provenance import Provenance
from crosstok.distill.sources.atomic import new_folder
from crosstok.distill.sources.models import ENSEMBLE, OWN_TOKENS, fetch, identify, pinned, read_config
from crosstok.distill.sources.tokenizers import read_tokenizer
from crosstok.distill.tokenizers.tokenbytes import TokenBytes, first_differences
from crosstok.errors import UserError, unknown_name


def save_ensemble(
    folder: Path,
    sources: Sequence[str | Path],
    *,
    combine: Combine = "mean_prob",
    weights: Sequence[float] | None = None,
    tokens: Tokens = "same",
    top_k: int = 10,
) -> Path:
    """Create the folder of an ensemble.

    Args:
        folder: The folder to write. Members in folders are named relative to it, so the tree can be moved.
        sources: Model sources of the members.
        combine: How the distributions are combined.
        weights: Positive weights, which need not sum to 1; default: equal weights.
        tokens: How the members' vocabularies are mapped (see ``vocabularies``).
        top_k: Number of tokens that each member contributes to a union.

    Raises:
        UserError: If there are fewer than two members or a wrong number of weights, if a member is an ensemble, or if
            the tokenizers do not match.
    """
    given = [1.0] * len(sources) if weights is None else [float(weight) for weight in weights]
    shares = check_shares(given, len(sources))
    if tokens not in KINDS:
        raise unknown_name("vocabulary of an ensemble", tokens, KINDS)
    if combine not in COMBINE:
        raise unknown_name("way to combine members", combine, COMBINE)
    if top_k < 1:
        raise UserError(f"top_k is {top_k}, but must be at least 1.", hint="Use the default, 10.")
    folders = [fetch(source) for source in sources]
    for source, path in zip(sources, folders, strict=True):
        if read_config(path).get("model_type") in (ENSEMBLE, OWN_TOKENS):
            raise UserError(f"{source} is itself an ensemble.", hint="List its members with appropriate weights.")
    tokenizers = [read_tokenizer(member) for member in folders]
    tokenbytes = [TokenBytes.from_tokenizer(tokenizer) for tokenizer in tokenizers]
    tokenizer, table = tokenizers[0], tokenbytes[0]
    maps: dict[str, Ids] = {}
    if tokens == "same":
        for source, other in zip(sources[1:], tokenbytes[1:], strict=True):
            _check_same(sources[0], tokenbytes[0], source, other)
    else:
        tokenizer = ensemble_tokenizer(tokenizers[0])
        table = TokenBytes.from_tokenizer(tokenizer)
        for number, member in enumerate(tokenbytes):
            maps |= {f"{number}.{key}": ids for key, ids in token_maps(tokens, table, member).items()}
    members = [
        {"source": _named(source, path, folder), "weight": share, "tokenizer": member.fingerprint}
        for source, path, share, member in zip(sources, folders, shares, tokenbytes, strict=True)
    ]
    config = _config(tokens, members, combine=combine, size=table.size, folders=folders, top_k=top_k)
    named = [
        {"source": str(member["source"]), "weight": member["weight"], "fingerprint": identify(path)}
        for member, path in zip(members, folders, strict=True)
    ]
    record = Provenance(
        kind="ensemble",
        source=" + ".join(str(member["source"]) for member in named),
        source_fingerprint="+".join(str(member["fingerprint"]) for member in named),
        source_tokenizer=tokenbytes[0].fingerprint,
        target_tokenizer=table.fingerprint,
        combine=combine if tokens == "same" else f"{combine} over {tokens} tokens",
        members=named,
        valid_rows=table.size,
    )
    with new_folder(folder) as building:
        config.save_pretrained(building)
        tokenizer.save_pretrained(building)
        if maps:
            save_file(maps, building / MAPS)
        provenance.write(building, record)
    return folder


def _config(
    tokens: Tokens,
    members: list[dict[str, Any]],
    *,
    combine: Combine,
    size: int,
    folders: Sequence[Path],
    top_k: int,
) -> EnsembleConfig:
    limits = [read_config(member).get("max_position_embeddings") for member in folders]
    common: dict[str, Any] = {
        "members": members,
        "combine": combine,
        "vocab_size": size,
        "max_position_embeddings": min((limit for limit in limits if isinstance(limit, int)), default=None),
    }
    if tokens == "same":
        return EnsembleConfig(**common, architectures=[EnsembleForCausalLM.__name__])
    return OwnTokensConfig(**common, tokens=tokens, top_k=top_k, architectures=[OwnTokensEnsemble.__name__])


def _named(source: str | Path, path: Path, folder: Path) -> str:
    """Return a member's name in the config: its source, or the path of its folder relative to the ensemble's.

    A hub source includes its commit, so that the ensemble does not change.
    """
    if re.match(r"(hub|gguf|wheel):", str(source)):
        return pinned(source, path)
    return os.path.relpath(path, folder.resolve())


def _check_same(first: str | Path, ours: TokenBytes, second: str | Path, theirs: TokenBytes) -> None:
    if ours.fingerprint == theirs.fingerprint:
        return
    differences = first_differences(ours, theirs)
    if differences:
        shown = "; ".join(f"{index}: {left} / {right}" for index, left, right in differences)
        what = f"the first ids that differ are {shown}"
    else:
        what = "their ids agree, but they split text differently"
    raise UserError(
        f"{first} and {second} do not share a tokenizer: {what}.",
        hint="Transfer one of them to the other's tokenizer first.",
    )
