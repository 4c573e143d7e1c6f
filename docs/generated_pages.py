"""Pages of the documentation site that come from the code, the README and the examples; a hook of mkdocs.

Every loss, initialiser, recipe option, task option, suite key and command is listed from the objects that the program
itself uses, so no list can be out of date.
"""

import ast
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel

if TYPE_CHECKING:
    from crosstok.distill.method_reference import OptionReference

ROOT = Path(__file__).resolve().parent.parent

CONTRACTS = {
    "Tasks": "crosstok.tasks.task",
    "Losses": "crosstok.distill.losses.loss",
    "What a loss reads: the batch": "crosstok.distill.readings.batch",
    "What a loss reads: outputs of the models": "crosstok.distill.readings.outputs",
    "Initialisers": "crosstok.distill.embeddings.initialiser",
    "Bytes of tokens": "crosstok.distill.tokenizers.tokenbytes",
    "Programs for the sandbox": "crosstok.sandbox.program",
    "Verdicts of the sandbox": "crosstok.sandbox.verdict",
    "Records of the store": "crosstok.results.store.records",
}
"""Modules that a plug-in or a notebook may build on."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    for path, content in pages().items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Show reStructuredText roles of docstrings as plain code."""
    return re.sub(r":(?:func|class|meth|mod|attr|data):(?=<code>)", "", html)


