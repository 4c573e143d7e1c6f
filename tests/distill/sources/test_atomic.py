"""Folders that appear whole or not at all: other processes, killed ones, full disks."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crosstok.distill.sources import atomic
from crosstok.distill.sources.atomic import build_once, new_folder
from crosstok.errors import UserError

BUILD = """
import resource, sys, time
from pathlib import Path
from crosstok.errors import UserError
from crosstok.distill.sources.atomic import build_once

def slow(folder):
    (folder / "content").write_text("x")
    with (folder.parent / "builders.log").open("a") as log:
        log.write("built\\n")
    time.sleep(0.5)

def hanging(folder):
    (folder / "half").write_text("x")
    print("go", flush=True)
    time.sleep(60)

def full(folder):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))  # a full disk, for this process only
    (folder / "weights").write_bytes(bytes(1 << 20))

def full_safetensors(folder):
    import numpy
    from safetensors.numpy import save_file
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    save_file({"weights": numpy.zeros(1 << 20)}, folder / "model.safetensors")

try:
    build_once(Path(sys.argv[1]), globals()[sys.argv[2]])
except UserError as error:
    print(error)
"""


def start(target: Path, builder: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILD, str(target), builder]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def folders(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir() if each.is_dir())


def test_processes_that_want_the_same_folder_build_it_once(tmp_path: Path) -> None:
    workers = [start(tmp_path / "model", "slow") for _ in range(3)]
    assert [worker.communicate()[0] for worker in workers] == ["", "", ""]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert (tmp_path / "builders.log").read_text() == "built\n"
    assert (tmp_path / "model" / "content").read_text() == "x"
    assert folders(tmp_path) == ["model"]


def test_a_builder_that_is_killed_leaves_no_folder_and_does_not_block_the_next(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with start(target, "hanging") as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "go\n"
        builder.send_signal(signal.SIGKILL)
    assert not target.exists()
    assert list(tmp_path.glob(".model.*/half"))
    build_once(target, lambda folder: (folder / "whole").touch())
    assert [path.name for path in target.iterdir()] == ["whole"]
    assert folders(tmp_path) == ["model"]


@pytest.mark.parametrize("builder", ["full", "full_safetensors"])
def test_a_disk_that_fills_up_is_one_clear_line_and_leaves_nothing(tmp_path: Path, builder: str) -> None:
    said, _ = start(tmp_path / "model", builder).communicate()
    assert said.startswith(f"There is not enough room for model in {tmp_path}: the disk is full.")
    assert said.count("\n") == 1
    assert folders(tmp_path) == []


def test_too_little_room_is_said_before_anything_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match=r"5 MB are needed and 0 MB are free"):
        build_once(tmp_path / "model", lambda _: pytest.fail("must not be reached"), needs_bytes=5_000_000)
    assert folders(tmp_path) == []


def test_a_builder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        build_once(tmp_path / "model", build)
    assert folders(tmp_path) == []


def test_an_existing_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with new_folder(tmp_path / "model") as folder:
            (folder / name).touch()
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["new"]
    assert folders(tmp_path) == ["model"]


def test_a_place_that_cannot_hold_a_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        build_once(tmp_path / "file" / "model", lambda _: None)
