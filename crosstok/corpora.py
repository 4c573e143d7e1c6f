"""Text sources by name, for training and evaluation, with a held-out split that training never reads.

| name | content |
|---|---|
| ``stdlib`` | source code of the running Python's standard library, available on every machine |
| ``docstrings`` | English prose from the docstrings of numpy, scipy and pandas |
| ``files:GLOB`` | text files; ``**`` is supported |
| ``jsonl:PATH[#field]`` | a JSON Lines file, optionally ``.gz``; ``field`` defaults to ``text`` |
| ``hub:owner/name[/config][@revision][#field]`` | a dataset of the Hugging Face hub |
| ``benchmark:owner/name/config[#field+field]`` | training rows of a benchmark in the data folder, never its test rows |
| ``<name>[#field]`` | a text of the data folder: ``text/<name>/{train,heldout}.jsonl[.gz]`` |

The split of a document depends on a hash of its id (:func:`hold_out`) and not on its position, so adding or removing a
file does not move other documents between splits. Sources with a held-out split of their own keep it.
"""

import functools
import glob
import gzip
import json
import math
import os
import platform
import re
import sysconfig
import tokenize
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

from crosstok import docstrings
from crosstok.errors import UserError, unknown_name
from crosstok.folders import data_folder

Split = Literal["train", "heldout"]

_SHARE = 0.06
_PROSE_SHARE = 0.25  # larger, because there are few documents of prose and they mainly serve evaluation
_SUFFIXES = (".jsonl.gz", ".jsonl")
_BENCHMARK = "benchmark"


@dataclass(frozen=True, slots=True)
class Text:
    """A document."""

    id: str
    """Unique within its source and the same on every machine: a relative path, or a row's id or number."""
    text: str


@dataclass(frozen=True, slots=True)
class Texts:
    """One split of a text source."""

    name: str
    split: Split
    documents: tuple[Text, ...]
    source: dict[str, Any]
    """Kind, location (without local paths), revision, number of documents, bytes, SHA-256 of ids and texts."""


@dataclass(frozen=True, slots=True)
class _Found:
    """Documents of a source: either one of its own splits, or all documents, which are then split here."""

    documents: Sequence[Text]
    kind: str
    location: str
    revision: str = ""
    share: float = _SHARE
    """Fraction of documents to hold out; 0 if the documents are already one split of the source."""


def load_texts(name: str, split: Split, data: Path | None = None) -> Texts:
    """Read one split of the text source ``name``; ``data`` is the data folder (default: ``CROSSTOK_DATA``).

    Raises UserError for an unknown name, a file that cannot be read, and a split without text.
    """
    if split not in get_args(Split):
        raise unknown_name("split", split, get_args(Split))
    kind, colon, rest = name.partition(":")
    if colon and kind in _READERS:
        found = _READERS[kind](rest, split)
    elif colon and kind == _BENCHMARK:
        found = _from_benchmark(rest, data_folder(data))
    elif name in _BUILT_IN:
        found = _BUILT_IN[name]()
    else:
        found = _from_data_folder(name, split, data_folder(data))
    documents = [document for document in found.documents if document.text.strip()]
    _check_unique(name, documents)
    if found.share:
        held_out = hold_out([document.id for document in documents], found.share)
        documents = [document for document in documents if (document.id in held_out) == (split == "heldout")]
    if not documents:
        raise UserError(
            f"The text source {name!r} has no text in its {split} split ({len(found.documents)} documents in total).",
            hint="Use another source; a source with a single document cannot be split.",
        )
    digest = sha256()
    for document in documents:
        digest.update(f"{document.id}\0{document.text}\0".encode("utf-8", "surrogatepass"))
    source = {
        "kind": found.kind,
        "location": found.location,
        "revision": found.revision,
        "documents": len(documents),
        "bytes": sum(len(document.text.encode("utf-8", "surrogatepass")) for document in documents),
        "sha256": digest.hexdigest(),
    }
    return Texts(name, split, tuple(documents), source)


