"""Answers of a cell as script files that a page opened from disk can load on demand.

Browsers do not fetch JSON over ``file://``, but they run scripts next to the page. Each file is one function call with
a JSON value, in ASCII and without ``<``, so no answer can close the script element. The page inserts answers as text,
never as markup.
"""

import json
from pathlib import Path
from typing import Any

from crosstok.results.store.records import Sample, Verdict
from crosstok.results.store.store import Store
from crosstok.results.web.page import natural

PER_FILE = 50
"""Answers per file."""
CHARACTERS = 20_000
"""Maximum length of an answer or prompt; the store keeps all of it."""


def write_answers(store: Store, cell: str, folder: Path) -> int:
    """Write the answers of ``cell`` as ``folder/1.js``, ``2.js``, … and return how many files there are."""
    samples = sorted(store.samples(cell), key=lambda one: (natural(one.document), one.index))
    if not samples:
        return 0
    folder.mkdir(parents=True)
    verdicts = {(verdict.document, verdict.index): verdict for verdict in store.verdicts(cell)}
    starts = range(0, len(samples), PER_FILE)
    for number, start in enumerate(starts, 1):
        rows = [_row(one, verdicts.get((one.document, one.index))) for one in samples[start : start + PER_FILE]]
        content = {"cell": folder.name, "page": number, "first": start + 1, "of": len(samples), "answers": rows}
        (folder / f"{number}.js").write_text(f"crosstokAnswers({script_safe(content)});\n", encoding="ascii")
    return len(starts)


def script_safe(content: Any) -> str:
    """Return ``content`` as JSON that is safe inside a script element."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _row(sample: Sample, verdict: Verdict | None) -> dict[str, Any]:
    return {
        "document": f"{sample.document} #{sample.index}" if sample.index else sample.document,
        "status": verdict.status if verdict else "",
        "error": _short(verdict.error) if verdict else "",
        "stop": sample.stop_reason,
        "bytes": sample.bytes,
        "tokens": sample.tokens,
        "nats": sample.nats,
        "prompt": _short(sample.prompt),
        "text": _short(sample.text),
    }


def _short(text: str) -> str:
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}\n[{len(text) - CHARACTERS} more characters]"
