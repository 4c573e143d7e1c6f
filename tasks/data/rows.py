"""Loading of data set rows from the first source that has them.

1. The data folder (``--data-dir``, ``CROSSTOK_DATA``): ``<path>.jsonl``, ``.jsonl.gz`` or ``.parquet``.
2. A file shipped with an installed package (:mod:`crosstok.tasks.data.packages`).
3. The hub, through ``datasets``, at a pinned revision and only with the network allowed (``CROSSTOK_NETWORK=1``).

A hash over the rows identifies them, so a copy in the data folder and one from the hub with equal rows are the same
source.
"""

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosstok.errors import UserError
from crosstok.folders import data_folder
from crosstok.tasks.data.catalogue import CATALOGUE, DataSet
from crosstok.tasks.data.packages import carrier, packaged
from crosstok.tasks.task import DataSource

SUFFIXES = (".jsonl.gz", ".jsonl", ".parquet")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one split, in order, with their origin."""

    rows: Sequence[Row]
    source: DataSource


def network_allowed(allowed: bool | None = None) -> bool:
    """Return ``allowed`` if given, else whether ``CROSSTOK_NETWORK`` allows access to the hub."""
    if allowed is not None:
        return allowed
    value = os.environ.get("CROSSTOK_NETWORK", "0")
    if value not in ("", "0", "1"):
        raise UserError(f"CROSSTOK_NETWORK is {value!r}.", hint="Set it to 1 or 0.")
    return value == "1"


def locate(path: str, data: Path | None = None) -> Path | None:
    """Return the file of the data set at ``path`` in the data folder; None if there is none."""
    folder = data_folder(data)
    if folder is None:
        return None
    files = (folder / f"{path}{suffix}" for suffix in SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def load_rows(path: str, data: Path | None = None, *, network: bool | None = None, revision: str = "") -> Rows:
    """Return the rows of the data set at ``path``, such as ``hub/openai/gsm8k/main/test``.

    ``revision`` pins the hub commit of a data set for which the catalogue pins none.

    Raises:
        UserError: No source has the rows, or a file cannot be read.

    """
    known = CATALOGUE.get(path)
    if revision and not (known and known.revision):
        known = DataSet(path, 0, "", "", path.partition("/")[2], revision)
    file = locate(path, data)
    if file is not None:
        rows = read_rows(file)
        digest = rows_sha256(rows)
        revision = known.origin if known and known.sha256 == digest else ""
        return Rows(rows, DataSource("data-folder", path, revision, digest))
    if shipped := packaged(path):
        rows, package, release = shipped
        return Rows(rows, DataSource("package", f"{package}: {path}", release, rows_sha256(rows)))
    if known and known.hub and known.revision and network_allowed(network):
        rows = _from_hub(known)
        return Rows(rows, DataSource("hub", known.hub[0], known.revision, rows_sha256(rows)))
    raise _missing(path, known, data)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON Lines or Parquet file. Raises ``UserError`` for a file that is neither."""
    try:
        if file.suffix == ".parquet":
            return _parquet(file)
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} cannot be read: {error}.", hint="Fetch it again.") from None
    rows = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{file}, line {number} is not JSON: {error}.") from None
        if not isinstance(row, dict):
            raise UserError(f"{file}, line {number} is not a JSON object.")
        rows.append(row)
    return rows


def rows_sha256(rows: Sequence[Row]) -> str:
    """Return the SHA-256 of the content of ``rows``, which does not depend on the file format."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()


def _parquet(file: Path) -> list[dict[str, Any]]:
    import pyarrow as pa  # slow import, for Parquet only
    from pyarrow import parquet

    try:
        rows: list[dict[str, Any]] = parquet.read_table(file).to_pylist()
    except pa.ArrowException as error:
        raise UserError(f"{file} is not a Parquet file: {str(error).splitlines()[0]}.") from None
    return rows


def _from_hub(known: DataSet) -> list[dict[str, Any]]:
    import datasets  # slow import, for the hub only

    name, config, split = known.hub or ("", "", "")
    try:
        found = datasets.load_dataset(
            name, None if config == "default" else config, split=split, revision=known.revision
        )
    except (OSError, ValueError, RuntimeError) as error:  # what datasets raises offline and for missing parts
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"The data set {name} could not be loaded from the hub: {reason}",
            hint="Check the network, or use a data folder (--data-dir, CROSSTOK_DATA).",
        ) from None
    return [dict(row) for row in found]


def _missing(path: str, known: DataSet | None, data: Path | None) -> UserError:
    folder = data_folder(data)
    where = f"the data folder {folder} has no such file" if folder else "no data folder is set"
    if known and known.hub and known.revision:
        hub = "allow the hub with CROSSTOK_NETWORK=1"
    elif known and known.hub:
        hub = f"download {known.hub[0]} from the hub yourself (no revision of it is pinned)"
    elif path.startswith("hub/"):
        hub = "allow the hub with CROSSTOK_NETWORK=1 and name the commit (option revision)"
    else:
        hub = "look elsewhere: the hub does not have it"
    origin = f", made from {known.origin.partition('@')[0]}" if known else ""
    return UserError(
        f"The documents {path} are missing: {where}, and no installed package ships them.",
        hint=(
            f"Put {path}.jsonl.gz{origin} into a folder and name it with --data-dir or CROSSTOK_DATA, "
            f"{f'install crosstok[{extra}], ' if (extra := carrier(path)) else ''}or {hub}."
        ),
    )
