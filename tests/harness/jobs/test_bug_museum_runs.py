"""Rows 20 to 35 of the bug museum (docs/bug-museum.md) that concern whole runs, and that the page names real tests."""

import itertools
import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml
from pytest_socket import SocketBlockedError
from repository import ROOT
from tiny_models import tiny_model
from toy_tokenizers import toy_tokenizer

from crosstok.errors import RunIncomplete
from crosstok.harness.cli import app as cli
from crosstok.harness.generation.answers import Generation
from crosstok.harness.generation.generator import Generator
from crosstok.harness.jobs.run import Outcome, require_complete, run_suite
from crosstok.harness.plan.suite import check_suite
from crosstok.results.store.records import Progress
from crosstok.results.store.store import Store
from crosstok.tasks.declared import DeclaredAnswers
from crosstok.tasks.registry import build_task
from crosstok.tasks.sampling import metrics_of

Content = Callable[..., dict[str, Any]]
PACKAGES = ("crosstok", "distill", "harness", "results", "sandbox", "tasks")
VARIABLES = {
    "CROSSTOK_ACCEPT_LICENCE": "names of licences",
    "CROSSTOK_API_KEY": "text for a server",
    "CROSSTOK_CACHE": "a folder",
    "CROSSTOK_DATA": "a folder",
    "CROSSTOK_DEBUG": "a switch",
    "CROSSTOK_NETWORK": "a switch",
    "CROSSTOK_STORE": "a file or an address",
}


def sources() -> Iterator[tuple[str, str]]:
    """Give name and text of every module; hostile programs are left out, which nothing here runs but the sandbox."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if "attacks" not in path.parts:
                yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


@pytest.fixture
def own(suite_content: Content, tmp_path: Path) -> Content:
    """Return a function that makes a suite of one benchmark of two answers."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"q": q}) + "\n" for q in ("def f(x):", "The sun")))
    declared = {"data": "rows.jsonl", "prompt": "{{q}}", "answer": "{{q}}", "metric": "contains", "max_bytes": 12}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(declared), encoding="utf-8")

    def content(source: Path | None = None, **options: Any) -> dict[str, Any]:
        base = {"source": str(source)} if source else suite_content()["models"]["base"]
        task = {"name": "own", "task": f"yaml:{tmp_path / 'own.yaml'}", **options}
        return suite_content(models={"m": base}, tasks=[task])

    return content


def run(content: dict[str, Any], store: Store) -> Outcome:
    return run_suite(check_suite(content, "test"), store)


def answers(store: Store, run_id: str) -> list[str]:
    ((_, _, cell),) = store.cells(run_id)
    return [sample.text for sample in store.samples(cell.fingerprint)]


def test_museum_20_another_model_under_the_same_name_never_gets_the_answers_of_the_first(
    own: Content, tmp_path: Path
) -> None:
    tokenizer = toy_tokenizer("bpe")
    for seed in (1, 2):
        tiny_model(tokenizer, seed=seed).save_pretrained(tmp_path / str(seed))
        tokenizer.save_pretrained(tmp_path / str(seed))
    store = Store(tmp_path / "s.db")
    first, second = (answers(store, run(own(tmp_path / str(seed)), store).run_id) for seed in (1, 2))
    assert len(first) == len(second) == 2
    assert first != second
    alone = Store(tmp_path / "alone.db")
    assert second == answers(alone, run(own(tmp_path / "2"), alone).run_id)


