"""Results files of lm-eval: import together with their samples files, and export of a model's results."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crosstok.errors import UserError
from crosstok.fingerprint import fingerprint
from crosstok.results.compare.contrast import Side
from crosstok.results.exchange.imported_run import ImportedRun
from crosstok.results.exchange.json_files import read_json, read_lines
from crosstok.results.store.records import FRACTION, Sample, Score
from crosstok.results.store.store import Store


def import_lm_eval(store: Store, path: Path, name: str) -> str:
    """Import a results file of lm-eval with the samples files next to it, and return the id of its run.

    Raises:
        UserError: the file is not of lm-eval, or was written without ``--log_samples``.

    """
    content = read_json(path)
    if not isinstance(content.get("results"), dict) or not isinstance(content.get("configs"), dict):
        raise UserError(f"{path} is not a results file of lm-eval.", hint="Its name is results_….json.")
    date = path.stem.removeprefix("results_")
    files = {task: path.with_name(f"samples_{task}_{date}.jsonl") for task in content["configs"]}
    files = {task: file for task, file in files.items() if file.exists()}
    if not files:
        raise UserError(f"{path} has no samples files next to it.", hint="Run lm_eval again with --log_samples.")
    writer = ImportedRun(store, path, name)
    for task, file in files.items():
        direction = content.get("higher_is_better", {}).get(task, {})
        cell = f"{writer.identity}-{fingerprint([task])[:6]}"
        samples, scores = [], []
        for row in read_lines(file):
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
    """Return a sample's share of a metric; None where the metric is not a ratio of sums (word perplexity)."""
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


def lm_eval_results(side: Side) -> dict[str, Any]:
    """Return the results of a model in the format of lm-eval's ``results_….json``."""
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


def _first_text(value: Any) -> str:
    """Return the first string inside nested lists and mappings of lm-eval."""
    while isinstance(value, (list, dict)) and value:
        value = value[0] if isinstance(value, list) else next(iter(value.values()))
    return value if isinstance(value, str) else ""
