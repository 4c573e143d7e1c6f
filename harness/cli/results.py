"""The commands that read the store: tables, comparisons, the gate, the leaderboard, integrity and interchange.

Plain functions, registered by :func:`register`. Whatever they need is imported inside them, so that ``--help`` stays
under 0.3 seconds and a table loads no torch. A mistake is one line and exit code 2; only ``gate`` knows other codes.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crosstok.errors import UserError, unknown_name
from crosstok.folders import DEFAULT_STORE
from crosstok.harness.cli.options import DataOption, StoreOption

if TYPE_CHECKING:
    from crosstok.results.compare.contrast import Side
    from crosstok.results.store.records import Run
    from crosstok.results.store.store import Store

FormatOption = Annotated[str, typer.Option("--format", "-f", help="md, csv, latex, html or json.")]


def register(app: typer.Typer) -> None:
    """Add the reading commands to the command line."""
    for command in (table, compare, gate, leaderboard):
        app.command()(command)
    store_app = typer.Typer(no_args_is_help=True, help="The store itself: integrity and interchange.")
    store_app.command("check")(store_check)
    store_app.command("forget")(store_forget)
    store_app.command("import")(store_import)
    store_app.command("export")(store_export)
    app.add_typer(store_app, name="store")


def table(
    run_id: Annotated[str | None, typer.Argument(metavar="RUN", help="A run id; default: the last run.")] = None,
    output: FormatOption = "md",
    seeds: Annotated[bool, typer.Option("--seeds", help="One row per method: all seeds of it together.")] = False,
    facts: Annotated[bool, typer.Option("--facts", help="Add what tokenizers did to the texts of each task.")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Print the table of a run, from the store alone."""
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
        str | None, typer.Option("--run", help="The run of names without RUN/; default: the last.")
    ] = None,
    flips: Annotated[bool, typer.Option("--flips", help="List the documents on which a pass changed.")] = False,
    output: FormatOption = "md",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Compare models with a baseline, the first one named, on the documents that both answered."""
    from crosstok.results.compare.contrast import contrast, side
    from crosstok.results.compare.flips import flips as changed
    from crosstok.results.compare.flips import flips_text
    from crosstok.results.store.store import Store
    from crosstok.results.tables.contrast_table import contrast_frame, contrast_layout
    from crosstok.results.tables.formats import render_layout
    from crosstok.results.tables.frame import records_json

    _check_format(output)
    if len(models) < 2:
        raise UserError("A comparison needs a baseline and at least one other model.", hint="crosstok compare A B")
    if flips and output != "md":
        raise UserError("--flips is a listing for people.", hint="Leave out --format.")
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
        typer.Argument(metavar="CHECKPOINT_OR_RUN", help="RUN, RUN/MODEL, or a model to measure now: folder, hub:…"),
    ],
    baseline: Annotated[str, typer.Option(help="RUN or RUN/MODEL to compare with.")],
    fail_if: Annotated[
        list[str] | None, typer.Option(help="A rule, as 'humaneval.pass@1 < -1.0pp & p<0.05'. Repeat for several.")
    ] = None,
    rules: Annotated[Path | None, typer.Option(help="YAML file with the rules under `fail_if`.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML there.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    summary: Annotated[bool, typer.Option("--summary", help="Append Markdown to $GITHUB_STEP_SUMMARY.")] = False,
    store: StoreOption = DEFAULT_STORE,
    data_dir: DataOption = None,
) -> None:
    """Fail where a model is worse than its baseline: 0 ok, 1 regression, 2 usage, 3 something is not measured.

    Without rules, any significant loss fails; bits per byte must also have risen by one percent.
    """
    from crosstok.results.gate import Rule, read_rules
    from crosstok.results.gate import gate as judge
    from crosstok.results.store.store import Store

    parsed = [*(read_rules(rules) if rules else []), *(Rule.parse(text) for text in fail_if or ())]
    summary_file = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary and not summary_file:
        raise UserError("--summary needs the variable GITHUB_STEP_SUMMARY.", hint="Use --junit or --json elsewhere.")
    source = _is_source(candidate)
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
    out: Annotated[Path, typer.Option(help="Folder to write; an older leaderboard there is replaced.")],
    run_id: Annotated[list[str] | None, typer.Option("--run", help="Only this run; repeat for several.")] = None,
    baseline: Annotated[str | None, typer.Option(help="Model to compare with; default: first of the last run.")] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write all results as a folder of web pages that opens from disk, without a server."""
    from crosstok.folders import cache_folder
    from crosstok.harness.progress import ConsoleProgress
    from crosstok.progress import Reporter
    from crosstok.results.store.store import Store
    from crosstok.results.web.leaderboard import write_leaderboard

    with (
        Store(store, read_only=True) as opened,
        Reporter(ConsoleProgress()) as reporter,
        reporter.counted("write pages") as tell,
    ):
        index = write_leaderboard(
            opened, out, runs=run_id or (), baseline=baseline, students=cache_folder() / "students",
            tell=tell,
        )  # fmt: skip
    typer.echo(str(index))


def store_check(store: StoreOption = DEFAULT_STORE) -> None:
    """Look for missing, duplicate, orphaned and altered records: 0 all well, 3 something found, with its cure."""
    from crosstok.results.store.integrity import check
    from crosstok.results.store.store import Store

    with Store(store, read_only=True) as opened:
        found = check(opened)
        for finding in found:
            typer.echo(str(finding))
        if not found:
            typer.echo(f"{opened.name}: all records are there and as they were written.")
    raise typer.Exit(3 if found else 0)


def store_forget(
    cell: Annotated[str, typer.Argument(help="Fingerprint of a cell, as `crosstok store check` shows it.")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Remove the answers of one cell, so that `crosstok run` measures it again."""
    from crosstok.results.store.store import Store

    with Store(store, read_only=True) as opened:  # a misspelt path must not make a new store
        opened.latest_run()
    with Store(store) as opened:
        if not opened.forget(cell):
            raise UserError(f"The store has nothing of a cell {cell!r}.", hint="`crosstok store check` names cells.")
    typer.echo(f"{cell} is set aside.")


def store_import(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="lm-eval, human-eval, evalplus or parquet.")],
    path: Annotated[Path, typer.Argument(help="results_….json, a samples file, or a folder of Parquet files.")],
    name: Annotated[str | None, typer.Option(help="Name of the model in tables; default: of the file.")] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Take in results of another harness as a run, or another store."""
    from crosstok.results.exchange.interchange import import_lm_eval, import_samples
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
    path: Annotated[Path, typer.Argument(help="File to write; a new folder for parquet.")],
    model: Annotated[str | None, typer.Option(help="RUN/MODEL; not for parquet, which takes the whole store.")] = None,
    task: Annotated[str, typer.Option(help="Task whose answers are written, for human-eval.")] = "humaneval",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write results for another harness, or the whole store as Parquet files."""
    import json

    from crosstok.results.exchange.interchange import human_eval_lines, lm_eval_results
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


def _is_source(name: str) -> bool:
    """Return whether ``name`` is a model to be measured rather than a run of the store."""
    return name.partition(":")[0] in ("hub", "gguf", "wheel") or Path(name).is_dir()


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
        raise UserError(f"Run {run.id} measured nothing.", hint="`crosstok run` continues it.")
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
