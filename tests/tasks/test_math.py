"""Mathematics: what is asked, and when two answers are the same."""

from pathlib import Path

import pytest

from crosstok.tasks.math.equivalence import last_boxed, last_number, same_answer
from crosstok.tasks.registry import build_task
from crosstok.tasks.task import AnswerTask, Generate, Generated


def _task(name: str, data: Path, **options: object) -> AnswerTask:
    task = build_task(name, options, data=data)
    assert isinstance(task, AnswerTask)
    return task


@pytest.mark.parametrize(
    ("expected", "answer", "same"),
    [
        ("\\frac{1}{2}", "So it is \\boxed{0.5}.", True),
        ("\\frac{1}{2}", "\\boxed{\\dfrac12}", True),
        ("\\frac{1}{2}", "\\boxed{\\frac{1}{3}}", False),
        ("(3, \\frac{\\pi}{2})", "It is $\\left(3,\\frac{\\pi}{2}\\right)$.", True),
        ("2\\sqrt{3}", "\\boxed{\\sqrt{12}}", True),
        ("x^2+2x+1", "\\boxed{(x+1)^2}", True),
        ("7", "\\boxed{5}, no: \\boxed{7}", True),
        ("7", "", False),
        ("7", "seven", False),
    ],
)
def test_answers_are_equal_by_value_and_not_by_text(expected: str, answer: str, same: bool) -> None:
    assert same_answer(expected, answer) is same


def test_the_last_box_of_a_solution_is_its_answer() -> None:
    assert last_boxed("\\boxed{1} and \\boxed{\\frac{a}{b}}.") == "\\frac{a}{b}"
    assert last_boxed("$\\boxed 5$") == "5"
    assert last_boxed("none") == ""
    assert last_boxed("\\boxed{never closed") == ""


def test_the_last_number_is_read_without_separators() -> None:
    assert last_number("3 of 1,234.5 nuts") == "1234.5"
    assert last_number("cost $-12") == "-12"
    assert last_number("none") == ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1000 - 3 = 997", 1.0),
        ("It is \\boxed{997.0}", 1.0),
        ("#### 997\n\nAnother 5", 1.0),
        ("He ate 3.", 0.0),
        ("", 0.0),
        ("\\boxed{3} of 997", 0.0),
    ],
)
def test_a_number_is_found_in_box_or_text(text: str, value: float, data: Path) -> None:
    task = _task("gsm8k", data)
    (score,) = task.score(task.documents()[0], Generated(text, "end"), "raw")
    assert score.value == value


@pytest.mark.parametrize("name", ["gsm8k", "svamp", "math500"])
def test_the_published_solution_is_right(name: str, data: Path) -> None:
    task = _task(name, data)
    for document in task.documents():
        solution = f"{document.fields['solution']} \\boxed{{{document.fields['answer']}}}"
        assert task.score(document, Generated(solution, "end"), "chat")[0].value == 1.0


def test_shots_come_from_the_training_split_without_calculator_notes(data: Path) -> None:
    task = _task("gsm8k", data, shots=2)
    request = task.request(task.documents()[0], "raw")
    assert isinstance(request, Generate)
    assert request.prompt.count("Question:") == 3
    assert "<<" not in request.prompt
    assert request.prompt.endswith("Answer:")


def test_a_problem_is_never_its_own_example(data: Path) -> None:
    task = _task("math500", data, shots=1)
    for document in task.documents():
        request = task.request(document, "chat")
        assert isinstance(request, Generate)
        assert request.messages is not None
        assert [turn["role"] for turn in request.messages] == ["user", "assistant", "user"]
        assert sum(document.fields["problem"] in turn["content"] for turn in request.messages) == 1


def test_without_shots_reasoning_is_asked_for(data: Path) -> None:
    task = _task("svamp", data)
    request = task.request(task.documents()[0], "raw")
    assert isinstance(request, Generate)
    assert request.prompt.startswith("Question: A box holds 8 eggs. Three are broken. How many")
    assert request.prompt.endswith("step by step.")
