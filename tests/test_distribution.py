"""Installed packages: one import package, typed, that works beside folders of the user's that have the same names."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from repository import ROOT
from tiny_models import tiny_model
from toy_tokenizers import toy_tokenizer

PACKAGES = ("crosstok", "harness", "distill", "results", "sandbox", "tasks")
OFFLINE = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
PLUGIN = '''
"""A loss of a user's own package."""

from typing import ClassVar

from crosstok.distill.losses import AlignedBatch, Loss, LossTerm, Outputs, Reading


class Gap(Loss):
    name: ClassVar[str] = "gap"
    scale: float = 1.0

    @property
    def of_teacher(self) -> frozenset[Reading]:
        return frozenset({"gold"})

    def count(self, batch: AlignedBatch, teacher: Outputs) -> float:
        return float(batch.scored.sum())

    def __call__(self, batch: AlignedBatch, student: Outputs, teacher: Outputs) -> LossTerm:
        ours = batch.student.sum_by_chunk(student.gold, batch.count)
        theirs = batch.teacher.sum_by_chunk(teacher.gold, batch.count)
        return LossTerm(self.scale * (ours - theirs).abs()[batch.scored].sum(), self.count(batch, teacher))
'''


def run(*command: str | Path, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command that does not inherit where this process finds its modules."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def environment_in(folder: Path) -> Path:
    """Make a virtual environment that has our dependencies but not crosstok, and return its Python.

    A path in a .pth file is searched for modules, but .pth files in that path are not read: an editable crosstok there
    is not seen.
    """
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    (packages,) = folder.glob("lib/python*/site-packages")
    outer = [path for path in sys.path if path.endswith("site-packages") and not Path(path, "crosstok").exists()]
    (packages / "dependencies.pth").write_text("\n".join(outer))
    python = folder / "bin" / "python"
    assert run(python, "-c", "import crosstok", cwd=folder.parent, check=False).returncode == 1
    return python


def copy_of_the_checkout(folder: Path) -> Path:
    """Copy what a build reads, so that no build leaves anything in the checkout."""
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_the_checkout(tmp_path_factory.mktemp("distribution") / "checkout")


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    out = checkout.parent / "wheel"
    run(sys.executable, "-m", "pip", "wheel", *OFFLINE, "--wheel-dir", out, checkout, cwd=checkout.parent)
    (built,) = out.glob("crosstok-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The Python of an environment that the wheel is installed in."""
    python = environment_in(wheel.parent.parent / "user")
    run(python, "-m", "pip", "install", *OFFLINE, wheel, cwd=wheel.parent)
    return python


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    """A folder with a package ``sandbox`` and modules ``tasks``, ``results``, ... of the user's own."""
    folder = tmp_path / "project"
    (folder / "sandbox").mkdir(parents=True)
    (folder / "sandbox" / "__init__.py").write_text("raise AssertionError('the sandbox of the user')\n")
    for name in ("tasks", "results", "harness", "distill"):
        (folder / f"{name}.py").write_text(f"raise AssertionError('{name} of the user')\n")
    return folder


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_puts_one_typed_package_at_the_top_and_lacks_no_file(wheel: Path) -> None:
    found = members(wheel)
    assert {name.split("/")[0] for name in found if ".dist-info/" not in name} == {"crosstok"}
    assert "crosstok/py.typed" in found
    tracked = {
        f"crosstok/{path.relative_to(ROOT)}"
        for package in PACKAGES[1:]
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert tracked - found == set()


def test_a_wheel_built_from_the_source_distribution_has_the_same_files(checkout: Path, wheel: Path) -> None:
    out = checkout.parent / "sdist"
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", out, checkout, cwd=checkout.parent)
    (source,) = out.glob("crosstok-*.tar.gz")
    run(sys.executable, "-m", "pip", "wheel", *OFFLINE, "--wheel-dir", out, source, cwd=checkout.parent)
    (built,) = out.glob("crosstok-*.whl")
    assert members(built) == members(wheel)


def test_a_suite_runs_in_a_folder_whose_modules_have_the_names_of_our_folders(
    installed: Path, users_folder: Path
) -> None:
    tokenizer = toy_tokenizer("bpe")
    tiny_model(tokenizer, positions=2048).save_pretrained(users_folder / "tiny")
    tokenizer.save_pretrained(users_folder / "tiny")
    suite = {
        "name": "own",
        "models": {"base": {"source": "./tiny"}},
        "tasks": [{"name": "humaneval", "limit": 2, "max_bytes": 20}],
    }
    (users_folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    done = run(installed.with_name("crosstok"), "run", "suite.yaml", cwd=users_folder)
    assert "humaneval" in done.stdout
    assert (users_folder / "runs" / "crosstok.db").exists()


def test_the_sandbox_is_imported_in_a_folder_that_has_one_of_its_own(installed: Path, users_folder: Path) -> None:
    code = "import crosstok.sandbox; print(crosstok.sandbox.open_pool.__module__, crosstok.sandbox.__file__)"
    module, file = run(installed, "-c", code, cwd=users_folder).stdout.split()
    assert module.startswith("crosstok.sandbox.")
    assert Path(file).is_relative_to(installed.parent.parent)


def test_mypy_strict_accepts_a_plug_in_of_a_user(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", installed]
    done = run(*mypy, "mine.py", cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout
    (tmp_path / "mine.py").write_text(PLUGIN.replace('frozenset({"gold"})', 'frozenset({"goldd"})'))
    assert "goldd" in run(*mypy, "mine.py", cwd=tmp_path, check=False).stdout  # the types of crosstok are seen


def test_an_editable_checkout_sees_a_new_file_without_another_installation(tmp_path: Path) -> None:
    checkout = copy_of_the_checkout(tmp_path / "checkout")
    python = environment_in(tmp_path / "developer")
    done = run(python, "-m", "pip", "install", *OFFLINE, "--verbose", "--editable", checkout, cwd=tmp_path)
    assert "absent from the `packages` configuration" not in done.stdout + done.stderr  # what setuptools says of links
    (checkout / "harness" / "measure" / "added.py").write_text("ANSWER = 42\n")
    code = "from crosstok.harness.measure.added import ANSWER; print(ANSWER)"
    assert run(python, "-c", code, cwd=tmp_path).stdout == "42\n"
