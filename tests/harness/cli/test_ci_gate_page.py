"""The workflow of docs/ci-gate.md is run here, step by step, as a runner would."""

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from repository import ROOT
from typer.main import get_command

from crosstok.harness.cli.app import app
from crosstok.results.gate import Rule, read_rules

PAGE = ROOT / "docs" / "ci-gate.md"


def fenced(page: str) -> list[str]:
    """Return the YAML blocks of a page."""
    return [part.partition("```")[0] for part in page.split("```yaml\n")[1:]]


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    workflow = next(block for block in fenced(PAGE.read_text()) if "runs-on" in block)
    found: dict[str, Any] = yaml.safe_load(workflow)["jobs"]["gate"]
    return found


@pytest.fixture
def command_folder(tmp_path: Path) -> Path:
    """Return a folder with the two commands that a runner would have after its install step."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, module in (("crosstok", "crosstok.harness.cli.app"), ("python", None)):
        call = f'exec {sys.executable} {f"-m {module}" if module else ""} "$@"'
        (folder / name).write_text(f"#!/bin/sh\n{call}\n")
        (folder / name).chmod(0o755)
    return folder


def write_results(folder: Path, before: int, after: int) -> None:
    """Write a store with a run `main` and a run `candidate`, by their passes out of a hundred."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_results_commands import write_run\nfrom crosstok.results.store.store import Store\n"
        "with Store('runs/crosstok.db') as store:\n"
        "    write_run(store, 'main', {'base': int(sys.argv[2])}, text=True)\n"
        "    write_run(store, 'candidate', {'base': int(sys.argv[3])}, text=True)\n"
    )
    tests = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", code, tests, str(before), str(after)], cwd=folder, check=True)


def run_steps(job: dict[str, Any], folder: Path, commands: Path) -> dict[str, int]:
    """Run the steps as GitHub does: bash -e, later ones skipped after a failure unless they say always()."""
    summary = folder / "summary.md"
    environment = {**os.environ, **job["env"], "PATH": f"{commands}:{os.environ['PATH']}"}
    codes: dict[str, int] = {}
    for step in job["steps"]:
        if "run" not in step or step["name"] == "Install":  # the package under test is installed already
            continue
        if any(codes.values()) and step.get("if") != "always()":
            continue
        done = subprocess.run(
            ["bash", "-e", "-c", step["run"]],
            cwd=folder,
            env={**environment, "GITHUB_STEP_SUMMARY": str(summary)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        codes[step["name"]] = done.returncode
        assert "Traceback" not in done.stderr, done.stderr
    return codes


@pytest.mark.parametrize(("after", "code"), [(40, 0), (20, 1)])
def test_the_workflow_passes_and_fails_as_the_page_says(
    job: dict[str, Any], tmp_path: Path, command_folder: Path, after: int, code: int
) -> None:
    write_results(tmp_path, 40, after)
    codes = run_steps(job, tmp_path, command_folder)
    assert codes == {"Write the rules": 0, "Check the store": 0, "Gate": code, "Leaderboard": 0}
    assert (tmp_path / "gate.xml").is_file()
    assert (tmp_path / "leaderboard" / "index.html").is_file()
    assert ("REGRESSION" in (tmp_path / "summary.md").read_text()) == bool(code)


def test_a_damaged_store_stops_the_workflow_before_the_gate(
    job: dict[str, Any], tmp_path: Path, command_folder: Path
) -> None:
    write_results(tmp_path, 40, 40)
    with sqlite3.connect(tmp_path / "runs" / "crosstok.db") as connection:
        connection.execute("UPDATE samples SET text = 'better' WHERE document = 'd001'")
    codes = run_steps(job, tmp_path, command_folder)
    assert codes["Check the store"] == 3
    assert "Gate" not in codes


def test_every_rule_of_the_page_parses(tmp_path: Path) -> None:
    rules = next(block for block in fenced(PAGE.read_text()) if "fail_if" in block.splitlines()[1])
    (tmp_path / "gate.yaml").write_text(rules)
    assert len(read_rules(tmp_path / "gate.yaml")) == 2
    section = PAGE.read_text().partition("\n## Rules\n")[2].partition("\n## ")[0]
    table = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
    assert len([Rule.parse(text) for text in table]) == 3


@pytest.mark.parametrize("command", ["watch", "regress", "gate"])
def test_every_option_of_the_page_exists(command: str) -> None:
    page = PAGE.read_text()
    known = set().union(*(set(parameter.opts) for parameter in get_command(app).commands[command].params))  # type: ignore[attr-defined]  # a group
    for call in re.findall(rf"crosstok {command} [^`\n]*", page):
        assert set(re.findall(r"--[a-z-]+", call)) <= known, call
    assert re.search(rf"crosstok {command} ", page)
