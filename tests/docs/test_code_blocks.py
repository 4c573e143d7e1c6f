"""Code blocks, links and paths of README, CONTRIBUTING and docs: Python runs, commands parse, suites are valid.

A block that cannot run stands behind ``<!-- not run: REASON -->``. Python blocks of a page run in order in one
namespace, in an empty folder, with a tiny model in the place of the model that the page names.
"""

import re
import shlex
import tomllib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from repository import ROOT
from tiny_models import tiny_model
from toy_tokenizers import toy_tokenizer
from typer.main import get_command

from crosstok.harness.cli.app import app
from crosstok.harness.plan.suite import check_suite
from crosstok.results.gate import read_rules
from crosstok.tasks.registry import build_task

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MODEL = "wheel:smollm2-135m-instruct"
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
LANGUAGES = {"python", "console", "yaml", "toml", "text"}


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        content = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(content):
            line = content.count("\n", 0, match.start("text")) + 1
            reason = match["reason"] or ""
            found.append(Block(page.name, line, match["language"], match["text"], reason))
    return found


BLOCKS = blocks()
RUN = [block for block in BLOCKS if not block.reason]


def of(language: str) -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in RUN if block.language == language]


def test_every_block_has_a_language_and_few_are_not_run() -> None:
    assert not [str(block) for block in BLOCKS if block.language not in LANGUAGES]
    unrun = [block for block in BLOCKS if block.reason]
    assert len(unrun) <= 4, [f"{block}: {block.reason}" for block in unrun]


def test_commands_stand_in_blocks_that_are_checked() -> None:
    for page in PAGES:
        outside = FENCE.sub("", page.read_text(encoding="utf-8"))
        assert not re.findall(r"^ {4}(?:crosstok|make|pip|python) .*$", outside, re.MULTILINE), page.name


@pytest.mark.parametrize("page", sorted({block.page for block in RUN if block.language == "python"}))
def test_the_python_blocks_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CROSSTOK_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    tokenizer = toy_tokenizer("bpe")
    tiny_model(tokenizer, positions=2048).save_pretrained("tiny")
    tokenizer.save_pretrained("tiny")
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in RUN:
        if block.page == page and block.language == "python":
            source = "\n" * (block.line - 1) + block.text.replace(MODEL, "tiny")
            exec(compile(source, page, "exec"), namespace)


@pytest.mark.parametrize("block", of("console"))
def test_commands_exist_with_their_options(block: Block) -> None:
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        for command in split(words):
            check_command(command)


def split(words: list[str]) -> list[list[str]]:
    """Split a line of the shell into commands."""
    found: list[list[str]] = [[]]
    for word in words:
        if word in ("&&", "|", ">"):
            found.append([])
        elif word.endswith(";"):
            found[-1].append(word[:-1])
            found.append([])
        else:
            found[-1].append(word)
    return [command for command in found if command]


def check_command(words: list[str]) -> None:
    match words:
        case ["crosstok", *arguments]:
            parse(arguments)
        case ["python", "-m", "crosstok", *arguments]:
            parse(arguments)
        case ["make", target, *_]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), target
        case ["python", script, *_] if script.startswith(("examples/", "bench/")):
            assert (ROOT / script).is_file(), script
        case ["pip" | "git" | "lm_eval" | "export", *_]:
            pass
        case _:
            pytest.fail(f"not checked: {shlex.join(words)}")


def parse(arguments: list[str]) -> None:
    """Parse the arguments of `crosstok` as the command itself does, without calling it."""
    command: Any = get_command(app)
    words = list(arguments)
    while hasattr(command, "commands"):
        name = words.pop(0)
        assert name in command.commands, f"no command {name!r}"
        command = command.commands[name]
    if command.name != "lm-eval":
        command.make_context(command.name, words)


def test_a_misspelt_option_would_be_seen() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(["run", "mine.yaml", "--stor", "x.db"])
    with pytest.raises(AssertionError, match="no command"):
        parse(["runn", "mine.yaml"])


@pytest.mark.parametrize("block", of("yaml"))
def test_yaml_is_what_it_is_read_as(block: Block, tmp_path: Path) -> None:
    content = yaml.safe_load(block.text)
    if "models" in content:
        check_suite(content, str(block))
    elif "fail_if" in content:
        (tmp_path / "gate.yaml").write_text(block.text)
        assert read_rules(tmp_path / "gate.yaml")
    elif "metric" in content:
        (tmp_path / "task.yaml").write_text(block.text)
        (tmp_path / content["data"]).write_text('{"question": "2 + 2?", "answer": "4"}\n')
        assert build_task(f"yaml:{tmp_path / 'task.yaml'}", {}).documents()
    else:
        pytest.fail("neither a suite, rules nor a task")


@pytest.mark.parametrize("block", of("toml"))
def test_toml_parses(block: Block) -> None:
    tomllib.loads(block.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
    folders = "bench|crosstok|distill|docs|examples|harness|results|sandbox|suites|tasks|tests"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path


def test_the_page_on_design_names_every_folder_of_the_packages() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    packages = ("crosstok/api", "distill", "harness", "results", "sandbox", "tasks")
    folders = [path.parent.relative_to(ROOT) for name in packages for path in (ROOT / name).rglob("__init__.py")]
    assert not [str(folder) for folder in folders if f"`{folder}`" not in page]


def test_tests_that_pages_name_exist() -> None:
    files = list((ROOT / "tests").rglob("test_*.py"))
    known = {path.stem for path in files}
    known |= {name for path in files for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))}
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)(?:\.py)?`", page.read_text(encoding="utf-8"))}
    assert not named - known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_the_package_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    groups = {"crosstok.losses", "crosstok.embeddings", "crosstok.tasks"}
    for name in {*re.findall(r"`(crosstok(?:\.\w+)+)", text)} - groups:
        assert exists(name), name


def exists(name: str) -> bool:
    """Return whether a dotted name is a module, or something inside one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part) and part not in getattr(found, "model_fields", {}):
                return False
            found = getattr(found, part, None)
        return True
    return False
