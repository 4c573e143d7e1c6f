"""``crosstok sandbox``: judge programs without a model, and test the sandbox with hostile programs."""

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crosstok.harness.cli.options import MACHINE, examples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crosstok.progress import Count

BackendOption = Annotated[
    str, typer.Option(help="auto, bubblewrap, namespaces, docker or process; `doctor` shows which work.")
]
WorkersOption = Annotated[int, typer.Option(min=1, max=256, help="Programs run in parallel.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    commands = typer.Typer(no_args_is_help=True, help="Run untrusted programs (docs/security.md).")
    commands.command(epilog=examples("crosstok sandbox check programs.jsonl --workers 4"))(check)
    commands.command(epilog=examples("crosstok sandbox demo", "crosstok sandbox demo --backend docker"))(demo)
    app.add_typer(commands, name="sandbox", rich_help_panel=MACHINE)


def check(
    file: Annotated[
        Path, typer.Argument(help="JSON Lines with id, candidate, tests, entry_point; optional: setup, limits, mode.")
    ],
    backend: BackendOption = "auto",
    workers: WorkersOption = 2,
    unsafe: Annotated[bool, typer.Option(help="Allow the backend `process`, which does not isolate programs.")] = False,
) -> None:
    """Judge every program of a file; print one line of JSON with the verdict for each, in the order of the file."""
    from crosstok import sandbox
    from crosstok.errors import RunIncomplete
    from crosstok.sandbox.check import check as judge

    with sandbox.open_pool(backend, workers=workers, unsafe=unsafe) as pool, _counted("judge programs") as advance:
        counts = judge(file, sys.stdout, pool, advance)
    told = ", ".join(f"{count} {status.value}" for status, count in sorted(counts.items()))
    typer.echo(f"{sum(counts.values())} programs: {told}", err=True)
    if broken := counts.get(sandbox.Status.SANDBOX_ERROR):
        raise RunIncomplete(
            f"The sandbox could not judge {broken} programs.", hint="Their lines have the status sandbox_error."
        )


def demo(backend: BackendOption = "auto", workers: WorkersOption = 2) -> None:
    """Run the attack suite on this machine and report the outcome of each attack; exit code 1 if one succeeds."""
    from crosstok.sandbox.demo import demo as attacks
    from crosstok.sandbox.demo import table

    with _counted("attacks") as advance:
        campaign = attacks(backend, workers, advance)
    typer.echo(table(campaign))
    if campaign.broken:
        raise typer.Exit(1)


@contextmanager
def _counted(title: str) -> "Iterator[Count]":
    from crosstok.harness.progress import ConsoleProgress
    from crosstok.progress import Reporter

    with Reporter(ConsoleProgress(lines=False)) as reporter, reporter.counted(title) as count:
        yield count
