"""The command ``inspect``: what became of the new tokens of a model, as a page and as data."""

from pathlib import Path
from typing import Annotated

import typer

from crosstok.harness.cli.options import DataOption


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(inspect)


def inspect(
    model: Annotated[str, typer.Argument(help="An expanded or transferred model: a folder, hub:… or wheel:NAME.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for page and data. Default: runs/inspect-NAME.", show_default=False)
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="The model to compare with. Default: the one that it was made from.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="New tokens looked at one by one, evenly spaced.")] = 400,
    traces: Annotated[int, typer.Option(min=0, help="Tokens traced across layers, the most frequent ones.")] = 6,
    token: Annotated[
        list[str] | None, typer.Option("--token", "-t", help="Trace this new token too, by its text. Repeat.")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="Text that traced tokens stand in. Default: what the model was trained on.")
    ] = None,
    data_dir: DataOption = None,
) -> None:
    """Look at new tokens: norms, neighbours, ranks, how their rows moved, what layers make of them.

    Writes index.html (plots, every number explained) with inspection.json and CSV tables beside it.
    """
    from crosstok.distill.inspection import inspect as look
    from crosstok.folders import data_folder
    from crosstok.harness.inspection.page import summary, write_inspection
    from crosstok.harness.measure.engines import name_of_source
    from crosstok.harness.progress import ConsoleProgress
    from crosstok.progress import Reporter

    with Reporter(ConsoleProgress()) as reporter, reporter.stage("inspect, %", 100.0, 30.0) as advance:
        found = look(
            model,
            against,
            count=count,
            traces=traces,
            tokens=token or (),
            corpus=corpus,
            data=data_folder(data_dir),
            progress=lambda share, state: advance(100 * share, state),
        )
    page = write_inspection(found, out or Path("runs") / f"inspect-{name_of_source(model)}")
    for line in summary(found):
        typer.echo(line)
    typer.echo(f"\nPage: {page}")
