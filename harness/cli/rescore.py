"""Command ``rescore``: score the stored answers of a run again."""

from typing import Annotated

import typer

from crosstok.folders import DEFAULT_STORE
from crosstok.harness.cli.options import RESULTS, DataOption, StoreOption, examples


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        rich_help_panel=RESULTS,
        epilog=examples("crosstok rescore", "crosstok rescore quickstart-51ab5fdf --task humaneval --timeout 20"),
    )(rescore)


def rescore(
    run_id: Annotated[str | None, typer.Argument(metavar="RUN", help="Run id. Default: the last run.")] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", "-t", help="Score only this task of the run; repeatable.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.1, max=3600, help="CPU seconds per program, instead of the limit of the suite."),
    ] = None,
    backend: Annotated[str | None, typer.Option(help="Sandbox backend, instead of that of the suite.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Programs run in parallel.")] = None,
    store: StoreOption = DEFAULT_STORE,
    data_dir: DataOption = None,
) -> None:
    """Score the stored answers of a run again, without a model: after a fix of a task, a sandbox or a time limit.

    Verdicts are replaced in place if their conditions are unchanged. If the version of the task, a limit or the set of
    documents that this host can judge has changed, the answers are copied to a new run and the old run is kept.
    """
    from crosstok.errors import RunIncomplete
    from crosstok.folders import data_folder
    from crosstok.harness.jobs.rescore import lines
    from crosstok.harness.jobs.rescore import rescore as judge_again
    from crosstok.harness.progress import ConsoleProgress
    from crosstok.results.store.records import Progress
    from crosstok.results.store.store import Store

    with Store(store) as opened:
        outcome = judge_again(
            opened,
            run_id,
            progress=ConsoleProgress(),
            tasks=task or (),
            timeout=timeout,
            backend=backend,
            workers=workers,
            data=data_folder(data_dir),
        )
    for line in lines(outcome):
        typer.echo(line)
    typer.echo(f"run {outcome.run_id}: `crosstok table {outcome.run_id}`")
    if outcome.status is not Progress.COMPLETE:
        raise RunIncomplete(
            f"Run {outcome.run_id} is {outcome.status.value}.",
            hint="`crosstok run` with its suite asks what is missing.",
        )
