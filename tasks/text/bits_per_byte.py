"""Bits per byte of plain text: negative log-likelihood in bits, divided by the length in UTF-8 bytes.

Perplexity per token is not comparable across tokenizers. Bits per byte is, because every model is scored on the same
bytes. Each document is one passage that fits into a single window, so that every model reads the same context;
intervals are over passages.
"""

import math
from collections.abc import Sequence
from functools import cached_property

from pydantic import Field

from crosstok.corpora import Text, Texts, load_texts
from crosstok.errors import UserError
from crosstok.fingerprint import bytes_sha256
from crosstok.tasks.task import (
    DataSource,
    Document,
    Metric,
    PromptStyle,
    Rolling,
    Score,
    Scored,
    TaskOptions,
    TextTask,
    evenly_spaced,
)


class BitsPerByteOptions(TaskOptions):
    """Options of ``text_bpb``."""

    source: str = Field(
        description="A text source: stdlib, docstrings, files:GLOB, jsonl:PATH, or a text of the data folder."
    )
    passage_bytes: int | None = Field(
        default=2048,
        ge=64,
        description="Use one passage of at most this many bytes per document; null: whole documents.",
    )
    window_bytes: int = Field(default=2048, ge=64, description="Sliding window for longer documents, in bytes.")
    stride_bytes: int = Field(default=1024, ge=32, description="Bytes scored per window after the first.")


class BitsPerByte(TextTask):
    """Bits per byte on the held-out split of a text source."""

    version = "1"
    metrics = (Metric("bits_per_byte", "bits/byte", higher_is_better=False),)
    options_type = BitsPerByteOptions
    options: BitsPerByteOptions

    def documents(self) -> Sequence[Document]:
        """Return one passage, or the whole text, of each held-out document."""
        return self._documents

    def available(self) -> int:
        """Return the number of held-out documents of the source."""
        return len(self._texts.documents)

    def source(self) -> DataSource:
        """Return the origin of the texts."""
        facts = self._texts.source
        digest = bytes_sha256("\0".join(document.fields["text"] for document in self._documents).encode())
        return DataSource(str(facts["kind"]), self.options.source, str(facts.get("revision", "")), digest)

    def request(self, document: Document, style: PromptStyle) -> Rolling:
        """Request the likelihood of the whole passage."""
        return Rolling(document.fields["text"], self.options.window_bytes, self.options.stride_bytes)

    def score(self, document: Document, answer: Scored, style: PromptStyle) -> list[Score]:
        """Return bits per byte."""
        return [Score("bits_per_byte", answer.nats / math.log(2), float(answer.bytes))]

    @cached_property
    def _texts(self) -> Texts:
        return load_texts(self.options.source, "heldout", self.data)

    @cached_property
    def _documents(self) -> list[Document]:
        size = self.options.passage_bytes
        texts = self._texts.documents
        kept = [Document(text.id, {"text": text.text if size is None else passage(text, size)}) for text in texts]
        kept = [document for document in kept if document.fields["text"].strip()]
        if not kept:
            raise UserError(
                f"The held-out split of {self.options.source!r} has no text.", hint="Choose another source."
            )
        return evenly_spaced(kept, self.options.limit)


def passage(text: Text, size: int) -> str:
    """Return whole lines of ``text``, at most ``size`` UTF-8 bytes in total, from a position decided by the text's id.

    A hash of the id decides the position, because many files start alike (licence headers, imports). A single line
    longer than ``size`` is truncated at a character boundary.
    """
    lines = text.text.splitlines(keepends=True)
    lengths = [len(line.encode()) for line in lines]
    spare = max(sum(lengths) - size, 0)
    start_byte = int(bytes_sha256(text.id.encode())[:8], 16) * spare // 0xFFFFFFFF
    first, skipped = 0, 0
    while first < len(lines) - 1 and skipped + lengths[first] <= start_byte:
        skipped += lengths[first]
        first += 1
    chosen, used = [], 0
    for line, length in zip(lines[first:], lengths[first:], strict=True):
        if used + length > size:
            break
        chosen.append(line)
        used += length
    return "".join(chosen) or lines[first].encode()[:size].decode(errors="ignore") if lines else ""
