"""Models behind a server in suites: what is recorded, what is refused, and what a server that dies costs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model_servers import ScriptedServer, TransformersServer, free_port, only_loopback

from crosstok.errors import RunIncomplete, UserError
from crosstok.harness.cli.app import main
from crosstok.harness.jobs.batch_check import batch_reports
from crosstok.harness.jobs.run import Outcome, require_complete, run_suite
from crosstok.harness.openai.generator import ServerGenerator
from crosstok.harness.plan.plan import make_plan
from crosstok.harness.plan.suite import Suite, check_suite
from crosstok.results.store.records import Progress
from crosstok.results.store.store import Store
from crosstok.results.tables.frame import comparison_frame, render

END = {"choices": [{"text": "", "finish_reason": "stop"}]}
CODE = {"name": "humaneval", "limit": 5, "max_bytes": 40}
MORE = {"name": "more", "task": "humaneval", "limit": 2, "max_bytes": 30}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(ServerGenerator.__init__.__kwdefaults__ or {}, "pause_s", 0.01)
    only_loopback()


def suite(source: str, **changes: Any) -> Suite:
    content = {"name": "served", "models": {"m": {"source": source}}, "tasks": [CODE, MORE], "batch_rows": 1}
    return check_suite({**content, **changes}, "test")


def run(asked: Suite, store: Store) -> Outcome:
    return run_suite(asked, store)


def texts(store: Store, run_id: str) -> dict[tuple[str, str], str]:
    """Return the answers of a run by task and document."""
    return {
        (task, sample.document): sample.text
        for _, task, cell in store.cells(run_id)
        for sample in store.samples(cell.fingerprint)
    }


@pytest.fixture
def only_answers() -> Iterator[ScriptedServer]:
    """A server that gives the same short answer to everything."""
    server = ScriptedServer(lambda body, _: (200, ["    pass\n", END]))
    yield server
    server.close()


def test_a_server_that_is_killed_makes_the_run_partial_and_nothing_is_asked_twice(
    transformers_server: TransformersServer, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way with ``transformers serve``, against the same weights in this process."""
    asked = suite(transformers_server.source)
    store = Store(tmp_path / "served.db")
    kept = 0
    add_samples = Store.add_samples

    def kill_after_two(self: Store, *arguments: Any) -> None:
        nonlocal kept
        add_samples(self, *arguments)
        kept += 1
        if kept == 2:
            transformers_server.kill()

    with monkeypatch.context() as power_cut:
        power_cut.setattr(Store, "add_samples", kill_after_two)
        outcome = run(asked, store)
    assert outcome.status is Progress.PARTIAL
    with pytest.raises(RunIncomplete):
        require_complete(outcome)
    assert 1 <= len(texts(store, outcome.run_id)) < 5
    first, second = (cell for _, _, cell in store.cells(outcome.run_id))
    assert first.status is second.status is Progress.PARTIAL
    assert "failed 5 times" in first.error
    assert "Restart the server and repeat the command" in second.error

    with pytest.raises(UserError, match=r"does not answer: .*refused.*Start the server"):
        run(asked, store)
    before = texts(store, outcome.run_id)
    transformers_server.start()
    outcome = run(asked, store)
    assert outcome.status is Progress.COMPLETE
    found = texts(store, outcome.run_id)
    assert found | before == found
    local = run(suite(str(tiny_folder)), Store(tmp_path / "local.db"))
    ours = texts(Store(tmp_path / "local.db"), local.run_id)
    assert found.keys() == ours.keys()
    for place, text in ours.items():  # a random model's bytes that are no text come from a server as U+FFFD
        assert found[place].startswith(text.partition("\ufffd")[0])


