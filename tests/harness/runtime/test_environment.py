"""Facts of the machine: whose commit is recorded with a run, and what ``crosstok doctor`` needs to find."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crosstok.harness.runtime import environment
from crosstok.harness.runtime.environment import findings, git_revision

ROOT = Path(__file__).resolve().parents[3]
NAMED_CROSSTOK = '[project]\nname = "crosstok"\n'


def commit(folder: Path) -> str:
    """Make a git repository of all that lies in ``folder`` and return its commit."""
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), ("add", "-A", "-f"), (*identity, "commit", "-qm", "all", "--no-verify")):
        subprocess.run(
            ["git", "-C", str(folder), *command], check=True, env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
        )
    done = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_a_checkout_of_crosstok_reports_its_own_commit(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", NAMED_CROSSTOK)
    write(tmp_path / "harness" / "runtime" / "environment.py")
    revision = commit(tmp_path)
    assert git_revision(tmp_path) == revision[:12]
    write(tmp_path / "harness" / "runtime" / "environment.py", "changed = True\n")
    assert git_revision(tmp_path) == f"{revision[:12]}-dirty"


def test_the_commit_of_a_repository_around_the_virtual_environment_is_not_ours(tmp_path: Path) -> None:
    package = tmp_path / ".venv" / "lib" / "python3.11" / "site-packages" / "crosstok"
    write(package / "harness" / "runtime" / "environment.py")
    write(tmp_path / "pyproject.toml", '[project]\nname = "somebody-elses"\n')
    commit(tmp_path)
    assert git_revision(package) == "not a git checkout"


def test_neither_is_the_commit_of_a_repository_that_contains_our_sources(tmp_path: Path) -> None:
    write(tmp_path / "vendored" / "crosstok" / "pyproject.toml", NAMED_CROSSTOK)
    commit(tmp_path)
    assert git_revision(tmp_path / "vendored" / "crosstok") == "not a git checkout"


def test_a_user_project_that_has_our_package_at_its_top_is_not_a_checkout_of_ours(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", '[project]\nname = "somebody-elses"\n')
    commit(tmp_path)
    assert git_revision(tmp_path) == "not a git checkout"


def test_the_sandboxes_are_found_in_a_folder_that_holds_a_sandbox_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "sandbox" / "__init__.py")
    code = "from crosstok.harness.runtime.environment import findings; print([one.subject for one in findings()])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "sandbox " in done.stdout, done.stderr


def test_a_cache_that_cannot_be_written_is_a_finding_with_a_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(environment.os, "access", lambda *_: False)
    monkeypatch.setattr(environment, "_sandboxes", list)
    cache = next(one for one in findings() if one.subject == "cache")
    assert cache.ok is False
    assert "not writable" in cache.fact
    assert "CROSSTOK_CACHE" in cache.hint
