"""Table blocks about tokenization: agreement with a teacher, use of new tokens, statistics per task."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from crosstok.results.tables.table import Block, Entry, Rows, absent, by_task, names, number


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


Columns = Mapping[str, tuple[str, Callable[[Any], str]]]
"""Heading and format of a column, by its name in the frame."""
_WHOLE = "{:,.0f}".format
_AGREEMENT: Columns = {
    "agreement_top1": ("top-1 (%)", _percent),
    "agreement_text": ("same text (%)", _percent),
    "agreement_byte_kl": ("KL, bytes", "{:.4f}".format),
    "agreement_chunk_kl": ("KL, chunks", "{:.4f}".format),
    "agreement_token_kl": ("KL, tokens", "{:.4f}".format),
    "agreement_bytes": ("bytes per position", "{:.2f}".format),
    "agreement_boundaries": ("n", _WHOLE),
}
_WRITTEN: Columns = {
    "new_token_share": ("tokens (%)", _percent),
    "new_byte_share": ("bytes (%)", _percent),
    "new_ids_used": ("distinct", _WHOLE),
    "new_ids_unused": ("unused", _WHOLE),
}
_READ: Columns = {
    "held_out_new_share": ("tokens (%)", _percent),
    "held_out_new_byte_share": ("bytes (%)", _percent),
    "held_out_new_ids": ("distinct", _WHOLE),
    "held_out_unused_ids": ("unused", _WHOLE),
    "p_new": ("p(new token)", "{:.4f}".format),
    "p_spelling": ("p(old spelling)", "{:.4f}".format),
    "tokens_per_byte_before": ("tokens/byte before", "{:.4f}".format),
    "tokens_per_byte": ("after", "{:.4f}".format),
}
_FACTS: Columns = {
    "bytes_per_token": ("bytes/token, prompt", "{:.2f}".format),
    "answer_bytes_per_token": ("bytes/token, answer", "{:.2f}".format),
    "straddled_share": ("straddling (%)", _percent),
    "round_trip_share": ("round trip (%)", _percent),
    "context_bytes": ("context (bytes)", "{:,.1f}".format),
    "invalid_utf8_share": ("invalid UTF-8 (%)", lambda value: f"{100 * value:.2f}"),
    "loop_share": ("loops (%)", _percent),
}


def fact_blocks(rows: Rows, teacher: str, *, all_facts: bool) -> list[Block]:
    """Return the blocks that have values; ``teacher`` names the model that agreement is measured with."""
    blocks = [
        _per_task(rows, f"agreement with {teacher} at common token boundaries", _AGREEMENT),
        _per_task(rows, "new tokens in answers", _WRITTEN),
        _block("new tokens in held-out text", _once_per_model(rows), _READ),
    ]
    if all_facts:
        blocks += [_block(f"{task}: tokenization", of_task, _FACTS) for task, of_task in by_task(rows).items()]
    return [block for block in blocks if block]


def fact_legend(rows: Rows, *, all_facts: bool) -> list[str]:
    """Return explanations of the columns that are shown."""
    found = []
    if _any(rows, "agreement_top1"):
        found.append(
            "Agreement: both models read the same text and are compared at each byte offset where both tokenizations "
            "have a boundary. Top-1: the most probable next byte is the same. Same text: one of the two most probable "
            "next tokens is a prefix of the other. KL: divergence of the model from the teacher in nats per position: "
            "over the next byte; over the text up to the next common boundary against all other continuations; over "
            "the next token, if the vocabularies are equal. Bytes per position: mean distance between boundaries."
        )
    if _any(rows, "p_new"):
        found.append(
            "p(new token): probability of a new token where held-out text contains its bytes; p(old spelling): "
            "probability of the same bytes spelled in old tokens; means over occurrences. Before: the same text in old "
            "tokens only."
        )
    if _any(rows, "new_ids_unused"):
        found.append("Unused: new token ids that occur in no answer.")
    if all_facts:
        found.append(
            "Straddling: prompts whose last bytes would share a token with the start of the answer. Round trip: "
            "documents that the tokenizer reproduces byte for byte; the others are skipped. Context: mean number of "
            "bytes before a scored byte. Loops: answers that end in a repetition."
        )
    return found


def _any(rows: Rows, column: str) -> bool:
    return any(not absent(row.get(column)) for row in rows)


def _known(rows: Rows, columns: Columns) -> list[str]:
    return [name for name in columns if _any(rows, name)]


def _once_per_model(rows: Rows) -> Rows:
    return [next(row for row in rows if row["model"] == name) for name in names(rows)]


def _block(title: str, rows: Rows, columns: Columns) -> Block | None:
    """Return a block with a row for each model that has any of the columns; None if no model has."""
    shown = _known(rows, columns)
    rows = [row for row in rows if any(not absent(row.get(name)) for name in shown)]
    if not rows:
        return None
    body = [[Entry(row["model"]), *_entries(row, shown, columns)] for row in rows]
    return Block(title, ["model", *(columns[name][0] for name in shown)], body)


def _per_task(rows: Rows, title: str, columns: Columns) -> Block | None:
    """Return a block with a row per model and the columns repeated for each task that has any of them."""
    present = {task: of_task for task, of_task in by_task(rows).items() if _known(of_task, columns)}
    some = [row for of_task in present.values() for row in of_task]
    shown = _known(some, columns)
    models = [name for name in names(some) if _known([row for row in some if row["model"] == name], columns)]
    if not models:
        return None
    header, body = ["model"], [[Entry(name)] for name in models]
    for task, of_task in present.items():
        first, *rest = (columns[name][0] for name in shown)
        header += [f"{task}: {first}", *rest]
        by_model = {row["model"]: row for row in of_task}
        for line, name in zip(body, models, strict=True):
            line.extend(_entries(by_model.get(name, {}), shown, columns))
    return Block(title, header, body, together=len(shown))


def _entries(row: Mapping[str, Any], shown: Iterable[str], columns: Columns) -> list[Entry]:
    return [Entry(number(row.get(name), columns[name][1])) for name in shown]