def pages() -> dict[str, str]:
    """Return the generated pages: path in the site to Markdown."""
    return {
        "index.md": for_site((ROOT / "README.md").read_text(encoding="utf-8")),
        "contributing.md": for_site((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "examples.md": examples_page(),
        "reference/functions.md": functions_page(),
        "reference/contracts.md": contracts_page(),
        "reference/losses.md": methods_page(
            "loss", "Losses", "Training losses: `loss: [{name: alm, tau: 5}]` in a suite, or `--loss alm:tau=5`."
        ),
        "reference/initialisers.md": methods_page(
            "initialiser",
            "Initialisers",
            "Initialisers of embedding rows: `init: hewitt` in a suite, or `--init hewitt`.",
        ),
        "reference/recipes.md": methods_page(
            "recipe", "Recipes", "How students are made: keys of a recipe in a suite, or `--set KEY=VALUE`."
        ),
        "reference/tasks.md": tasks_page(),
        "reference/suites.md": suites_page(),
        "reference/commands.md": commands_page(),
    }


def for_site(text: str) -> str:
    """Return a page of the repository's top folder with its links as the site needs them."""

    def link(match: re.Match[str]) -> str:
        shown, target = match[1], match[2]
        if target.startswith(("http", "#")):
            return match[0]
        if target.startswith("docs/"):
            return f"[{shown}]({target.removeprefix('docs/')})"
        if target in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
            return f"[{shown}]({'index.md' if target == 'README.md' else target.lower()})"
        if target.rstrip("/") == "examples":
            return f"[{shown}](examples.md)"
        return shown if shown.startswith("`") else f"`{shown}`"  # a file of the repository

    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", link, text)


def examples_page() -> str:
    """Return the examples, each with the first line of its docstring."""
    lines = ["# Examples", "", "Each file runs by itself: `python examples/NAME.py [MODEL]`.", ""]
    for path in sorted((ROOT / "examples").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        summary = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        lines += [f"## {path.stem.replace('_', ' ').capitalize()}", "", summary, "", "```python"]
        lines += [f"# examples/{path.name}", source.rstrip(), "```", ""]
    return "\n".join(lines)


def functions_page() -> str:
    """Return the reference of the public API, from its docstrings."""
    import crosstok  # the site may be configured without it

    lines = [
        "# Functions and records",
        "",
        "The public API: everything in `crosstok.__all__` (`__version__` is the installed version).",
        "",
    ]
    elsewhere = {"Task", "Loss", "Initialiser", "__version__"}
    for name in crosstok.__all__:
        if name not in elsewhere:
            module = getattr(crosstok, name).__module__
            lines += [f"::: {module}.{name}", ""]
    lines += ["`Task`, `Loss` and `Initialiser` are on the page [contracts of plug-ins](contracts.md).", ""]
    return "\n".join(lines)


def contracts_page() -> str:
    """Return the reference of what plug-ins subclass and receive, from its docstrings."""
    lines = ["# Contracts of plug-ins", ""]
    for title, module in CONTRACTS.items():
        lines += [f"## {title}", "", f"::: {module}", "    options: {show_root_heading: false, heading_level: 3}", ""]
    return "\n".join(lines)


def methods_page(kind: str, title: str, about: str) -> str:
    """Return every built-in method of a kind: what it is, its options, its definition and source."""
    from crosstok.distill.method_reference import method_references

    lines = [f"# {title}", "", f"{about} `crosstok methods ls` also lists those of installed plug-ins.", ""]
    for one in method_references():
        if one.kind == kind and one.built_in:
            lines += [f"## {one.name}", "", one.about, ""]
            lines += [line for need in one.needs for line in (f"- Needs {need}.",)]
            lines += ["", *options_table(one.options), "", *prose(one.details), ""]
    return "\n".join(lines)


def tasks_page() -> str:
    """Return every task with its options; tasks that have the same options stand together."""
    from crosstok.tasks.collections import COLLECTIONS
    from crosstok.tasks.registry import LM_EVAL_NAME, options_type, task_names

    together: dict[type[BaseModel], list[str]] = {}
    known = task_names()
    for name in known:
        together.setdefault(options_type("lm_eval:gsm8k" if name == LM_EVAL_NAME else name), []).append(name)
    about = "Options of a task follow its name in a suite, or as `--task NAME:option=value,option=value`."
    lines = ["# Tasks", "", about, "", *table(["task", "documents and metric"], sorted(known.items())), ""]
    lines += ["## Collections", "", "Each one stands for all of its tasks.", ""]
    lines += [*table(["collection", "tasks"], [(name, text) for name, (text, _) in sorted(COLLECTIONS.items())]), ""]
    for kind, names in together.items():
        shown = names if len(names) < 4 else [*names[:3], f"and {len(names) - 3} more"]
        lines += [
            f"## Options of {', '.join(shown)}",
            "",
            ", ".join(f"`{name}`" for name in names),
            "",
            *options(kind),
            "",
        ]
    return "\n".join(lines)


def suites_page() -> str:
    """Return every key of a suite."""
    from crosstok.harness.plan.suite import EnsembleSpec, ModelSpec, SandboxSpec, Suite, TaskSpec

    about = "A suite is one YAML file. `crosstok suite schema` prints its JSON Schema, for editors."
    lines = ["# Suite keys", "", about, ""]
    parts = {
        "The suite": Suite,
        "A model, under models": ModelSpec,
        "An ensemble": EnsembleSpec,
        "A task, under tasks": TaskSpec,
        "The sandbox": SandboxSpec,
    }
    for title, part in parts.items():
        lines += [f"## {title}", "", paragraph(part.__doc__), "", *options(part), ""]
    return "\n".join(lines)


def commands_page() -> str:
    """Return the help of every command."""
    os.environ.update(COLUMNS="100", TERM="dumb", NO_COLOR="1")
    lines = ["# Commands", ""]
    for name, text in helps():
        lines += [f"## {name}", "", "```text", text, "```", ""]
    return "\n".join(lines)


def helps() -> Iterator[tuple[str, str]]:
    """Yield the words of each command and its help."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from crosstok.harness.cli.app import app

    def visit(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        for name, child in getattr(command, "commands", {}).items():
            yield from visit(child, (*words, name))

    for words in visit(get_command(app), ()):
        if words != ("lm-eval",):  # its help is lm-eval's
            found = CliRunner().invoke(app, [*words, "--help"], prog_name="crosstok", env={"COLUMNS": "100"})
            yield " ".join(("crosstok", *words)), "\n".join(line.rstrip() for line in found.output.strip().splitlines())


def options(record: type[BaseModel]) -> list[str]:
    """Return the fields of a record as a table."""
    from crosstok.distill.method_reference import option_references

    return options_table(option_references(record))


def options_table(found: "Sequence[OptionReference]") -> list[str]:
    """Return options as a table."""
    rows = [(f"`{one.name}`", f"`{one.type}`", default(one), one.description) for one in found]
    return table(["option", "type", "default", "description"], rows) if rows else ["No options."]


def table(header: list[str], rows: list[tuple[str, ...]]) -> list[str]:
    """Return a Markdown table; what has no code marks and needs none stays as it is."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for row in rows:
        cells = [" ".join(cell.split()).replace(" | ", ", ").replace("|", "&#124;") for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def default(option: "OptionReference") -> str:
    """Return the default of an option as YAML writes it, or that it is required."""
    if option.required:
        return "required"
    return f"`{'none' if option.default is None else json.dumps(option.default, ensure_ascii=False)}`"


def prose(text: str | None) -> Iterator[str]:
    """Yield the paragraphs of a module's docstring as Markdown; an indented paragraph is a formula or code."""
    for block in re.split(r"\n\s*\n", (text or "").strip()):
        lines = block.splitlines()
        if all(line.startswith("    ") for line in lines):
            yield from ("```text", *(line.removeprefix("    ") for line in lines), "```", "")
        else:
            yield from (re.sub(r"::$", ":", "\n".join(lines)), "")


def paragraph(text: str | None) -> str:
    """Return the whole of a docstring as Markdown."""
    lines = (text or "").strip().splitlines()
    return "\n".join(line.strip() for line in lines)
