"""The documentation site: built without a network and without warnings, and complete."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT

import crosstok
from crosstok.distill.recipes.options import RECIPES
from crosstok.distill.registry import INITIALISERS, LOSSES
from crosstok.harness.plan.suite import Suite
from crosstok.tasks.registry import options_type, task_names


@pytest.fixture(scope="module")
def generated() -> Any:
    spec = importlib.util.spec_from_file_location("generated_pages", ROOT / "docs" / "generated_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(generated: Any) -> dict[str, str]:
    found: dict[str, str] = generated.pages()
    return found


def test_every_loss_and_initialiser_is_listed_with_every_option(pages: dict[str, str]) -> None:
    for page, registry in (("losses", LOSSES), ("initialisers", INITIALISERS)):
        for name in registry.builtin:
            section = pages[f"reference/{page}.md"].partition(f"\n## {name}\n")[2].partition("\n## ")[0]
            assert section, name
            for option, field in registry.find(name).model_fields.items():
                assert f"| `{option}` |" in section, (name, option)
                assert field.description, (name, option)


def test_every_option_of_recipes_tasks_and_suites_is_listed(pages: dict[str, str]) -> None:
    for name, spec in RECIPES.items():
        section = pages["reference/recipes.md"].partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert all(f"| `{field.alias or key}` |" in section for key, field in spec.model_fields.items()), name
    for name in set(task_names()) - {"lm_eval:NAME"}:
        assert f"`{name}`" in pages["reference/tasks.md"]
        assert all(f"| `{key}` |" in pages["reference/tasks.md"] for key in options_type(name).model_fields), name
    assert all(f"| `{key}` |" in pages["reference/suites.md"] for key in Suite.model_fields)


def test_every_public_name_and_every_command_has_its_reference(pages: dict[str, str]) -> None:
    shown = pages["reference/functions.md"] + pages["reference/contracts.md"]
    assert not [name for name in crosstok.__all__ if not re.search(rf"(\.|`){name}\b", shown)]
    for command in ("run", "eval", "transfer", "models ls", "store export", "gate"):
        section = pages["reference/commands.md"].partition(f"\n## crosstok {command}\n")[2].partition("\n## ")[0]
        assert "Usage:" in section, command


def test_the_site_builds_without_warnings_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    offline = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, env=os.environ | offline | {"PYTHONPATH": str(ROOT)}, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    loaded = re.compile(
        r"<(?:script|img|iframe)[^>]+src=\"(?:https?:)?//|<link[^>]+href=\"(?:https?:)?//(?!.*canonical)"
    )
    assert not [page.name for page in pages if loaded.search(page.read_text(encoding="utf-8"))]
    functions = (tmp_path / "site" / "reference" / "functions" / "index.html").read_text(encoding="utf-8")
    assert "RunResult" in functions
    assert ":class:" not in functions
