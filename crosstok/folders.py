"""Locations on this machine: the cache, the store of results, and the optional folder of benchmark data.

| folder | default | set by |
|---|---|---|
| cache (models, tokenizers, students) | ``$XDG_CACHE_HOME/crosstok`` | ``CROSSTOK_CACHE`` |
| store of results | ``runs/crosstok.db`` | ``CROSSTOK_STORE``, ``--store`` |
| data folder (benchmarks, texts) | none | ``CROSSTOK_DATA``, ``--data-dir`` |

The data folder holds ``hub/<owner>/<name>/<config>/<split>.jsonl[.gz]`` and ``text/<name>/{train,heldout}.jsonl.gz``.
"""

import os
from pathlib import Path

import platformdirs

from crosstok.errors import UserError

DEFAULT_STORE = "runs/crosstok.db"
"""Store of results, from the working directory."""


def cache_folder() -> Path:
    """Return the cache folder, which may not exist yet."""
    return Path(os.environ.get("CROSSTOK_CACHE") or platformdirs.user_cache_path("crosstok"))


def store_location(chosen: str | Path | None = None) -> str:
    """Return path or URL of the store: the argument, else ``CROSSTOK_STORE``, else ``runs/crosstok.db``."""
    return str(chosen or os.environ.get("CROSSTOK_STORE") or DEFAULT_STORE)


def data_folder(chosen: Path | None = None) -> Path | None:
    """Return the data folder: the argument, else ``CROSSTOK_DATA``, else None. Raises UserError if it is missing."""
    named = chosen or os.environ.get("CROSSTOK_DATA")
    if not named:
        return None
    folder = Path(named).expanduser().resolve()
    if not folder.is_dir():
        origin = "--data-dir" if chosen else "CROSSTOK_DATA"
        raise UserError(f"The data folder {folder} does not exist.", hint=f"Correct or unset {origin}.")
    return folder
