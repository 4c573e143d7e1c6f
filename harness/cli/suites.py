"""``crosstok suite``: check suite files, and print their JSON Schema for editors."""

from pathlib import Path
from typing import Annotated

import typer

from crosstok.harness.cli.options import EVALUATE, examples


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    commands = typer.Typer(no_args_is_help=True, help="Check suite files; print their JSON Schema.")
    commands.command("check", epilog=examples("crosstok suite check suites/quickstart.yaml mine.yaml"))(check_suites)
    commands.command("schema", epilog=examples("crosstok suite schema"))(print_schema)
    app.add_typer(commands, name="suite", rich_help_panel=EVALUATE)


def check_suites(
    files: Annotated[list[Path], typer.Argument(metavar="SUITE...", help="Suite files.")],
) -> None:
    """Check suite files without loading a model.

    Reports the first unknown key, wrong value, misspelt name (task, loss, initialiser, model) or circular reference.
    """
    from crosstok.harness.plan.suite import read_suite

    for file in files:
        suite = read_suite(file)
        typer.echo(f"{file}: ok (models: {len(suite.models)}, tasks: {len(suite.tasks)})")


def print_schema() -> None:
    """Print the JSON Schema of suite files.

    Editors with a YAML language server complete and check suites with it. Save the output as suite.schema.json and
    begin the suite with this line:

    # yaml-language-server: $schema=suite.schema.json
    """
    import json

    from crosstok.harness.plan.schema import suite_schema

    typer.echo(json.dumps(suite_schema(), indent=2, ensure_ascii=False))