def hold_out(ids: Sequence[str], share: float = _SHARE) -> frozenset[str]:
    """Return the held-out ids: those whose SHA-256, as a fraction between 0 and 1, is below ``share``.

    If there are none but at least two ids, the one with the lowest hash is held out, so that small sources can be
    evaluated too.
    """
    if len(ids) < 2:
        return frozenset()
    hashes = {identity: sha256(identity.encode("utf-8", "surrogatepass")).digest() for identity in ids}
    limit = math.floor(share * 2**64)
    chosen = {identity for identity, digest in hashes.items() if int.from_bytes(digest[:8]) < limit}
    return frozenset(chosen or {min(ids, key=hashes.__getitem__)})


@functools.cache
def _stdlib() -> _Found:
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    documents = []
    for path in root.rglob("*.py"):
        relative = path.relative_to(root)
        # _sysconfigdata contains paths of the machine on which Python was built.
        if not left_out & set(relative.parts) and not relative.name.startswith("_sysconfigdata"):
            with tokenize.open(path) as stream:
                documents.append(Text(relative.as_posix(), stream.read()))
    documents.sort(key=lambda document: document.id)
    return _Found(documents, "stdlib", "standard library", f"Python {platform.python_version()}")


@functools.cache
def _docstrings() -> _Found:
    versions = ", ".join(f"{name} {version}" for name, version in docstrings.package_versions().items())
    documents = [Text(path, text) for path, text in docstrings.module_prose()]
    return _Found(documents, "docstrings", ", ".join(docstrings.PACKAGES), versions, share=_PROSE_SHARE)


def _from_files(pattern: str, split: Split) -> _Found:  # noqa: ARG001  (one signature for all readers)
    fixed = re.split(r"[*?\[]", os.path.expanduser(pattern), maxsplit=1)[0]  # noqa: PTH111  (a pattern is no path)
    root = Path(os.path.dirname(fixed))  # noqa: PTH120
    paths = sorted(Path(found) for found in glob.glob(os.path.expanduser(pattern), recursive=True))  # noqa: PTH111, PTH207
    files = [path for path in paths if path.is_file()]
    if not files:
        raise UserError(f"No file matches {pattern!r}.", hint="Check the pattern after 'files:'.")
    documents = [Text(path.relative_to(root).as_posix(), _read(path).decode("utf-8")) for path in files]
    return _Found(documents, "files", Path(pattern).name)


def _from_jsonl(place: str, split: Split) -> _Found:  # noqa: ARG001  (one signature for all readers)
    location, field = _split_field(place)
    path = Path(location).expanduser()
    return _Found(_rows(path, field), "jsonl", f"{path.name}#{field}")


def _from_data_folder(name: str, split: Split, data: Path | None) -> _Found:
    texts = data / "text" if data else None
    known = sorted(folder.name for folder in texts.iterdir() if folder.is_dir()) if texts and texts.is_dir() else []
    folder, field = _split_field(name)
    if texts is None or folder not in known:
        error = unknown_name(
            "text source", name, [*_BUILT_IN, *(f"{kind}:" for kind in (*_READERS, _BENCHMARK)), *known]
        )
        if texts is None:
            error.hint += " Texts of the data folder require CROSSTOK_DATA or --data-dir."
        raise error
    location = f"text/{folder}#{field}"
    own = _part(texts / folder, split)
    if own and _part(texts / folder, "heldout"):
        return _Found(_rows(own, field), "data-folder", location, share=0.0)
    everything = _part(texts / folder, "train")
    if everything is None:
        raise UserError(f"The text {folder!r} of the data folder has no train.jsonl or train.jsonl.gz.")
    return _Found(_rows(everything, field), "data-folder", location)


