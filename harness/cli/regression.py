"""The commands that measure something new and judge it at once: ``watch`` for checkpoints, ``regress`` for methods.

Exit codes are those of the gate: 0 ok, 1 regression, 2 usage, 3 something is not measured, 130 interrupted.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crosstok.errors import UserError
from crosstok.folders import DEFAULT_STORE
from crosstok.harness.cli.options import DataOption, StoreOption, pair

if TYPE_CHECKING:
    from crosstok.harness.jobs.watch import Judged
    from crosstok.results.gate import Rule

SuiteOption = Annotated[Path, typer.Option("--suite", "-s", help="A suite file; see suites/.")]
FailIfOption = Annotated[
    list[str] | None, typer.Option(help="A rule of the gate, as 'humaneval < -1.0pp & p<0.05'. Repeat for several.")
]
RulesOption = Annotated[Path | None, typer.Option(help="YAML file with the rules under `fail_if`.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (watch, regress):
        app.command()(command)


def watch(
    folder: Annotated[Path, typer.Argument(help="Folder into which checkpoints are written, a folder each.")],
    suite: SuiteOption,
    against: Annotated[
        str, typer.Option(help="best (of the earlier checkpoints) or baseline (of the suite).")
    ] = "best",
    fail_if: FailIfOption = None,
    rules: RulesOption = None,
    marker: Annotated[
        str | None, typer.Option(help="File that the trainer writes last; without it, folders have to settle.")
    ] = None,
    settle: Annotated[float, typer.Option(min=0.0, help="Seconds without a change before a folder counts.")] = 30.0,
    every: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks.")] = 10.0,
    idle: Annotated[float | None, typer.Option(help="End after so many seconds without anything new.")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="End with code 1 at the first regression.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the curve; default: beside the store.")] = None,
    store: StoreOption = DEFAULT_STORE,
    data_dir: DataOption = None,
) -> None:
    """Measure and judge every new checkpoint of a folder as soon as it is completely written."""
    from crosstok.folders import data_folder
    from crosstok.harness.jobs.watch import Watch, open_watch
    from crosstok.harness.plan.suite import read_suite
    from crosstok.harness.progress import ConsoleProgress
    from crosstok.results.store.store import Store

    if against not in ("best", "baseline"):
        raise UserError(f"{against!r} is nothing to compare with.", hint="Write --against best or --against baseline.")
    read = read_suite(suite)
    arrivals = open_watch(folder, settle=settle, marker=marker)
    beside = Path("runs") if "://" in store else Path(store).parent
    target = out or beside / f"{read.name}-watch"
    worst = 0
    with Store(store) as opened:
        watching = Watch(
            arrivals, read, opened, target, ConsoleProgress(), data_folder(data_dir), against,
            _rules(fail_if, rules), typer.echo,
        )  # fmt: skip
        for judged in watching.follow(every=every, idle=idle):
            typer.echo(_said(judged))
            code = judged.report.exit_code if judged.report else 3 if judged.problem else 0
            worst = 1 if 1 in (worst, code) else max(worst, code)
            if stop and code == 1:
                break
    typer.echo(f"Curve: {target / 'index.html'}")
    raise typer.Exit(worst)


def _said(judged: "Judged") -> str:
    if judged.report:
        return judged.report.text()
    return f"{judged.name}: {judged.problem or 'measured; there is nothing to compare it with yet'}"


def regress(
    method: Annotated[str, typer.Option(help="Loss or initialiser: module:Class, or the name of a plug-in.")],
    suite: SuiteOption,
    option: Annotated[list[str] | None, typer.Option("--set", help="An option of the method: key=value.")] = None,
    like: Annotated[str | None, typer.Option(help="Student whose recipe it gets; default: the last trained.")] = None,
    against: Annotated[
        str | None, typer.Option(help="Model to judge it by; default: the best trained student of each task.")
    ] = None,
    fail_if: FailIfOption = None,
    rules: RulesOption = None,
    store: StoreOption = DEFAULT_STORE,
    data_dir: DataOption = None,
) -> None:
    """Train and measure a new method beside the recorded ones, print the table, and fail where it is worse."""
    from crosstok.folders import data_folder
    from crosstok.harness.jobs.try_method import try_method
    from crosstok.harness.plan.suite import read_suite
    from crosstok.harness.progress import ConsoleProgress
    from crosstok.results.store.store import Store
    from crosstok.results.tables.frame import comparison_frame, render

    options = dict(pair(text) for text in option or ())
    with Store(store) as opened:
        trial = try_method(
            read_suite(suite), opened, method, options=options, like=like, against=against,
            rules=_rules(fail_if, rules), progress=ConsoleProgress(), data=data_folder(data_dir),
        )  # fmt: skip
        typer.echo(render(comparison_frame(opened, trial.outcome.run_id)))
    typer.echo(trial.report.text())
    raise typer.Exit(trial.report.exit_code)


def _rules(texts: list[str] | None, path: Path | None) -> "tuple[Rule, ...]":
    from crosstok.results.gate import Rule, read_rules

    return (*(read_rules(path) if path else ()), *(Rule.parse(text) for text in texts or ()))
