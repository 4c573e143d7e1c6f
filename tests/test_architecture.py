"""The code keeps to the table of imports in docs/design.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "crosstok": set(),
    "results": {"crosstok"},
    "sandbox": {"crosstok"},
    "tasks": {"crosstok", "sandbox.program", "sandbox.verdict"},
    "distill": {"crosstok"},
    "harness": {"crosstok", "results", "sandbox", "tasks", "distill"},
}
NO_TORCH = ("crosstok", "results", "sandbox", "tasks")
SOURCES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """Return every module that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def belongs(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in allowed)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_its_package_may(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = {module for module in imports(path) if module.partition(".")[0] in MAY_IMPORT}
    wrong = {module for module in ours if not belongs(module, MAY_IMPORT[package] | {package})}
    assert not wrong, f"{package} may not import {sorted(wrong)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_distill_and_harness_know_torch(path: Path) -> None:
    if path.relative_to(ROOT).parts[0] in NO_TORCH:
        assert not {module for module in imports(path) if belongs(module, {"torch", "transformers", "accelerate"})}


def test_the_reading_side_loads_no_torch() -> None:
    modules = "harness.cli, results.store, results.tables, results.page, tasks.registry, sandbox, crosstok.corpora"
    code = f"import sys, {modules}; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_has_a_name_that_says_nothing(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "common", "misc", "manager"}
