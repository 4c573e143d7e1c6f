"""A loss and an initialiser of somebody else's package: installed with pip, named in a suite, trained with."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from toy_tokenizers import TEXT

from crosstok.distill.recipes.methods import foreign_content, losses_of
from crosstok.distill.recipes.student import check_student, make_student
from crosstok.distill.registry import INITIALISERS, LOSSES
from crosstok.distill.training.log import read_log
from crosstok.distill.training.loop import LOG
from crosstok.errors import UserError

MODULE = '''
"""A loss with something to learn, and an initialiser."""

from typing import ClassVar

import torch
from pydantic import PrivateAttr
from torch import nn

from crosstok.distill.embeddings.approximation import Approximation
from crosstok.distill.losses import Loss, LossTerm


class AbsoluteGap(Loss):
    name: ClassVar[str] = "toy_gap"
    scale: float = 1.0
    _factor: nn.Module | None = PrivateAttr(default=None)

    @property
    def of_teacher(self):
        return frozenset({"gold"})

    def prepare(self, student, teacher):
        assert student.width == 32 and teacher.tokens.size > 256
        self._factor = nn.Linear(1, 1, bias=False)

    @property
    def learned(self):
        return self._factor

    def count(self, batch, teacher):
        return float(batch.scored.sum())

    def __call__(self, batch, student, teacher):
        ours = batch.student.sum_by_chunk(student.gold, batch.count)
        theirs = batch.teacher.sum_by_chunk(teacher.gold, batch.count).detach()
        gap = (ours - theirs).abs()[batch.scored]
        factor = 1 + self._factor.weight.abs().sum()
        return LossTerm(self.scale * factor * gap.sum(), self.count(batch, teacher))


class Ones(Approximation):
    name: ClassVar[str] = "toy_ones"

    def approximate(self, matrices, missing):
        count = len(missing.tokens)
        rows = {kind: matrix.new_ones(count, matrix.shape[1]) for kind, matrix in matrices.items()}
        return rows, ["approximated"] * count
'''
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "toy-methods"
version = "1.0"

[project.entry-points."crosstok.losses"]
toy_gap = "toy_methods:AbsoluteGap"
toy_broken = "toy_methods:Missing"
toy_wrong = "toy_methods:Ones"

[project.entry-points."crosstok.embeddings"]
toy_ones = "toy_methods:Ones"

[tool.setuptools]
py-modules = ["toy_methods"]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the toy package into a folder of its own, without the network."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "source").mkdir()
    (folder / "source" / "toy_methods.py").write_text(textwrap.dedent(MODULE), "utf-8")
    (folder / "source" / "pyproject.toml").write_text(PROJECT, "utf-8")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(folder / "site"), str(folder / "source")], check=True, timeout=300)
    return folder / "site"


@pytest.fixture
def _installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))


@pytest.mark.usefixtures("_installed")
def test_a_student_is_initialised_and_trained_with_methods_of_another_package(save_tiny: Any, tmp_path: Path) -> None:
    assert "toy_gap" in LOSSES.names()
    assert "toy_ones" in INITIALISERS.names()
    lines = [json.dumps({"id": str(index), "text": TEXT[:400] + str(index)}) for index in range(8)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines), "utf-8")
    options = {
        "from": str(save_tiny(tmp_path / "source", "bpe")),
        "tokenizer": "bytes",
        "init": {"name": "toy_ones", "calibrate": True},
        "loss": [{"name": "toy_gap", "scale": 0.5}, "sft"],
        "balance": "gradmag",
        "corpus": f"jsonl:{tmp_path / 'corpus.jsonl'}",
        "steps": 12,
        "batch": 4,
        "window_bytes": 128,
        "lr": 3e-3,
    }
    folder = make_student(check_student("transfer", options), tmp_path / "student", device="cpu")
    log = read_log(folder / LOG)
    assert len(log) == 12
    assert log[-1]["loss"]["toy_gap"] < log[0]["loss"]["toy_gap"]
    record = json.loads((folder / "provenance.json").read_text("utf-8"))
    assert record["losses"][0] == {"name": "toy_gap", "scale": 0.5, "weight": 1.0}
    assert record["initialiser"]["name"] == "toy_ones"
    assert record["training"]["balance"] == "gradmag"


@pytest.mark.usefixtures("_installed")
def test_a_plugin_that_does_not_load_or_is_no_loss_is_one_line() -> None:
    with pytest.raises(UserError, match="cannot be imported"):
        LOSSES.create("toy_broken")
    with pytest.raises(UserError, match="not a subclass of Loss"):
        LOSSES.create("toy_wrong")
    with pytest.raises(UserError, match="scale"):
        LOSSES.create({"name": "toy_gap", "scal": 2})


def test_without_the_package_the_name_is_unknown() -> None:
    with pytest.raises(UserError, match="toy_gap"):
        LOSSES.create("toy_gap")


def test_a_method_that_is_being_written_is_named_by_its_class_and_its_code_is_part_of_what_it_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "written_today.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {"from": "x", "tokenizer": "bytes", "init": "fvt", "steps": 1}
    spec = check_student("transfer", {**options, "loss": [{"name": "written_today:AbsoluteGap", "scale": 2.0}]})
    assert losses_of(spec)[0].model_dump() == {"scale": 2.0, "weight": 1.0}
    before = foreign_content(spec)
    assert list(before) == ["written_today:AbsoluteGap"]
    (tmp_path / "written_today.py").write_text(MODULE + "\n# changed\n")
    assert foreign_content(spec) != before
    assert foreign_content(check_student("transfer", {**options, "loss": ["sft"]})) == {}
    for wrong, said in (("nowhere:X", "cannot be imported"), ("json:JSONDecoder", "not a subclass of Loss")):
        with pytest.raises(UserError, match=said):
            check_student("transfer", {**options, "loss": [wrong]})
