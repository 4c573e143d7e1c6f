"""Command ``inspect``: a report on the new tokens of a model, as a web page and as data."""

from pathlib import Path
from typing import Annotated

import typer

from crosstok.harness.cli.options import MAKE, DataOption, examples


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        rich_help_panel=MAKE,
        epilog=examples(
            "crosstok inspect students/more", "crosstok inspect students/more --token ' return' --out report"
        ),
    )(inspect)


def inspect(
    model: Annotated[str, typer.Argument(help="Expanded or transferred model: folder, hub:owner/name or wheel:NAME.")],
    out: Annotated[
        Path | None, typer.Option(help="Output folder. Default: runs/inspect-NAME.", show_default=False)
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Model to compare with. Default: the one it was made from.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="New tokens analysed individually, evenly spaced over all.")] = 400,
    traces: Annotated[int, typer.Option(min=0, help="Number of most frequent new tokens traced across layers.")] = 6,
    token: Annotated[
        list[str] | None, typer.Option("--token", "-t", help="Text of another new token to trace; repeatable.")
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(help="Text with occurrences of the traced tokens. Default: the training text of the model."),
    ] = None,
    data_dir: DataOption = None,
) -> None:
    """Report on the new tokens of a model: norms, neighbours, effective ranks, training trajectories, layer traces.

    Writes index.html, with plots and an explanation of every number, inspection.json and CSV tables.
    """
    from crosstok.distill.inspection import inspect as look
    from crosstok.folders import data_folder
    from crosstok.harness.inspection.page import summary, write_inspection
    from crosstok.harness.progress import ConsoleProgress
    from crosstok.model_source import ModelSource
    from crosstok.progress import Reporter

    name = ModelSource.parse(model).name
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
    page = write_inspection(found, out or Path("runs") / f"inspect-{name}")
    for line in summary(found):
        typer.echo(line)
    typer.echo(f"\nPage: {page}")
