"""Several seeds of a method: intervals hold their level over seeds and documents; the table has a row per method."""

from pathlib import Path

import numpy as np
import pytest

from crosstok.results.compare.seeds import Repeats, difference, estimate, method_rows
from crosstok.results.compare.statistics import detectable_shift, paired_ratios, ratio
from crosstok.results.store.model_names import ModelName
from crosstok.results.store.records import Cell, Model, Progress, Run, Score, Task
from crosstok.results.store.store import Store
from crosstok.results.tables.seeds_table import method_frame, method_layout


def simulated(generator: np.random.Generator, seeds: int, documents: int, *, of_seed: float, noise: float) -> Repeats:
    """Return bits per byte around 1 with crossed effects of seed and document."""
    value = 1 + of_seed * generator.standard_normal((seeds, 1)) + noise * generator.standard_normal((seeds, documents))
    return Repeats(value, np.ones_like(value))


@pytest.mark.parametrize(
    ("seeds", "documents", "of_seed", "of_document", "noise"),
    [(3, 40, 0.05, 0.2, 0.1), (5, 60, 0.1, 0.1, 0.3), (4, 100, 0.0, 0.2, 0.2)],
)
def test_intervals_over_seeds_and_documents_cover_93_to_97_percent(
    seeds: int, documents: int, of_seed: float, of_document: float, noise: float
) -> None:
    generator = np.random.default_rng(7)
    hits, draws = 0, 600
    for _ in range(draws):
        made = simulated(generator, seeds, documents, of_seed=of_seed, noise=noise)
        value = made.value + of_document * generator.standard_normal(documents)
        found = estimate(Repeats(value, made.weight))
        hits += found.low <= 1 <= found.high
    assert 0.93 <= hits / draws <= 0.97, hits / draws


def test_an_interval_over_documents_alone_would_be_far_too_narrow() -> None:
    generator = np.random.default_rng(8)
    hits = {"seeds": 0, "documents": 0}
    for _ in range(200):
        made = simulated(generator, 4, 60, of_seed=0.1, noise=0.1)
        found, naive = estimate(made), ratio(made.value.sum(axis=0), made.weight.sum(axis=0))
        hits["seeds"] += found.low <= 1 <= found.high
        hits["documents"] += naive.low <= 1 <= naive.high
    assert hits["documents"] < 100
    assert hits["seeds"] >= 186


def test_equal_methods_differ_by_nothing_and_a_planted_difference_is_found() -> None:
    generator = np.random.default_rng(9)
    first = simulated(generator, 4, 60, of_seed=0.02, noise=0.1)
    same = difference(first, first)
    assert same.value == 0
    assert same.p == pytest.approx(1.0)
    false_alarms = found = 0
    for _ in range(300):
        shared = 0.3 * generator.standard_normal(60)
        a, b = (simulated(generator, 4, 60, of_seed=0.02, noise=0.1) for _ in range(2))
        a, b = Repeats(a.value + shared, a.weight), Repeats(b.value + shared, b.weight)
        false_alarms += difference(a, b).p < 0.05
        found += difference(a, Repeats(b.value + 0.08, b.weight)).p < 0.05
    assert false_alarms <= 24
    assert found >= 270


def test_intervals_of_differences_cover_the_truth_and_a_difference_is_found_as_often_as_stated() -> None:
    generator = np.random.default_rng(10)
    seeds, documents, of_seed, noise = 4, 80, 0.03, 0.1
    # What a difference of two methods varies by: seeds of either, and what is left of each document.
    error = np.sqrt(2 * of_seed**2 / seeds + 2 * noise**2 / (seeds * documents))
    drawn = [
        [simulated(generator, seeds, documents, of_seed=of_seed, noise=noise) for _ in range(2)] for _ in range(600)
    ]
    plain = [difference(a, b) for a, b in drawn]
    assert 0.93 <= np.mean([found.low <= 0 <= found.high for found in plain]) <= 0.97
    assert 0.03 <= np.mean([found.p < 0.05 for found in plain]) <= 0.07
    planted = detectable_shift(error, 2 * (seeds - 1))
    assert np.median([found.detectable for found in plain]) == pytest.approx(planted, rel=0.15)
    shifted = [difference(a, Repeats(b.value + planted, b.weight)) for a, b in drawn]
    assert 0.74 <= np.mean([found.p < 0.05 for found in shifted]) <= 0.86


def test_one_seed_is_the_ordinary_interval() -> None:
    generator = np.random.default_rng(1)
    one, two = (simulated(generator, 1, 30, of_seed=0.1, noise=0.2) for _ in range(2))
    assert estimate(one) == ratio(one.value[0], one.weight[0])
    assert difference(one, two) == paired_ratios((one.value[0], one.weight[0]), (two.value[0], two.weight[0]))


def test_weights_are_bytes_and_the_rate_is_a_ratio_of_sums() -> None:
    repeats = Repeats(np.array([[1.0, 6.0], [3.0, 10.0]]), np.array([[1.0, 3.0], [1.0, 5.0]]))
    assert repeats.rate == 2.0
    assert repeats.by_seed.tolist() == [7 / 4, 13 / 6]


def test_the_table_has_one_row_per_method_and_names_what_is_incomplete(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    metrics = [{"name": "bits_per_byte", "unit": "bits/byte", "higher_is_better": False}]
    with Store(tmp_path / "s.db") as store:
        store.begin_run(Run(id="r", suite="s", config={}, environment={}, status=Progress.RUNNING))
        store.put_task(
            Task(fingerprint="t", name="text", version="1", settings={}, source={}, documents=30, metrics=metrics)
        )
        for model, seed, level in (("base@main", None, 1.0), ("alm", 0, 0.7), ("alm", 1, 0.72), ("alm", 2, 0.71)):
            name = str(ModelName(model, seed))
            store.put_model(
                Model(
                    fingerprint=name,
                    label="",
                    spec={},
                    tokenizer="",
                    parameters=1,
                    vocabulary=1,
                    provenance={},
                    build_s=0,
                )
            )
            cell = Cell(fingerprint=f"c{name}", model=name, task="t", seed=0, settings={}, status=Progress.RUNNING)
            store.begin_cell(cell, "r", model, seed)
            size = 29 if name == "alm@2" else 30
            store.add_scores(
                Score(
                    cell=cell.fingerprint, document=f"d{n:02}", metric="bits_per_byte",
                    value=float(level * 100 * (1 + 0.05 * generator.standard_normal())), weight=100,
                )
                for n in range(size)
            )  # fmt: skip
            store.end_cell(cell.fingerprint, Progress.COMPLETE if size == 30 else Progress.PARTIAL)
        rows = method_rows(store, store.run("r"))
        shown = method_layout(store.run("r"), rows)
    frame = method_frame(rows)
    assert frame["method"].tolist() == ["base@main", "alm"]
    assert frame["seeds"].tolist() == [1, 3]
    assert frame["n"].tolist() == [30, 29]
    assert frame["p"].iloc[1] < 0.001
    assert frame["low"].iloc[1] < 0.71 < frame["high"].iloc[1]
    assert "alm@2: partial" in frame["problems"].iloc[1]
    assert shown.blocks[0].rows[1][-1].text == "better"
    assert any("alm@2: partial" in note for note in shown.notes)
