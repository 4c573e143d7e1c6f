"""Means over tasks: one metric and direction, whole rows only, intervals by hand and by simulation."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crosstok.results.compare.answers import Headline
from crosstok.results.compare.comparison import compare
from crosstok.results.compare.statistics import Difference, Estimate, ratio
from crosstok.results.compare.task_means import groups, mean_of, means
from crosstok.results.store.records import Run
from crosstok.results.store.store import Store
from crosstok.results.tables.frame import comparison_frame, render
from crosstok.results.web.leaderboard_data import load_leaderboard

PASS = Headline("pass@1", "fraction", higher_is_better=True)
ACC = Headline("acc", "fraction", higher_is_better=True)
BPB = Headline("bits_per_byte", "bits/byte", higher_is_better=False)


def test_only_tasks_of_one_metric_unit_and_direction_are_averaged() -> None:
    loss = Headline("pass@1", "fraction", higher_is_better=False)
    found = groups({"a": PASS, "b": BPB, "c": PASS, "d": loss, "e": BPB, "f": ACC})
    assert found == {PASS: ("a", "c"), BPB: ("b", "e")}


def test_the_interval_of_a_mean_by_hand() -> None:
    parts = [Estimate(0.5, 0.2, 0.6, 10, ""), Estimate(0.7, 0.3, 0.9, 30, "")]
    found = mean_of(parts)
    assert found.value == pytest.approx(0.6)
    assert found.low == pytest.approx(0.6 - math.sqrt(0.3**2 + 0.4**2) / 2)
    assert found.high == pytest.approx(0.6 + math.sqrt(0.1**2 + 0.2**2) / 2)
    assert found.n == 2
    assert math.isnan(mean_of([parts[0], Estimate(0.7, math.nan, math.nan, 1, "")]).low)


def test_intervals_of_means_cover_the_truth() -> None:
    generator = np.random.default_rng(31)
    covered = 0
    for _ in range(1000):
        parts = []
        for size in (24, 41, 100):
            weight = generator.lognormal(7, 0.4, size)
            parts.append(ratio(weight * generator.gamma(25, 1 / 25, size), weight))
        found = mean_of(parts)
        covered += found.low <= 1.0 <= found.high
    assert 0.93 <= covered / 1000 <= 0.97


def test_a_model_that_lacks_part_of_a_task_has_no_mean(fill_store: Callable[..., Run], tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        run = fill_store(store, missing={("alm", "text_bpb"): 3})
        found = compare(store, run)
        frame = comparison_frame(store)
        shown = load_leaderboard(store)
    (mean,) = means(found)
    assert (mean.headline, mean.tasks) == (BPB, ("code_bpb", "text_bpb"))
    assert list(mean.of_model) == ["base", "fvt", "sft", "pair"]
    task = {one.task.name: one for one in found.tasks}
    both = [task[name].estimates["sft"].value for name in mean.tasks]
    assert mean.of_model["sft"].value == pytest.approx(sum(both) / 2)
    assert mean.standings == {"base": "best"}
    assert [row["model"] for row in frame.attrs["means"]] == ["base", "fvt", "sft", "pair"]
    assert "mean of 2 tasks" in render(frame)
    assert '"means": [' in render(frame, "json")
    on_board = shown.means[0].of_model
    assert {name: found.value for name, found in on_board.items()} == pytest.approx(
        {name: found.value for name, found in mean.of_model.items()}
    )


@pytest.mark.parametrize(("shift", "standing"), [(0.02, "tied"), (0.2, "")])
def test_the_best_mean_is_marked_and_what_does_not_differ_significantly_from_it(
    shift: float, standing: str, fill_store: Callable[..., Run], tmp_path: Path
) -> None:
    with Store(tmp_path / "s.db") as store:
        found = compare(store, fill_store(store))
    tasks = []
    for task in found.tasks[1:]:  # of the two tasks of bits per byte, with figures that are easily checked
        estimates = {"a": Estimate(1.0, 0.9, 1.1, 24, ""), "b": Estimate(1.0 + shift, 0.9, 1.3, 24, "")}
        pair = {("a", "b"): Difference(shift, shift - 0.1, shift + 0.1, 0.1, 24, 0.1, "")}
        cells = {name: next(iter(task.cells.values())) for name in "ab"}
        tasks.append(replace(task, cells=cells, estimates=estimates, differences=pair))
    (mean,) = means(replace(found, models=("a", "b"), tasks=tuple(tasks)))
    assert mean.standings["a"] == "best"
    assert mean.standings.get("b", "") == standing
