"""Watching a folder: whole checkpoints are measured once and judged, half-written ones never are."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_models import tiny_model
from toy_tokenizers import toy_tokenizer
from typer.testing import CliRunner

from crosstok.errors import UserError
from crosstok.harness.cli.app import app
from crosstok.harness.jobs.checkpoint_folder import INDEX, CheckpointFolder, incomplete, step_and_name
from crosstok.harness.jobs.watch import Judged, Watch, open_checkpoint_folder
from crosstok.harness.plan.suite import check_suite
from crosstok.results.store.store import Store

Content = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Return a function that gives the folder of a tiny model by its seed."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def checkpoint(seed: int) -> Path:
        path = folder / str(seed)
        if not path.exists():
            tokenizer = toy_tokenizer("bpe")
            tiny_model(tokenizer, positions=2048, seed=seed).save_pretrained(path)
            tokenizer.save_pretrained(path)
        return path

    return checkpoint


def text_suite(suite_content: Content) -> dict[str, Any]:
    content = suite_content()
    return {**content, "models": {"base": content["models"]["base"]}, "tasks": content["tasks"][1:]}


def watch(folder: Path, content: dict[str, Any], store: Store, out: Path, **options: Any) -> Watch:
    watched = open_checkpoint_folder(folder, settle=0.0, marker=None)
    return Watch(watched, check_suite(content, "test"), store, out, **options)


def spoil(folder: Path) -> None:
    """Widen the weights of a model, which makes it worse at any text."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file({name: 3 * weight for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"})


def test_a_checkpoint_counts_only_when_every_file_of_it_is_whole(
    checkpoints: Callable[[int], Path], tmp_path: Path
) -> None:
    path = tmp_path / "c"
    shutil.copytree(checkpoints(0), path)
    assert incomplete(path) == ""
    weights = path / "model.safetensors"
    whole = weights.read_bytes()
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:length])
        assert "model.safetensors is missing" in incomplete(path), length
    weights.unlink()
    assert "no safetensors" in incomplete(path)
    (path / INDEX).write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    (path / "one.safetensors").write_bytes(whole)
    assert incomplete(path) == "two.safetensors is missing or incomplete"
    (path / "two.safetensors").write_bytes(whole)
    assert incomplete(path) == ""
    (path / INDEX).write_text('{"weight_map": {"a": "on')
    assert "index.json is incomplete" in incomplete(path)
    (path / "config.json").write_text('{"model_ty')
    assert "config.json" in incomplete(path)


def test_a_folder_has_to_settle_or_to_show_its_marker(checkpoints: Callable[[int], Path], tmp_path: Path) -> None:
    shutil.copytree(checkpoints(0), tmp_path / "step-1")
    shutil.copytree(checkpoints(0), tmp_path / "tmp-step-2")
    shutil.copytree(checkpoints(0), tmp_path / ".hidden")
    patient = CheckpointFolder(tmp_path, settle=3600)
    assert patient.ready() == {}
    assert patient.waiting == {"step-1": "it changed recently"}
    eager = CheckpointFolder(tmp_path, settle=0)
    assert list(eager.ready()) == ["step-1"]
    marked = CheckpointFolder(tmp_path, settle=3600, marker="COMPLETE")
    assert marked.ready() == {}
    (tmp_path / "step-1" / "COMPLETE").touch()
    assert list(marked.ready()) == ["step-1"]


def test_a_change_starts_the_wait_again(checkpoints: Callable[[int], Path], tmp_path: Path) -> None:
    shutil.copytree(checkpoints(0), tmp_path / "last")
    watched = CheckpointFolder(tmp_path, settle=0.2)
    watched.ready()
    time.sleep(0.3)
    assert list(watched.ready()) == ["last"]
    (tmp_path / "last" / "notes.txt").write_text("x")
    assert watched.ready() == {}


def test_steps_are_ordered_by_their_numbers() -> None:
    names = ["checkpoint-10", "checkpoint-9", "v2-step100", "final"]
    assert sorted(names, key=step_and_name) == ["final", "checkpoint-9", "checkpoint-10", "v2-step100"]


