"""``--help`` of every command: a sentence, options that are described, and examples that parse."""

import shlex
from collections.abc import Iterator

import pytest
import typer

from crosstok.harness.cli.app import app

ROOT = typer.main.get_command(app)


def commands(group: typer.core.TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


assert isinstance(ROOT, typer.core.TyperGroup)
ALL = dict(commands(ROOT))
TEACHING = {path: command for path, command in ALL.items() if path != ("lm-eval",)}  # its help is lm-eval's own


@pytest.mark.parametrize("path", TEACHING, ids=" ".join)
def test_every_command_shows_an_example_of_itself(path: tuple[str, ...]) -> None:
    command = TEACHING[path]
    assert isinstance(command, typer.core.TyperCommand)
    _, *lines = (command.epilog or "").split("\n\n")
    assert any(shlex.split(line)[1 : 1 + len(path)] == list(path) for line in lines)


@pytest.mark.parametrize("path", TEACHING, ids=" ".join)
def test_every_example_parses(path: tuple[str, ...]) -> None:
    command = TEACHING[path]
    assert isinstance(command, typer.core.TyperCommand)
    for line in (command.epilog or "").split("\n\n")[1:]:
        program, *words = shlex.split(line)
        assert program == "crosstok"
        found = max((known for known in ALL if list(known) == words[: len(known)]), key=len)
        shown = ALL[found]
        assert isinstance(shown, typer.core.TyperCommand)
        shown.make_context(" ".join(found), words[len(found) :])


@pytest.mark.parametrize("path", TEACHING, ids=" ".join)
def test_every_command_and_every_option_is_described(path: tuple[str, ...]) -> None:
    command = TEACHING[path]
    assert isinstance(command, typer.core.TyperCommand)
    assert (command.help or "").splitlines()[0].endswith(".")
    bare = [option.name for option in command.params if not getattr(option, "help", None)]
    assert not bare
