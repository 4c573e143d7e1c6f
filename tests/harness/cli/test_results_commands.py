"""The reading commands as a user or a CI job meets them: a subprocess, stdin closed, exit codes that mean something."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from crosstok.results.store.records import Cell, Model, Progress, Run, Sample, Score, Task, Verdict
from crosstok.results.store.store import Store

PASS = [{"name": "pass@1", "unit": "fraction", "higher_is_better": True}]
DOCUMENTS = 100


def write_run(
    store: Store, run: str, passes: dict[str, int], status: Progress = Progress.COMPLETE, *, text: bool = False
) -> None:
    """Write a run whose models pass the first so many of a hundred documents, and equal bits per byte of a text."""
    config = {"name": run, "models": {name: {"source": "x"} for name in passes}, "tasks": [{"name": "humaneval"}]}
    store.begin_run(Run(id=run, suite=run, config=config, environment={}, status=Progress.RUNNING))
    store.put_task(
        Task(
            fingerprint="t", name="humaneval", version="1", settings={}, source={"sha256": "1"}, documents=DOCUMENTS,
            metrics=PASS,
        )
    )  # fmt: skip
    for name, count in passes.items():
        store.put_model(
            Model(
                fingerprint=f"{run}{name}", label=name, spec={}, tokenizer="t", parameters=1, vocabulary=1,
                provenance={}, build_s=0,
            )
        )  # fmt: skip
        cell = Cell(
            fingerprint=f"c{run}{name}", model=f"{run}{name}", task="t", seed=0, settings={}, status=Progress.RUNNING
        )
        store.begin_cell(cell, run, name)
        places = [{"cell": cell.fingerprint, "document": f"d{index:03}"} for index in range(DOCUMENTS)]
        store.add_samples(
            Sample(**place, prompt="def f():", text=f"\x1b[31m{name}", bytes=1, tokens=1, seconds=0.1)
            for place in places
        )
        passed = [float(index < count) for index in range(DOCUMENTS)]
        store.add_verdicts(
            [
                Verdict(**place, status="passed" if value else "failed", integrity="split", tier="namespaces")
                for place, value in zip(places, passed, strict=True)
            ],
            [Score(**place, metric="pass@1", value=value) for place, value in zip(places, passed, strict=True)],
        )
        store.end_cell(cell.fingerprint, status)
        if text:
            write_text(store, run, name)
    store.end_run(run, status)


def write_text(store: Store, run: str, model: str) -> None:
    """Write one complete cell of bits per byte."""
    metrics = [{"name": "bits_per_byte", "unit": "bits/byte", "higher_is_better": False}]
    store.put_task(
        Task(fingerprint="x", name="text_bpb", version="1", settings={}, source={}, documents=9, metrics=metrics)
    )
    fingerprint = f"x{run}{model}"
    cell = Cell(
        fingerprint=fingerprint, model=f"{run}{model}", task="x", seed=0, settings={}, status=Progress.RUNNING
    )  # fmt: skip
    store.begin_cell(cell, run, model)
    places = [{"cell": fingerprint, "document": f"p{index}"} for index in range(9)]
    store.add_samples(
        [Sample(**place, bytes=100, tokens=30, nats=70.0, seconds=0.1) for place in places],
        [
            Score(**place, metric="bits_per_byte", value=100.0 + number, weight=100)
            for number, place in enumerate(places)
        ],
    )
    store.end_cell(fingerprint, Progress.COMPLETE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working folder whose default store holds three runs."""
    found = tmp_path_factory.mktemp("reading")
    with Store(found / "runs" / "crosstok.db") as store:
        write_run(store, "before", {"base": 40, "student": 30})
        write_run(store, "worse", {"base": 40, "student": 5})
        write_run(store, "half", {"base": 40, "student": 30}, Progress.PARTIAL)
    return found


def crosstok(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "crosstok.harness.cli.app", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1", **environment},
        timeout=120,
    )


