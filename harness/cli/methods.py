"""``crosstok methods``: losses, initialisers and recipes with their options."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crosstok.harness.cli.options import MACHINE, examples

if TYPE_CHECKING:
    from crosstok.distill.method_reference import MethodReference, OptionReference

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
_HEADINGS = {"loss": "Losses", "initialiser": "Initialisers", "recipe": "Recipes"}


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    commands = typer.Typer(no_args_is_help=True, help="List losses, initialisers and recipes with their options.")
    commands.command("ls", epilog=examples("crosstok methods ls"))(list_methods)
    commands.command("show", epilog=examples("crosstok methods show alm", "crosstok methods show transfer --json"))(
        show_method
    )
    app.add_typer(commands, name="methods", rich_help_panel=MACHINE)


def list_methods(json_output: JsonOption = False) -> None:
    """List losses, initialisers and recipes, including those of installed plug-ins."""
    from crosstok.distill.method_reference import method_references

    found = list(method_references())
    if json_output:
        typer.echo(json.dumps([asdict(one) for one in found], indent=2, ensure_ascii=False))
        return
    for kind, heading in _HEADINGS.items():
        typer.echo(f"{heading}:")
        for one in found:
            if one.kind == kind:
                origin = "" if one.built_in else " (plug-in)"
                typer.echo(f"  {one.name:<20} {one.about}{origin}")
        typer.echo()
    typer.echo("`crosstok methods show NAME` shows the options of one.")


def show_method(
    name: Annotated[str, typer.Argument(help="Name from `methods ls`, or module:Class.")],
    json_output: JsonOption = False,
) -> None:
    """Show what a loss, initialiser or recipe computes, what it needs, and its options."""
    from crosstok.distill.method_reference import method_reference

    found = method_reference(name)
    typer.echo(json.dumps(asdict(found), indent=2, ensure_ascii=False) if json_output else _text(found))


def _text(found: "MethodReference") -> str:
    parts = [f"{found.name} ({found.kind}): {found.about}"]
    if found.details:
        parts.append(found.details)
    if found.needs:
        parts.append("\n".join(["Needs:", *(f"  {need}" for need in found.needs)]))
    options = "\n".join(line for option in found.options for line in _option(option))
    parts.append(f"Options:\n{options}" if options else "It has no options.")
    return "\n\n".join(parts)


def _option(option: "OptionReference") -> list[str]:
    default = "required" if option.required else f"default: {_value(option.default)}"
    lines = [f"  {option.name}: {option.type}; {default}"]
    return [*lines, f"      {option.description}"] if option.description else lines


def _value(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