def test_a_served_model_is_measured_recorded_and_shown(only_answers: ScriptedServer, tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    outcome = run(suite(f"server:{only_answers.url}"), store)
    assert outcome.status is Progress.COMPLETE
    assert len(only_answers.asked) == 7
    (model, *_) = store.models(outcome.run_id).values()
    assert model.provenance == {"server": only_answers.url, "model": "only", "about": {}}
    assert all(cell.settings["dtype"] == "the server's" for _, _, cell in store.cells(outcome.run_id))
    assert "m" in render(comparison_frame(store, outcome.run_id))
    assert run(suite(f"server:{only_answers.url}"), store).status is Progress.COMPLETE
    assert len(only_answers.asked) == 7, "nothing was missing"


@pytest.mark.parametrize("task", ["hellaswag", "text"])
def test_a_task_that_needs_likelihoods_is_one_clear_line(
    task: str, only_answers: ScriptedServer, texts_file: Path, tmp_path: Path
) -> None:
    hellaswag = tmp_path / "hub/Rowan/hellaswag/default/validation.jsonl"
    hellaswag.parent.mkdir(parents=True)
    row = {"ind": 0, "activity_label": "a", "ctx_a": "b", "ctx_b": "c", "ctx": "", "label": "1", "endings": ["x", "y"]}
    hellaswag.write_text(json.dumps(row) + "\n", encoding="utf-8")
    text = {"name": "text", "task": "text_bpb", "source": f"jsonl:{texts_file}"}
    tasks = [CODE, text if task == "text" else {"name": "hellaswag"}]
    with pytest.raises(UserError, match=rf"'m' is behind a server.*{task!r} needs the likelihood.*Leave the task out"):
        make_plan(suite(f"server:{only_answers.url}", tasks=tasks), data=tmp_path)
    assert not only_answers.asked


@pytest.mark.parametrize(
    "made",
    [
        {"transfer": {"from": "m", "tokenizer": "bytes"}},
        {"ensemble": {"members": ["m", "m"]}},
    ],
)
def test_nothing_is_made_from_a_served_model(made: dict[str, Any], only_answers: ScriptedServer) -> None:
    models = {"m": {"source": f"server:{only_answers.url}"}, "student": made}
    with pytest.raises(UserError, match="'student' cannot be made from 'm', whose weights are behind a server"):
        make_plan(suite("", models=models))


def test_a_recipe_that_names_a_server_itself_is_one_clear_line(only_answers: ScriptedServer) -> None:
    source = f"server:{only_answers.url}"
    models = {"student": {"transfer": {"from": source, "tokenizer": "bytes"}}}
    with pytest.raises(UserError, match="'student' cannot be made from 'server:"):
        make_plan(suite("", models=models))


def test_token_healing_is_refused_for_a_served_model(only_answers: ScriptedServer) -> None:
    with pytest.raises(UserError, match="Token healing needs a local model"):
        make_plan(suite(f"server:{only_answers.url}", heal=True))


def test_batches_of_a_server_are_not_compared(only_answers: ScriptedServer) -> None:
    reports = batch_reports(suite(f"server:{only_answers.url}"), 4)
    with pytest.raises(UserError, match=r"'m' is behind a server.*from its weights"):
        next(reports)
    assert not only_answers.asked


def test_eval_takes_a_server_and_a_dead_one_is_one_line(
    only_answers: ScriptedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(source: str) -> int:
        words = ["crosstok", "eval", source, "-t", "humaneval:limit=1", "--store", str(tmp_path / "s.db"), "--no-page"]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    assert command(f"server:{only_answers.url}#only") == 0
    assert "| only" in capsys.readouterr().out
    assert command(f"server:http://127.0.0.1:{free_port()}/v1#m") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "does not answer" in said[0]


def test_the_gate_measures_a_served_model_against_a_run(
    only_answers: ScriptedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"server:{only_answers.url}#only"
    with Store(str(tmp_path / "s.db")) as store:
        baseline = run(suite(source), store).run_id
    monkeypatch.setattr(
        "sys.argv", ["crosstok", "gate", source, "--baseline", baseline, "--store", str(tmp_path / "s.db")]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0, capsys.readouterr().err
    assert "only" in capsys.readouterr().out


def test_healing_is_part_of_what_a_cell_is(tiny_folder: Path) -> None:
    tasks = [CODE]
    plain, healed = (make_plan(suite(str(tiny_folder), tasks=tasks, heal=heal)).cells[0] for heal in (False, True))
    assert plain.fingerprint != healed.fingerprint
    assert healed.settings["heal"] is True


def test_a_healed_run_records_what_was_healed(tiny_folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    outcome = run(suite(str(tiny_folder), tasks=[MORE], heal=True), store)
    [(_, _, cell)] = store.cells(outcome.run_id)
    assert all("healed_bytes" in sample.facts for sample in store.samples(cell.fingerprint))
