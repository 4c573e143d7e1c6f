"""The commands that measure: ``run`` for a suite, ``eval`` for one model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crosstok.folders import DEFAULT_STORE
from crosstok.harness.cli.options import DataOption, StoreOption, task_option

if TYPE_CHECKING:
    from crosstok.harness.plan.suite import Suite

PageOption = Annotated[bool, typer.Option(help="Write the page of the run beside the store.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(run)
    app.command("eval")(evaluate)


def run(
    suite: Annotated[Path, typer.Argument(help="A suite file; see suites/.")],
    store: StoreOption = DEFAULT_STORE,
    data_dir: DataOption = None,
    page: PageOption = True,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show what would be made and measured, what is there already, and how long it may take.",
        ),
    ] = False,
) -> None:
    """Make the models of a suite, measure them, print the table. Starting it again continues it."""
    from crosstok.harness.plan.suite import read_suite

    if dry_run:
        _show_forecast(read_suite(suite), store, data_dir)
        return
    _run_and_show(read_suite(suite), store, data_dir, page=page)


def evaluate(
    source: Annotated[
        str, typer.Argument(help="A folder, hub:owner/name@revision, gguf:path, wheel:NAME or server:URL#MODEL.")
    ],
    task: Annotated[
        list[str], typer.Option("--task", "-t", help="NAME or NAME:option=value,option=value. Repeat for several.")
    ],
    prompt: Annotated[str, typer.Option(help="raw or chat.")] = "raw",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    check_batch: Annotated[
        int | None,
        typer.Option(
            metavar="ROWS",
            help="Measure nothing: answer the prompts one at a time and ROWS at a time, greedily, and report what "
            "differs. In float32 nothing should; in bfloat16 near ties turn.",
        ),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    data_dir: DataOption = None,
    page: PageOption = True,
) -> None:
    """Measure one model on some tasks."""
    from crosstok.harness.measure.engines import name_of_source
    from crosstok.harness.plan.suite import check_suite

    content = {
        "name": "eval",
        "models": {name_of_source(source): {"source": source}},
        "tasks": [task_option(text) for text in task],
        "prompt": prompt,
        "dtype": dtype,
    }
    suite = check_suite(content, "the command line")
    if check_batch is None:
        _run_and_show(suite, store, data_dir, page=page)
    else:
        _show_batch_reports(suite, check_batch, data_dir)


def _run_and_show(suite: "Suite", store: str, data_dir: Path | None, *, page: bool) -> None:
    from crosstok.folders import data_folder
    from crosstok.harness.jobs.run import require_complete, run_suite
    from crosstok.harness.progress import ConsoleProgress
    from crosstok.results.store.store import Store
    from crosstok.results.tables.frame import comparison_frame, render
    from crosstok.results.web.page import write_page

    with Store(store) as opened:
        outcome = run_suite(suite, opened, progress=ConsoleProgress(), data=data_folder(data_dir))
        typer.echo(render(comparison_frame(opened, outcome.run_id)))
        typer.echo(f"\nRun {outcome.run_id}: {outcome.status.value} in {outcome.seconds:.0f} s, kept in {store}")
        if page:
            folder = Path("runs") if "://" in store else Path(store).parent
            typer.echo(f"Page: {write_page(opened, outcome.run_id, folder / outcome.run_id / 'index.html')}")
    require_complete(outcome)


def _show_forecast(suite: "Suite", store: str, data_dir: Path | None) -> None:
    from contextlib import ExitStack

    from crosstok.folders import data_folder
    from crosstok.harness.jobs.dry_run import forecast
    from crosstok.results.store.store import Store

    with ExitStack() as opened:
        exists = "://" in store or Path(store).exists()
        known = opened.enter_context(Store(store, read_only=True)) if exists else None
        typer.echo(str(forecast(suite, known, data=data_folder(data_dir))))


def _show_batch_reports(suite: "Suite", rows: int, data_dir: Path | None) -> None:
    from crosstok.folders import data_folder
    from crosstok.harness.jobs.batch_check import batch_reports
    from crosstok.harness.progress import ConsoleProgress

    for title, report in batch_reports(suite, rows, progress=ConsoleProgress(), data=data_folder(data_dir)):
        typer.echo(f"{title}: {report}")
