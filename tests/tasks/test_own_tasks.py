"""Benchmarks of one's own: a task file, and a class in an installed package."""

import json
import sys
from pathlib import Path

import pytest

from crosstok import sandbox
from crosstok.errors import UserError
from crosstok.harness.plan.references import check_references
from crosstok.tasks.registry import build_task, task_names
from crosstok.tasks.task import AnswerTask, CodeTask, Generate, Generated

ROWS = [{"n": 2, "twice": 4, "name": "double"}, {"n": 5, "twice": 10, "name": "twofold"}]


def _file(folder: Path, text: str) -> str:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "task.yaml").write_text(text)
    return f"yaml:{folder / 'task.yaml'}"


ANSWERS = (
    'data: rows.jsonl\nprompt: "Twice {{n}} is"\nanswer: "{{twice}}"\nmetric: METRIC\nstops: ["\\n"]\nmax_bytes: 9\n'
)
PROGRAMS = """
data: rows.jsonl
id: "own/{{name}}"
prompt: "def {{name}}(x):\\n"
joined: true
metric: tests
tests: "assert {{name}}({{n}}) == {{twice}}"
entry_point: "{{name}}"
reference: "def {{name}}(x):\\n    return 2 * x\\n"
"""


def test_a_misspelt_option_of_a_task_file_is_blamed_on_the_option_and_not_on_the_file(tmp_path: Path) -> None:
    kind = _file(tmp_path, ANSWERS.replace("METRIC", "exact"))
    with pytest.raises(UserError, match=r"option of task .*: 'limitt'. Did you mean 'limit'"):
        build_task(kind, {"limitt": 3})


@pytest.mark.parametrize(
    ("metric", "answer", "value"),
    [
        ("exact", " 4 ", 1.0),
        ("exact", "4.0", 0.0),
        ("contains", "it is 4!", 1.0),
        ("contains", "it is 5", 0.0),
        ("math", "\\boxed{8/2}", 1.0),
        ("math", "\\boxed{5}", 0.0),
    ],
)
def test_a_task_file_asks_and_judges(metric: str, answer: str, value: float, tmp_path: Path) -> None:
    task = build_task(_file(tmp_path, ANSWERS.replace("METRIC", metric)), {}, name="own")
    assert isinstance(task, AnswerTask)
    document = task.documents()[0]
    assert task.request(document, "raw") == Generate(prompt="Twice 2 is", stops=("\n",), max_bytes=9)
    assert task.score(document, Generated(answer, "stop"), "raw")[0].value == value


def test_a_task_file_with_tests_is_judged_in_the_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))
    task = build_task(_file(tmp_path, PROGRAMS), {}, name="own")
    assert isinstance(task, CodeTask)
    document = task.documents()[1]
    assert document.id == "own/twofold"
    with sandbox.open_pool(workers=1) as pool:
        assert check_references(task, pool).passed == 2
        answers = ("    return x + x\n", "    return x\n")
        programs = [task.program(document, Generated(answer, "stop"), "raw") for answer in answers]
        assert sorted(verdict.passed for verdict in pool.run(programs)) == [False, True]


def test_the_fingerprint_of_a_task_file_follows_its_content(tmp_path: Path) -> None:
    before = build_task(_file(tmp_path, ANSWERS.replace("METRIC", "exact")), {}).fingerprint()
    after = build_task(_file(tmp_path, ANSWERS.replace("METRIC", "contains")), {}).fingerprint()
    assert before != after


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("metric: METRIC", "metric: best"), "metric"),
        (("answer:", "anwser:"), "Did you mean 'answer'"),
        (('answer: "{{twice}}"\n', ""), "needs the key 'answer'"),
        (("{{n}}", "{{m}}"), "'m' is undefined"),
        (("rows.jsonl", "none.jsonl"), "none.jsonl"),
        (("data:", "data: ["), "not valid YAML"),
    ],
)
def test_a_wrong_task_file_is_one_line(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    text = ANSWERS.replace(*change).replace("METRIC", "exact")

    def ask() -> None:
        task = build_task(_file(tmp_path, text), {})
        task.request(task.documents()[0], "raw")

    with pytest.raises(UserError, match=message) as caught:
        ask()
    assert "\n" not in str(caught.value)


PACKAGE = """
from crosstok.sandbox.program import Program
from crosstok.tasks.task import CodeTask, DataSource, Document, Generate, Metric


class Doubling(CodeTask):
    version = "1"
    metrics = (Metric("pass@1", "fraction", higher_is_better=True),)

    def documents(self):
        return [Document("doubling/0", {})]

    def source(self):
        return DataSource("package", "tiny-tasks", "1.0", "0" * 64)

    def request(self, document, style):
        return Generate(prompt="def double(x):\\n")

    def program(self, document, answer, style):
        return Program(document.id, "def double(x):\\n" + answer.text, "assert double(4) == 8", "double")

    def reference(self, document):
        return Program(document.id, "def double(x):\\n    return 2 * x\\n", "assert double(4) == 8", "double")
"""


def test_an_installed_package_adds_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny_tasks.py").write_text(PACKAGE)
    info = tmp_path / "tiny_tasks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-tasks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[crosstok.tasks]\ndoubling = tiny_tasks:Doubling\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))
    assert task_names()["doubling"] == "from tiny-tasks"
    task = build_task("doubling", {})
    assert isinstance(task, CodeTask)
    with sandbox.open_pool(workers=1) as pool:
        assert check_references(task, pool).passed == 1
    sys.modules.pop("tiny_tasks")


def test_a_task_in_the_working_directory_is_named_by_module_and_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_task.py").write_text(PACKAGE)
    monkeypatch.chdir(tmp_path)
    task = build_task("my_task:Doubling", {"limit": 1}, name="doubling")
    assert (task.name, task.kind) == ("doubling", "my_task:Doubling")
    with pytest.raises(UserError, match=r"'my_task:Tripling' cannot be imported"):
        build_task("my_task:Tripling", {})
    sys.modules.pop("my_task")


def test_a_plugin_with_the_name_of_a_built_in_task_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "tiny_tasks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-tasks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[crosstok.tasks]\nhumaneval = tiny_tasks:Doubling\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"tiny-tasks registers the task 'humaneval', which is the name of a built-in"):
        build_task("humaneval", {})
