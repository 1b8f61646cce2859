"""The progress of a move as progress artifacts: they move in the Prefect UI while tables are loaded and read back."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from operator import attrgetter
from threading import Event, Thread
from typing import cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from pgferry.move import Move
from pgferry.progress import Clock, TableClock, listening_too

TELL_SECONDS = 1.0
"""One artifact is renewed so often, at the most: the server has more to do than to count."""

AWAY_SECONDS = 30.0
"""Until a server is told again that did not answer."""

FAREWELL_SECONDS = 10.0
"""How long a move that is done waits for its last numbers to be told."""

LOG_SECONDS = 10.0
"""How often the log has a line: unlike an artifact's page, it moves in the UI without being loaded again."""

SAMPLES = 2_000
"""Moments whose numbers are kept for the chart, at the most."""

OWN_ROWS = 100_000
"""Tables of so many rows get an artifact of their own: smaller ones take no longer than a moment."""

OWN_TABLES = 12
"""Tables that get one, at the most: the largest."""


class Work(StrEnum):
    """What is counted; the value is what a person reads."""

    EXPORT = "Exporting"
    LOAD = "Loading"
    VERIFY = "Verifying"


Speed = list[tuple[datetime, int]]
"""Moments, in their order, and the rows that were done between the one before and it."""

_COUNTED: Mapping[Work, Callable[[TableClock], int]] = {
    Work.EXPORT: attrgetter("exported"),
    Work.LOAD: attrgetter("loaded"),
    Work.VERIFY: attrgetter("verified"),
}


