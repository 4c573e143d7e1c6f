"""lm-eval's data sets through our data rule: what stands in for ``datasets.load_dataset`` while its tasks are read.

lm-eval asks for training splits when it reads a task, whether few-shot examples are wanted or not. A split that is
missing is therefore an error only when its rows are used: until then it is an empty stand-in.
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

_LOCAL = ("json", "csv", "parquet", "text")  # loaders of files that a definition names itself


class MissingSplit:
    """Stands for a split that no source has: empty, and an error as soon as a row of it is needed."""

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
        """Raise: there is nothing to describe."""
        raise self.error

    def __getattr__(self, name: str) -> Any:
        """Let whatever prepares the rows (map, filter, select_columns and so on) return the split as it is."""
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: self


class Splits:
    """A data set of lm-eval's: splits by name, each read when it is first asked for."""

    def __init__(self, name: str, config: str | None, data: Path | None, revision: str) -> None:
        self._name = name
        self._config = config
        self._data = data
        self._revision = revision
        self._read: dict[str, Any] = {}
        self.sources: dict[str, DataSource] = {}
        """Where each split that was found came from."""
        self.missing: dict[str, MissingSplit] = {}
        """The splits that were asked for and not found."""

    def __getitem__(self, split: str) -> Any:
        """Return the split as a ``datasets.Dataset``, or its stand-in."""
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
        """Return the config that a definition without one means: the default, or the only one that is here."""
        folder = data_folder(self._data)
        here = sorted((folder / "hub" / name).glob(f"*/{split}.*")) if folder else []
        configs = {path.parent.name for path in here}
        if len(configs) == 1:
            return configs.pop()
        return "openai_humaneval" if name == "openai/openai_humaneval" else "default"


@contextlib.contextmanager
def our_data(data: Path | None, revision: str = "") -> Iterator[list[Splits]]:
    """Give every caller of ``datasets.load_dataset`` in here the splits of our data rule; yields those given out."""
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
