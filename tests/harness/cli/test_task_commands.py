"""The commands about benchmarks and data."""

import gzip
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from crosstok.errors import UserError
from crosstok.harness.cli import data, tasks

ROW = {"id": "sample_0", "code": "def f(x):\n    return x + 1", "input": "1", "output": "2"}

CHOICE = """
from crosstok.tasks.task import ChoiceTask, Continuations, DataSource, Document, Metric, Score


class Colours(ChoiceTask):
    version = "1"
    metrics = (Metric("acc", "fraction", higher_is_better=True),)

    def documents(self):
        return [Document("sky", {})]

    def source(self):
        return DataSource("files", "own", "1", "0" * 64)

    def request(self, document, style):
        return Continuations("The sky is", (" blue", " green"))

    def score(self, document, answer):
        return [Score("acc", 1.0)]
"""


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> typer.Typer:
    for name in ("CROSSTOK_DATA", "CROSSTOK_NETWORK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))
    root = typer.Typer()
    tasks.register(root)
    data.register(root)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    file = tmp_path / "data" / "hub" / "cruxeval-org" / "cruxeval" / "default" / "test.jsonl.gz"
    file.parent.mkdir(parents=True)
    wrong = {**ROW, "id": "sample_1", "output": "(lambda: undefined)()"}
    file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in (ROW, wrong)).encode()))
    return tmp_path / "data"


def _run(app: typer.Typer, *arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_check_counts_and_names_what_fails_here(app: typer.Typer, folder: Path) -> None:
    out = _run(app, "tasks", "check", "cruxeval", "--data-dir", str(folder), "--workers", "1")
    (line,) = [line.split() for line in out.splitlines() if line.startswith("cruxeval")]
    assert line[1:6] == ["2", "1", "50.0%", "1", "0"]
    assert "excluded  CRUXEval/sample_1: split: error NameError" in out


def test_a_benchmark_whose_solutions_all_fail_is_an_error(app: typer.Typer, folder: Path) -> None:
    file = next(folder.rglob("*.gz"))
    file.write_bytes(gzip.compress(json.dumps({**ROW, "output": "undefined"}).encode()))
    with pytest.raises(UserError, match="Every published solution of cruxeval fails on this host"):
        _run(app, "tasks", "check", "cruxeval", "--data-dir", str(folder), "--workers", "1")


def test_a_benchmark_without_programs_cannot_be_checked(app: typer.Typer) -> None:
    with pytest.raises(UserError, match="no programs"):
        _run(app, "tasks", "check", "gsm8k")


def test_show_prints_prompt_stops_and_source(app: typer.Typer, folder: Path) -> None:
    out = _run(app, "tasks", "show", "cruxeval", "CRUXEval/sample_0", "--prompt", "chat", "--data-dir", str(folder))
    assert "2 documents from data-folder hub/cruxeval-org/cruxeval/default/test" in out
    assert "--- assistant\nassert f(1) ==" in out
    assert "at most 256 bytes" in out


def test_show_takes_options_and_prints_the_text_of_a_likelihood_task(app: typer.Typer) -> None:
    out = _run(app, "tasks", "show", "text_bpb:source=docstrings,limit=2")
    assert out.startswith("text_bpb: ")
    assert "--- text\n" in out
    with pytest.raises(UserError, match="Did you mean 'source'"):
        _run(app, "tasks", "show", "text_bpb:sorce=docstrings")


def test_show_prints_every_continuation_of_a_multiple_choice_task(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_choice.py").write_text(CHOICE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    out = _run(app, "tasks", "show", "own_choice:Colours")
    assert "--- context\nThe sky is" in out
    assert "--- continuation ' blue'\n--- continuation ' green'" in out


def test_show_knows_the_closest_document(app: typer.Typer, folder: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'CRUXEval/sample_0'"):
        _run(app, "tasks", "show", "cruxeval", "CRUXEval/sample_00", "--data-dir", str(folder))


def test_the_data_is_listed_with_where_it_would_come_from(app: typer.Typer, folder: Path) -> None:
    lines = _run(app, "data", "ls", "--data-dir", str(folder)).splitlines()
    where = {line.split()[0]: line for line in lines}
    assert where["hub/cruxeval-org/cruxeval/default/test"].endswith("data folder")
    assert where["hub/openai/gsm8k/main/test"].endswith("CROSSTOK_NETWORK=1")
    assert where["raw/svamp/all"].endswith("missing")


def test_other_rows_than_the_published_ones_fail_the_data_check(app: typer.Typer, folder: Path) -> None:
    with pytest.raises(UserError, match="Data sets that differ from the published rows: hub"):
        _run(app, "data", "check", "--data-dir", str(folder))


def test_nothing_is_fetched_unless_the_network_is_allowed(app: typer.Typer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--network"):
        _run(app, "data", "fetch", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_only_pinned_sets_can_be_fetched(app: typer.Typer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No revision"):
        _run(app, "data", "fetch", str(tmp_path), "raw/svamp/all", "--network")