@dataclass(slots=True)
class Bar:
    """One artifact: what it counts, how far that was seen to be, and what of it was told."""

    work: Work
    name: str
    tables: tuple[str, ...]
    rows: int
    earlier: int = 0
    """Rows that an earlier try has done: they say nothing about the speed."""
    done: int = 0
    began: float = 0.0
    moved_at: float = 0.0
    """`time.monotonic()` before the first row was seen to be done, and when the latest was."""
    artifact: UUID | None = None
    told: int | None = None
    told_at: float = 0.0

    @property
    def key(self) -> str:
        """Return the artifact's key: by it the Artifacts page brings the runs of a table together."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.work} {self.name}".lower()).strip("-")

    @property
    def percent(self) -> float:
        """Return how much is done, 0 to 100."""
        return round(100.0 * self.done / self.rows, 1) if self.rows else 100.0

    def look(self, clock: Clock, now: float) -> None:
        """Take note of what is done; what was tried twice counts once."""
        counted, tables = _COUNTED[self.work], [clock.tables[table] for table in self.tables]
        self.move(sum(min(counted(table), table.rows) for table in tables), now)

    def move(self, done: int, now: float) -> None:
        """Take note that so many rows are done now."""
        if not self.done:
            self.began = self.moved_at or now
        if done != self.done or not done:
            self.done, self.moved_at = done, now

    def __str__(self) -> str:
        seconds = self.moved_at - self.began
        # In less than a second nothing was seen but the end.
        rate = max(self.done - self.earlier, 0) / seconds if seconds >= TELL_SECONDS else 0.0
        if self.done >= self.rows:
            took = f" in {seconds:,.0f} s, {rate:,.0f} rows/s" if rate else ""
            return f"{self.work} {self.name}: done, {self.rows:,} rows{took}"
        left = f", {rate:,.0f} rows/s, about {(self.rows - self.done) / rate:,.0f} s left" if rate else ""
        return f"{self.work} {self.name}: {self.done:,} of {self.rows:,} rows{left}"


@contextmanager
def progress(move: Move, work: Work) -> Iterator[Speed]:
    """Show how far the work of the block is: one artifact for all tables, and one for each large table.

    Yields what fills, until the block ends, with the moments and the rows that were done since the moment before.

    To be entered in a flow run. The work itself is not slowed down: a thread tells the numbers, a request a second at
    the most, and a Prefect server that does not answer is only missed in the log. When the block ends by an error the
    artifacts stay where they were.
    """
    teller = _Teller(bars(move, work), move.source_rows)
    # In the flow run's context, by which an artifact knows whose it is.
    thread = Thread(target=copy_context().run, args=(teller.tell,), name=f"tell {work}", daemon=True)
    with listening_too(teller.clock):
        thread.start()
        try:
            yield teller.speed
            teller.complete()
        finally:
            teller.stop.set()
            thread.join(FAREWELL_SECONDS)


def bars(move: Move, work: Work) -> tuple[Bar, ...]:
    """Return what is to be shown: all rows together, then the large tables, the largest first."""
    earlier = _earlier(move) if work is Work.LOAD else {}
    tables = tuple(move.reads)
    large = sorted((table for table in tables if move.source_rows[table] >= OWN_ROWS), key=move.source_rows.__getitem__)
    own = large[: -OWN_TABLES - 1 : -1] if len(tables) > 1 else []
    return (
        Bar(work, "all tables", tables, move.rows, sum(earlier.values())),
        *(Bar(work, table, (table,), move.source_rows[table], earlier.get(table, 0)) for table in own),
    )


def _earlier(move: Move) -> dict[str, int]:
    found: dict[str, int] = {}
    for chunk in (chunk for group in move.groups for unit in group.units for chunk in unit.chunks):
        if (chunk.table, chunk.number) in move.done:
            found[chunk.table] = found.get(chunk.table, 0) + chunk.rows
    return found


def thinned(speed: Speed) -> Speed:
    """Return every second moment, with the rows of those that are left out."""
    pairs = zip(speed[::2], speed[1::2], strict=False)
    odd = speed[-1:] if len(speed) % 2 else []
    return [(moment, rows + earlier) for (_, earlier), (moment, rows) in pairs] + odd


class _Teller:
    def __init__(self, shown: Sequence[Bar], rows: Mapping[str, int]) -> None:
        self.clock = Clock()
        self.stop = Event()
        self.speed: Speed = []
        self._bars = shown
        self._complete = False
        self._logged_at = time.monotonic()
        for table, count in rows.items():
            self.clock.table(table, count)

    def complete(self) -> None:
        """Say that all is done, whatever was counted: rows that went into quarantine are not."""
        self._complete = True

    def tell(self) -> None:
        """Tell what has moved until `stop` is set, and then the last numbers."""
        self._look()
        away_until = 0.0 if self._tell(self._bars[0]) else time.monotonic() + AWAY_SECONDS
        while not self.stop.wait(TELL_SECONDS):
            self._look()
            self._log_now_and_then()
            if time.monotonic() > away_until and not self._tell_next():
                away_until = time.monotonic() + AWAY_SECONDS
        self._look()
        for bar in self._bars:
            if self._complete and bar.done < bar.rows:
                bar.move(bar.rows, bar.moved_at)
            if bar.told != bar.done and not self._tell(bar):
                return

    def _look(self) -> None:
        now = time.monotonic()
        before = self._bars[0].done
        for bar in self._bars:
            bar.look(self.clock, now)
        self.speed.append((datetime.now(UTC), self._bars[0].done - before))
        if len(self.speed) > SAMPLES:
            self.speed[1:] = thinned(self.speed[1:])

    def _log_now_and_then(self) -> None:
        if time.monotonic() > self._logged_at + LOG_SECONDS:
            self._logged_at = time.monotonic()
            moving = [bar for bar in self._bars if 0 < bar.done < bar.rows]
            for bar in moving[1:] or moving:
                get_run_logger().info("%s.", bar)

    def _tell_next(self) -> bool:
        """Tell of the bar that has waited longest; returns whether the server took it."""
        moved = [bar for bar in self._bars if bar.done != (bar.told or 0)]
        return not moved or self._tell(min(moved, key=attrgetter("told_at")))

    def _tell(self, bar: Bar) -> bool:
        try:
            if bar.artifact is None:
                made = create_progress_artifact(bar.percent, key=bar.key, description=str(bar))
                bar.artifact = cast("UUID", made)
            else:
                update_progress_artifact(bar.artifact, bar.percent, description=str(bar))
        except Exception as error:
            get_run_logger().warning("The progress was not told to Prefect: %s.", type(error).__name__)
            return False
        bar.told, bar.told_at = bar.done, time.monotonic()
        return True
