"""``crosstok tasks``: list benchmarks, show their prompts, and check their published solutions on this host."""

from typing import TYPE_CHECKING, Annotated

import typer

from crosstok.errors import UserError, unknown_name
from crosstok.harness.cli.options import MACHINE, DataOption, examples, task_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crosstok.harness.plan.references import References
    from crosstok.tasks.task import Request

SHOWN_REASONS = 30  # excluded documents listed per set, unless --all


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    commands = typer.Typer(no_args_is_help=True, help="List, show and check benchmarks.")
    commands.command("ls", epilog=examples("crosstok tasks ls"))(list_tasks)
    commands.command(
        "check", epilog=examples("crosstok tasks check humaneval mbpp", "crosstok tasks check code2k --all")
    )(check_tasks)
    commands.command(
        "show",
        epilog=examples(
            "crosstok tasks show humaneval",
            "crosstok tasks show humaneval HumanEval/3 --prompt chat",
            "crosstok tasks show text_bpb:source=docstrings",
        ),
    )(show_task)
    app.add_typer(commands, name="tasks", rich_help_panel=MACHINE)


def list_tasks() -> None:
    """List benchmarks and collections of benchmarks."""
    from crosstok.tasks.collections import COLLECTIONS
    from crosstok.tasks.registry import task_names

    for name, about in sorted(task_names().items()):
        typer.echo(f"{name:<20} {about}")
    typer.echo("\nCollections (each stands for all of its benchmarks):")
    for name, (about, _) in sorted(COLLECTIONS.items()):
        typer.echo(f"{name:<20} {about}")


def check_tasks(
    names: Annotated[list[str], typer.Argument(metavar="TASK...", help="Code benchmarks or collections.")],
    data_dir: DataOption = None,
    backend: Annotated[str, typer.Option(help="Sandbox backend: auto, bubblewrap, namespaces or docker.")] = "auto",
    workers: Annotated[int, typer.Option(help="Programs run in parallel.")] = 2,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore the cached findings of an earlier check.")] = False,
    every: Annotated[bool, typer.Option("--all", help="List every excluded document.")] = False,
) -> None:
    """Run the published solutions of code benchmarks in the sandbox and list those that fail on this host.

    Documents whose solution fails are excluded from scores: here they could only count against models.
    """
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
            raise UserError(f"The task {name!r} has no programs to run.", hint="`tasks check` takes code benchmarks.")
        task.documents()  # report missing data before any work
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
            typer.echo(f"{task.name}: {len(others)} documents differ from the published list: {shown}")
    for references in found:
        reasons = sorted(references.calibration.excluded.items())
        for document, reason in reasons if every else reasons[:SHOWN_REASONS]:
            typer.echo(f"excluded  {document}: {reason[:200]}")
        if len(reasons) > SHOWN_REASONS and not every:
            typer.echo(f"excluded  {len(reasons) - SHOWN_REASONS} more of {references.task} (--all lists them)")
    _require_sound(found)


def show_task(
    name: Annotated[str, typer.Argument(help="NAME or NAME:option=value,option=value; see `tasks ls`.")],
    document_id: Annotated[
        str | None, typer.Argument(metavar="DOCUMENT", help="Document id. Default: the first document.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="Prompt style: raw or chat.")] = "raw",
    data_dir: DataOption = None,
) -> None:
    """Show what a benchmark asks of a model for one document, and the source of its documents."""
    from crosstok.folders import data_folder
    from crosstok.tasks.registry import build_task

    if prompt not in ("raw", "chat"):
        raise unknown_name("prompt style", prompt, ("raw", "chat"))
    entry = task_option(name)
    label = entry.pop("name")
    task = build_task(entry.pop("task", label), entry, name=label, data=data_folder(data_dir))
    documents = {document.id: document for document in task.documents()}
    if document_id is not None and document_id not in documents:
        raise unknown_name(f"document of {label}", document_id, documents)
    document = documents[document_id] if document_id else next(iter(documents.values()))
    source = task.source()
    typer.echo(f"{label}: {task.available()} documents from {source.kind} {source.location} {source.revision}".rstrip())
    typer.echo(f"fingerprint {task.fingerprint()}, sha256 {source.sha256[:16]}, document {document.id}\n")
    for request in task.requests(document, "raw" if prompt == "raw" else "chat"):
        typer.echo("\n".join(_shown(request)))


def _shown(request: "Request") -> "Iterator[str]":
    """Yield the lines that show what a request asks of a model."""
    from crosstok.tasks.task import Generate, Rolling

    if isinstance(request, Generate):
        for turn in request.messages or ({"role": "prompt", "content": request.prompt},):
            yield f"--- {turn['role']}\n{turn['content']}"
        yield f"--- stops {list(request.stops)}, at most {request.max_bytes} bytes"
    elif isinstance(request, Rolling):
        yield f"--- text\n{request.text}"
    else:
        yield f"--- context\n{request.context}"
        for continuation in request.continuations:
            yield f"--- continuation {continuation!r}"


def _line(found: "References") -> str:
    share = found.passed / found.documents
    guarded = len(found.calibration.guarded)
    controls = f"{found.controls - len(found.unruly)}/{found.controls}" if found.controls else "-"
    return (
        f"{found.task:<20} {found.documents:>5} {found.passed:>5} {share:>7.1%} {found.passed - guarded:>6} "
        f"{guarded:>8} {controls:>9} {found.seconds:>6.1f}"
    )


def _require_sound(found: "list[References]") -> None:
    """Raise ``UserError`` if no document can be judged, or if a program published as wrong passed."""
    from crosstok.harness.plan.references import require_some

    for references in found:
        require_some(references)
        if references.unruly:
            raise UserError(f"Programs published as wrong pass in {references.task}: {', '.join(references.unruly)}.")