def test_museum_21_samples_of_a_prompt_differ_and_a_resumed_run_has_the_same_ones(
    own: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = own(n=4, k=[1, 2], temperature=1.0)
    undisturbed = Store(tmp_path / "a.db")
    expected = answers(undisturbed, run(content, undisturbed).run_id)
    assert len(expected) == 8
    assert len(set(expected)) > 4, "each sample has a seed of its own"
    generate = Generator.generate

    def dies(self: Generator, requests: Any) -> Iterator[Generation]:
        yield from itertools.islice(generate(self, requests), 3)
        raise KeyboardInterrupt

    store = Store(tmp_path / "b.db")
    with monkeypatch.context() as patched:
        patched.setattr(Generator, "generate", dies)
        with pytest.raises(KeyboardInterrupt):
            run(content, store)
    interrupted = store.latest_run().id
    assert len(answers(store, interrupted)) == 3
    assert answers(store, run(content, store).run_id) == expected


def test_museum_23_a_scorer_that_fails_is_no_success_and_takes_no_other_task_along(
    own: Content, suite_content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(DeclaredAnswers, "score", broken)
    content = own()
    content["tasks"].append(suite_content()["tasks"][1])
    store = Store(tmp_path / "s.db")
    outcome = run(content, store)
    cells = {cell.task: cell.cell for cell in store.cells(outcome.run_id)}
    assert cells["own"].status is Progress.FAILED
    assert cells["own"].error.startswith("ZeroDivisionError: division by zero")
    assert cells["code_bpb"].status is Progress.COMPLETE
    with pytest.raises(RunIncomplete) as caught:
        require_complete(outcome)
    assert caught.value.exit_code == 3


def test_museum_24_no_command_waits_for_an_answer() -> None:
    asking = re.compile(
        r"(?<![\w.])(input|getpass|getpass\.getpass|(typer|click|Prompt|Confirm)\.(confirm|prompt|pause|ask))\("
    )
    assert asking.search("x = input()")
    assert not asking.search("raw_input() or self.input()")
    assert [path for path, text in sources() if asking.search(text)] == []


def test_museum_25_every_variable_of_the_environment_is_known_and_none_is_a_number() -> None:
    assert {name for _, text in sources() for name in re.findall('"(CROSSTOK_[A-Z_]+)"', text)} == set(VARIABLES)


@pytest.mark.parametrize(("value", "shown"), [("0", False), ("", False), ("1", True)])
def test_museum_25_the_switch_for_tracebacks_is_read_as_a_switch(
    value: str, shown: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSTOK_DEBUG", value)
    monkeypatch.setattr("sys.argv", ["crosstok", "run", str(tmp_path / "none.yaml")])
    with pytest.raises(Exception if shown else SystemExit) as caught:
        cli.main()
    assert isinstance(caught.value, SystemExit) != shown


def test_museum_27_the_suite_has_no_network() -> None:
    with pytest.raises(SocketBlockedError):
        socket.socket()


def test_museum_28_options_of_one_task_do_not_reach_another() -> None:
    many = build_task("humaneval", {"n": 4, "k": [1, 4], "temperature": 0.5}, name="many")
    one = build_task("humaneval", {}, name="one")
    more = build_task("humaneval", {"n": 9, "k": [9], "temperature": 0.5}, name="more")
    assert [[metric.name for metric in metrics_of(task)] for task in (many, one, more)] == [
        ["pass@1", "pass@4"],
        ["pass@1"],
        ["pass@9"],
    ]


def test_museum_35_no_option_promises_what_nothing_does() -> None:
    def names(command: click.Command) -> Iterator[str]:
        for parameter in command.params:
            yield from parameter.opts
        for inner in getattr(command, "commands", {}).values():
            yield from names(inner)

    options = set(names(typer.main.get_command(cli.app)))
    assert "--store" in options, "the walk reaches the commands"
    assert not [name for name in options if "contam" in name]


def test_the_page_has_35_rows_and_each_of_them_names_a_test() -> None:
    page = (ROOT / "docs" / "bug-museum.md").read_text(encoding="utf-8")
    rows = {int(number): test for number, test in re.findall(r"^\| (\d+) \|[^|]*\|([^|]*)\|$", page, re.MULTILINE)}
    assert sorted(rows) == list(range(1, 36))
    assert [number for number, test in rows.items() if not re.search(r"`test_\w+`|Not ours:", test)] == []
