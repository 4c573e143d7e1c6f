"""Progress: the estimate, and what is shown where there is no terminal."""

import io

import pytest
from rich.console import Console

from crosstok.harness import progress
from crosstok.harness.progress import Reporter


def plain_console() -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=False, width=200), stream


def test_without_a_terminal_each_stage_is_a_line_with_the_time_left_and_one_with_the_time_taken() -> None:
    console, stream = plain_console()
    with Reporter(console) as reporter:
        reporter.expect(90)
        with reporter.stage("make alm", 10, 60) as advance:
            advance(10, "loss 0.5")
        with reporter.stage("alm on humaneval", 5, 30) as advance:
            advance(5, "")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "make alm: started, 1:30 left in all"
    assert lines[1] == "make alm: 0:00  loss 0.5"
    assert lines[2] == "alm on humaneval: started, 0:15 left in all", "what was done took no time: half the guess"


def test_a_stage_that_fails_still_closes_its_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Reporter(console) as reporter:
        reporter.expect(1)
        with pytest.raises(ZeroDivisionError), reporter.stage("make", 1, 1):
            1 / 0  # noqa: B018
        assert reporter._bars is not None
        assert len(reporter._bars.tasks) == 1, "only the bar of the whole is left"


def test_hostile_text_in_a_state_is_not_markup() -> None:
    console, stream = plain_console()
    with Reporter(console) as reporter, reporter.stage("t", 1, 1) as advance:
        advance(1, "[bold]x[/nope]")
    assert "[bold]x[/nope]" in stream.getvalue()


def test_without_a_terminal_a_long_stage_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    console, stream = plain_console()
    with Reporter(console) as reporter:
        reporter.expect(100)
        with reporter.stage("alm on humaneval", 10, 100) as advance:
            advance(4, "1 passed of 4")
    assert "alm on humaneval: 4 of 10, 0:36 left in all  1 passed of 4" in stream.getvalue().splitlines()
