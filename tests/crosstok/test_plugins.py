"""Classes of users: in the working directory, in packages, and never in the place of a built-in one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crosstok.distill.registry import INITIALISERS, LOSSES
from crosstok.errors import UserError
from crosstok.plugins import class_at
from crosstok.tasks.registry import build_task, check_options, task_names


def install(folder: Path, name: str, group: str, entry: str) -> None:
    """Write the metadata that makes a folder on the path an installed package with one entry point."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry} = somewhere:Something\n")


@pytest.mark.parametrize(("registry", "name"), [(LOSSES, "alm"), (INITIALISERS, "fvt")])
def test_a_plugin_with_the_name_of_a_built_in_method_is_refused(
    registry: object, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "rival-methods", registry.group, name)  # type: ignore[attr-defined]  # either registry
    monkeypatch.syspath_prepend(str(tmp_path))
    for ask in (registry.create, registry.find, registry.check_name):  # type: ignore[attr-defined]  # either registry
        with pytest.raises(UserError, match=f"rival-methods registers the .* '{name}'.* built-in"):
            ask(name)


@pytest.mark.parametrize("name", ["humaneval", "arc_easy"])
def test_a_plugin_with_the_name_of_a_built_in_task_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "rival-tasks", "crosstok.tasks", name)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=f"rival-tasks registers the task '{name}'"):
        check_options(name, {})
    with pytest.raises(UserError, match=f"rival-tasks registers the task '{name}'"):
        task_names()


def test_a_name_that_two_packages_register_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package, target in (("one", "a:A"), ("two", "b:B")):
        (tmp_path / package).mkdir()
        install(tmp_path / package, package, "crosstok.losses", "gap")
        entry = tmp_path / package / f"{package}-1.0.dist-info" / "entry_points.txt"
        entry.write_text(f"[crosstok.losses]\ngap = {target}\n")
        monkeypatch.syspath_prepend(str(tmp_path / package))
    with pytest.raises(UserError, match="'gap' is registered by one and by two"):
        LOSSES.create("gap")


def test_a_module_of_the_working_directory_is_found_after_installed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "written_here.py").write_text("class Mine:\n    class Inner: pass\n")
    (tmp_path / "json.py").write_text("raise RuntimeError('shadowed')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert class_at("written_here:Mine").__name__ == "Mine"
    assert class_at("written_here:Mine.Inner").__name__ == "Inner"
    assert class_at("json:JSONDecoder").__module__ == "json.decoder"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nowhere_at_all", "No module named 'nowhere_at_all'"),
        ("def broken(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("x = 1", "has no attribute 'Mine'"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(
    source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_written.py").write_text(source + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "half_written", raising=False)
    with pytest.raises(UserError) as error:
        LOSSES.create("half_written:Mine")
    sys.modules.pop("half_written", None)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_built_in_name_before_a_colon_asks_for_an_option() -> None:
    with pytest.raises(UserError, match="'tau' is not an option of the loss alm"):
        LOSSES.create("alm:tau")


TASK = """
from crosstok.tasks.task import DataSource, Document, Generate, Metric, CodeTask


class Mine(CodeTask):
    version = "1"
    metrics = (Metric("pass@1", "fraction", higher_is_better=True),)
"""


def test_a_task_of_the_working_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "task_written_here.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    check_options("task_written_here:Mine", {})
    with pytest.raises(UserError, match="not a subclass of"):
        build_task("task_written_here:Metric", {})
    with pytest.raises(UserError, match="Unknown task 'humanevall'"):
        check_options("humanevall", {})


def test_the_command_line_lists_and_shows_methods_of_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from crosstok.distill.losses.sft import SFT\n\n\n"
        'class Half(SFT):\n    """Half of the cross-entropy."""\n\n    name = "half"\n'
        '    share: float = 0.5\n    """Factor of the sum."""\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "crosstok.harness.cli.app", "methods", "show", "mine:Half"],
        cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "mine:Half (loss): Half of the cross-entropy." in done.stdout
    assert "share: number; default: 0.5" in done.stdout
    assert "Factor of the sum." in done.stdout
