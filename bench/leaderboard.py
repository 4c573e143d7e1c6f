"""Time to write a large leaderboard, and response times of its first page in a browser.

    python bench/leaderboard.py [MODELS] [TASKS] [SAMPLES]     # default: 200 40 100000

Half of the tasks count passes, half are bits per byte. Prints seconds of writing, sizes, and what headless Chromium
needs to open the first page, to sort a column, to filter models and to show answers. Needs the Debian packages chromium
and chromium-driver.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from pictures import WIDE, browser, view
from process import run

from crosstok.results.store.records import Cell, Model, Progress, Run, Sample, Score, Task, Verdict
from crosstok.results.store.store import Store
from crosstok.results.web.leaderboard import write_leaderboard

PASS = {"name": "pass@1", "unit": "fraction", "higher_is_better": True}
BITS = {"name": "bits_per_byte", "unit": "bits/byte", "higher_is_better": False}
STEPS = {
    "sorts a column": "document.querySelectorAll('#board thead button')[1].click()",
    "filters models": "const box = document.getElementById('filter-models'); box.value = 'model-01';"
    " box.dispatchEvent(new Event('input'))",
    "filters tasks": "const box = document.getElementById('filter-tasks'); box.value = 'task-1';"
    " box.dispatchEvent(new Event('input'))",
}


def fill(store: Store, models: int, tasks: int, samples: int) -> None:
    """Write one run with so many samples altogether."""
    documents = max(2, samples // (models * tasks))
    store.begin_run(Run(id="large-0", suite="large", config={}, environment={}, status=Progress.RUNNING))
    for task in range(tasks):
        name = f"task-{task:02}"
        metric = PASS if task % 2 else BITS
        store.put_task(
            Task(
                fingerprint=name, name=name, version="1", settings={}, source={}, documents=documents, metrics=[metric]
            )
        )
    for model in range(models):
        name = f"model-{model:03}"
        store.put_model(
            Model(
                fingerprint=name, label=f"train:bpe:stdlib:{16384 + model}, fvt, alm", spec={}, tokenizer="t",
                parameters=134_515_008, vocabulary=16384 + model, provenance={}, build_s=1.0,
                compute={"body": 2 * 106_000_000, "head": 2 * 576 * (16384 + model), "context": 4 * 30 * 576},
            )
        )  # fmt: skip
        for task in range(tasks):
            _cell(store, name, task, documents, skill=model / models)
    store.end_run("large-0", Progress.COMPLETE)


def _cell(store: Store, model: str, task: int, documents: int, *, skill: float) -> None:
    generator = np.random.default_rng([*model.encode(), task])
    cell = Cell(
        fingerprint=f"{model}-{task}", model=model, task=f"task-{task:02}", seed=0, settings={},
        status=Progress.RUNNING,
    )  # fmt: skip
    store.begin_cell(cell, "large-0", model)
    answers, verdicts, scores = [], [], []
    for index in range(documents):
        place = {"cell": cell.fingerprint, "document": f"d{index:04}"}
        size = int(generator.integers(40, 900))
        facts = {"bytes": size, "tokens": size // 4, "seconds": 0.1, "prompt_bytes": 450, "prompt_tokens": 120}
        if task % 2:
            passed = bool(generator.random() < 0.1 + 0.6 * skill)
            answers.append(
                Sample(**place, prompt="def f(x):\n" * 20, text="    return x\n" * 8, stop_reason="stop", **facts)
            )
            verdicts.append(
                Verdict(**place, status="passed" if passed else "failed", integrity="split", tier="namespaces")
            )
            scores.append(Score(**place, metric="pass@1", value=float(passed)))
        else:
            nats = size * float(generator.lognormal(-0.2 - 0.4 * skill, 0.2))
            answers.append(Sample(**place, nats=nats, **facts))
            scores.append(Score(**place, metric="bits_per_byte", value=nats / float(np.log(2)), weight=size))
    store.add_samples(answers, scores)
    if verdicts:
        store.add_verdicts(verdicts)
    store.end_cell(cell.fingerprint, Progress.COMPLETE)


def opened(index: Path) -> None:
    """Print how long the first page and its controls take in Chromium, each until the page is painted again."""
    with browser() as driver:
        view(driver, WIDE)
        driver.set_script_timeout(60)
        driver.get(index.as_uri())
        loaded = driver.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd")
        print(f"first page: {index.stat().st_size / 1e6:.1f} MB, loaded in {loaded:.0f} ms")
        for said, step in STEPS.items():
            spent = driver.execute_async_script(
                f"const done = arguments[0], began = performance.now(); {step};"
                " requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)))"
            )
            print(f"{said}: {spent:.0f} ms")
        page = next(iter(sorted((index.parent / "models").glob("*.html"))))
        began = time.perf_counter()
        driver.get(page.as_uri())
        driver.execute_script("document.querySelector('section.answers button.open').click()")
        while not driver.execute_script("return document.querySelectorAll('section.answers details').length"):
            time.sleep(0.005)
        took = 1000 * (time.perf_counter() - began)
        print(f"page of a model: {page.stat().st_size / 1e3:.0f} kB; opened, first answers shown in {took:.0f} ms")


def main() -> None:
    """Fill, write, open, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"models": 200, "tasks": 40, "samples": 100_000}.items():
        parser.add_argument(name, nargs="?", type=int, default=default)
    chosen = parser.parse_args()
    models, tasks, samples = chosen.models, chosen.tasks, chosen.samples
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.sqlite"
        began = time.perf_counter()
        with Store(path) as store:
            fill(store, models, tasks, samples)
        print(f"filled in {time.perf_counter() - began:.0f} s")
        began = time.perf_counter()
        with Store(path, read_only=True) as store:
            index = write_leaderboard(store, Path(folder) / "board")
        files = [one for one in index.parent.rglob("*") if one.is_file()]
        size = sum(one.stat().st_size for one in files) / 1e6
        spent = time.perf_counter() - began
        print(f"{models} models x {tasks} tasks: written in {spent:.1f} s, {len(files)} files, {size:.0f} MB")
        opened(index)


if __name__ == "__main__":
    run(main)
