"""A new method beside the recorded ones, and a checkpoint at the gate: trained, measured and judged for real."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from repository import ROOT
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from crosstok.errors import UserError
from crosstok.harness.cli.app import app
from crosstok.harness.jobs.try_method import free_name, is_trained, with_method
from crosstok.harness.plan.suite import ModelSpec, check_suite, read_suite
from crosstok.results.store.records import Progress
from crosstok.results.store.store import Store

Content = Callable[..., dict[str, Any]]

METHODS = '''
from typing import ClassVar
from crosstok.distill.losses import LossTerm
from crosstok.distill.losses.sft import SFT

class Same(SFT):
    """The recorded method under another name."""
    name: ClassVar[str] = "same"

class Backwards(SFT):
    """Learns to be wrong."""
    name: ClassVar[str] = "backwards"
    strength: float = 1.0

    def __call__(self, batch, student, teacher):
        found = super().__call__(batch, student, teacher)
        return LossTerm(-self.strength * found.sum, found.count, found.metrics)
'''


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def suite(suite_content: Content, tmp_path: Path) -> Path:
    """A suite with one trained student, measured on text."""
    content = suite_content()
    recipe = {"from": "base", "tokenizer": "bytes", "loss": ["sft"], "steps": 4, "lr": 0.05, "warmup": 0}
    content["models"]["sft"] = {"transfer": {**recipe, "corpus": content["tasks"][1]["source"]}}
    content["tasks"] = content["tasks"][1:]
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_a_method_is_trained_beside_the_recorded_ones_and_judged_by_the_best_of_them(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "todays_methods.py").write_text(METHODS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    command = ["regress", "--suite", str(suite), "--store", "s.db", "--method"]

    same = CliRunner().invoke(app, [*command, "todays_methods:Same"])
    assert same.exit_code == 0, same.output
    assert "Gate ok" in same.output
    with Store("s.db", read_only=True) as store:
        rows = {one.model: store.scores(one.cell.fingerprint) for one in store.cells(store.latest_run().id)}
    assert [score.value for score in rows["Same"]] == [score.value for score in rows["sft"]]

    wrong = CliRunner().invoke(app, [*command, "todays_methods:Backwards", "--set", "strength=2.0"])
    assert wrong.exit_code == 1, wrong.output
    assert "Gate REGRESSION" in wrong.output
    with Store("s.db", read_only=True) as store:
        assert [run.status for run in store.runs()] == [Progress.COMPLETE] * 2
        assert [one.model for one in store.cells(store.latest_run().id)] == ["base", "fvt", "sft", "Backwards"]
        with store.database.read() as connection:
            cells = connection.exec_driver_sql("SELECT count(*) FROM cells").scalar()
    assert cells == 5, "what was recorded is neither trained nor measured again"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "nowhere:Loss"], "cannot be imported"),
        (["--method", "stf"], "Did you mean"),
        (["--method", "sft", "--like", "fvt"], "Unknown model of the suite"),
        (["--method", "sft", "--against", "sfft"], "Did you mean"),
        (["--method", "sft", "--set", "weight"], "is not an option"),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(
    suite: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    result = CliRunner().invoke(app, ["regress", "--suite", str(suite), "--store", str(tmp_path / "s.db"), *arguments])
    assert isinstance(result.exception, UserError)
    assert said in str(result.exception)
    with Store(tmp_path / "s.db") as store:
        assert store.runs() == []


def test_only_the_method_of_a_recipe_changes() -> None:
    recipe = {"from": "base", "tokenizer": "bytes", "loss": ["sft"], "steps": 4}
    spec = ModelSpec.model_validate({"transfer": recipe})
    assert with_method(spec, "alm", {"tau": 5}).transfer == {**recipe, "loss": [{"name": "alm", "tau": 5}]}
    assert with_method(spec, "mean", {}).transfer == {**recipe, "init": "mean"}
    assert is_trained(spec)
    assert not is_trained(ModelSpec.model_validate({"transfer": {**recipe, "loss": [], "steps": 0}}))
    content = {"name": "x", "models": {"A": {"source": "wheel:a"}, "A-2": {"source": "wheel:a"}}, "tasks": ["gsm8k"]}
    assert free_name("package.module:A", check_suite(content, "test")) == "A-3"


def test_the_suite_for_continuous_integration_is_a_suite_with_recorded_methods() -> None:
    suite = read_suite(ROOT / "suites" / "transfer-ci.yaml")
    assert [name for name, spec in suite.models.items() if is_trained(spec)] == ["sft", "alm"]


def test_a_checkpoint_is_measured_at_the_gate_and_passes_or_fails_for_what_it_is(
    suite_content: Content, tiny_folder: Path, tmp_path: Path
) -> None:
    content = suite_content()
    content = {**content, "models": {"base": content["models"]["base"]}, "tasks": content["tasks"][1:]}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    runner, store = CliRunner(), ["--store", str(tmp_path / "s.db")]
    assert runner.invoke(app, ["run", str(tmp_path / "suite.yaml"), "--no-page", *store]).exit_code == 0

    shutil.copytree(tiny_folder, tmp_path / "equal")
    shutil.copytree(tiny_folder, tmp_path / "worse")
    weights = load_file(tmp_path / "worse" / "model.safetensors")
    spoilt = {name: 3 * weight for name, weight in weights.items()}
    save_file(spoilt, tmp_path / "worse" / "model.safetensors", {"format": "pt"})

    for name, code in (("equal", 0), ("worse", 1)):
        result = runner.invoke(app, ["gate", str(tmp_path / name), "--baseline", "tiny/base", "--json", *store])
        assert result.exit_code == code, result.output
        assert isinstance(result.exception, SystemExit | None), result.exception
        report = json.loads(result.stdout)
        assert report["candidate"].endswith(f"/{name}")
        assert [outcome["task"] for outcome in report["outcomes"]] == ["code_bpb"]
