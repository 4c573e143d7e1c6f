"""``crosstok suite``: check suite files, and print their JSON Schema for editors."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    commands = typer.Typer(no_args_is_help=True, help="Suite files: check them, and let an editor complete them.")
    commands.command("check")(check_suites)
    commands.command("schema")(print_schema)
    app.add_typer(commands, name="suite")


def check_suites(
    files: Annotated[list[Path], typer.Argument(metavar="SUITE...", help="Suite files.")],
) -> None:
    """Check suite files without loading torch or a model.

    Finds unknown keys, wrong values, misspelt names of tasks, losses and initialisers, and models that are made from
    unknown ones. The exit code is 2 at the first mistake.

    Example: crosstok suite check suites/*.yaml
    """
    from crosstok.harness.plan.suite import read_suite

    for file in files:
        suite = read_suite(file)
        typer.echo(f"{file}: ok (models: {len(suite.models)}, tasks: {len(suite.tasks)})")


def print_schema() -> None:
    """Print the JSON Schema of a suite file.

    Editors with the YAML language server (VS Code, Neovim, Helix and others) use it to complete keys, show their
    descriptions and mark mistakes. Save it once, and name it in the first line of a suite:

    Example: crosstok suite schema > suite.schema.json

    # yaml-language-server: $schema=suite.schema.json
    """
    import json

    from crosstok.harness.plan.schema import suite_schema

    typer.echo(json.dumps(suite_schema(), indent=2, ensure_ascii=False))
