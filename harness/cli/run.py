"""Commands that evaluate: ``run`` for a suite, ``eval`` for one model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crosstok.folders import DEFAULT_STORE
from crosstok.harness.cli.options import EVALUATE, DataOption, StoreOption, examples, task_option

if TYPE_CHECKING:
    from crosstok.harness.plan.suite import Suite

PageOption = Annotated[bool, typer.Option(help="Write a web page of the run next to the store.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(
        rich_help_panel=EVALUATE,
        epilog=examples(
            "crosstok run suites/quickstart.yaml",
            "crosstok run suites/quickstart.yaml --dry-run",
            "crosstok run mine.yaml --store postgresql+psycopg://host/results",
        ),
    )(run)
    app.command(
        "eval",
        rich_help_panel=EVALUATE,
        epilog=examples(
            "crosstok eval wheel:smollm2-135m-instruct -t humaneval:limit=20",
            "crosstok eval hub:owner/name@main -t gsm8k -t text_bpb:source=stdlib --prompt chat --dtype bfloat16",
        ),
    )(evaluate)


def run(
    suite: Annotated[Path, typer.Argument(help="Suite file; suites/ has examples.")],
    store: StoreOption = DEFAULT_STORE,
    data_dir: DataOption = None,
    page: PageOption = True,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only show what the run would make and evaluate, what is stored already, and the estimated time.",
        ),
    ] = False,
) -> None:
    """Make the models of a suite, evaluate them and print the table.

    Run the same command again to continue an interrupted run: finished work is not repeated.
    """
    from crosstok.harness.plan.suite import read_suite

    if dry_run:
        _show_forecast(read_suite(suite), store, data_dir)
        return
    _run_and_show(read_suite(suite), store, data_dir, page=page)


def evaluate(
    source: Annotated[
        str, typer.Argument(help="Model: folder, hub:owner/name@revision, gguf:path, wheel:NAME or server:URL#MODEL.")
    ],
    task: Annotated[
        list[str],
        typer.Option("--task", "-t", help="NAME or NAME:option=value,option=value; repeatable. See `tasks ls`."),
    ],
    prompt: Annotated[str, typer.Option(help="Prompt style: raw or chat.")] = "raw",
    dtype: Annotated[str, typer.Option(help="Data type of the weights: float32, bfloat16 or float16.")] = "float32",
    check_batch: Annotated[
        int | None,
        typer.Option(
            metavar="ROWS",
            help="Instead of evaluating, compare greedy answers at batch size 1 and at batch size ROWS. They agree in "
            "float32; in bfloat16, rounding can flip near ties.",
        ),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    data_dir: DataOption = None,
    page: PageOption = True,
) -> None:
    """Evaluate one model on one or more tasks."""
    from crosstok.harness.plan.suite import check_suite
    from crosstok.model_source import ModelSource

    content = {
        "name": "eval",
        "models": {ModelSource.parse(source).name: {"source": source}},
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
