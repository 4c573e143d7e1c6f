"""A student is known by everything that decides its weights, the version of the code included."""

import json
from pathlib import Path
from typing import Any

import pytest
from toy_tokenizers import TEXT

from crosstok.distill.models import checkpoints
from crosstok.distill.recipes import identity
from crosstok.distill.recipes.identity import Identifier, identify_student
from crosstok.distill.recipes.student import check_student, make_student
from crosstok.errors import UserError
from crosstok.fingerprint import fingerprint
from crosstok.harness.plan.plan import make_plan
from crosstok.harness.plan.suite import check_suite


@pytest.fixture
def options(save_tiny: Any, tmp_path: Path) -> dict[str, Any]:
    return {"from": str(save_tiny(tmp_path / "source", "bpe")), "tokenizer": "bytes"}


def test_a_student_of_another_version_is_refused_and_not_returned(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, out = check_student("transfer", options), tmp_path / "student"
    make_student(spec, out)
    written = (out / "model.safetensors").stat().st_mtime_ns
    assert make_student(spec, out) == out
    assert (out / "model.safetensors").stat().st_mtime_ns == written
    monkeypatch.setattr(identity, "STUDENT_VERSION", identity.STUDENT_VERSION + 1)
    with pytest.raises(UserError, match="holds a student of version 1, and this crosstok makes version 2") as error:
        make_student(spec, out)
    assert "\n" not in str(error.value)


def test_in_the_cache_a_student_of_another_version_is_made_again(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, out = check_student("transfer", options), tmp_path / "student"
    make_student(spec, out)
    monkeypatch.setattr(identity, "STUDENT_VERSION", identity.STUDENT_VERSION + 1)
    make_student(spec, out, replace=True)
    training = json.loads((out / "provenance.json").read_text("utf-8"))["training"]
    assert training["version"] == identity.STUDENT_VERSION
    assert training["identity"] == identify_student(spec).fingerprint


def test_a_folder_of_something_else_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="holds no student of crosstok"):
        make_student(check_student("transfer", options), tmp_path / "other")
    make_student(check_student("transfer", options), tmp_path / "student")
    with pytest.raises(UserError, match="other models, options or texts"):
        make_student(check_student("transfer", {**options, "specials": "replace"}), tmp_path / "student")


def test_what_is_known_of_the_parents_is_not_computed_again(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = check_student("transfer", options)
    monkeypatch.setattr(checkpoints, "identify", lambda _: pytest.fail("identified again"))
    found = Identifier().student(spec, {"from": "abc"})
    assert found.models == {"from": "abc"}


def test_a_plan_reads_each_source_and_each_text_once(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    identify, load = checkpoints.identify, identity.load_texts
    monkeypatch.setattr(checkpoints, "identify", lambda source: asked.append(str(source)) or identify(source))
    monkeypatch.setattr(identity, "load_texts", lambda name, *rest: asked.append(name) or load(name, *rest))
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"id": str(i), "text": TEXT}) + "\n" for i in range(4)))
    corpus = f"jsonl:{tmp_path / 'text.jsonl'}"
    student = {**options, "loss": ["sft"], "steps": 1, "corpus": corpus}
    models = {name: {"transfer": {**student, "lr": lr}} for name, lr in (("one", 1e-3), ("two", 1e-4))}
    tasks = [{"name": "text_bpb", "source": corpus, "limit": 1}]
    make_plan(check_suite({"name": "s", "models": models, "tasks": tasks, "seeds": [0, 1]}, "s.yaml"))
    assert sorted(asked) == sorted([options["from"], corpus])


def test_the_fingerprint_covers_version_recipe_models_options_texts_and_foreign_code(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"id": str(i), "text": TEXT}) + "\n" for i in range(4)))
    trained = {**options, "loss": ["sft"], "steps": 1, "corpus": f"jsonl:{tmp_path / 'text.jsonl'}"}
    base = identify_student(check_student("transfer", trained))
    assert base.fingerprint == fingerprint({"version": 1, "recipe": "transfer", "models": dict(base.models),
                                            "settings": dict(base.settings), "texts": dict(base.texts)})  # fmt: skip
    found = {base.fingerprint}
    for change in ({"seed": 1}, {"loss": ["alm"]}, {"corpus": "stdlib"}, {"lr": 1e-3}):
        found.add(identify_student(check_student("transfer", {**trained, **change})).fingerprint)
    assert len(found) == 5
    for beside in ({"save_every": 3}, {"teacher_cache": True}, {"row_snapshots": 0}):
        assert identify_student(check_student("transfer", {**trained, **beside})) == base
    (tmp_path / "mine_today.py").write_text(
        "from crosstok.distill.losses.sft import SFT\n\nclass Mine(SFT):\n    name = 'mine_today'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = check_student("transfer", {**trained, "loss": ["mine_today:Mine"]})
    before = identify_student(mine)
    (tmp_path / "mine_today.py").write_text((tmp_path / "mine_today.py").read_text() + "# changed\n")
    assert identify_student(mine).fingerprint != before.fingerprint


def test_the_seed_of_a_student_that_is_not_trained_decides_nothing(options: dict[str, Any]) -> None:
    one, two = (identify_student(check_student("transfer", {**options, "seed": seed})) for seed in (0, 1))
    assert one == two
