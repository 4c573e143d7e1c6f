"""Commands that evaluate something new and test it for regressions: ``watch`` checkpoints, ``regress`` methods.

Exit codes are those of ``gate``: 0 no regression, 1 regression, 2 invalid input, 3 incomplete, 130 interrupted.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crosstok.errors import UserError
from crosstok.folders import DEFAULT_STORE
from crosstok.harness.cli.options import RESULTS, DataOption, StoreOption, examples
from crosstok.option_text import parse_named, parse_option

if TYPE_CHECKING:
    from crosstok.harness.jobs.watch import Judged
    from crosstok.results.gate import Rule

SuiteOption = Annotated[Path, typer.Option("--suite", "-s", help="Suite file; suites/ has examples.")]
FailIfOption = Annotated[
    list[str] | None, typer.Option(help="Rule of the gate, as 'humaneval < -1.0pp & p<0.05'; repeatable.")
]
RulesOption = Annotated[Path | None, typer.Option(help="YAML file with rules under the key `fail_if`.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(
        rich_help_panel=RESULTS,
        epilog=examples(
            "crosstok watch checkpoints --suite suites/transfer-ci.yaml",
            "crosstok watch checkpoints -s ci.yaml --against baseline --fail-if 'humaneval < -1.0pp & p<0.05' --stop",
        ),
    )(watch)
    app.command(
        rich_help_panel=RESULTS,
        epilog=examples(
            "crosstok regress --method mine:AbsoluteGap --suite suites/transfer-ci.yaml",
            "crosstok regress --method mine:AbsoluteGap -s ci.yaml --set scale=2 --like alm --against alm",
        ),
    )(regress)


def watch(
    folder: Annotated[Path, typer.Argument(help="Folder that the trainer writes checkpoints to, one subfolder each.")],
    suite: SuiteOption,
    against: Annotated[
        str, typer.Option(help="Reference: best (earlier checkpoint) or baseline (first model of the suite).")
    ] = "best",
    fail_if: FailIfOption = None,
    rules: RulesOption = None,
    marker: Annotated[
        str | None, typer.Option(help="File that the trainer writes last to a checkpoint; replaces --settle.")
    ] = None,
    settle: Annotated[
        float, typer.Option(min=0.0, help="Seconds without a change until a checkpoint counts as complete.")
    ] = 30.0,
    every: Annotated[float, typer.Option(min=0.05, help="Polling interval in seconds.")] = 10.0,
    idle: Annotated[float | None, typer.Option(help="Exit after this many seconds without a new checkpoint.")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Exit with code 1 at the first regression.")] = False,
    out: Annotated[Path | None, typer.Option(help="Output folder of the curve. Default: next to the store.")] = None,
    store: StoreOption = DEFAULT_STORE,
    data_dir: DataOption = None,
) -> None:
    """Evaluate every new checkpoint of a folder once it is complete, and test it for regressions."""
    from crosstok.folders import data_folder
    from crosstok.harness.jobs.watch import Watch, open_checkpoint_folder
    from crosstok.harness.plan.suite import read_suite
    from crosstok.harness.progress import ConsoleProgress
    from crosstok.results.store.store import Store

    if against not in ("best", "baseline"):
        raise UserError(f"Unknown reference {against!r}.", hint="Write --against best or --against baseline.")
    read = read_suite(suite)
    checkpoints = open_checkpoint_folder(folder, settle=settle, marker=marker)
    beside = Path("runs") if "://" in store else Path(store).parent
    target = out or beside / f"{read.name}-watch"
    worst = 0
    with Store(store) as opened:
        watching = Watch(
            checkpoints, read, opened, target, ConsoleProgress(), data_folder(data_dir), against,
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
    return f"{judged.name}: {judged.problem or 'evaluated; no earlier checkpoint to compare with'}"


def regress(
    method: Annotated[
        str, typer.Option(help="Loss or initialiser: NAME or NAME:option=value,…; NAME may be module:Class.")
    ],
    suite: SuiteOption,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="Option of the method as key=value; repeatable.")
    ] = None,
    like: Annotated[
        str | None, typer.Option(help="Student whose recipe is used. Default: the last trained one.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Model to compare with. Default: the best trained student on each task.")
    ] = None,
    fail_if: FailIfOption = None,
    rules: RulesOption = None,
    store: StoreOption = DEFAULT_STORE,
    data_dir: DataOption = None,
) -> None:
    """Train and evaluate a student with a new method, and fail if it is worse than the recorded students."""
    from crosstok.folders import data_folder
    from crosstok.harness.jobs.try_method import try_method
    from crosstok.harness.plan.suite import read_suite
    from crosstok.harness.progress import ConsoleProgress
    from crosstok.results.store.store import Store
    from crosstok.results.tables.frame import comparison_frame, render

    name, given = parse_named(method)
    options = given | dict(parse_option(text) for text in option or ())
    with Store(store) as opened:
        trial = try_method(
            read_suite(suite), opened, name, options=options, like=like, against=against,
            rules=_rules(fail_if, rules), progress=ConsoleProgress(), data=data_folder(data_dir),
        )  # fmt: skip
        typer.echo(render(comparison_frame(opened, trial.outcome.run_id)))
    typer.echo(trial.report.text())
    raise typer.Exit(trial.report.exit_code)


def _rules(texts: list[str] | None, path: Path | None) -> "tuple[Rule, ...]":
    from crosstok.results.gate import Rule, read_rules

    return (*(read_rules(path) if path else ()), *(Rule.parse(text) for text in texts or ()))
