"""WikiText-2 as articles: bits per byte of the test split (Merity et al., arXiv 1609.07843).

The hub's rows are lines; an article begins at a line ``= Title =``. The word-level version, which is the one that is
mirrored most, holds ``<unk>`` and ``@-@``: every model is charged for the same bytes all the same, as plain text.
"""

import re
from collections.abc import Sequence
from functools import cached_property

from pydantic import Field

from crosstok.tasks.data.rows import Rows, load_rows
from crosstok.tasks.task import DataSource, Document, evenly_spaced
from crosstok.tasks.text.bits_per_byte import BitsPerByte, BitsPerByteOptions

_TITLE = re.compile(r"\s*= [^=].*[^=] =\s*")


class WikiTextOptions(BitsPerByteOptions):
    """Options of ``wikitext``."""

    source: str = Field(default="wikitext-2-v1", description="wikitext-2-v1 (words) or wikitext-2-raw-v1.")
    passage_bytes: int | None = Field(default=None, ge=64, description="Null: whole articles.")


class WikiText(BitsPerByte):
    """Bits per byte on whole articles."""

    options_type = WikiTextOptions
    options: WikiTextOptions

    def available(self) -> int:
        """Return the number of articles."""
        return len(self._articles)

    def source(self) -> DataSource:
        """Return where the lines come from."""
        source: DataSource = self._rows.source
        return source

    @cached_property
    def _rows(self) -> Rows:
        return load_rows(f"hub/Salesforce/wikitext/{self.options.source}/test", self.data)

    @cached_property
    def _articles(self) -> Sequence[str]:
        articles: list[str] = []
        for row in self._rows.rows:
            if _TITLE.fullmatch(row["text"]) or not articles:
                articles.append("")
            articles[-1] += row["text"]
        return [article for article in articles if article.strip()]

    @cached_property
    def _documents(self) -> list[Document]:
        chosen = evenly_spaced(list(enumerate(self._articles)), self.options.limit)
        return [Document(str(number), {"text": text}) for number, text in chosen]
