"""What the capture costs the application: the same writes into two copies of a file, in turns."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.live_page import Costs, WriteCost
from pgferry.sample.generate import generate
from pgferry.sqlite import capture

# A checkpoint takes as long as thousands of writes, and falls into one round but not the next: there is none in any.
JOURNALS = {
    "WAL": "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0",
    "rollback journal": "PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL",
}

TOGETHER = (1, 100)
"""Writes in a transaction."""

Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement and what it is run with, row by row."""

    table: str
    name: str
    sql: str
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Spent:
    """What a write took in a round."""

    seconds: float
    pages: float
    """Pages that it put into the WAL; 0 without one."""


class Copy:
    """A copy of the file, with the capture or without, and its one connection."""

    def __init__(self, source: Path, pragmas: str, *, captured: bool) -> None:
        self.path = source.with_name("cost-captured.db" if captured else "cost-plain.db")
        self.path.unlink(missing_ok=True)
        shutil.copyfile(source, self.path)
        if captured:
            capture.install(self.path, "benchmark")
        self.connection = sqlite3.connect(self.path, isolation_level=None)
        self.connection.executescript(pragmas)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def run(self, statement: Statement, together: int) -> Spent:
        """Run the statement with all its rows, and tell what one took."""
        execute, sql, rows = self.connection.execute, statement.sql, statement.rows
        # The first commit after a checkpoint begins the WAL anew and waits for the disk: this one, of one page.
        execute("PRAGMA user_version = 1")
        began = time.perf_counter()
        for first in range(0, len(rows), together):
            execute("BEGIN")
            for row in rows[first : first + together]:
                execute(sql, row)
            execute("COMMIT")
        seconds = time.perf_counter() - began
        _, pages, _ = execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return Spent(seconds / len(rows), max(0, pages - 1) / len(rows))


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the sample: its columns, all its rows, and an update of columns that no index has."""

    name: str
    columns: tuple[str, ...]
    rows: Sequence[Row]
    changed: str
    """A column of integers; an update and a replacement give it another value."""
    unique: str | None
    """A text column that must be unique."""

    def statements(self, count: int, chance: Random) -> Iterator[Statement]:
        """Yield each kind of write, so many rows of each; the table has as many rows afterwards as before."""
        names, marks = ", ".join(f'"{name}"' for name in self.columns), ", ".join("?" for _ in self.columns)
        into = f'INTO "{self.name}" ({names}) VALUES ({marks})'
        first = max(int(str(row[0])) for row in self.rows) + 1
        new = [self._with(chance.choice(self.rows), chance, first + number) for number in range(count)]
        there = [self._with(row, chance) for row in chance.choices(self.rows, k=count)]
        place = self.columns.index(self.changed)
        yield Statement(self.name, "INSERT", f"INSERT {into}", new)
        update = f'UPDATE "{self.name}" SET "{self.changed}" = ? WHERE "id" = ?'
        yield Statement(self.name, "UPDATE", update, [(row[place], row[0]) for row in there])
        yield Statement(self.name, "INSERT OR REPLACE", f"INSERT OR REPLACE {into}", there)
        yield Statement(self.name, "DELETE", f'DELETE FROM "{self.name}" WHERE "id" = ?', [(row[0],) for row in new])

    def _with(self, row: Row, chance: Random, new_id: int | None = None) -> Row:
        values = dict(zip(self.columns, row, strict=True)) | {self.changed: chance.randrange(1_000_000)}
        if new_id is not None:
            values["id"] = new_id
            if self.unique:
                values[self.unique] = f"{values[self.unique]}-{new_id}"
        return tuple(values.values())


def measure_costs(folder: Path, rows: int, rounds: int, writes: Mapping[int, int]) -> Costs:
    """Time every kind of write on a sample with so many trades; `writes` are those of a round, by transaction size."""
    source = folder / "cost.db"
    generate(source, rows)
    costs: list[WriteCost] = []
    for journal, pragmas in JOURNALS.items():
        with (
            closing(Copy(source, pragmas, captured=False)) as plain,
            closing(Copy(source, pragmas, captured=True)) as other,
        ):
            tables = [_table(plain, "trades", "high_price", None), _table(plain, "items", "high_alch", "wiki_slug")]
            for together in TOGETHER:
                costs += _of_size((plain, other), tables, journal, together, rounds, writes[together])
    return Costs(rows, rounds, tuple(costs))


def _table(copy: Copy, name: str, changed: str, unique: str | None) -> Table:
    cursor = copy.connection.execute(f'SELECT * FROM "{name}"')
    columns = tuple(column[0] for column in cursor.description)
    return Table(name, columns, cursor.fetchall(), changed, unique)


def _of_size(
    copies: tuple[Copy, Copy], tables: Sequence[Table], journal: str, together: int, rounds: int, count: int
) -> list[WriteCost]:
    spent: dict[tuple[str, str], list[tuple[Spent, Spent]]] = {}
    for number in range(rounds + 1):
        for statement in (each for table in tables for each in table.statements(count, Random(number))):
            both = _in_turn(copies, statement, together, captured_first=number % 2 == 1)
            if number:  # the first round only warms up
                spent.setdefault((statement.table, statement.name), []).append(both)
    return [_cost(journal, together, *kind, pairs) for kind, pairs in spent.items()]


def _in_turn(
    copies: tuple[Copy, Copy], statement: Statement, together: int, *, captured_first: bool
) -> tuple[Spent, Spent]:
    """Run the statement on both copies, the captured one first where that is said."""
    plain, captured = copies
    if captured_first:
        second = captured.run(statement, together)
        return plain.run(statement, together), second
    return plain.run(statement, together), captured.run(statement, together)


def _cost(journal: str, together: int, table: str, name: str, pairs: Sequence[tuple[Spent, Spent]]) -> WriteCost:
    plain, captured = zip(*pairs, strict=True)
    return WriteCost(
        journal,
        together,
        table,
        name,
        without=median(each.seconds for each in plain) * 1e6,
        captured=median(each.seconds for each in captured) * 1e6,
        pages_without=median(each.pages for each in plain),
        pages_captured=median(each.pages for each in captured),
    )
