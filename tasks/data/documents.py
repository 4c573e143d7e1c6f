"""Base class of benchmarks whose documents are rows of data sets."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property

from crosstok.errors import UserError
from crosstok.fingerprint import bytes_sha256
from crosstok.tasks.data.rows import Row, Rows, load_rows
from crosstok.tasks.task import DataSource, Document, Task, evenly_spaced


class FromData(Task):
    """Mixin for a task base class: the documents are the rows of the data sets at ``paths``, concatenated."""

    @abstractmethod
    def paths(self) -> Sequence[str]:
        """Return the paths of the data sets, such as ``hub/openai/gsm8k/main/test``."""

    @abstractmethod
    def document(self, row: Row, number: int) -> Document | None:
        """Return the document of row ``number`` (from 0, over all paths); None to leave the row out."""

    def documents(self) -> Sequence[Document]:
        """Return the documents, or ``limit`` of them evenly spaced."""
        return self._measured

    def available(self) -> int:
        """Return the number of documents before a limit."""
        return len(self._all)

    def source(self) -> DataSource:
        """Return the origin of the rows; several splits of one data set are one source."""
        sources = [part.source for part in self._parts]
        if len(sources) == 1:
            return sources[0]
        shared = sources[0].location.rpartition("/")[0]
        location = shared if all(source.location.startswith(shared) for source in sources) else sources[0].location
        digest = bytes_sha256("\n".join(source.sha256 for source in sources).encode())
        return DataSource(sources[0].kind, location, sources[0].revision, digest)

    @cached_property
    def _parts(self) -> list[Rows]:
        return [load_rows(path, self.data) for path in self.paths()]

    @cached_property
    def _all(self) -> list[Document]:
        rows = [row for part in self._parts for row in part.rows]
        try:
            made = [self.document(row, number) for number, row in enumerate(rows)]
        except KeyError as error:
            raise UserError(
                f"The rows of {self.source().location} have no field {error}, which the task {self.name!r} needs.",
                hint="`crosstok data check` compares them with the published rows.",
            ) from None
        documents = [document for document in made if document is not None]
        if not documents:
            raise UserError(f"The data of task {self.name!r} ({', '.join(self.paths())}) has no documents.")
        return documents

    @cached_property
    def _measured(self) -> list[Document]:
        return evenly_spaced(self._all, self.options.limit)
