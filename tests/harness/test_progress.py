"""Progress on a console: bars on a terminal, lines elsewhere."""

import io

import pytest
from rich.console import Console

from crosstok.harness import progress
from crosstok.harness.progress import ConsoleProgress
from crosstok.progress import Reporter


def plain_console() -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=False, width=200), stream


def test_without_a_terminal_each_stage_is_a_line_with_the_time_left_and_one_with_the_time_taken() -> None:
    console, stream = plain_console()
    with Reporter(ConsoleProgress(console)) as reporter:
        reporter.expect(90)
        with reporter.stage("make alm", 10, 60) as advance:
            advance(10, "loss 0.5")
        with reporter.stage("alm on humaneval", 5, 30) as advance:
            advance(5, "")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "make alm: started, 1:30 left in total"
    assert lines[1] == "make alm: 0:00  loss 0.5"
    assert lines[2] == "alm on humaneval: started, 0:15 left in total", "what is done took no time: half the estimate"


def test_a_terminal_shows_a_bar_for_the_job_and_one_for_the_stage() -> None:
    shown = ConsoleProgress(Console(file=io.StringIO(), force_terminal=True, width=100))
    with Reporter(shown) as reporter:
        reporter.expect(2)
        with reporter.stage("make", 4, 1) as advance:
            advance(1, "loss 0.5")
            assert shown._bars is not None
            whole, stage = shown._bars.tasks
            assert (whole.description, whole.completed, whole.total) == ("total", 0.125, 1)
            assert (stage.description, stage.completed, stage.total) == ("make", 1, 4)
            assert stage.fields["state"] == "loss 0.5"


def test_a_stage_that_fails_still_closes_its_bar_and_the_job_all_bars() -> None:
    stream = io.StringIO()
    shown = ConsoleProgress(Console(file=stream, force_terminal=True, width=100))
    with Reporter(shown) as reporter:
        reporter.expect(1)
        with pytest.raises(ZeroDivisionError), reporter.stage("make", 1, 1):
            1 / 0  # noqa: B018
        assert shown._bars is not None
        assert len(shown._bars.tasks) == 1, "only the bar of the whole is left"
    assert shown._bars is None
    assert "make: 0:00" in stream.getvalue()


def test_a_short_job_may_be_shown_on_terminals_alone() -> None:
    console, stream = plain_console()
    with Reporter(ConsoleProgress(console, lines=False)) as reporter, reporter.counted("write pages") as count:
        count(1, 2)
        reporter.say("a message is shown all the same")
    assert stream.getvalue() == "a message is shown all the same\n"


def test_one_console_shows_one_job_after_another() -> None:
    stream = io.StringIO()
    shown = ConsoleProgress(Console(file=stream, force_terminal=True, width=100))
    for title in ("first", "second"):
        with Reporter(shown) as reporter, reporter.counted(title) as count:
            count(1, 2)
    assert "first: 0:00" in stream.getvalue()
    assert "second: 0:00" in stream.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_hostile_text_in_a_state_is_not_markup(terminal: bool) -> None:
    stream = io.StringIO()
    with Reporter(ConsoleProgress(Console(file=stream, force_terminal=terminal, width=200))) as reporter:
        with reporter.stage("[red]t[/nope]", 1, 1) as advance:
            advance(1, "[bold]x[/nope]")
        reporter.say("[/nope]")
    assert "[red]t[/nope]: 0:00  [bold]x[/nope]" in stream.getvalue()


def test_without_a_terminal_a_long_stage_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    console, stream = plain_console()
    with Reporter(ConsoleProgress(console)) as reporter:
        reporter.expect(100)
        with reporter.stage("alm on humaneval", 10, 100) as advance:
            advance(4, "1 passed of 4")
    assert "alm on humaneval: 4 of 10, 0:36 left in total  1 passed of 4" in stream.getvalue().splitlines()
