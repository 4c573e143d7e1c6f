"""Tables say what was measured, how surely, and what is missing; names cannot break any format."""

import csv
import io
import math
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crosstok.errors import UserError
from crosstok.results.compare import statistics
from crosstok.results.store.records import Cell, Model, Progress, Run, Sample, Score, Task
from crosstok.results.store.store import Store
from crosstok.results.tables.formats import FORMATS, WIDTH
from crosstok.results.tables.frame import comparison_frame, render


@pytest.fixture(scope="module")
def frame(filled: Path) -> pd.DataFrame:
    with Store(filled, read_only=True) as store:
        return comparison_frame(store)


def row_of(frame: pd.DataFrame, model: str, task: str) -> pd.Series:
    found = frame[(frame["model"] == model) & (frame["task"] == task)]
    assert len(found) == 1
    return found.iloc[0]


def test_there_is_one_row_per_model_and_task_in_the_order_of_the_suite(frame: pd.DataFrame) -> None:
    assert list(frame["model"].unique()) == ["base", "fvt", "sft", "alm", "pair"]
    assert list(frame["task"].unique()) == ["humaneval", "code_bpb", "text_bpb"]
    assert len(frame) == 15


def test_figures_are_those_of_the_stored_scores(filled: Path, frame: pd.DataFrame) -> None:
    with Store(filled, read_only=True) as store:
        for entry in store.cells(store.latest_run().id):
            scores, samples = store.scores(entry.cell.fingerprint), store.samples(entry.cell.fingerprint)
            row = row_of(frame, entry.model, entry.task)
            expected = sum(score.value for score in scores) / sum(score.weight for score in scores)
            assert row["value"] == pytest.approx(expected)
            assert row["low"] <= row["value"] <= row["high"]
            assert row["n"] == len(scores)
            seconds = sum(sample.seconds for sample in samples)
            assert row["seconds"] == pytest.approx(seconds)
            assert row["bytes_per_s"] == pytest.approx(sum(sample.bytes for sample in samples) / seconds)


def test_bytes_per_token_is_that_of_the_text_that_every_model_read(filled: Path, frame: pd.DataFrame) -> None:
    with Store(filled, read_only=True) as store:
        cell = next(entry.cell for entry in store.cells(store.latest_run().id) if entry.task == "humaneval")
        sample = store.samples(cell.fingerprint)[0]
    assert row_of(frame, "base", "humaneval")["bytes_per_token"] == pytest.approx(
        sample.prompt_bytes / sample.prompt_tokens
    )


def test_a_byte_costs_what_the_model_and_its_tokens_make_of_it(frame: pd.DataFrame) -> None:
    base, student = (row_of(frame, name, "code_bpb") for name in ("base", "sft"))
    body, context = 2 * 106_000_000, 4 * 30 * 576
    for row, vocabulary in ((base, 49152), (student, 16384)):
        per_token = row["bytes_per_token"]
        expected = (body + 2 * 576 * vocabulary + context * 1024 / per_token) / per_token
        assert row["flops_per_byte"] == pytest.approx(expected)
    text = render(frame)
    assert "MFLOP/byte" in text
    assert f"{base['flops_per_byte'] / 1e6:.1f}" in text


def test_new_tokens_are_counted_of_models_that_have_some(frame: pd.DataFrame) -> None:
    assert math.isnan(row_of(frame, "base", "humaneval")["new_token_share"])
    assert row_of(frame, "alm", "humaneval")["new_token_share"] == pytest.approx(0.25, abs=0.01)
    assert "new tokens (%)" in render(frame)


def test_an_analytic_interval_has_the_resampled_one_beside_it(frame: pd.DataFrame) -> None:
    row = row_of(frame, "base", "humaneval")
    expected = statistics.resampled_fraction(row["value"] * row["n"], row["n"])
    assert (row["bootstrap_low"], row["bootstrap_high"]) == pytest.approx(expected)
    assert math.isnan(row_of(frame, "base", "code_bpb")["bootstrap_low"])


def test_the_best_is_marked_and_so_is_what_is_not_significantly_different_from_it(frame: pd.DataFrame) -> None:
    for _, group in frame.groupby("task"):
        best = group[group["standing"] == "best"]
        sign = 1 if group["higher_is_better"].all() else -1
        assert (sign * best["value"] == (sign * group["value"]).max()).all()
    assert set(frame[frame["task"] == "code_bpb"]["standing"]) == {"best", ""}
    text = render(frame)
    assert "**0.99" in text
    assert "≈" in text