def _from_benchmark(place: str, data: Path | None) -> _Found:
    """Read ``hub/<place>/train.jsonl[.gz]`` of the data folder; the held-out split is taken from these rows."""
    location, _, fields = place.partition("#")
    if data is None:
        raise UserError(f"{_BENCHMARK}:{place} is read from the data folder.", hint="Set CROSSTOK_DATA or --data-dir.")
    path = _part(data / "hub" / location, "train")
    if path is None:
        raise UserError(f"The data folder has no training rows hub/{location}/train.jsonl[.gz].")
    columns = [_rows(path, field) for field in (fields or "question+answer").split("+")]
    documents = [Text(parts[0].id, "\n".join(part.text for part in parts)) for parts in zip(*columns, strict=True)]
    return _Found(documents, _BENCHMARK, place)


def _part(folder: Path, split: Split) -> Path | None:
    return next((path for suffix in _SUFFIXES if (path := folder / f"{split}{suffix}").is_file()), None)


def _from_hub(place: str, split: Split) -> _Found:
    location, field = _split_field(place)
    identity, _, revision = location.partition("@")
    owner, name, *config = identity.split("/", 2) if "/" in identity else (identity, "")
    if not (owner and name):
        raise UserError(f"'hub:{place}' is not a dataset of the hub.", hint="Write hub:owner/name.")
    import datasets  # heavy, and only this source needs it

    try:
        parts = datasets.load_dataset(f"{owner}/{name}", config[0] if config else None, revision=revision or None)
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # raised by datasets offline, for unknown names and for invalid files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"The dataset {identity!r} could not be loaded: {reason}",
            hint="Check owner/name, config and revision; downloading requires network access and HF_HUB_OFFLINE unset.",
        ) from None
    own = next((part for part in ("validation", "test") if part in parts), None)
    wanted = "train" if split == "train" or own is None else own
    if wanted not in parts:
        raise UserError(f"The dataset {identity!r} has no split {wanted!r}.", hint=f"Splits: {', '.join(parts)}.")
    chosen = parts[wanted]
    if field not in chosen.column_names:
        raise _no_field(identity, field, chosen.column_names)
    documents = [Text(str(number), str(text)) for number, text in enumerate(chosen[field])]
    return _Found(documents, "hub", f"{identity}#{field}", revision, share=0.0 if own else _SHARE)


def _split_field(place: str) -> tuple[str, str]:
    location, _, field = place.partition("#")
    return location, field or "text"


def _rows(path: Path, field: str) -> list[Text]:
    """Read a JSON Lines file. The id of a document is its ``id`` or ``path`` if unique, else its row number."""
    rows = list(_parsed(path))
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not isinstance(row.get(field), str):
            where = f"{path.name}, line {number}"
            raise _no_field(where, field, row if isinstance(row, dict) else [])
    for key in ("id", "path"):
        ids = [row.get(key) for row in rows]
        if all(isinstance(identity, str | int) for identity in ids) and len(set(ids)) == len(ids):
            return [Text(str(identity), row[field]) for identity, row in zip(ids, rows, strict=True)]
    return [Text(str(number), row[field]) for number, row in enumerate(rows, start=1)]


def _parsed(path: Path) -> Iterator[Any]:
    data = _read(path)
    for number, line in enumerate(data.splitlines(), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise UserError(f"{path.name}, line {number} is not JSON: {error}.") from None


def _read(path: Path) -> bytes:
    """Return the decompressed content of a text file, verified to be UTF-8."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (byte {error.start}).", hint="Convert the file or exclude it."
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} could not be read: {error}.") from None
    return data


def _no_field(where: str, field: str, fields: Any) -> UserError:
    return UserError(
        f"{where} has no text field {field!r}.", hint=f"Add #FIELD; available fields: {', '.join(fields) or 'none'}."
    )


def _check_unique(name: str, documents: Sequence[Text]) -> None:
    if documents:
        identity, count = Counter(document.id for document in documents).most_common(1)[0]
        if count > 1:
            raise UserError(f"The text source {name!r} has {count} documents with the id {identity!r}.")


_BUILT_IN: dict[str, Callable[[], _Found]] = {"stdlib": _stdlib, "docstrings": _docstrings}
_READERS: dict[str, Callable[[str, Split], _Found]] = {"files": _from_files, "jsonl": _from_jsonl, "hub": _from_hub}