def test_checkpoints_that_appear_are_measured_judged_and_drawn_and_a_half_written_one_is_not(
    suite_content: Content, checkpoints: Callable[[int], Path], tmp_path: Path
) -> None:
    folder, out = tmp_path / "training", tmp_path / "curve"
    folder.mkdir()
    prepared = tmp_path / "prepared"
    for step in (1, 2):
        shutil.copytree(checkpoints(step), prepared / f"step-{step}")
    spoil(prepared / "step-2")
    half = folder / "step-3"
    shutil.copytree(checkpoints(3), half)
    whole = (half / "model.safetensors").read_bytes()
    (half / "model.safetensors").write_bytes(whole[: len(whole) // 2])

    found: list[Judged] = []
    with Store(tmp_path / "s.db") as store:
        said: list[str] = []
        watching = watch(folder, text_suite(suite_content), store, out, say=said.append)
        for name, judged in zip(("step-1", "step-2"), _arriving(watching, prepared, folder), strict=True):
            assert judged.name == name
            found.append(judged)
        assert [side.name for side in watching.history()] == ["step-1", "step-2"]
    assert said == ["step-3 was skipped: model.safetensors is missing or incomplete."]
    assert found[0].report is None, "there is nothing earlier"
    assert found[1].report is not None
    assert found[1].report.exit_code == 1, found[1].report.text()
    page = (out / "index.html").read_text()
    assert "step-1" in page
    assert "step-2" in page
    assert "step-3" not in page
    assert (out / "code_bpb.svg").read_text().startswith("<svg")


def _arriving(watching: Watch, prepared: Path, folder: Path) -> Any:
    """Move one checkpoint after the other into the folder while it is being watched."""

    def arrive() -> None:
        for path in sorted(prepared.iterdir()):
            time.sleep(0.3)
            path.rename(folder / path.name)

    thread = threading.Thread(target=arrive)
    thread.start()
    yield from watching.follow(every=0.05, idle=6.0)
    thread.join()


def test_a_second_watch_measures_nothing_again_and_still_knows_what_was_deleted(
    suite_content: Content,
    checkpoints: Callable[[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "training"
    for step in (1, 2):
        shutil.copytree(checkpoints(step), folder / f"step-{step}")
    content = text_suite(suite_content)
    with Store(tmp_path / "s.db") as store:
        first = list(watch(folder, content, store, tmp_path / "out").follow(every=0.05, idle=0.0))
        assert [one.name for one in first] == ["step-1", "step-2"]
        shutil.rmtree(folder / "step-1")
        monkeypatch.setattr(
            "crosstok.harness.measure.engines.Scorer", lambda *_, **__: pytest.fail("a model was asked again")
        )
        again = watch(folder, content, store, tmp_path / "out")
        second = list(again.follow(every=0.05, idle=0.0))
        assert [(one.name, one.report) for one in second] == [("step-2", first[1].report)]
        assert [side.name for side in again.history()] == ["step-1", "step-2"]


def test_a_checkpoint_that_is_written_over_is_measured_again(
    suite_content: Content, checkpoints: Callable[[int], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "training"
    shutil.copytree(checkpoints(1), folder / "last")
    with Store(tmp_path / "s.db") as store:
        watching = watch(folder, text_suite(suite_content), store, tmp_path / "out", against="baseline")
        (before,) = watching.follow(every=0.05, idle=0.0)
        spoil(folder / "last")
        (after,) = watching.follow(every=0.05, idle=0.0)
        assert before.report is not None
        assert after.report is not None
        assert before.report.outcomes != after.report.outcomes
        assert len(watching.history()) == 1


def test_a_checkpoint_that_cannot_be_loaded_is_told_and_does_not_end_the_watch(
    suite_content: Content, checkpoints: Callable[[int], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "training"
    for step in (1, 2):
        shutil.copytree(checkpoints(step), folder / f"step-{step}")
    config = json.loads((folder / "step-1" / "config.json").read_text())
    (folder / "step-1" / "config.json").write_text(json.dumps({**config, "model_type": "nobody_knows"}))
    with Store(tmp_path / "s.db") as store:
        watching = watch(folder, text_suite(suite_content), store, tmp_path / "out")
        bad, good = watching.follow(every=0.05, idle=0.0)
    assert (bad.name, good.name) == ("step-1", "step-2")
    assert bad.problem
    assert not good.problem


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        open_checkpoint_folder(tmp_path / "nowhere", settle=1.0, marker=None)


def test_the_command_ends_with_the_code_of_the_gate_and_with_130_when_interrupted(
    suite_content: Content, checkpoints: Callable[[int], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "training"
    for step in (1, 2):
        shutil.copytree(checkpoints(step), folder / f"step-{step}")
    spoil(folder / "step-2")
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(text_suite(suite_content)))
    command = ["watch", str(folder), "--suite", str(tmp_path / "suite.yaml"), "--settle", "0", "--every", "0.1"]
    command += ["--store", str(tmp_path / "runs" / "s.db")]
    ended = CliRunner().invoke(app, [*command, "--idle", "0.1"])
    assert ended.exit_code == 1, ended.output
    assert "step-1: evaluated; no earlier checkpoint to compare with" in ended.output
    assert "Gate REGRESSION" in ended.output
    assert (tmp_path / "runs" / "tiny-watch" / "index.html").exists()
    with subprocess.Popen(
        [sys.executable, "-m", "crosstok.harness.cli.app", *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as endless:  # fmt: skip
        assert endless.stdout is not None
        assert endless.stderr is not None
        while "Gate REGRESSION" not in (line := endless.stdout.readline()):
            assert line, endless.stderr.read()
        endless.send_signal(signal.SIGINT)
        _, errors = endless.communicate(timeout=300)
    assert endless.returncode == 130
    assert errors.strip().splitlines()[-1] == "interrupted; the same command continues"