def test_markdown_fits_a_terminal_and_its_columns_line_up(frame: pd.DataFrame) -> None:
    lines = render(frame).splitlines()
    assert max(map(len, lines)) <= WIDTH
    table = [line for line in lines if line.startswith("|")][:7]
    assert len({len(line) for line in table}) == 1
    assert len({line.count("|") for line in table}) == 1


def test_the_sentences_name_significant_differences_and_the_smallest_detectable_one(frame: pd.DataFrame) -> None:
    humaneval, code, text, *rest = frame.attrs["findings"]
    assert "Not significantly different from base (Holm-adjusted p >= 0.05): fvt, sft, alm, pair." in humaneval
    assert "Minimum detectable difference at n = 41: 18.6 points (power 0.8)." in humaneval
    assert "Worse than base (bits/byte): fvt +1.1" in code
    assert "alm/pair" in text
    assert "30 comparisons" in rest[0]


def test_a_subset_and_an_incomplete_cell_are_marked_with_their_size(tmp_path: Path, fill_store: object) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        fill_store(store, missing={("sft", "humaneval"): 11, ("alm", "text_bpb"): 20})  # type: ignore[operator]  # fixture
        frame = comparison_frame(store)
    assert row_of(frame, "sft", "humaneval")["status"] == "partial"
    assert row_of(frame, "sft", "humaneval")["n"] == 30
    assert math.isnan(row_of(frame, "alm", "text_bpb")["value"])
    for form in ("md", "latex", "html"):
        text = render(frame, form)
        assert "n=30" in text
        assert "30 of 41 documents" in text
        assert "0 of 20 documents" in text
        assert "the sandbox could not start" in text
        assert "41 of its 164 documents" in text
        assert "The run is partial" in text


