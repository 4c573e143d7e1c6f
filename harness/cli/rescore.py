"""The command ``rescore``: judge the stored answers of a run again."""

from typing import Annotated

import typer

from crosstok.folders import DEFAULT_STORE
from crosstok.harness.cli.options import DataOption, StoreOption


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(rescore)


def rescore(
    run_id: Annotated[str | None, typer.Argument(metavar="RUN", help="A run id; default: the last run.")] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", "-t", help="Only this task of the run. Repeat for several.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, max=3600, help="CPU seconds of each program, instead of the suite's limit.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="Sandbox, instead of the suite's.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Programs at a time.")] = None,
    store: StoreOption = DEFAULT_STORE,
    data_dir: DataOption = None,
) -> None:
    """Judge the stored answers of a run again, without asking a model: after a repaired rule, sandbox or limit.

    Verdicts are replaced where nothing else has changed. Where a task's version, a limit or what this host can judge
    has, the answers go into a new run and the old one stays as it is.
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
