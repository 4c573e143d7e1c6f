"""The store keeps what it is given, once, through kills and second writers, and says plainly what is wrong with it."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from crosstok.errors import UserError
from crosstok.results.store.records import Cell, Progress, Run, Sample, Score, Verdict
from crosstok.results.store.store import Store

CELL = Cell(
    fingerprint="c1", model="m1", task="t1", seed=0, settings={"dtype": "float32"}, status=Progress.RUNNING
)  # fmt: skip


def a_run(name: str = "run-1") -> Run:
    return Run(id=name, suite="suite", config={}, environment={}, status=Progress.RUNNING)


def a_sample(document: str, index: int = 0, text: str = "x") -> Sample:
    return Sample(cell="c1", document=document, index=index, text=text, bytes=3, tokens=1, seconds=0.5)


def a_verdict(document: str, status: str = "passed") -> Verdict:
    return Verdict(cell="c1", document=document, status=status, integrity="split", tier="process")


def test_every_record_comes_back_as_it_went_in(store: Store, fill_store: object) -> None:
    run = fill_store(store)  # type: ignore[operator]  # a fixture that is a function
    assert store.run(run.id).model_dump(exclude={"status", "finished"}) == run.model_dump(
        exclude={"status", "finished"}
    )
    assert store.run(run.id).status is Progress.COMPLETE
    assert list(store.models(run.id)) == ["base", "fvt", "sft", "alm", "pair"]
    assert list(store.tasks(run.id)) == ["humaneval", "code_bpb", "text_bpb"]
    assert store.models(run.id)["base"].parameters == 134_515_008
    assert store.tasks(run.id)["humaneval"].metrics[0]["higher_is_better"] is True
    cells = store.cells(run.id)
    assert len(cells) == 15
    assert {(cell.model, cell.task) for cell in cells[:3]} == {
        ("base", "humaneval"),
        ("base", "code_bpb"),
        ("base", "text_bpb"),
    }
    sample = next(sample for sample in store.samples(cells[0].cell.fingerprint) if sample.document == "HumanEval/3")
    assert "<script>" in sample.text
    assert "\x1b" in sample.text
    assert sample.nats is None
    assert len(store.verdicts(cells[0].cell.fingerprint)) == len(store.scores(cells[0].cell.fingerprint)) == 41


@settings(max_examples=30, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])), fact=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_unchanged(text: str, fact: str) -> None:
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "s.sqlite") as store:
        sample = a_sample("d").model_copy(update={"text": text, "prompt": text, "facts": {"note": fact}})
        store.add_samples([sample])
        assert store.samples("c1") == [sample]


@settings(max_examples=25, deadline=None)
@given(writes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.text("ab", max_size=3)), max_size=20))
def test_writing_a_sample_again_replaces_it_and_never_duplicates_it(writes: list[tuple[int, int, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "s.sqlite") as store:
        for document, index, text in writes:
            store.add_samples([a_sample(str(document), index, text)])
        expected = {(str(document), index): text for document, index, text in writes}
        assert {(sample.document, sample.index): sample.text for sample in store.samples("c1")} == expected
        assert store.done_samples("c1") == set(expected)
        assert store.done_documents("c1") == {document for document, _ in expected}


def test_one_batch_may_hold_the_same_sample_twice(store: Store) -> None:
    store.add_samples([a_sample("d", text="first"), a_sample("d", text="second")])
    assert [sample.text for sample in store.samples("c1")] == ["second"]


def test_a_run_that_is_begun_again_keeps_its_start_and_is_running_again(store: Store) -> None:
    first = store.begin_run(a_run())
    store.end_run("run-1", Progress.PARTIAL)
    assert store.run("run-1").finished is not None
    again = store.begin_run(a_run())
    assert again.started == first.started
    stored = store.run("run-1")
    assert (stored.status, stored.started, stored.finished) == (Progress.RUNNING, first.started, None)
    assert len(store.runs()) == 1


def test_a_complete_cell_stays_complete_when_another_run_asks_for_it(store: Store) -> None:
    store.begin_run(a_run("run-1"))
    assert store.begin_cell(CELL, "run-1", "base").status is Progress.RUNNING
    store.end_cell("c1", Progress.COMPLETE, seconds=2.0)
    store.begin_run(a_run("run-2"))
    assert store.begin_cell(CELL, "run-2", "start").status is Progress.COMPLETE
    assert [(entry.model, entry.cell.fingerprint) for entry in store.cells("run-1")] == [("base", "c1")]
    assert [(entry.model, entry.cell.fingerprint) for entry in store.cells("run-2")] == [("start", "c1")]


def test_seconds_of_a_cell_add_up_over_sessions_and_its_error_goes_when_it_runs_again(store: Store) -> None:
    store.begin_cell(CELL, "run-1", "base")
    store.end_cell("c1", Progress.PARTIAL, "no sandbox", seconds=2.0, spent={"generation": 1.0, "execution": 1.0})
    begun = store.begin_cell(CELL, "run-1", "base")
    assert (begun.status, begun.error, begun.seconds) == (Progress.RUNNING, "", 2.0)
    store.end_cell("c1", Progress.COMPLETE, seconds=3.0, spent={"generation": 2.5, "rest": 0.5})
    stored = store.cell("c1")
    assert stored is not None
    assert stored.seconds == 5.0
    assert stored.spent == {"generation": 3.5, "execution": 1.0, "rest": 0.5}
    assert len(store.cells("run-1")) == 1


def test_ending_what_was_never_begun_is_a_defect_and_not_silent(store: Store) -> None:
    with pytest.raises(KeyError):
        store.end_cell("never", Progress.COMPLETE)
    with pytest.raises(KeyError):
        store.end_run("never", Progress.COMPLETE)


def test_samples_that_the_sandbox_broke_on_are_judged_again(store: Store) -> None:
    store.add_samples([a_sample(document) for document in ("a", "b", "c")])
    store.add_verdicts([a_verdict("a"), a_verdict("b", "sandbox_error")])
    assert [sample.document for sample in store.samples_without_verdict("c1")] == ["b", "c"]
    store.add_verdicts([a_verdict("b", "failed")])
    assert [sample.document for sample in store.samples_without_verdict("c1")] == ["c"]
    assert len(store.verdicts("c1")) == 2


def test_samples_and_their_scores_are_committed_together_or_not_at_all(store: Store) -> None:
    def scores() -> Iterator[Score]:
        yield Score(cell="c1", document="a", metric="m", value=1.0)
        raise RuntimeError("the source of scores broke")

    with pytest.raises(RuntimeError):
        store.add_samples([a_sample("a")], scores())
    assert store.samples("c1") == []


def test_sums_are_those_of_the_records(filled: Path) -> None:
    with Store(filled, read_only=True) as store:
        run = store.latest_run().id
        cell = store.cells(run)[0].cell.fingerprint
        samples, scores = store.samples(cell), store.scores(cell)
        facts = store.sample_facts(run)[cell]
        assert sum(fact.bytes for fact in facts) == sum(sample.bytes for sample in samples)
        assert {fact.stop_reason: fact.samples for fact in facts} == {
            reason: sum(sample.stop_reason == reason for sample in samples)
            for reason in {sample.stop_reason for sample in samples}
        }
        found = store.document_scores(run)[cell, "pass@1"]
        assert dict(zip(found.document, found.value, strict=True)) == {score.document: score.value for score in scores}
        assert set(found.scores) == {1}
        assert sum(fact.verdicts for fact in store.verdict_facts(run)[cell]) == len(store.verdicts(cell))


def test_scores_of_several_samples_and_metrics_are_summed_by_document(store: Store) -> None:
    store.begin_cell(CELL, "run-1", "base")
    store.add_scores(
        Score(cell="c1", document=document, index=index, metric=metric, value=value, weight=2.0)
        for metric in ("pass", "time")
        for document, index, value in (("b", 1, 3.0), ("a", 0, 1.0), ("b", 0, 4.0))
    )
    found = store.document_scores("run-1")
    assert set(found) == {("c1", "pass"), ("c1", "time")}
    assert [column.tolist() for column in found["c1", "time"]] == [["a", "b"], [1.0, 7.0], [2.0, 4.0], [1, 2]]


def test_numbers_that_are_no_numbers_never_get_into_the_store() -> None:
    with pytest.raises(ValidationError):
        Score(cell="c", document="d", metric="m", value=float("nan"))


def test_a_suite_is_found_before_a_later_one_whose_name_only_begins_so(store: Store) -> None:
    for number, suite in enumerate(("main", "main-gate")):
        started = datetime(2026, 1, 1 + number, tzinfo=UTC)
        run = Run(
            id=f"{suite}-0", suite=suite, config={}, environment={}, status=Progress.RUNNING, started=started
        )  # fmt: skip
        store.begin_run(run)
    assert store.run("main").id == "main-0"
    assert store.run("main-g").id == "main-gate-0"


def test_a_run_is_found_by_id_by_its_beginning_and_by_default_the_latest(store: Store) -> None:
    with pytest.raises(UserError, match="contains no runs"):
        store.run()
    for name in ("alpha-1", "beta-2", "alpha-3"):
        store.begin_run(a_run(name))
        time.sleep(0.002)  # started is what tells them apart
    assert [run.id for run in store.runs()] == ["alpha-3", "beta-2", "alpha-1"]
    assert store.run().id == "alpha-3"
    assert store.run("alpha-1").id == "alpha-1"
    assert store.run("alpha").id == "alpha-3"
    with pytest.raises(UserError, match=r"Unknown run 'betta-2'\. Did you mean 'beta-2'\?"):
        store.run("betta-2")


KILLED = """
import sys
from pathlib import Path
from crosstok.results.store.records import Sample
from crosstok.results.store.store import Store
store = Store(sys.argv[1])
for batch in range(10**6):
    names = [f"{batch}-{part}" for part in range(7)]
    store.add_samples([Sample(cell="c1", document=name, bytes=1, tokens=1, seconds=0) for name in names])
    print(batch, flush=True)
