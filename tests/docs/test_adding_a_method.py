"""The page on methods works as written, from a user's folder, and its code passes mypy --strict."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest
import yaml
from tiny_models import tiny_model
from toy_tokenizers import toy_tokenizer

from crosstok.distill.readings.outputs import Outputs, Reading
from crosstok.distill.registry import INITIALISERS, LOSSES
from crosstok.harness.plan.suite import check_suite

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
MODEL = "wheel:smollm2-135m-instruct"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder with the page's module and a tiny model."""
    (tmp_path / "mine.py").write_text("\n".join(blocks("python")), encoding="utf-8")
    tokenizer = toy_tokenizer("bpe")
    tiny_model(tokenizer, positions=4096).save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path


def run(folder: Path, *words: str) -> str:
    """Run a command with the page's folder as working directory; return what it prints."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT), "CROSSTOK_CACHE": str(folder / "cache")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_command_of_the_page_runs(folder: Path) -> None:
    commands = [line for block in blocks("console") for line in block.strip().splitlines()]
    assert len(commands) == 3
    small = ["--set", "batch=2", "--set", "window_bytes=128"]
    for command in commands:
        words = shlex.split(command.replace(MODEL, "tiny"))
        assert words[0] == "crosstok"
        options = small if words[1] == "transfer" else []
        said = run(folder, "-m", "crosstok.harness.cli.app", *words[1:], *options)
        assert words[1] == "transfer" or "scale: number (> 0); default: 1.0" in said
    record = (folder / "students" / "gap" / "provenance.json").read_text(encoding="utf-8")
    assert '"scale": 0.5' in record
    assert '"calibrate": true' in (folder / "students" / "first" / "provenance.json").read_text(encoding="utf-8")


def test_the_suite_of_the_page_is_valid() -> None:
    (block,) = blocks("yaml")
    suite = check_suite(yaml.safe_load(block), "the page")
    assert suite.models["gap"].transfer is not None


def test_the_entry_points_of_the_page_are_those_that_are_looked_up() -> None:
    (block,) = blocks("toml")
    groups = tomllib.loads(block)["project"]["entry-points"]
    assert set(groups) == {LOSSES.group, INITIALISERS.group}
    classes = {point.partition(":")[2] for group in groups.values() for point in group.values()}
    assert all(f"class {name}(" in "\n".join(blocks("python")) for name in classes)


def test_every_reading_is_on_the_page_with_its_shape() -> None:
    for reading in get_args(Reading):
        shape = re.search(r"``(\[.*?\])``", getattr(Outputs, reading).__doc__ or "")
        assert shape is not None, reading
        assert f"| `{reading}` | `{shape[1].replace('valid_rows', 'V')}`" in PAGE, reading


@pytest.mark.slow
def test_the_code_of_the_page_passes_mypy_strict(folder: Path) -> None:
    run(folder, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", str(folder / "types"), "mine.py")
