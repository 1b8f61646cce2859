"""What a person sees while a move runs: a live display in a terminal, plain lines in a pipe, nothing with --json."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from pgferry.progress import Clock, listening

SHOWN_TABLES = 12
"""Tables that get a line of their own; the others share one."""

PLAIN_SECONDS = 5.0
"""How often a plain line tells of a table's progress."""


class PlainLines(Clock):
    """Tells steps and, now and then, tables in plain lines on stderr."""

    def __init__(self) -> None:
        super().__init__()
        self._told = 0.0

    def step(self, name: str) -> None:
        """Tell that a step begins."""
        say(f"{name} …")

    def loaded(self, table: str, rows: int) -> None:
        """Add rows that were sent, and tell of them every few seconds."""
        super().loaded(table, rows)
        now, clock = time.monotonic(), self.tables[table]
        if now - self._told > PLAIN_SECONDS:
            self._told = now
            rate = clock.loaded / max(now - clock.began, 0.001)
            say(f"  {table}: {clock.loaded:,} of {clock.rows:,} rows loaded, {rate:,.0f} rows/s")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} rows/s" if speed else "", style="progress.data.speed")


class LiveBars(Clock):
    """Draws a bar a table: rows loaded, rate and time left; and one for the rows read back."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._bars: dict[str, int] = {}

    def step(self, name: str) -> None:
        """Print the step above the bars."""
        self.progress.console.print(f"[dim]{name} …[/dim]")

    def table(self, name: str, rows: int) -> None:
        """Add the table's bar, or its rows to the bar of the many."""
        super().table(name, rows)
        label = name if len(self.tables) <= SHOWN_TABLES else "other tables"
        self._grow(f"load {label}", rows)
        self._bars[name] = self._bars[f"load {label}"]
        self._grow("verify all", rows)

    def loaded(self, table: str, rows: int) -> None:
        """Move the table's bar."""
        super().loaded(table, rows)
        self.progress.advance(self._bar(table), rows)

    def verified(self, table: str, rows: int) -> None:
        """Move the bar of the verification."""
        super().verified(table, rows)
        self.progress.advance(self._bar("verify all"), rows)

    def _grow(self, label: str, rows: int) -> None:
        if label not in self._bars:
            self._bars[label] = self.progress.add_task(label, total=0)
        bar = self._bar(label)
        self.progress.update(bar, total=(self._total(bar)) + rows)

    def _total(self, bar: int) -> float:
        return next(task.total or 0.0 for task in self.progress.tasks if task.id == bar)

    def _bar(self, label: str):  # type: ignore[no-untyped-def]
        return self._bars[label]


def say(line: str) -> None:
    """Print a line for people, where it is in nobody's way."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def display(*, silent: bool) -> Iterator[Clock]:
    """Show what the move reports inside the block; `silent` only keeps the times."""
    clock: Clock
    if silent:
        clock = Clock()
        with listening(clock):
            yield clock
    elif sys.stderr.isatty():
        clock = LiveBars(Console(stderr=True))
        with clock.progress, listening(clock):
            yield clock
    else:
        clock = PlainLines()
        with listening(clock):
            yield clock
