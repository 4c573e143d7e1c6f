"""WikiText-2: bits per byte of the articles of the test split (Merity et al., arXiv 1609.07843).

The rows on the hub are lines; an article starts at a line ``= Title =``. The word-level version, which most mirrors
have, contains ``<unk>`` and ``@-@``; they are scored as plain text, the same bytes for every model.
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

    source: str = Field(default="wikitext-2-v1", description="wikitext-2-v1 (word level) or wikitext-2-raw-v1.")
    passage_bytes: int | None = Field(
        default=None, ge=64, description="Use one passage of at most this many bytes per article; null: whole articles."
    )


class WikiText(BitsPerByte):
    """Bits per byte of whole articles."""

    options_type = WikiTextOptions
    options: WikiTextOptions

    def available(self) -> int:
        """Return the number of articles."""
        return len(self._articles)

    def source(self) -> DataSource:
        """Return the origin of the lines."""
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