"""


def test_a_killed_writer_loses_at_most_the_call_in_flight(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    writer = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    reported = [int(writer.stdout.readline()) for _ in range(25)]
    writer.send_signal(signal.SIGKILL)
    reported += [int(line) for line in writer.stdout.read().split("\n") if line]
    writer.wait()
    with Store(path) as store:
        kept = store.done_documents("c1")
        assert len(kept) % 7 == 0
        assert {f"{batch}-{part}" for batch in reported for part in range(7)} <= kept
        assert len(kept) <= 7 * (len(reported) + 1)
        store.add_samples([a_sample("after")])


WRITER = """
import sys
from crosstok.results.store.records import Cell, Progress, Sample
from crosstok.results.store.store import Store
name = sys.argv[2]
with Store(sys.argv[1]) as store:
    for number in range(60):
        cell = Cell(fingerprint=f"{name}{number}", model="m", task="t", seed=0, settings={}, status=Progress.RUNNING)
        store.begin_cell(cell, "run", name)
        store.add_samples([Sample(cell=cell.fingerprint, document="d", bytes=1, tokens=1, seconds=0)])
        store.end_cell(cell.fingerprint, Progress.COMPLETE)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_writers_lose_nothing(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    path = request.getfixturevalue("database_url") if kind == "postgresql" else tmp_path / "s.sqlite"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in ("a", "b")]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    with Store(path) as store:
        cells = store.cells("run")
        assert len(cells) == 120
        assert all(entry.cell.status is Progress.COMPLETE for entry in cells)
        assert all(store.done_samples(entry.cell.fingerprint) == {("d", 0)} for entry in cells)


