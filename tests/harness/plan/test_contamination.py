"""Benchmarks whose training problems a model of the suite has read are asked without them, of every model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crosstok.distill.models import provenance
from crosstok.errors import UserError
from crosstok.harness.jobs.records import task_record
from crosstok.harness.plan.plan import make_plan
from crosstok.harness.plan.suite import check_suite

Content = Callable[..., dict[str, Any]]
MBPP = "benchmark:google-research-datasets/mbpp/full#text+code"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    splits = {"prompt": [2, 3, 4, 5], "test": [11, 12], "validation": [511], "train": [601, 602]}
    place = folder / "hub/google-research-datasets/mbpp/full"
    place.mkdir(parents=True)
    for split, numbers in splits.items():
        rows = [
            {
                "task_id": number,
                "text": "Double it.",
                "code": "def f(x):\n    return 2 * x\n",
                "test_list": ["assert f(1) == 2"],
                "test_setup_code": "",
                "challenge_test_list": [],
            }
            for number in numbers
        ]
        (place / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def asked(content: dict[str, Any], data: Path) -> dict[str, list[str]]:
    plan = make_plan(check_suite(content, "test"), data=data)
    return {cell.model.name: [document.id for document in cell.documents] for cell in plan.cells}


def test_one_student_trained_on_mbpp_leaves_its_test_split_to_all_models(suite_content: Content, data: Path) -> None:
    content = suite_content(tasks=["mbpp"])
    assert len(asked(content, data)["base"]) == 9
    content["models"]["fvt"]["transfer"].update(steps=1, loss=["alm"], corpus=MBPP)
    assert asked(content, data) == {name: ["MBPP/11", "MBPP/12"] for name in ("base", "fvt")}
    (task,) = make_plan(check_suite(content, "test"), data=data).tasks
    record = task_record(task)
    assert record.source["remark"] == ("evaluated with split: test because a model was trained on the other parts")
    assert (record.documents, record.available) == (2, 974), "tables call it a subset"


def test_a_student_that_was_made_before_is_known_by_its_provenance(
    suite_content: Content, data: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    for file in tiny_folder.iterdir():
        (made / file.name).write_bytes(file.read_bytes())
    provenance.write(
        made, {"kind": "student", "source": "x", "source_fingerprint": "y", "data": [{"name": MBPP, "sha256": "z"}]}
    )
    content = suite_content(models={"made": {"source": str(made)}}, tasks=["mbpp"])
    assert asked(content, data) == {"made": ["MBPP/11", "MBPP/12"]}


def test_the_training_split_itself_is_refused_in_one_line(suite_content: Content, data: Path) -> None:
    content = suite_content(tasks=[{"name": "mbpp", "split": "train"}])
    content["models"]["fvt"]["transfer"].update(steps=1, loss=["alm"], corpus=MBPP)
    with pytest.raises(UserError, match="asks the split 'train'"):
        make_plan(check_suite(content, "test"), data=data)
