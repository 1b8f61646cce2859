"""A finished move with rows in quarantine, and their replay."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.copying import export_unit, load_unit
from pgferry.finishing import conclude
from pgferry.move import prepare
from pgferry.postgres.catalog import count_rows
from pgferry.postgres.ledger import Run, loaded_chunks, read_run, record_snapshot
from pgferry.postgres.quarantine import reasons
from pgferry.postgres.runs import open_run
from pgferry.replay import ReplayReport, conclude_replay, prepare_replay, replay_table
from pgferry.settings import ColumnRules, Rules, Settings, TableRules
from pgferry.sqlite.snapshot import SnapshotCheck, take
from pgferry.verify import table_verdict


@dataclass(frozen=True)
class Moved:
    """A source that was moved, and where."""

    connection: asyncpg.Connection
    url: URL
    source: Path
    run: Run

    async def replay(self, rules: Rules, *tables: str) -> ReplayReport:
        """Replay as the flow does, pass after pass."""
        work = await prepare_replay(self.connection, self.run, rules, "", tables)
        done = {table: await replay_table(self.connection, work, table) for table in work.reads}
        left = [table for table, result in done.items() if result.orphans]
        while left:
            later = {table: await replay_table(self.connection, work, table, orphans_only=True) for table in left}
            done |= {table: done[table].then(result) for table, result in later.items()}
            gained = any(result.loaded for result in later.values())
            left = [table for table, result in later.items() if result.orphans and gained]
        return ReplayReport(tuple(done.values()), await conclude_replay(self.connection, work))

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the source."""
        with closing(sqlite3.connect(self.source)) as source:
            return source.execute(sql).fetchall()

    async def target(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the target."""
        return [tuple(row) for row in await self.connection.fetch(sql)]

    async def events(self) -> list[tuple[Any, ...]]:
        """Return the target's events."""
        return await self.target("SELECT id, at, qty, note, kind FROM events ORDER BY id")

    async def reasons(self) -> dict[str, int]:
        """Return the open reasons, by their example, and how many rows have them."""
        return {item.example: item.rows for item in await reasons(self.connection, self.run.id)}


Move = Callable[..., Awaitable[Moved]]
NO_RULES = Rules()


@pytest.fixture
def move(connection: asyncpg.Connection, database_url: URL, tmp_path: Path) -> Move:
    """Make a source and a schema, and move the one into the other."""

    async def moved(source_sql: str, target_sql: str, rules: Rules = NO_RULES, rows: int = 7) -> Moved:
        source = tmp_path / "app.db"
        with closing(sqlite3.connect(source)) as file:
            file.executescript(source_sql)
        await connection.execute(target_sql)
        settings = Settings(source=source, home=tmp_path / "home", chunk_rows=rows)
        run = await open_run(connection, source, rules, restart=False)
        snapshot = take(source, tmp_path / "backups")
        await record_snapshot(connection, run.id, snapshot)
        plan = await prepare(connection, run.id, snapshot, settings, rules, "")
        for group in plan.groups:
            for unit in group.units:
                await load_unit(connection, plan, unit, export_unit(plan, unit))
        loaded = await loaded_chunks(connection, run.id)
        verdicts = [
            table_verdict(
                pair,
                plan.source_rows[pair.source.name],
                (await count_rows(connection, [pair.target]))[0],
                [chunk for (table, _), chunk in loaded.items() if table == pair.source.name],
            )
            for pair in plan.pairs
        ]
        report = await conclude(connection, plan, verdicts, SnapshotCheck((), 0), database_url, {})
        assert report.verified
        return Moved(connection, database_url, source, await read_run(connection, run.id))

    return moved


def rules(table: str, **columns: ColumnRules) -> Rules:
    return Rules(tables={table: TableRules(columns=columns)})


EVENTS = """
CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, at DATETIME, qty INTEGER, note TEXT, kind TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 103)
INSERT INTO events SELECT i, CASE WHEN i % 10 = 3 THEN 1700000000 + i ELSE '2024-01-02 03:04:05' END,
    CASE WHEN i % 10 = 5 OR i = 93 THEN '' WHEN i = 71 THEN 'many' ELSE i END,
    CASE WHEN i % 10 = 7 THEN CAST('blob ' || i AS BLOB) WHEN i = 98 THEN x'ff00' ELSE 'note ' || i END,
    CASE WHEN i = 50 THEN NULL ELSE 'k' END FROM n;
"""
EVENTS_TARGET = """
CREATE TABLE events (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, at timestamp, qty integer, note text,
                     kind text NOT NULL);
"""
EPOCH = rules("events", at=ColumnRules(epoch="s"))
ALL_RULES = rules(
    "events", at=ColumnRules(epoch="s"), qty=ColumnRules(on_empty="null"), note=ColumnRules(blob_as_text=True)
)
NEVER = {50, 71, 98}
"""Events that no rule makes fit: a NULL in a NOT NULL column, a word as a number, bytes that are no text."""
DIRTY = NEVER | {number for number in range(1, 104) if number % 10 in (3, 5, 7)}


def expected(moved: Moved, without: set[int]) -> list[tuple[Any, ...]]:
    """Read the rules by hand: what the target must hold of the source's events."""
    found = []
    for number, at, qty, note, kind in moved.rows("SELECT * FROM events ORDER BY id"):
        if number not in without:
            moment = datetime.fromtimestamp(at, UTC) if isinstance(at, int) else datetime.fromisoformat(at)
            text = note.decode() if isinstance(note, bytes) else note
            found.append((number, moment.replace(tzinfo=None), None if qty == "" else qty, text, kind))
    return found


FAMILY = """
CREATE TABLE parent (id INTEGER PRIMARY KEY, size INTEGER, code TEXT);
CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent, before INTEGER REFERENCES child,
                    n INTEGER);
INSERT INTO parent VALUES (1, 1, 'a'), (2, '', 'b'), (3, '', 'c'), (4, '', 'd');
INSERT INTO child VALUES (1, 1, NULL, 1), (2, 2, 3, ''), (3, 2, NULL, ''), (4, 99, NULL, ''), (5, 1, NULL, '');
"""
FAMILY_TARGET = """
CREATE TABLE parent (id integer PRIMARY KEY, size integer, code text UNIQUE);
CREATE TABLE child (id integer PRIMARY KEY, parent integer, before integer, n integer CHECK (n > 0));
"""
FAMILY_RULES = Rules(
    tables={
        "parent": TableRules(columns={"size": ColumnRules(on_empty="null")}),
        "child": TableRules(columns={"n": ColumnRules(on_empty="null")}),
    }
)
