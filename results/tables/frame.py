"""The comparison frame: a tidy data frame of a run's results, and its rendering as a table.

``comparison_frame`` has one row per model and task, values in their own units, and in ``frame.attrs`` the sentences
that belong under the table. ``render`` turns it into Markdown, LaTeX (booktabs), HTML, CSV or JSON.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crosstok.errors import unknown_name
from crosstok.results.compare import statistics
from crosstok.results.compare.comparison import Comparison, compare
from crosstok.results.compare.oracles import members_of
from crosstok.results.compare.statistics import Estimate
from crosstok.results.compare.task_means import Mean, means
from crosstok.results.store.aggregates import SampleFacts, VerdictFacts
from crosstok.results.store.facts import FACT_COLUMNS, fact_columns
from crosstok.results.store.records import Run
from crosstok.results.store.store import Store
from crosstok.results.tables.blocks import layout
from crosstok.results.tables.costs import flops_per_byte
from crosstok.results.tables.findings import findings, footnotes, general_notes
from crosstok.results.tables.formats import FORMATS, render_layout
from crosstok.results.tables.number_format import counted

if TYPE_CHECKING:
    import pandas as pd


def comparison_frame(store: Store, run: Run | str | None = None) -> "pd.DataFrame":
    """Return one row per model and task of a run (default: the latest), in the order of the suite.

    Columns: ``model``, ``method`` (its name in the suite, the same for all seeds), ``seed`` (none where it is made
    only once), ``label``, ``task``, ``metric``, ``unit``, ``higher_is_better``, ``value``, ``low``, ``high``
    (95 % interval), ``n`` (documents measured), ``documents`` (asked for), ``available`` (in the whole benchmark),
    ``status``, ``standing`` (``best``, ``tied``: not significantly different from the best, or empty),
    ``bootstrap_low`` and ``bootstrap_high`` (bootstrap interval, where ``low`` and ``high`` are analytic),
    ``bytes_per_token`` (of the prompts or scored texts, which are the same for all models), ``flops_per_byte`` (see
    ``crosstok.results.tables.costs``; for an ensemble whose members tokenize differently the sum over its members),
    ``passes_per_byte`` (forward passes per byte generated, prompt processing and every member of an ensemble included),
    ``new_token_share`` (share of generated tokens that are not in the vocabulary of the model's source), the columns of
    ``crosstok.results.store.facts.fact_columns`` (tokenization and agreement with a teacher) and of
    :func:`new_token_columns`, ``stops`` and ``verdicts`` (counts by name), ``seconds`` (model time only),
    ``bytes_per_s`` (generated or scored), ``build_s`` (seconds), ``parameters``, ``vocabulary``, ``integrity``,
    ``tier``, ``interval`` (method of the interval) and ``note``. Missing values are NaN.

    ``attrs`` holds ``title``, ``findings``, ``notes``, ``means`` (over tasks with the same metric, a row per model) and
    ``agreement_with`` (name of the teacher in the suite, or empty).
    """
    return frame_of(store, compare(store, run if isinstance(run, Run) else store.run(run)))


def frame_of(store: Store, found: Comparison) -> "pd.DataFrame":
    """Return the frame of a comparison; see :func:`comparison_frame`."""
    import pandas as pd  # `--help` imports this module

    models = store.models(found.run.id)
    samples, verdicts = store.sample_facts(found.run.id), found.verdicts
    remarks = footnotes(found)
    rows: list[dict[str, Any]] = []
    for name in found.models:
        model = models.get(name)
        for task in found.tasks:
            cell, estimate = task.cells.get(name), task.estimates.get(name)
            facts = samples.get(cell.fingerprint, []) if cell else []
            costs = sample_columns(facts)
            row: dict[str, Any] = {
                "model": name,
                "method": found.names[name].model,
                "seed": found.names[name].seed,
                "label": model.label if model else "",
                "task": task.task.name,
                "metric": task.headline.name,
                "unit": task.headline.unit,
                "higher_is_better": task.headline.higher_is_better,
                "value": estimate.value if estimate else None,
                "low": estimate.low if estimate else None,
                "high": estimate.high if estimate else None,
                "n": estimate.n if estimate else 0,
                "documents": task.task.documents,
                "available": task.task.available,
                "status": str(cell.status) if cell else "not measured",
                "standing": task.standing(name),
                **_resampled(estimate),
                **costs,
                **fact_columns(facts),
                "flops_per_byte": flops_per_byte(model.compute, costs["bytes_per_token"]) if model else None,
                "build_s": model.build_s if model else None,
                "parameters": model.parameters if model else None,
                "vocabulary": model.vocabulary if model else None,
                **new_token_columns(model.provenance if model else {}),
                **verdict_columns(verdicts.get(cell.fingerprint, []) if cell else []),
                "interval": estimate.method if estimate else "",
                "note": "; ".join(remarks.get((name, task.task.name), ())),
            }
            rows.append(row)
    _add_up_members(found, rows)
    frame = pd.DataFrame(rows)
    # Columns without any value are numeric, too.
    frame = frame.astype(dict.fromkeys((*FACT_COLUMNS, *NEW_TOKEN_COLUMNS), float) | {"seed": "Int64"})
    frame.attrs = {
        "title": _title(found.run, frame), "findings": findings(found), "notes": general_notes(found),
        "means": [row for one in means(found) for row in _mean_rows(one)],
        "agreement_with": found.run.config.get("agreement_with") or "",
    }  # fmt: skip
    return frame


def _add_up_members(found: Comparison, rows: list[dict[str, Any]]) -> None:
    """Fill in the operations of ensembles that have none of their own with the sum over their members."""
    known = {(row["model"], row["task"]): row for row in rows}
    for row in rows:
        if row["flops_per_byte"] is None and row["status"] != "not measured":
            members = [
                known.get((name, row["task"]), {})
                for name in members_of(found.run, found.names[row["model"]], found.names)
            ]
            flops = [member.get("flops_per_byte") for member in members]
            if members and None not in flops:
                row["flops_per_byte"] = sum(flops)


def _resampled(estimate: Estimate | None) -> dict[str, float | None]:
    """Return the bootstrap interval where the estimate has an analytic one."""
    low, high = (None, None)
    if estimate and estimate.method == "Wilson":
        low, high = statistics.resampled_fraction(estimate.value * estimate.n, estimate.n)
    return {"bootstrap_low": low, "bootstrap_high": high}


def _mean_rows(one: Mean) -> list[dict[str, Any]]:
    head = {"metric": one.headline.name, "unit": one.headline.unit, "tasks": list(one.tasks)}
    return [
        {**head, "model": name, "value": found.value, "low": _number(found.low), "high": _number(found.high),
         "standing": one.standings.get(name, "")}
        for name, found in one.of_model.items()
    ]  # fmt: skip


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def sample_columns(facts: list[SampleFacts]) -> dict[str, Any]:
    """Return the cost columns of a cell: bytes per token, stop reasons, time, forward passes, use of new tokens."""
    size, seconds = sum(fact.bytes for fact in facts), sum(fact.seconds for fact in facts)
    read, tokens = sum(fact.prompt_bytes for fact in facts), sum(fact.prompt_tokens for fact in facts)
    if not tokens:
        read, tokens = size, sum(fact.tokens for fact in facts)
    checked = sum(fact.checked_tokens or 0 for fact in facts)
    passes, passed = (sum(fact.facts.get(name, 0) for fact in facts) for name in ("passes", "bytes_of_passes"))
    return {
        "bytes_per_token": read / tokens if tokens else None,
        "stops": _counts({fact.stop_reason: fact.samples for fact in facts if fact.stop_reason}),
        "seconds": seconds if facts else None,
        "bytes_per_s": size / seconds if seconds else None,
        "passes_per_byte": passes / passed if passed else None,
        "new_token_share": sum(fact.new_tokens or 0 for fact in facts) / checked if checked else None,
    }


NEW_TOKEN_COLUMNS = {
    "p_new": "p_new",
    "p_spelling": "p_spelling",
    "held_out_new_share": "token_share",
    "held_out_new_byte_share": "byte_share",
    "held_out_new_ids": "distinct",
    "held_out_unused_ids": "unused",
    "tokens_per_byte": "tokens_per_byte",
    "tokens_per_byte_before": "tokens_per_byte_spelt",
}
"""Columns about the new tokens of an expanded model, and their names in its provenance."""


def new_token_columns(provenance: Mapping[str, Any]) -> dict[str, float | None]:
    """Return how an expanded model uses its new tokens in held-out text; None for other models.

    ``p_new`` is the probability of a new token where the text has its bytes, ``p_spelling`` that of the same bytes in
    old tokens, both means over occurrences.
    """
    metrics = provenance.get("metrics")
    measured = metrics.get("new_tokens") if isinstance(metrics, Mapping) else None
    measured = measured if isinstance(measured, Mapping) else {}
    return {column: measured.get(name) for column, name in NEW_TOKEN_COLUMNS.items()}


def verdict_columns(facts: list[VerdictFacts]) -> dict[str, Any]:
    """Return the verdicts of a cell by status, with the integrity and tier of the sandbox."""
    counts: Counter[str] = Counter()
    for fact in facts:
        counts[fact.status] += fact.verdicts
    return {
        "verdicts": _counts(counts),
        "integrity": " + ".join(sorted({fact.integrity for fact in facts})),
        "tier": " + ".join(sorted({fact.tier for fact in facts})),
    }


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _title(run: Run, frame: "pd.DataFrame") -> str:
    models, tasks = counted(frame["model"].nunique(), "model"), counted(frame["task"].nunique(), "task")
    return f"{run.id}: {models}, {tasks}, {run.status}"


def render(frame: "pd.DataFrame", form: str = "md", *, facts: bool = False) -> str:
    """Return a comparison frame as text: ``md``, ``latex``, ``html``, ``csv`` or ``json``.

    ``facts`` adds tokenization statistics per task; CSV and JSON always contain them.

    Raises:
        UserError: there is no such format.

    """
    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS)
    if form == "json":
        return json.dumps({**frame.attrs, "rows": records(frame)}, indent=1, ensure_ascii=False)
    return frame.to_csv(index=False) if form == "csv" else render_layout(layout(frame, facts=facts), form)


def records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return the rows of a frame for JSON; missing values are null."""
    content: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return content


def records_json(frame: "pd.DataFrame") -> str:
    """Return any frame of results as a JSON list of its rows."""
    return json.dumps(records(frame), indent=1, ensure_ascii=False)