def mistake(*arguments: str, cwd: Path) -> str:
    result = crosstok(*arguments, cwd=cwd)
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.mark.parametrize("command", [["table"], ["compare"], ["gate"]])
def test_help_teaches_every_reading_command(command: list[str], tmp_path: Path) -> None:
    result = crosstok(*command, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "--store" in result.stdout


def test_a_table_is_printed_as_json_without_nan(folder: Path) -> None:
    result = crosstok("table", "before", "--format", "json", cwd=folder)
    content = json.loads(result.stdout)
    assert [row["value"] for row in content["rows"]] == [0.4, 0.3]
    assert content["rows"][0]["build_s"] == 0
    assert content["findings"]
    assert "NaN" not in result.stdout


def test_models_are_compared_with_the_first_one_across_runs(folder: Path) -> None:
    result = crosstok("compare", "before/student", "worse/student", "base", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "-25.0 [" in result.stdout
    assert "worse (n=100)" in result.stdout
    rows = json.loads(crosstok("compare", "before/base", "before/student", "-f", "json", cwd=folder).stdout)
    assert [(row["model"].rpartition("/")[2], round(row["difference"], 6)) for row in rows] == [("student", -0.1)]


def test_flips_show_prompt_answers_and_verdicts_and_no_control_characters(folder: Path) -> None:
    result = crosstok("compare", "before/base", "before/student", "--flips", cwd=folder)
    assert "student gains 0 and loses 10 documents" in result.stdout
    assert "- d030" in result.stdout
    assert "| def f():" in result.stdout
    assert "base: passed" in result.stdout
    assert "student: failed" in result.stdout
    assert "\x1b" not in result.stdout


def test_the_gate_is_green_where_nothing_is_worse(folder: Path) -> None:
    result = crosstok("gate", "before", "--baseline", "before", cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Gate ok" in result.stdout


def test_the_gate_fails_on_a_regression_and_writes_its_reports(folder: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("fail_if:\n  - 'humaneval.pass@1 < -1.0pp & p<0.05'\n")
    summary = tmp_path / "summary.md"
    summary.write_text("earlier step\n")
    result = crosstok(
        "gate", "worse/student", "--baseline", "before/student", "--rules", str(rules),
        "--junit", str(tmp_path / "gate.xml"), "--json", "--summary",
        cwd=folder, GITHUB_STEP_SUMMARY=str(summary),
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    assert json.loads(result.stdout)["exit_code"] == 1
    assert ET.parse(tmp_path / "gate.xml").getroot().get("failures") == "1"
    assert summary.read_text().startswith("earlier step\n")
    assert "regression" in summary.read_text()


def test_the_gate_is_never_green_on_what_is_not_measured(folder: Path) -> None:
    assert crosstok("gate", "half", "--baseline", "before", cwd=folder).returncode == 3
    assert crosstok("gate", "before", "--baseline", "half", cwd=folder).returncode == 3


def test_the_gate_judges_a_run_that_died_before_its_second_model_was_made(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        write_run(store, "whole", {"base": 40, "student": 30})
        write_run(store, "died", {"base": 40})
        planned = Cell(
            fingerprint="never", model="unmade", task="t", seed=0, settings={}, status=Progress.RUNNING
        )  # fmt: skip
        store.begin_cell(planned, "died", "student")
    result = crosstok("gate", "died", "--baseline", "whole", "--store", "s.db", cwd=tmp_path)
    assert result.returncode == 3, result.stdout + result.stderr
    assert "student: running" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["table", "bfore"], "Did you mean 'before'"),
        (["table", "--format", "markdown"], "Known: csv"),
        (["compare", "before/base"], "at least one other model"),
        (["compare", "before/base", "before/studnt"], "Did you mean 'student'"),
        (["gate", "wrose", "--baseline", "before"], "Did you mean 'worse'"),
        (["gate", "worse", "--baseline", "before", "--fail-if", "humaneval drops"], "is not a rule"),
        (["gate", "worse", "--baseline", "before", "--fail-if", "humanevl < 0pp"], "Did you mean 'humaneval'"),
        (["gate", "worse", "--baseline", "before", "--rules", "none.yaml"], "none.yaml cannot be read"),
        (["gate", "worse", "--baseline", "before", "--junit", "/proc/no/x.xml"], "cannot be written"),
        (["gate", "wheel:x", "--baseline", "before"], "before/MODEL"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str, folder: Path) -> None:
    assert said in mistake(*arguments, cwd=folder)


def test_results_go_out_and_come_in_again_by_command(folder: Path, tmp_path: Path) -> None:
    store = ("--store", str(folder / "runs" / "crosstok.db"))
    out = tmp_path / "student.jsonl"
    assert (
        crosstok(
            "store", "export", "human-eval", str(out), "--model", "before/student", *store, cwd=tmp_path
        ).returncode
        == 0
    )
    assert len(out.read_text().splitlines()) == DOCUMENTS
    brought = crosstok("store", "import", "human-eval", str(out), "--name", "back", "--store", "new.db", cwd=tmp_path)
    assert brought.stdout.startswith("back-")
    rows = json.loads(crosstok("table", "-f", "json", "--store", "new.db", cwd=tmp_path).stdout)["rows"]
    assert [row["value"] for row in rows] == [0.3]
    assert "Known: " in mistake("store", "export", "xml", "x", cwd=tmp_path)
    assert "Several models" in mistake("store", "export", "lm-eval", "x", *store, cwd=tmp_path)


def test_the_store_is_checked_by_command(folder: Path) -> None:
    result = crosstok("store", "check", cwd=folder)
    assert result.returncode == 0, result.stdout
    assert "all records are complete" in result.stdout
    assert "no cell 'nothing'" in mistake("store", "forget", "nothing", cwd=folder)


def test_methods_are_tabled_over_seeds_by_command(folder: Path) -> None:
    result = crosstok("table", "before", "--seeds", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "methods over seeds" in result.stdout


def test_the_leaderboard_is_written_by_command(folder: Path, tmp_path: Path) -> None:
    result = crosstok("leaderboard", "--out", str(tmp_path / "board"), cwd=folder)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_file()
    assert "is not a leaderboard" in mistake("leaderboard", "--out", str(folder), cwd=folder)
