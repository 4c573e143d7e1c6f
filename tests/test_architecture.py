"""The code keeps to the table of imports in docs/design.md: packages, rooms and files, each importing only downward."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from repository import ROOT

FLOOR = "crosstok"
MAY_IMPORT = {
    FLOOR: set(),
    "results": {FLOOR},
    "sandbox": {FLOOR},
    "tasks": {FLOOR, "sandbox.program", "sandbox.verdict"},
    "distill": {FLOOR},
    "harness": {FLOOR, "results", "sandbox", "tasks", "distill"},
}
TOP = {"crosstok", "crosstok.__main__", "crosstok.api"}
"""The public API and the command: files of the package ``crosstok`` that stand above all packages."""
ROOMS = {
    "harness": (
        "cli", "inspection", "jobs", "lm_eval", "measure", "plan", "openai", "generation", "likelihood", "runtime",
    ),
    "results": ("web", "gate", "exchange", "tables", "compare", "store"),
    "distill": (
        "recipes", "training", "expansion", "embeddings", "losses", "readings", "models", "sources", "tokenizers",
    ),
}  # fmt: skip
"""Rooms of a package from the top floor down: a file imports its own room and those below."""
NO_TORCH = (FLOOR, "results", "sandbox", "tasks")
VAGUE = {"utils", "util", "helpers", "common", "misc", "manager"}
MOST_FILES = 15


@cache
def modules() -> dict[str, Path]:
    """Return every module of ours by its name without the leading ``crosstok.``."""
    paths = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths}
    return {name: path for path, name in names.items()}


@cache
def imports(path: Path) -> frozenset[str]:
    """Return every module that a file imports, anywhere in it; names imported from a package included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(("crosstok", *path.relative_to(ROOT).parts[: -node.level]))
            found |= {
                f"{base}.{node.module}.{name.name}" if node.module else f"{base}.{name.name}" for name in node.names
            }
    return frozenset(found)


def ours(path: Path) -> Iterator[str]:
    """Yield the modules of ours that a file imports."""
    for name in imports(path):
        if name.partition(".")[0] != "crosstok":
            continue
        short = name.removeprefix("crosstok.")
        for candidate in (short, short.rpartition(".")[0], f"crosstok.{short}", f"crosstok.{short.rpartition('.')[0]}"):
            if candidate in modules():
                yield candidate
                break


def package_of(module: str) -> str:
    return module.partition(".")[0]


def belongs(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in allowed)


def above_all(module: str) -> bool:
    return module in TOP or module.startswith("crosstok.api.")


def edges() -> Iterator[tuple[str, str]]:
    for name, path in modules().items():
        for imported in ours(path):
            if imported != name:
                yield name, imported


def test_packages_import_only_what_the_table_allows() -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, imported in edges()
        if not above_all(name)
        and (above_all(imported) or not belongs(imported, MAY_IMPORT[package_of(name)] | {package_of(name)}))
    ]
    assert not wrong


def test_rooms_import_only_rooms_below() -> None:
    wrong = []
    for name, imported in edges():
        package = package_of(name)
        floors = ROOMS.get(package, ())
        rooms = [one.split(".")[1] if "." in one else "" for one in (name, imported)]
        if package == package_of(imported) and all(room in floors for room in rooms):
            above, below = (floors.index(room) for room in rooms)
            if above > below:
                wrong.append(f"{name} imports {imported}")
    assert not set(wrong)


def test_no_files_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for name, imported in edges():
        if not imported.startswith(name + ".") and not name.startswith(imported + "."):  # a package and its own files
            graph.setdefault(name, set()).add(imported)
    assert not circles(graph)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected groups of more than one node (Tarjan)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in order:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], order[other])
        if low[node] == order[node]:
            group = [stack.pop()]
            while group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in order:
            visit(node)
    return found


def test_a_circle_of_imports_is_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert not circles({"a": {"b", "c"}, "b": {"c"}})


def test_only_distill_and_harness_know_torch() -> None:
    heavy = {"torch", "transformers", "accelerate"}
    wrong = [
        f"{name} imports {imported}"
        for name, path in modules().items()
        if package_of(name) in NO_TORCH and not above_all(name)
        for imported in imports(path)
        if belongs(imported, heavy)
    ]
    assert not wrong


def test_the_reading_side_loads_no_torch() -> None:
    names = ("harness.cli.app", "results.store.store", "results.tables.frame", "results.web.page", "tasks.registry",
             "sandbox", "corpora", "api.results", "api.runs", "api.students")  # fmt: skip
    loading = ", ".join(f"crosstok.{name}" for name in names)
    code = f"import sys, {loading}; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_of_files_say_something_and_folders_are_small() -> None:
    assert not [name for name in modules() if name.rpartition(".")[2] in VAGUE]
    folders = {path.parent for path in modules().values()}
    crowded = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert not {folder: count for folder, count in crowded.items() if count > MOST_FILES}
