"""JSON Schema of suites: what editors complete and mark agrees with what crosstok reads."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from crosstok.errors import UserError
from crosstok.harness.cli.app import app
from crosstok.harness.plan.schema import suite_schema
from crosstok.harness.plan.suite import check_suite

ROOT = Path(__file__).resolve().parents[3]
SUITE: dict[str, Any] = {"name": "s", "models": {"base": {"source": "folder"}}, "tasks": ["humaneval"]}


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = suite_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def with_model(**spec: Any) -> dict[str, Any]:
    return {**SUITE, "models": {**SUITE["models"], "student": spec}}


def with_task(**task: Any) -> dict[str, Any]:
    return {**SUITE, "tasks": [task]}


@pytest.mark.parametrize("path", sorted((ROOT / "suites").glob("*.yaml")), ids=lambda path: path.name)
def test_the_suites_of_the_project_fit_the_schema(path: Path, validator: jsonschema.Draft202012Validator) -> None:
    validator.validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "suite",
    [
        SUITE,
        with_model(transfer={"from": "base", "tokenizer": "bytes"}),
        with_model(transfer={"from": "base", "tokenizer": "bytes", "loss": [{"name": "alm", "tau": 5}], "steps": 3}),
        with_model(transfer={"from": "base", "tokenizer": "bytes", "init": "mine:Own", "loss": ["mine:Loss"]}),
        with_model(expand={"from": "base", "tokens": "train_bpe:stdlib:100"}),
        with_model(expand={"from": "base", "tokens": {"list": ["one", "two"]}}),
        with_model(distil={"from": "base", "teacher": "hub:large/one"}),
        with_model(ensemble={"members": ["base", "base"], "weights": [1, 2], "tokens": "shared"}),
        with_task(name="humaneval", limit=3, n=10, k=10, temperature=0.8),
        with_task(name="humaneval", n=10, k=[1, 10], temperature=0.8),
        with_task(name="code", task="text_bpb", source="stdlib"),
        with_task(name="easy", task="lm_eval:arc_easy", fewshot=5),
        with_task(name="code-core", limit=3),
        {**SUITE, "tasks": ["crosstok.tasks.code.humaneval:HumanEval"]},
        with_task(name="own", task="crosstok.tasks.code.humaneval:HumanEval", limit=3),
        {**SUITE, "tasks": ["code2k", "lm_eval:gsm8k"]},
        {**SUITE, "sandbox": {"timeout": 5}, "seeds": [0, 1], "prompt": "chat"},
    ],
)
def test_what_crosstok_reads_fits_the_schema(suite: dict[str, Any], validator: jsonschema.Draft202012Validator) -> None:
    check_suite(suite, "test")
    validator.validate(suite)


@pytest.mark.parametrize(
    "suite",
    [
        {**SUITE, "promt": "chat"},
        {**SUITE, "prompt": "caht"},
        {**SUITE, "tasks": []},
        {**SUITE, "tasks": ["humanevl"]},
        {**SUITE, "sandbox": {"bakend": "docker"}},
        with_model(),
        with_model(sorce="folder"),
        with_model(source="folder", transfer={"from": "base", "tokenizer": "bytes"}),
        with_model(transfer={"from": "base", "tokenizr": "bytes"}),
        with_model(transfer={"from": "base"}),
        with_model(transfer={"from": "base", "tokenizer": "bytes", "steps": -1}),
        with_model(transfer={"from": "base", "tokenizer": "bytes", "loss": ["alms"]}),
        with_model(transfer={"from": "base", "tokenizer": "bytes", "init": {"name": "fvtt"}}),
        with_model(expand={"from": "base", "tokens": "train_bqe:stdlib:100"}),
        with_task(name="humanevl", limit=3),
        with_task(name="humaneval", limt=3),
        with_task(name="easy", task="humaneval", source="stdlib"),
        with_task(name="easy", task="lm_eval:arc_easy", fewshots=5),
    ],
)
def test_a_mistake_is_marked_by_the_schema_and_refused_by_crosstok(
    suite: dict[str, Any], validator: jsonschema.Draft202012Validator
) -> None:
    assert not validator.is_valid(suite)
    with pytest.raises(UserError):
        check_suite(suite, "test")


def test_every_key_is_described() -> None:
    bare = [path for path, part in keys(suite_schema(), "suite") if "description" not in part]
    assert not bare


def keys(schema: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every key that the schema defines, with its place."""
    if isinstance(schema, dict):
        for name, part in schema.get("properties", {}).items():
            if "if" not in path.split("."):  # a condition repeats a key that is described elsewhere
                yield f"{path}.{name}", part
        for name, part in schema.items():
            yield from keys(part, f"{path}.{name}")
    elif isinstance(schema, list):
        for part in schema:
            yield from keys(part, path)


def test_the_command_prints_the_schema_and_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from crosstok.harness.cli.app import app; app(['suite', 'schema'], standalone_mode=False);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert json.loads(done.stdout) == json.loads(json.dumps(suite_schema()))


def test_suite_check_says_what_a_file_holds_and_ends_at_the_first_mistake(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(yaml.safe_dump(SUITE), encoding="utf-8")
    bad.write_text(yaml.safe_dump(with_task(name="humanevl")), encoding="utf-8")
    result = CliRunner().invoke(app, ["suite", "check", str(good)])
    assert result.output == f"{good}: ok (models: 1, tasks: 1)\n"
    result = CliRunner().invoke(app, ["suite", "check", str(bad)])
    assert isinstance(result.exception, UserError)
    assert "Did you mean 'humaneval'?" in str(result.exception)
