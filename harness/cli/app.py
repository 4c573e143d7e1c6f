"""Command line of crosstok: the root command, ``doctor`` and ``lm-eval``; every other group has a file of its own.

A command checks its arguments, calls one function and prints the result. It imports what it needs when it is called, so
that ``--help`` takes less than 0.3 seconds.

Exit codes: 0 success, 1 regression found, 2 invalid input, 3 incomplete run, 130 interrupted, 143 stopped by SIGTERM.
"""

import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from crosstok.errors import CrosstokError
from crosstok.harness.cli import (
    data,
    inspect,
    methods,
    models,
    regression,
    rescore,
    results,
    run,
    sandbox,
    students,
    suites,
    tasks,
)
from crosstok.harness.cli.options import EVALUATE, MACHINE, DataOption, examples

INTERRUPTED = 130
"""Exit code that typer gives a KeyboardInterrupt."""
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make, evaluate and compare tokenizer-transferred language models.",
    epilog="Start with: crosstok run suites/quickstart.yaml\n\n"
    "Exit codes: 0 success, 1 regression found, 2 invalid input, 3 incomplete run, 130 interrupted.",
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", envvar="CROSSTOK_DEBUG", help="Show tracebacks of errors.")] = False,
) -> None:
    if debug:
        os.environ["CROSSTOK_DEBUG"] = "1"
    if version:
        from crosstok.version import __version__

        typer.echo(f"crosstok {__version__}")
        raise typer.Exit


for group in (run, suites, students, inspect, results, rescore, regression, sandbox, tasks, methods, data, models):
    group.register(app)


@app.command(
    "lm-eval",
    rich_help_panel=EVALUATE,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def lm_eval(arguments: typer.Context) -> None:
    """Run the command of lm-eval with `crosstok` among its models: --model crosstok --model_args source=SOURCE."""
    from crosstok.harness.lm_eval.model import lm_eval_command

    lm_eval_command(arguments.args)


@app.command(rich_help_panel=MACHINE, epilog=examples("crosstok doctor", "crosstok doctor --network"))
def doctor(
    network: Annotated[
        bool, typer.Option("--network", help="Also try to reach the model hub and the package index.")
    ] = False,
    data_dir: DataOption = None,
) -> None:
    """Show what this machine offers: processor, memory, accelerator, sandboxes and folders."""
    from crosstok.harness.runtime.environment import findings

    for finding in findings(data=data_dir, network=network):
        mark = {True: "ok", False: "no", None: "--"}[finding.ok]
        hint = f"  ({finding.hint})" if finding.hint and finding.ok is False else ""
        typer.echo(f"{mark:>2}  {finding.subject:<20} {finding.fact}{hint}")


def main() -> None:
    """Run the command line: one line for errors that a user can fix, a traceback only for defects of crosstok.

    SIGTERM stops a command as Ctrl-C does: background jobs of a script ignore SIGINT, and ``kill`` must stop them.
    """
    terminated = False

    def terminate(_number: int, _frame: FrameType | None) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    try:
        app()
    except CrosstokError as error:
        if os.environ.get("CROSSTOK_DEBUG") == "1":
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except SystemExit as ended:
        if ended.code != INTERRUPTED:
            raise
        typer.echo("interrupted; the same command continues", err=True)
        sys.exit(128 + signal.SIGTERM if terminated else INTERRUPTED)


if __name__ == "__main__":
    main()
