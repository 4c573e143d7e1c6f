"""Tasks whose answers a function judges, through a whole run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crosstok.harness.generation.generator import Generator
from crosstok.harness.jobs.run import run_suite
from crosstok.harness.plan.suite import check_suite
from crosstok.results.store.records import Progress
from crosstok.results.store.store import Store


def test_answers_are_generated_judged_and_stored_once(
    suite_content: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"q": text}) + "\n" for text in ("def f(x):", "return")))
    task = 'data: rows.jsonl\nprompt: "{{q}}"\nanswer: "{{q}}"\nmetric: contains\nmax_bytes: 8\n'
    (tmp_path / "task.yaml").write_text(task)
    models = {"base": suite_content()["models"]["base"]}
    tasks = [{"name": "own", "task": f"yaml:{tmp_path / 'task.yaml'}"}]
    suite = check_suite(suite_content(models=models, tasks=tasks), "test")
    with Store(tmp_path / "s.db") as store:
        outcome = run_suite(suite, store)
        assert outcome.status is Progress.COMPLETE
        (found,) = store.cells(outcome.run_id)
        samples = store.samples(found.cell.fingerprint)
        assert {sample.document for sample in samples} == {"0", "1"}
        judged = {score.document: score.value for score in store.scores(found.cell.fingerprint)}
        asked = {"0": "def f(x):", "1": "return"}
        assert judged == {sample.document: float(asked[sample.document] in sample.text) for sample in samples}

        def never(*_: object, **__: object) -> None:
            raise AssertionError("generated again")

        monkeypatch.setattr(Generator, "generate", never)
        assert run_suite(suite, store).status is Progress.COMPLETE
