"""Running a suite on tiny models: what is stored, what is not done twice, and what survives being killed."""

import json
import logging
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import pytest
import yaml
from killed_runs import start_run
from tiny_models import tiny_model
from toy_tokenizers import toy_tokenizer

from crosstok import sandbox
from crosstok.distill.models import checkpoints
from crosstok.errors import RunIncomplete, UserError
from crosstok.harness.generation.generator import Generator
from crosstok.harness.jobs.run import Outcome, require_complete, run_suite
from crosstok.harness.likelihood.rolling import Scorer
from crosstok.harness.plan.plan import make_plan
from crosstok.harness.plan.references import check_references
from crosstok.harness.plan.suite import check_suite
from crosstok.results.store.records import Progress
from crosstok.results.store.store import Store
from crosstok.sandbox import Program, Status, Verdict

Content = Callable[..., dict[str, Any]]
KILLS = 20


def run(content: dict[str, Any], store: Store) -> Outcome:
    return run_suite(check_suite(content, "test"), store)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))


def content_of(store: Store, run_id: str) -> dict[str, Any]:
    """Return everything of a run that must not depend on when and how often it was interrupted."""
    found: dict[str, Any] = {}
    for _, _, cell in store.cells(run_id):
        samples = sorted(store.samples(cell.fingerprint), key=lambda sample: (sample.document, sample.index))
        verdicts = sorted(store.verdicts(cell.fingerprint), key=lambda verdict: verdict.document)
        found[cell.fingerprint] = (
            cell.status,
            [sample.model_dump(exclude={"seconds", "nats"}) for sample in samples],
            [(verdict.document, verdict.status, verdict.integrity) for verdict in verdicts],
        )
    return found


def nats_of(store: Store, run_id: str) -> dict[str, float]:
    """Return the likelihoods of a run by cell and document."""
    return {
        f"{cell.fingerprint} {sample.document}": sample.nats
        for _, _, cell in store.cells(run_id)
        for sample in store.samples(cell.fingerprint)
        if sample.nats is not None
    }


