"""Progress on a console: bars for the whole job and for the stage at hand, plain lines where there is no terminal."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from crosstok.progress import ProgressEvent

LINE_EVERY_S = 30.0
"""Seconds between two lines on the same stage, where there is no terminal."""


class ConsoleProgress:
    """Callback that shows the events of a job on a console, by default standard error.

    A terminal shows two bars while a stage runs, and keeps a line for each stage that is done. Anything else (a file, a
    pipe, the log of a CI job) gets lines alone, or nothing if ``lines`` is false.
    """

    def __init__(self, console: Console | None = None, *, lines: bool = True) -> None:
        self._console = console or Console(stderr=True)
        self._lines = lines
        self._bars: Progress | None = None
        self._whole: TaskID | None = None
        self._stages: dict[str, TaskID] = {}
        self._last_line = 0.0

    def __call__(self, event: ProgressEvent) -> None:
        """Show ``event``."""
        if event.kind == "message":
            self._say(event.state)
        elif event.kind == "closed":
            self._close()
        elif self._console.is_terminal:
            self._draw(event)
        elif self._lines:
            self._write(event)

    def _draw(self, event: ProgressEvent) -> None:
        bars = self._open()
        if self._whole is not None:
            bars.update(self._whole, completed=event.share, left=f"left {_clock(event.left_s)}")
        if event.kind == "started":
            self._stages[event.stage] = bars.add_task(event.stage, total=event.total, state="", left="")
        if event.kind == "finished":
            bars.remove_task(self._stages.pop(event.stage))
            self._say(_done(event))
        else:
            bars.update(self._stages[event.stage], completed=event.done, total=event.total, state=event.state)

    def _open(self) -> Progress:
        if self._bars is None:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}", markup=False),
                TextColumn("{task.fields[state]}", markup=False),
            )
            # Results go to standard output: they share the terminal with the bars only where it is one.
            self._bars = Progress(*columns, console=self._console, redirect_stdout=sys.stdout.isatty(), transient=True)
            self._bars.start()
            self._whole = self._bars.add_task("total", total=1.0, state="", left="")
        return self._bars

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars = self._whole = None
        self._stages.clear()

    def _write(self, event: ProgressEvent) -> None:
        now = time.monotonic()
        if event.kind == "started":
            self._last_line = now
            self._say(f"{event.stage}: started, {_clock(event.left_s)} left in total")
        elif event.kind == "finished":
            self._say(_done(event))
        elif now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            of = f" of {event.total:.0f}" if event.total is not None else ""
            state = f"  {event.state}" if event.state else ""
            self._say(f"{event.stage}: {event.done:.0f}{of}, {_clock(event.left_s)} left in total{state}")

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _done(event: ProgressEvent) -> str:
    return f"{event.stage}: {_clock(event.elapsed_s)}{'  ' + event.state if event.state else ''}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