def test_who_opens_a_store_that_another_process_is_making_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    maker = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    maker.execute("BEGIN IMMEDIATE")
    end = threading.Timer(0.3, lambda: (maker.execute("ROLLBACK"), maker.close()))
    end.start()
    with Store(path) as store:
        assert end.finished.is_set()
        store.add_samples([a_sample("d")])
    end.join()


def message_of(path: Path | str, *, read_only: bool = False) -> str:
    with pytest.raises(UserError) as caught:
        Store(path, read_only=read_only)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_newer_schema_is_refused(filled: Path, tmp_path: Path) -> None:
    path = tmp_path / "newer.sqlite"
    path.write_bytes(filled.read_bytes())
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE store_schema SET version = 99")
    assert "schema version 99" in message_of(path)
    assert "Upgrade crosstok" in message_of(path, read_only=True)


def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("These are my notes, and no store at all.\n" * 50)
    before = path.read_bytes()
    assert "is not a store" in message_of(path)
    assert "is not a store" in message_of(path, read_only=True)
    assert path.read_bytes() == before
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    assert "songs" in message_of(other)


def test_a_truncated_file_is_refused(filled: Path, tmp_path: Path) -> None:
    whole = filled.read_bytes()
    for share in (0.1, 0.5, 0.99):
        path = tmp_path / f"{share}.sqlite"
        path.write_bytes(whole[: int(len(whole) * share)])
        assert "damaged or truncated" in message_of(path)
        assert "damaged or truncated" in message_of(path, read_only=True)


