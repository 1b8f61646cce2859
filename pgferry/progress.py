"""Progress, told to whoever listens: the library and tasks report, the command line draws, silence is the default."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Protocol


class Reporter(Protocol):
    """Listens to a move. Methods are called from several threads, often; they must be quick and never raise."""

    def run(self, identifier: str) -> None:
        """A flow run of that id begins."""

    def step(self, name: str) -> None:
        """A step of the runbook begins."""

    def table(self, name: str, rows: int) -> None:
        """A table of `rows` rows is going to move."""

    def exported(self, table: str, rows: int) -> None:
        """So many more rows of a table were read."""

    def loaded(self, table: str, rows: int) -> None:
        """So many more rows of a table were sent."""

    def verified(self, table: str, rows: int) -> None:
        """So many more rows of a table were read back and found equal, or not."""


class Silence:
    """A reporter that says nothing."""

    def run(self, identifier: str) -> None:
        """Say nothing."""

    def step(self, name: str) -> None:
        """Say nothing."""

    def table(self, name: str, rows: int) -> None:
        """Say nothing."""

    def exported(self, table: str, rows: int) -> None:
        """Say nothing."""

    def loaded(self, table: str, rows: int) -> None:
        """Say nothing."""

    def verified(self, table: str, rows: int) -> None:
        """Say nothing."""


class Both:
    """A reporter that passes on to two others."""

    def __init__(self, first: Reporter, second: Reporter) -> None:
        self._all = (first, second)

    def run(self, identifier: str) -> None:
        """Pass it on."""
        for listener in self._all:
            listener.run(identifier)

    def step(self, name: str) -> None:
        """Pass it on."""
        for listener in self._all:
            listener.step(name)

    def table(self, name: str, rows: int) -> None:
        """Pass it on."""
        for listener in self._all:
            listener.table(name, rows)

    def exported(self, table: str, rows: int) -> None:
        """Pass it on."""
        for listener in self._all:
            listener.exported(table, rows)

    def loaded(self, table: str, rows: int) -> None:
        """Pass it on."""
        for listener in self._all:
            listener.loaded(table, rows)

    def verified(self, table: str, rows: int) -> None:
        """Pass it on."""
        for listener in self._all:
            listener.verified(table, rows)


@dataclass(slots=True)
class TableClock:
    """When the first row of a table was read and the last one was loaded, and how far it is."""

    rows: int
    exported: int = 0
    loaded: int = 0
    verified: int = 0
    began: float = 0.0
    ended: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds from its first row read to its last row loaded."""
        return max(self.ended - self.began, 0.0)


class Clock:
    """A reporter that keeps each table's times and counts; displays build on it."""

    def __init__(self) -> None:
        self.tables: dict[str, TableClock] = {}
        self.run_id = ""
        self._lock = Lock()

    def run(self, identifier: str) -> None:
        """Remember the flow run."""
        self.run_id = identifier

    def step(self, name: str) -> None:
        """Nothing to keep."""

    def table(self, name: str, rows: int) -> None:
        """Begin a table's account."""
        self.tables[name] = TableClock(rows)

    def exported(self, table: str, rows: int) -> None:
        """Add rows that were read."""
        with self._lock:
            clock = self.tables[table]
            clock.began = clock.began or time.monotonic()
            clock.exported += rows

    def loaded(self, table: str, rows: int) -> None:
        """Add rows that were sent."""
        with self._lock:
            clock = self.tables[table]
            clock.loaded += rows
            clock.ended = time.monotonic()

    def verified(self, table: str, rows: int) -> None:
        """Add rows that were read back."""
        with self._lock:
            self.tables[table].verified += rows


_current: list[Reporter] = [Silence()]


def reporter() -> Reporter:
    """Return who listens in this process."""
    return _current[-1]


@contextmanager
def listening(listener: Reporter) -> Iterator[None]:
    """Let `listener` hear of everything that this process does inside the block."""
    _current.append(listener)
    try:
        yield
    finally:
        _current.remove(listener)


@contextmanager
def listening_too(listener: Reporter) -> Iterator[None]:
    """Let `listener` hear of it beside whoever listens already."""
    with listening(Both(reporter(), listener)):
        yield
