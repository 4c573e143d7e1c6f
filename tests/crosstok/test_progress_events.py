"""Progress of a job: the events that a callback gets, and the estimate of the time left."""

import pytest

from crosstok.progress import ProgressEvent, Reporter


def test_a_job_without_a_callback_reports_to_nobody() -> None:
    with Reporter() as reporter, reporter.stage("make", 2, 1) as advance:
        reporter.expect(1)
        reporter.say("message")
        advance(2, "loss 0.5")


def test_a_callback_gets_every_stage_from_start_to_end() -> None:
    events: list[ProgressEvent] = []
    with Reporter(events.append) as reporter:
        reporter.expect(10)
        with reporter.stage("make alm", 4, 10) as advance:
            advance(1, "loss 0.5")
            advance(1, "")
        reporter.say("one program failed")
    seen = [(event.kind, event.stage, event.done, event.total, event.state) for event in events]
    assert seen == [
        ("started", "make alm", 0, 4, ""),
        ("advanced", "make alm", 1, 4, "loss 0.5"),
        ("advanced", "make alm", 2, 4, "loss 0.5"),
        ("finished", "make alm", 2, 4, "loss 0.5"),
        ("message", "", 0, None, "one program failed"),
        ("closed", "", 0, None, ""),
    ]
    assert [event.share for event in events] == [0, 0.25, 0.5, 1, 1, 1]


def test_the_seconds_left_are_those_expected_and_shrink_with_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[ProgressEvent] = []
    monkeypatch.setattr("crosstok.progress.time.monotonic", lambda: 100.0)
    with Reporter(events.append) as reporter:
        reporter.expect(90)
        with reporter.stage("make", 10, 60) as advance:
            advance(5, "")
        with reporter.stage("measure", 5, 30):
            pass
    assert [round(event.left_s, 1) for event in events] == [90, 40, 15, 15, 0, 0], "nothing took time: ahead of plan"


def test_a_job_slower_than_expected_expects_more_of_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    events: list[ProgressEvent] = []
    monkeypatch.setattr("crosstok.progress.time.monotonic", lambda: now[0])
    with Reporter(events.append) as reporter:
        reporter.expect(120)
        with reporter.stage("make", 2, 120) as advance:
            now[0] = 180.0
            advance(1, "")
    assert events[1].left_s == 60 * (180 + 60) / (60 + 60), "60 s of work took 180 s, and the estimate counts as 60 s"


def test_a_stage_that_counts_itself_learns_its_total_while_it_runs() -> None:
    events: list[ProgressEvent] = []
    with Reporter(events.append) as reporter, reporter.counted("write pages") as count:
        count(1, 3)
        count(2, 3)
    assert [(event.done, event.total) for event in events[:-1]] == [(0, None), (1, 3), (2, 3), (2, 3)]


def test_a_stage_that_fails_is_closed_and_so_is_its_job() -> None:
    kinds: list[str] = []
    with (
        pytest.raises(ZeroDivisionError),
        Reporter(lambda event: kinds.append(event.kind)) as reporter,
        reporter.stage("make", 1, 1),
    ):
        1 / 0  # noqa: B018
    assert kinds == ["started", "finished", "closed"]
