"""Progress of a run: one bar for the whole, one for the stage at hand; plain lines where there is no terminal.

Every stage says in advance how many seconds it is likely to take. The whole bar counts those seconds, so the time left
is an estimate from the first stage on, corrected by how fast the stages that are done really were.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 30.0
"""Without a terminal, a stage says how far it is this often."""

FIRST_GUESS_S = 60.0
"""How many seconds of work the guess made before the start is worth in the estimate of the time left."""

Advance = Callable[[float, str], None]
"""Called with the amount done since the last call and a few words on the state."""


class Reporter:
    """Shows stages on a console. Use as a context manager around the whole run."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._expected_s = 1e-9
        self._done_s = 0.0
        self._started = time.monotonic()
        self._bars: Progress | None = None
        self._whole: TaskID | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[state]}"),
            )
            self._bars = Progress(*columns, console=self._console, speed_estimate_period=600)
            self._bars.start()
            self._whole = self._bars.add_task("[bold]all", total=self._expected_s, state="")
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars:
            self._bars.stop()

    def expect(self, seconds: float) -> None:
        """Set the likely seconds of all stages that are still to come."""
        self._expected_s = self._done_s + max(seconds, 1e-9)
        if self._bars and self._whole is not None:
            self._bars.update(self._whole, total=self._expected_s)

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, title: str, total: float, expected_s: float) -> Iterator[Advance]:
        """Open a stage of ``total`` units that is likely to take ``expected_s`` seconds."""
        began = time.monotonic()
        bar = self._bars.add_task(title, total=total, state="") if self._bars else None
        if self._bars is None:
            self.say(f"{title}: started, {_clock(self._left())} left in all")
        before = self._done_s
        done = 0.0
        last_state = ""
        last_line = began

        def advance(amount: float, state: str) -> None:
            nonlocal done, last_state, last_line
            done += amount
            last_state = state or last_state
            self._done_s = before + (min(done / total, 1.0) if total else 1.0) * expected_s
            if self._bars and bar is not None and self._whole is not None:
                self._bars.update(bar, advance=amount, state=last_state)
                self._bars.update(self._whole, completed=self._done_s)
            elif time.monotonic() - last_line >= LINE_EVERY_S:
                last_line = time.monotonic()
                words = f"  {last_state}" if last_state else ""
                self.say(f"{title}: {done:.0f} of {total:.0f}, {_clock(self._left())} left in all{words}")

        try:
            yield advance
        finally:
            self._done_s = before + expected_s
            if self._bars and bar is not None and self._whole is not None:
                self._bars.remove_task(bar)
                self._bars.update(self._whole, completed=self._done_s)
            self.say(f"{title}: {_clock(time.monotonic() - began)}{'  ' + last_state if last_state else ''}")

    def _left(self) -> float:
        remaining = max(self._expected_s - self._done_s, 0.0)
        elapsed = time.monotonic() - self._started
        # The first guess counts like a minute of experience, so that a slow start does not promise hours.
        pace = (elapsed + FIRST_GUESS_S) / (self._done_s + FIRST_GUESS_S)
        return remaining * pace


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
