"""HumanEval: what is asked, and how an answer becomes a program."""

import ast

import pytest

from crosstok.errors import UserError
from crosstok.tasks.registry import build_task
from crosstok.tasks.task import CodeTask, Generate, Generated


@pytest.fixture
def humaneval() -> CodeTask:
    task = build_task("humaneval", {})
    assert isinstance(task, CodeTask)
    return task


def test_all_164_problems_are_there(humaneval: CodeTask) -> None:
    assert len(humaneval.documents()) == 164
    assert humaneval.source().kind == "package"
    assert len(humaneval.source().sha256) == 64


def test_a_limit_takes_problems_from_the_whole_range() -> None:
    ids = [int(document.id.split("/")[1]) for document in build_task("humaneval", {"limit": 41}).documents()]
    assert ids == list(range(0, 164, 4))


def test_a_raw_prompt_is_the_problem_to_the_last_newline(humaneval: CodeTask) -> None:
    document = humaneval.documents()[0]
    request = humaneval.request(document, "raw")
    assert isinstance(request, Generate)
    assert request.prompt == document.fields["prompt"]
    assert request.messages is None


def test_a_chat_prompt_opens_the_answer_with_a_fence_and_is_stopped_by_the_closing_one(humaneval: CodeTask) -> None:
    request = humaneval.request(humaneval.documents()[0], "chat")
    assert isinstance(request, Generate)
    assert request.messages is not None
    assert request.messages[-1] == {"role": "assistant", "content": "```python\n"}
    assert request.stops == ("\n```",)


def test_a_raw_answer_is_joined_to_its_prompt(humaneval: CodeTask) -> None:
    document = humaneval.documents()[0]
    program = humaneval.program(document, Generated("    return True\n", "end"), "raw")
    assert program.candidate == document.fields["prompt"] + "    return True\n"
    assert program.entry_point == "has_close_elements"


def test_a_chat_answer_with_the_whole_function_is_taken_as_it_is(humaneval: CodeTask) -> None:
    answer = Generated("def has_close_elements(numbers, threshold):\n    return True", "stop")
    program = humaneval.program(humaneval.documents()[0], answer, "chat")
    assert program.candidate.startswith("def has_close_elements")
    assert "from typing import List" in program.setup, "the imports of the prompt are there all the same"


def test_a_chat_answer_with_the_body_alone_is_joined_to_its_prompt(humaneval: CodeTask) -> None:
    document = humaneval.documents()[0]
    program = humaneval.program(document, Generated("    return True\n", "stop"), "chat")
    assert program.candidate == document.fields["prompt"] + "    return True\n"


def test_helper_functions_of_a_prompt_are_shared_with_the_tests(humaneval: CodeTask) -> None:
    by_id = {document.id: document for document in humaneval.documents()}
    assert "def poly" in humaneval.reference(by_id["HumanEval/32"]).setup
    assert "def find_zero" not in humaneval.reference(by_id["HumanEval/32"]).setup


def test_every_reference_and_its_shared_code_parse(humaneval: CodeTask) -> None:
    for document in humaneval.documents():
        program = humaneval.reference(document)
        ast.parse(program.candidate)
        ast.parse(program.setup)


def test_an_unknown_task_is_answered_with_the_closest_name() -> None:
    with pytest.raises(UserError, match="Did you mean 'humaneval'"):
        build_task("human_eval", {})


def test_an_unknown_option_names_the_closest_one() -> None:
    with pytest.raises(UserError, match=r"Unknown option of task 'humaneval': 'limt'. Did you mean 'limit'"):
        build_task("humaneval", {"limt": 3})


def test_the_fingerprint_follows_options_and_not_the_name_in_the_suite() -> None:
    plain = build_task("humaneval", {"limit": 5})
    assert plain.fingerprint() == build_task("humaneval", {"limit": 5}, name="code").fingerprint()
    assert plain.fingerprint() != build_task("humaneval", {"limit": 5, "max_bytes": 10}).fingerprint()