def test_what_a_task_says_of_its_documents_stands_under_the_table(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        a_run_of(store, {"a": {"1": 1.0}, "b": {"1": 2.0}})
        task = store.tasks("r")["t"]
        store.put_task(task.model_copy(update={"source": {"remark": "measured with split: test"}}))
        assert "t: measured with split: test." in comparison_frame(store).attrs["notes"]


def test_verdicts_of_another_sandbox_or_of_less_integrity_are_marked(tmp_path: Path, fill_store: object) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        run = fill_store(store)  # type: ignore[operator]  # fixture
        cell = next(e.cell.fingerprint for e in store.cells(run.id) if (e.model, e.task) == ("sft", "humaneval"))
        changed = {"integrity": "guarded", "tier": "process"}
        store.add_verdicts(verdict.model_copy(update=changed) for verdict in store.verdicts(cell))
        frame = comparison_frame(store)
    note = row_of(frame, "sft", "humaneval")["note"]
    assert "not comparable with base: verdicts: split namespaces(net,pid,mount,memory) and guarded process" in note
    assert "41 verdicts on programs that shared a process with their tests" in note
    assert set(frame["note"]) == {"", note}
    assert "shared a process" in render(frame)


def test_models_are_compared_on_common_documents_only(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        a_run_of(store, {"a": {"1": 1.0, "2": 1.0, "3": 5.0}, "b": {"2": 1.0, "1": 1.0, "4": 9.0}})
        frame = comparison_frame(store)
    assert frame["n"].tolist() == [3, 3]
    assert "n = 2" in frame.attrs["findings"][0]


def a_run_of(store: Store, models: dict[str, dict[str, float]], tasks: tuple[str, ...] = ("t",)) -> Run:
    """Write a run of bits per byte: documents of 1 byte with the given bits, by model and document."""
    run = Run(id="r", suite="s", config={"models": models}, environment={}, status=Progress.RUNNING)
    store.begin_run(run)
    metrics = [{"name": "bits_per_byte", "unit": "bits/byte", "higher_is_better": False}]
    for name in tasks:
        size = max(map(len, models.values()))
        store.put_task(
            Task(fingerprint=name, name=name, version="1", settings={}, source={}, documents=size, metrics=metrics)
        )
    for name, documents in models.items():
        store.put_model(
            Model(
                fingerprint=name,
                label=name,
                spec={},
                tokenizer="t",
                parameters=1,
                vocabulary=1,
                provenance={},
                build_s=0,
            )
        )
        for task in tasks:
            cell = Cell(
                fingerprint=f"{name}{task}", model=name, task=task, seed=0, settings={}, status=Progress.RUNNING
            )
            store.begin_cell(cell, "r", name)
            place = [{"cell": cell.fingerprint, "document": document} for document in documents]
            store.add_samples(
                [Sample(**at, bytes=1, tokens=1, seconds=0.1) for at in place],
                [
                    Score(**at, metric="bits_per_byte", value=bits)
                    for at, bits in zip(place, documents.values(), strict=True)
                ],
            )
            store.end_cell(cell.fingerprint, Progress.COMPLETE)
    store.end_run("r", Progress.COMPLETE)
    return run


def test_one_document_and_equal_scores_give_a_table_without_warnings(tmp_path: Path) -> None:
    with Store(tmp_path / "one.sqlite") as store:
        a_run_of(store, {"a": {"1": 1.5}, "b": {"1": 2.5}})
        text = render(comparison_frame(store))
    assert "1.5000" in text
    assert "No difference is detectable at n = 1." in text
    with Store(tmp_path / "equal.sqlite") as store:
        a_run_of(store, {name: dict.fromkeys("123456", 1.0) for name in "ab"})
        frame = comparison_frame(store)
    assert frame["standing"].tolist() == ["", ""]
    assert "Not significantly different from a (Holm-adjusted p >= 0.05): b." in frame.attrs["findings"][0]


def test_a_store_without_a_run_and_an_unknown_format_are_one_clear_line(store: Store, frame: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="contains no runs"):
        comparison_frame(store)
    with pytest.raises(UserError, match=r"Unknown format 'latx'\. Did you mean 'latex'\?"):
        render(frame, "latx")


NASTY = ("a|b", "<script>alert(1)</script>", "100% of $x_1 & \\y{z}^~#", "esc\x1b[31m", "two\nlines")


class Checker(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_names_cannot_break_out_of_any_format(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        a_run_of(store, {name: {"1": 1.0, "2": 2.0} for name in NASTY}, tasks=("t|<b>",))
        frame = comparison_frame(store)
    markdown = render(frame)
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows[:7]} == {3}
    assert "<script" not in markdown
    assert all("\x1b" not in render(frame, form) for form in ("md", "latex", "html"))
    latex = render(frame, "latex")
    assert r"100\% of \$x\_1 \& \textbackslash{}y\{z\}\textasciicircum{}\textasciitilde{}\#" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == latex.count(r"\bottomrule")
    checker = Checker()
    checker.feed(render(frame, "html"))
    assert not checker.open
    assert "script" not in checker.tags
    assert "b" not in checker.tags
    kept = list(csv.DictReader(io.StringIO(render(frame, "csv"))))
    assert [row["model"] for row in kept] == list(NASTY)


def test_csv_comes_back_as_the_frame(frame: pd.DataFrame) -> None:
    again = pd.read_csv(io.StringIO(render(frame, "csv")))
    assert list(again.columns) == list(frame.columns)
    np.testing.assert_allclose(again["value"], frame["value"])
    assert again["n"].tolist() == frame["n"].tolist()


def test_the_same_store_gives_the_same_table_to_the_last_digit(filled: Path) -> None:
    statistics._counts.cache_clear()
    with Store(filled, read_only=True) as store:
        first = render(comparison_frame(store))
        statistics._counts.cache_clear()
        assert render(comparison_frame(store)) == first


def test_twenty_models_on_forty_tasks_take_little_work(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    names = [str(index) for index in range(30)]
    models = {f"model-{number}": dict(zip(names, generator.normal(1, 0.1, 30), strict=True)) for number in range(20)}
    with Store(tmp_path / "s.sqlite") as store:
        a_run_of(store, models, tasks=tuple(f"task-{number}" for number in range(40)))
    started = time.process_time()
    with Store(tmp_path / "s.sqlite", read_only=True) as store:
        frame = comparison_frame(store)
        texts = [render(frame, form) for form in FORMATS]
    spent = time.process_time() - started
    assert len(frame) == 800
    assert all(texts)
    assert max(map(len, texts[0].splitlines())) <= WIDTH
    assert spent < 5, f"{spent:.1f} s of processor time"  # 0.4 s where nothing else runs
    print(f"20 models x 40 tasks x {len(FORMATS)} formats: {spent:.2f} s")  # noqa: T201  (shown by -s)
