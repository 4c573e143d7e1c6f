"""Data sets for lm-eval's tasks from crosstok's data rule, as a replacement of ``datasets.load_dataset``.

lm-eval loads training splits when it reads a task, even without few-shot examples. So a missing split is an error only
when its rows are used; until then, an empty placeholder stands for it.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import datasets

from crosstok.errors import UserError
from crosstok.folders import data_folder
from crosstok.tasks.data.rows import load_rows

if TYPE_CHECKING:
    from crosstok.tasks.task import DataSource

_LOCAL = ("json", "csv", "parquet", "text")  # loaders of files named in a definition


class MissingSplit:
    """Placeholder of a split that no source has: empty, and an error when a row is used."""

    def __init__(self, error: UserError) -> None:
        self.error = error

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __getitem__(self, key: object) -> NoReturn:
        raise self.error

    @property
    def features(self) -> NoReturn:
        """Raise the error: there are no rows to describe."""
        raise self.error

    def __getattr__(self, name: str) -> Any:
        """Return a method that returns the split unchanged, for map, filter, select_columns and the like."""
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: self


class Splits:
    """A data set by split name; a split is read on first access."""

    def __init__(self, name: str, config: str | None, data: Path | None, revision: str) -> None:
        self._name = name
        self._config = config
        self._data = data
        self._revision = revision
        self._read: dict[str, Any] = {}
        self.sources: dict[str, DataSource] = {}
        """Origin of each split that was read."""
        self.missing: dict[str, MissingSplit] = {}
        """The splits that no source has."""

    def __getitem__(self, split: str) -> Any:
        """Return the split as a ``datasets.Dataset``, or its placeholder."""
        if split not in self._read:
            try:
                rows = load_rows(self._path(split), self._data, revision=self._revision)
            except UserError as error:
                self._read[split] = self.missing[split] = MissingSplit(error)
            else:
                self._read[split] = datasets.Dataset.from_list([dict(row) for row in rows.rows])
                self.sources[split] = rows.source
        return self._read[split]

    def _path(self, split: str) -> str:
        name = self._name if "/" in self._name else f"datasets/{self._name}"
        return f"hub/{name}/{self._config or self._only_config(name, split)}/{split}"

    def _only_config(self, name: str, split: str) -> str:
        """Return the config for a definition that names none: the only one in the data folder, or the default."""
        folder = data_folder(self._data)
        here = sorted((folder / "hub" / name).glob(f"*/{split}.*")) if folder else []
        configs = {path.parent.name for path in here}
        if len(configs) == 1:
            return configs.pop()
        return "openai_humaneval" if name == "openai/openai_humaneval" else "default"


@contextlib.contextmanager
def our_data(data: Path | None, revision: str = "") -> Iterator[list[Splits]]:
    """Replace ``datasets.load_dataset`` by crosstok's data rule in this context; yields the data sets it returned."""
    original = datasets.load_dataset
    given: list[Splits] = []

    def load(path: str, name: str | None = None, **named: Any) -> Any:
        if path in _LOCAL:
            return original(path, name, **named)
        given.append(Splits(path, name, data, str(named.get("revision") or revision)))
        return given[-1]

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    datasets.load_dataset = load
    try:
        yield given
    finally:
        datasets.load_dataset = original
        if shown:
            datasets.enable_progress_bars()