def test_every_cell_of_the_suite_is_measured_and_stored(suite_content: Content, tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    outcome = run(suite_content(), store)
    assert outcome.status is Progress.COMPLETE
    cells = [found.cell for found in store.cells(outcome.run_id)]
    assert len(cells) == 4
    assert {cell.status for cell in cells} == {Progress.COMPLETE}
    for cell in cells:
        samples = store.samples(cell.fingerprint)
        judged = {verdict.document for verdict in store.verdicts(cell.fingerprint)}
        if cell.settings.get("sandbox"):
            assert {sample.document for sample in samples} == judged == {"HumanEval/0", "HumanEval/54", "HumanEval/109"}
            assert all(sample.bytes <= 40 for sample in samples)
        else:
            assert len(samples) == 4
            assert all(sample.nats is not None and sample.nats > 0 for sample in samples)


def test_a_second_start_asks_no_model_anything(
    suite_content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "s.db")
    first = run(suite_content(), store)
    before = content_of(store, first.run_id)

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("a finished cell was measured again")

    monkeypatch.setattr(Scorer, "__init__", refuse)
    monkeypatch.setattr(Generator, "__init__", refuse)
    second = run(suite_content(), store)
    assert second.run_id == first.run_id
    assert second.status is Progress.COMPLETE
    assert content_of(store, second.run_id) == before


def test_where_the_time_of_programs_went_is_told_and_stored(suite_content: Content, tmp_path: Path) -> None:
    content = suite_content()
    content["tasks"] = [{"name": "humaneval", "limit": 3, "max_bytes": 40}]
    store = Store(tmp_path / "s.db")
    said: list[str] = []
    outcome = run_suite(check_suite(content, "test"), store, progress=lambda event: said.append(event.state))
    cells = [found.cell for found in store.cells(outcome.run_id)]
    for cell in cells:
        parts = {name: cell.spent[name] for name in ("generation", "execution", "rest")}
        assert min(parts.values()) >= 0
        assert parts["generation"] > 0
        assert sum(parts.values()) == pytest.approx(cell.seconds, abs=0.2), "the three are the wall time"
        assert cell.spent["programs"] > 0
    generation = sum(cell.spent["generation"] for cell in cells)
    assert f"all programs of this session: generation {generation:.1f} s, waiting for programs" in "\n".join(said)


def test_a_suite_that_grows_measures_only_what_is_new(suite_content: Content, tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    content = suite_content()
    small = run({**content, "models": {"base": content["models"]["base"]}}, store)
    large = run(content, store)
    shared = {found.cell.fingerprint for found in store.cells(small.run_id)}
    assert shared < {found.cell.fingerprint for found in store.cells(large.run_id)}


def test_a_model_that_does_not_load_fails_alone_with_its_reason_and_works_once_repaired(
    suite_content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = suite_content()
    models = {"lost": {"source": str(tmp_path / "lost")}, "base": content["models"]["base"]}
    tokenizer = toy_tokenizer("bpe")
    tiny_model(tokenizer, seed=5).save_pretrained(tmp_path / "lost")
    tokenizer.save_pretrained(tmp_path / "lost")
    load, said = checkpoints.load, []

    def loads(source: str, **options: Any) -> Any:
        if Path(source).name == "lost":
            raise UserError("lost cannot be loaded: KeyError: 'yarn3'", hint="Check the folder.")
        return load(source, **options)

    store = Store(tmp_path / "s.db")
    suite = check_suite(suite_content(models=models, tasks=content["tasks"][1:]), "test")
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "load", loads)
        outcome = run_suite(suite, store, progress=lambda event: said.append(str(event)))
    cells = {cell.model: cell.cell for cell in store.cells(outcome.run_id)}
    assert outcome.status is Progress.PARTIAL
    assert cells["lost"].status is Progress.FAILED
    assert cells["lost"].error == "lost cannot be loaded: KeyError: 'yarn3' Check the folder."
    assert cells["base"].status is Progress.COMPLETE
    assert any("KeyError: 'yarn3'" in event for event in said)
    assert run_suite(suite, store).status is Progress.COMPLETE


def test_an_ensemble_of_students_is_measured_like_any_model(suite_content: Content, tmp_path: Path) -> None:
    content = suite_content()
    models = content["models"] | {
        "again": {"transfer": {"from": "base", "tokenizer": "bytes", "init": "fvt", "steps": 0}},
        "pair": {"ensemble": {"members": ["fvt", "again"]}},
    }
    store = Store(tmp_path / "s.db")
    outcome = run({**content, "models": models, "tasks": content["tasks"][1:]}, store)
    nats = {}
    for name, _, cell in store.cells(outcome.run_id):
        nats[name] = sum(sample.nats or 0.0 for sample in store.samples(cell.fingerprint))
    assert nats["pair"] == pytest.approx(nats["fvt"], rel=1e-5), "two equal members are one model"
    assert nats["pair"] != pytest.approx(nats["base"], rel=1e-2)


def test_a_text_that_cannot_be_encoded_is_stored_as_refused_and_not_scored(
    suite_content: Content, tmp_path: Path
) -> None:
    folder = tmp_path / "spm"
    tokenizer = toy_tokenizer("spm")
    tiny_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    texts = tmp_path / "odd.jsonl"
    rows = [{"id": str(n), "text": f"plain {n}" if n % 2 else f"a \u2581 is no space {n}"} for n in range(200)]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    content = suite_content(
        models={"base": {"source": str(folder)}},
        tasks=[{"name": "b", "task": "text_bpb", "source": f"jsonl:{texts}"}],
    )
    store = Store(tmp_path / "s.db")
    outcome = run(content, store)
    assert outcome.status is Progress.COMPLETE, "asking again would not change it"
    ((_, _, cell),) = store.cells(outcome.run_id)
    samples = store.samples(cell.fingerprint)
    refused = {sample.document for sample in samples if sample.stop_reason == "refused"}
    assert refused
    assert len(refused) < len(samples)
    assert all("does not survive" in sample.facts["refused"] for sample in samples if sample.document in refused)
    assert refused.isdisjoint(score.document for score in store.scores(cell.fingerprint))


class BrokenPool:
    """A sandbox that can judge nothing."""

    def __init__(self, tier: str) -> None:
        self.tier = tier

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, programs: Iterable[Program] | sandbox.ProgramQueue) -> Iterator[Verdict]:
        for program in drained(programs) if isinstance(programs, sandbox.ProgramQueue) else programs:
            yield Verdict(program.id, Status.SANDBOX_ERROR, "none", "broken")


def drained(programs: sandbox.ProgramQueue) -> Iterator[Program]:
    """Yield what comes through a queue, which a real pool would be woken for."""
    while not programs.exhausted:
        if (program := programs.take()) is not None:
            yield program
        time.sleep(0.001)


def test_a_failure_of_the_sandbox_makes_the_run_incomplete_and_is_judged_again(
    suite_content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = suite_content(models={"base": suite_content()["models"]["base"]}, tasks=suite_content()["tasks"][:1])
    store = Store(tmp_path / "s.db")
    (task,) = make_plan(check_suite(content, "test")).code_tasks
    with sandbox.open_pool(workers=1) as pool:
        check_references(task, pool)
    with monkeypatch.context() as broken:
        broken.setattr(sandbox, "open_pool", lambda *_, **__: BrokenPool(pool.tier))
        outcome = run(content, store)
    assert outcome.status is Progress.PARTIAL
    with pytest.raises(RunIncomplete, match="The same command continues it"):
        require_complete(outcome)
    monkeypatch.setattr(Generator, "_rows", lambda *_: pytest.fail("an answer was generated again"))
    assert run(content, store).status is Progress.COMPLETE


def test_a_sandbox_that_fails_on_a_published_solution_says_so_before_any_model_is_loaded(
    suite_content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "open_pool", lambda *_, **__: BrokenPool("broken()"))
    monkeypatch.setattr(Generator, "__init__", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match=r"The sandbox failed on the published solution of HumanEval/0.*doctor"):
        run(suite_content(), Store(tmp_path / "s.db"))


def test_the_workers_of_the_sandbox_live_as_long_as_the_run(
    suite_content: Content, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = suite_content()
    with caplog.at_level(logging.INFO, logger="sandbox"):
        outcome = run({**content, "tasks": content["tasks"][:1]}, Store(tmp_path / "s.db"))
    assert outcome.status is Progress.COMPLETE
    assert not [record.message for record in caplog.records if "died" in record.message]


def test_twenty_kills_at_any_moment_lose_no_sample_and_double_none(suite_content: Content, tmp_path: Path) -> None:
    content = suite_content()
    code, text = content["tasks"]
    content["tasks"] = [{**code, "limit": 16}, {**text, "limit": 16}]
    content["models"]["sft"] = {
        "transfer": {"from": "base", "tokenizer": "bytes", "loss": ["sft"], "steps": 6, "corpus": text["source"]}
    }
    suite = tmp_path / "suite.yaml"
    suite.write_text(yaml.safe_dump(content), encoding="utf-8")
    undisturbed = start_run(suite, tmp_path / "a.db", tmp_path / "cache-a")
    undisturbed.join(300)
    assert undisturbed.exitcode == 0

    moments = random.Random(5)
    kills = rounds = 0
    while kills < KILLS:  # one round, unless a run was quick enough to end before its moment came
        rounds += 1
        assert rounds < 5, "these runs are too quick to be disturbed"
        store, cache = tmp_path / f"b{rounds}.db", tmp_path / f"cache-b{rounds}"
        kills += kill_often(suite, store, cache, KILLS - kills, moments)
        last = start_run(suite, store, cache)
        last.join(300)
        assert last.exitcode == 0

        whole, pieces = Store(tmp_path / "a.db"), Store(store)
        run_id = whole.latest_run().id
        assert pieces.latest_run().id == run_id
        assert content_of(pieces, run_id) == content_of(whole, run_id)
        # A text that was scored in another batch may differ in the last bits of fp32.
        assert nats_of(pieces, run_id) == pytest.approx(nats_of(whole, run_id), rel=1e-5)


def kill_often(suite: Path, store: Path, cache: Path, times: int, moments: random.Random) -> int:
    """Start a run and kill it, ``times`` times or until one has ended first; return how many were killed."""
    for kills in range(times):
        more = moments.randint(0, 2)  # 0: while it plans, loads and makes models
        target = events(store, cache) + more
        process = start_run(suite, store, cache)
        while process.is_alive() and events(store, cache) < target:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.03 if more else 0.8))
        process.kill()
        process.join()
        if process.exitcode == 0:
            return kills
        assert process.exitcode == -signal.SIGKILL
    return times


def events(store: Path, cache: Path) -> int:
    """Return how much a run has left behind so far: stored answers and logged training steps."""
    steps = sum(log.read_text(encoding="utf-8").count("\n") for log in cache.rglob("training.jsonl"))
    if not store.exists():
        return steps
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        try:
            return steps + int(connection.execute("SELECT count(*) FROM samples").fetchone()[0])
        except sqlite3.OperationalError:  # its tables are being made
            return steps
