"""Files of the repository that must agree: versions, the tree in CONTRIBUTING, the workflow."""

import re
import tomllib
from typing import Any

import yaml
from repository import ROOT


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_citation_has_the_version_of_the_package() -> None:
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert yaml.safe_load(read("CITATION.cff"))["version"] == version


def test_the_tree_in_contributing_names_every_folder() -> None:
    tree = read("CONTRIBUTING.md").split("```text\n")[1].split("```")[0]
    named = {f"{match}/" for match in re.findall(r"^ *(\w+)/", tree, re.MULTILINE)} | set(re.findall(r"\w+/", tree))
    rooms = {
        f"{path.name}/"
        for package in ("harness", "distill", "results", "sandbox", "tasks")
        for path in (ROOT / package).iterdir()
        if (path / "__init__.py").exists()
    }
    assert rooms - named == set()
    top = {f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and next(path.rglob("*.py"), None)}
    assert {name for name in top if name[0] != "." and name not in ("build/", "dist/", "runs/")} - named == set()


def test_the_workflow_runs_targets_of_the_makefile_on_every_supported_python() -> None:
    workflow: dict[str, Any] = yaml.safe_load(read(".github/workflows/ci.yml"))
    targets = set(re.findall(r"^([\w-]+):(?!=)", read("Makefile"), re.MULTILINE))
    used = {
        word
        for job in workflow["jobs"].values()
        for step in job["steps"]
        for line in step.get("run", "").splitlines()
        if line.startswith("make ")
        for word in line.split()[1:]
        if "=" not in word
    }
    assert {"check", "docs", "test", "test-wheel"} <= used <= targets
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