def test_pages_of_garbage_are_one_clear_line(filled: Path, tmp_path: Path) -> None:
    path = tmp_path / "garbage.sqlite"
    whole = bytearray(filled.read_bytes())
    whole[4096:] = os.urandom(len(whole) - 4096)
    path.write_bytes(whole)

    def read_everything() -> None:
        with Store(path, read_only=True) as store:
            for entry in store.cells(store.latest_run().id):
                store.samples(entry.cell.fingerprint)

    with pytest.raises(UserError, match="damaged or truncated"):
        read_everything()


def test_missing_places_are_named(tmp_path: Path) -> None:
    assert "There is no store" in message_of(tmp_path / "none.sqlite", read_only=True)
    assert not (tmp_path / "none.sqlite").exists()
    assert "does not exist" in message_of(tmp_path / "nowhere" / "deeper" / "s.sqlite")
    assert "cannot be created" in message_of(empty_file(tmp_path) / "s.sqlite")
    assert "is a folder" in message_of(tmp_path)
    assert "contains no results" in message_of(empty_file(tmp_path), read_only=True)


def test_a_new_store_makes_its_own_folder(tmp_path: Path) -> None:
    with Store(tmp_path / "runs" / "s.sqlite") as store:
        assert store.runs() == []


def empty_file(folder: Path) -> Path:
    (folder / "empty.sqlite").touch()
    return folder / "empty.sqlite"


def test_an_address_that_is_none_is_named() -> None:
    assert "not a valid store URL" in message_of("nonsense://host/name")
    assert "mysql is not supported" in message_of("mysql://host/name") or "needs the Python package" in message_of(
        "mysql://host/name"
    )
    assert "lost" in message_of("sqlite://")


def test_a_full_disk_is_one_clear_line_and_what_was_written_stays(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    store.add_samples([a_sample("kept")])
    with store.database.write() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(UserError, match="No space left on the disk"):
        store.add_samples([a_sample(f"lost{index}", text="y" * 5000) for index in range(50)])
    assert store.done_documents("c1") == {"kept"}


@contextmanager
def without_root() -> Iterator[None]:
    """Run as nobody where the tests run as root, whom no permission binds."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def closed_folder(filled: Path) -> Iterator[Path]:
    """A folder with a store in it that may only be read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "s.sqlite").write_bytes(filled.read_bytes())
        (folder / "s.sqlite").chmod(0o444)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


def test_a_store_on_a_read_only_disk_opens_for_reading(closed_folder: Path) -> None:
    with without_root(), Store(closed_folder / "s.sqlite", read_only=True) as store:
        assert len(store.cells(store.latest_run().id)) == 15


def test_a_store_that_cannot_be_written_says_so(closed_folder: Path) -> None:
    with without_root():
        message = message_of(closed_folder / "s.sqlite")
    assert "read-only" in message or "cannot be opened" in message


def test_a_store_that_may_not_be_read_says_so(filled: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        path = Path(name) / "s.sqlite"
        path.write_bytes(filled.read_bytes())
        path.chmod(0)
        with without_root():
            assert "cannot be read" in message_of(path, read_only=True)


def test_opening_for_reading_never_writes(filled: Path) -> None:
    with Store(filled, read_only=True) as store, pytest.raises(UserError, match="read-only"):
        store.add_samples([a_sample("d")])


def test_a_reader_sees_what_a_writer_has_committed_while_it_goes_on(store: Store) -> None:
    store.begin_run(a_run())
    store.begin_cell(CELL, "run-1", "base")
    with Store(store.name, read_only=True) as reader:
        assert reader.done_documents("c1") == set()
        store.add_samples([a_sample("d")])
        assert reader.done_documents("c1") == {"d"}


def test_the_store_is_plain_sqlite_that_other_tools_read(filled: Path) -> None:
    with sqlite3.connect(filled) as connection:
        config = connection.execute("SELECT config FROM runs").fetchone()[0]
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert list(json.loads(config)["models"]) == ["base", "fvt", "sft", "alm", "pair"]
