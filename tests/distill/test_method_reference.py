"""The reference of methods is read from the code, and says something about every option."""

import json

import pytest
from typer.testing import CliRunner

from crosstok.distill.method_reference import method_reference, method_references
from crosstok.distill.registry import INITIALISERS, LOSSES
from crosstok.errors import UserError
from crosstok.harness.cli.app import app


def test_every_method_and_every_option_is_described() -> None:
    found = list(method_references())
    assert {one.name for one in found} == {*LOSSES.names(), *INITIALISERS.names(), "transfer", "distil", "expand"}
    assert not [one.name for one in found if not one.about.endswith(".") or not one.details]
    assert not [(one.name, option.name) for one in found for option in one.options if not option.description]


def test_types_limits_defaults_and_needs_are_shown() -> None:
    alm = method_reference("alm")
    options = {option.name: option for option in alm.options}
    assert (options["tau"].type, options["tau"].default) == ("number or inf", 100.0)
    assert options["gamma"].type == "number (>= 0, <= 1)"
    assert options["f"].type == "kl | reverse_kl | tvd | renyi"
    assert "readings of the teacher: boundary, gold" in alm.needs
    required = [option.name for option in method_reference("transfer").options if option.required]
    assert required == ["from", "tokenizer"]


def test_the_commands_print_text_and_json() -> None:
    run = CliRunner()
    listed = run.invoke(app, ["methods", "ls"])
    assert listed.exit_code == 0, listed.output
    assert all(name in listed.output for name in (*LOSSES.names(), *INITIALISERS.names()))
    shown = json.loads(run.invoke(app, ["methods", "show", "fvt", "--json"]).output)
    assert shown["kind"] == "initialiser"
    assert {"calibrate", "untrained"} <= {option["name"] for option in shown["options"]}
    assert len(json.loads(run.invoke(app, ["methods", "ls", "--json"]).output)) > 20
    text = run.invoke(app, ["methods", "show", "alm"]).output
    assert "gamma: number (>= 0, <= 1); default: 0.1" in text


def test_an_unknown_method_has_a_suggestion() -> None:
    with pytest.raises(UserError, match="Unknown method 'almm'"):
        method_reference("almm")
