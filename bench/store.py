"""Time of the default table of a large store: a million samples, written row by row as a run does.

    python bench/store.py [SAMPLES] [URL]     # default: 1000000 in a temporary SQLite file

Prints seconds for filling (straight inserts, not what a run costs) and for the default table cold (a fresh process,
disk cache warm).
"""

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from process import run

from crosstok.results.store.checksum import sample_checksum
from crosstok.results.store.records import Cell, Model, Progress, Run, Sample, Task
from crosstok.results.store.sql import CHECKSUMS, SAMPLES, SCORES, VERDICTS
from crosstok.results.store.store import Store

MODELS = 20
TASKS = 5
TABLE = (
    "import sys, time; began = time.perf_counter()\n"
    "from crosstok.results.store.store import Store\n"
    "from crosstok.results.tables.frame import comparison_frame, render\n"
    "text = render(comparison_frame(Store(sys.argv[1], read_only=True)))\n"
    "print(f'{time.perf_counter() - began:.2f} s, {len(text)} characters')"
)


def fill(store: Store, samples: int) -> None:
    """Write one run of 20 models on 5 tasks with so many samples altogether."""
    documents = samples // (MODELS * TASKS)
    run = Run(id="large-0", suite="large", config={}, environment={}, status=Progress.RUNNING)
    store.begin_run(run)
    metrics = [{"name": "pass@1", "unit": "fraction", "higher_is_better": True}]
    for task in range(TASKS):
        store.put_task(
            Task(
                fingerprint=f"t{task}", name=f"task{task}", version="1", settings={}, source={}, documents=documents,
                metrics=metrics,
            )
        )  # fmt: skip
    for model in range(MODELS):
        name = f"m{model}"
        store.put_model(
            Model(
                fingerprint=name, label=name, spec={}, tokenizer="t", parameters=1, vocabulary=1, provenance={},
                build_s=0,
            )
        )  # fmt: skip
        for task in range(TASKS):
            cell = Cell(
                fingerprint=f"{name}-{task}", model=name, task=f"t{task}", seed=0, settings={}, status=Progress.RUNNING
            )  # fmt: skip
            store.begin_cell(cell, run.id, name)
            passed = np.random.default_rng([model, task]).random(documents) < 0.2 + 0.02 * model
            with store.database.write() as connection:
                for table, rows in _rows(cell.fingerprint, passed):
                    connection.execute(sa.insert(table), rows)
            store.end_cell(cell.fingerprint, Progress.COMPLETE)
    store.end_run(run.id, Progress.COMPLETE)


def _rows(cell: str, passed: Any) -> Iterator[tuple[sa.Table, list[dict[str, Any]]]]:
    places = [{"cell": cell, "document": f"d{number:06}", "index": 0} for number in range(len(passed))]
    answers = [
        Sample(**place, prompt="def f(x):\n" * 20, text="    return x\n" * 8, stop_reason="stop", bytes=104, tokens=30,
               prompt_bytes=200, prompt_tokens=60, seconds=0.1)
        for place in places
    ]  # fmt: skip
    yield SAMPLES, [answer.model_dump(mode="json") for answer in answers]
    yield (
        CHECKSUMS,
        [{**place, "sha256": sample_checksum(answer)} for place, answer in zip(places, answers, strict=True)],
    )
    verdict = {"integrity": "split", "tier": "namespaces", "error": "", "wall_s": 0.1, "cpu_s": 0.1}
    rest = {"peak_memory_bytes": 1, "stderr_tail": ""}
    yield (
        VERDICTS,
        [
            {**place, **verdict, **rest, "status": "passed" if ok else "failed"}
            for place, ok in zip(places, passed, strict=True)
        ],
    )
    scores = zip(places, passed, strict=True)
    yield SCORES, [{**place, "metric": "pass@1", "value": float(ok), "weight": 1.0} for place, ok in scores]


def main() -> None:
    """Fill, read, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", nargs="?", type=int, default=1_000_000)
    parser.add_argument("url", nargs="?", help="an empty store; by default a temporary SQLite file")
    chosen = parser.parse_args()
    samples = chosen.samples
    with tempfile.TemporaryDirectory() as folder:
        url = chosen.url or str(Path(folder) / "large.sqlite")
        began = time.perf_counter()
        with Store(url) as store:
            fill(store, samples)
        print(f"filled with {samples} samples in {time.perf_counter() - began:.0f} s")
        best = math.inf
        for _ in range(3):
            began = time.perf_counter()
            said = subprocess.run([sys.executable, "-c", TABLE, url], check=True, capture_output=True, text=True)
            best = min(best, time.perf_counter() - began)
            print(f"default table: {said.stdout.strip()}")
        print(f"default table, whole process, best of three: {best:.2f} s (asked: under 2 s at 1000000 samples)")


if __name__ == "__main__":
    run(main)
