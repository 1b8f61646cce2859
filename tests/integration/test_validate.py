"""A validation holds both sides at one moment: exact while the application writes, and what was planted is found."""

from __future__ import annotations

import asyncio
import json
import pickle
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.errors import UsageError
from pgferry.live.compare import Level, compare_unit
from pgferry.live.model import Direction, Live
from pgferry.live.repair import repair
from pgferry.live.validate import (
    Differs,
    Validation,
    hold,
    joined,
    markdown,
    plan_validation,
    refuse_differences,
    validate,
)
from pgferry.postgres.connection import connect
from pgferry.postgres.journal import touched_count
from pgferry.postgres.quarantine import open_rows
from pgferry.postgres.validations import repairs, validations
from pgferry.settings import Rules, TableRules
from pgferry.sqlite import fence
from tests.live import LiveMove

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

SOURCE = """
    CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, price INTEGER);
    CREATE TABLE trades (id INTEGER PRIMARY KEY, item_id INTEGER REFERENCES items (id), note TEXT);
    CREATE TABLE words (word TEXT COLLATE NOCASE PRIMARY KEY, uses INTEGER);
    CREATE TABLE tokens (id TEXT PRIMARY KEY, note TEXT);
    CREATE TABLE log (line TEXT, level INTEGER);
    CREATE TABLE left (n INTEGER);
    WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 300)
    INSERT INTO items SELECT n, 'item ' || n, n * 10 FROM n;
    INSERT INTO trades SELECT id, id, 'trade ' || id FROM items;
    INSERT INTO words SELECT 'Word' || id, id FROM items;
    INSERT INTO tokens SELECT upper(printf('%032x', id * 104729)), 'note ' || id FROM items;
    INSERT INTO log SELECT 'line ' || (id % 7), id % 3 FROM items;
    INSERT INTO left VALUES (1), (2);
"""
TARGET = """
    CREATE TABLE items (id bigint PRIMARY KEY, name text, price integer);
    CREATE TABLE trades (id bigint PRIMARY KEY, item_id bigint REFERENCES items (id), note text);
    CREATE TABLE words (word text PRIMARY KEY, uses integer);
    CREATE TABLE tokens (id uuid PRIMARY KEY, note text);
    CREATE TABLE log (line text, level integer);
"""


@dataclass
class Nights:
    """A move in dual-write, with two sessions for its validations."""

    move: LiveMove
    live: Live
    connection: Connection
    holder: Connection

    async def validate(self, level: Level = Level.CELLS, **more: float) -> Validation:
        """Validate as every night."""
        return await validate(self.connection, self.holder, self.live, self.folder, level, **more)

    @property
    def folder(self) -> Path:
        """Where the copies of the SQLite file lie while they are compared."""
        return self.move.home / "held"

    async def plant(self, statement: str) -> None:
        """Write to PostgreSQL behind the sync's back."""
        async with self.connection.transaction():
            await self.connection.execute("SET LOCAL pgferry.pass = on")
            await self.connection.execute(statement)

    def write(self, statements: str) -> None:
        """Write to SQLite as the application does."""
        with closing(sqlite3.connect(self.move.source, timeout=20)) as source:
            source.executescript(statements)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Let an application write all the time, several hundred times a second."""
        stop = threading.Event()
        thread = threading.Thread(target=_write_on, args=(self.move.source, stop))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _write_on(path: Path, stop: threading.Event) -> None:
    with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as source:
        number = 0
        while not stop.wait(0.002):
            number += 1
            row = number % 300 + 1
            source.execute("BEGIN IMMEDIATE")
            source.execute("UPDATE items SET price = price + 1 WHERE id = ?", (row,))
            source.execute("INSERT INTO trades (item_id, note) VALUES (?, ?)", (row, f"more {number}"))
            source.execute("UPDATE words SET word = CASE WHEN uses % 2 THEN upper(word) ELSE lower(word) END, uses = ?"
                           " WHERE word = ?", (number, f"word{row}"))  # fmt: skip
            source.execute("DELETE FROM log WHERE rowid = (SELECT min(rowid) FROM log)")
            source.execute("INSERT INTO log VALUES (?, ?)", (f"more {number}", number))
            source.execute("COMMIT")


@pytest.fixture
async def nights(tmp_path: Path, database_url: URL, connection: Connection) -> AsyncIterator[Nights]:
    """A move in dual-write."""
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as source:
        source.execute("PRAGMA journal_mode = wal")
        source.executescript(SOURCE)
    await connection.execute(TARGET)
    rules = Rules(tables={"left": TableRules(exclude=True)})
    move = LiveMove(database_url, path, tmp_path / "home", rules)
    live = await move.dual_write()
    holder = await connect(database_url)
    try:
        yield Nights(move, live, connection, holder)
    finally:
        await holder.close()


async def test_equal_sides_pass_and_rows_need_no_further_look(nights: Nights) -> None:
    nights.write("UPDATE items SET price = 1 WHERE id < 10")
    validation = await nights.validate()
    assert validation.passed
    assert validation.direction is Direction.FORWARD
    assert {table.table: table.compared for table in validation.tables if not table.excluded} == dict.fromkeys(
        ["items", "trades", "words", "tokens", "log"], 300
    )
    (left,) = [table for table in validation.tables if table.excluded]
    assert (left.table, left.source_rows, left.excluded, left.closed) == ("left", 2, 2, True)
    assert await touched_count(nights.connection, nights.live.run_id) == 0
    (record,) = await validations(nights.connection, nights.live.run_id)
    assert (record.passed, record.rows, record.cells, record.level) == (True, 1500, 300 * (3 + 3 + 2 + 2 + 3), "cells")
    assert record.id == validation.id
    assert list(nights.folder.iterdir()) == []


async def test_while_the_application_writes_no_row_in_flight_is_a_difference(nights: Nights) -> None:
    with nights.writing():
        found = [await nights.validate() for _ in range(5)]
        sampled = await nights.validate(Level.SAMPLE, percent=30.0)
        counted = await nights.validate(Level.COUNTS)
    assert [validation.differences for validation in found] == [()] * 5
    assert all(validation.passed for validation in (*found, sampled, counted))
    trades = [table.source_rows for validation in found for table in validation.tables if table.table == "trades"]
    assert trades == sorted(set(trades))
    assert 0 < sampled.rows < sampled.source_rows
    assert (counted.rows, counted.cells) == (0, 0)


async def test_a_sample_needs_a_percentage_that_can_be(nights: Nights) -> None:
    for percent in (0.0, -1.0, 100.5):
        with pytest.raises(UsageError, match="cannot be taken"):
            await nights.validate(Level.SAMPLE, percent=percent)
    assert list(nights.folder.iterdir()) == []
    assert (await nights.validate(Level.SAMPLE, percent=100.0)).rows == 1500


async def test_a_planted_difference_is_found_while_the_application_writes(nights: Nights) -> None:
    nights.write("UPDATE items SET price = 1 WHERE id = 3")
    await nights.plant("UPDATE tokens SET note = 'x' WHERE note = 'note 7'")
    with nights.writing():
        validation = await nights.validate()
    (difference,) = validation.differences
    assert (difference.table, difference.column, difference.source, difference.target) == (
        "tokens", "note", "'note 7'", "'x'"
    )  # fmt: skip
    with pytest.raises(Differs, match=r"1 differences between .* column note: 'note 7' in") as told:
        refuse_differences(validation)
    assert told.value.exit_code == 3
    assert json.loads(json.dumps(validation.to_json()))["first_differences"][0]["column"] == "note"
    assert "| tokens | 300 | 300 | 0 | 0 | 300 | 1 | DIFFERS |" in markdown(validation)
    assert await touched_count(nights.connection, nights.live.run_id) > 0
    assert not (await validations(nights.connection, nights.live.run_id))[0].passed


async def test_another_session_sees_what_is_held(nights: Nights, database_url: URL) -> None:
    async with hold(nights.connection, nights.holder, nights.live, nights.folder) as held:
        plan = pickle.loads(pickle.dumps(await plan_validation(nights.holder, held, nights.live, Level.CELLS)))
        told = pickle.loads(pickle.dumps(held))
        nights.write("DELETE FROM items WHERE id > 100")
        await nights.move.sync()
        other = await connect(database_url)
        async with joined(other, told):
            found = [await compare_unit(other, told.path, unit) for unit in plan.units]
        await other.close()
    assert sum(result.rows for result in found) == 1500
    assert [result.difference_count for result in found] == [0] * 5


async def test_rows_that_waiting_foreign_keys_refuse_are_told(nights: Nights) -> None:
    nights.write("UPDATE trades SET item_id = 9999 WHERE id IN (5, 6); UPDATE trades SET item_id = NULL WHERE id = 7")
    validation = await nights.validate(Level.COUNTS)
    assert validation.passed
    (key,) = validation.dangling
    assert (key.table, key.orphans.parent, key.orphans.count) == ("trades", "public.items", 2)
    assert key.orphans.first == {"item_id": "9999"}
    assert "2 rows of `trades` point at rows that `public.items` does not hold" in markdown(validation)


async def test_the_quarantine_becomes_what_was_found(nights: Nights) -> None:
    nights.write("UPDATE items SET price = 'dear' WHERE id = 5")
    validation = await nights.validate()
    assert validation.passed
    assert validation.quarantined == 1
    (entry,) = await open_rows(nights.connection, nights.live.run_id, "items")
    assert entry.key == (5,)
    await nights.connection.execute("UPDATE pgferry.quarantine SET key = '[6]'")
    assert (await nights.validate()).passed
    (corrected,) = await open_rows(nights.connection, nights.live.run_id, "items")
    assert (corrected.key, corrected.column) == ((5,), "price")


SPOILED = """
    UPDATE items SET name = 'x' WHERE id = 30;
    DELETE FROM items WHERE id = 31;
    INSERT INTO items VALUES (5000, 'extra', 1);
    UPDATE words SET word = 'WORD7' WHERE uses = 7;
    UPDATE tokens SET note = 'x' WHERE note = 'note 8';
    DELETE FROM tokens WHERE note = 'note 9';
    INSERT INTO tokens VALUES ('00000000-0000-0000-0000-000000000001', 'extra');
    UPDATE log SET level = 9 WHERE _pgferry_rowid = 5;
    INSERT INTO log SELECT line, level, 7777 FROM log LIMIT 1;
    INSERT INTO log SELECT line, level FROM log LIMIT 2;
"""


async def test_a_repair_mends_every_kind_of_difference(nights: Nights) -> None:
    await nights.plant(SPOILED)
    validation = await nights.validate()
    assert validation.difference_count == 12
    repaired = await repair(nights.connection, nights.live, validation.id, validation.differing)
    assert repaired.left == ()
    assert repaired.tables == {"items": 3, "words": 2, "tokens": 3, "log": 4}
    assert (await nights.validate()).passed
    recorded = await repairs(nights.connection, validation.id)
    assert ("items", (30,), "carried from SQLite") in [(item.table, item.key, item.action) for item in recorded]
    again = await repair(nights.connection, nights.live, validation.id, validation.differing)
    assert again.left == ()
    assert (await nights.validate()).passed


async def test_a_repair_reads_rows_as_they_are_now(nights: Nights) -> None:
    await nights.plant(SPOILED)
    validation = await nights.validate()
    nights.write("""
        UPDATE items SET name = 'newer' WHERE id = 30;
        INSERT INTO items VALUES (5000, 'now real', 2);
        DELETE FROM items WHERE id = 31;
        UPDATE tokens SET id = lower(id), note = 'rewritten' WHERE note IN ('note 8', 'note 9');
        INSERT INTO tokens VALUES (printf('%032x', 1), 'now real, too');
    """)
    await nights.move.sync()
    nights.write("UPDATE log SET level = 8 WHERE rowid = 5")
    repaired = await repair(nights.connection, nights.live, validation.id, validation.differing)
    assert repaired.left == ()
    assert (await nights.validate()).passed
    assert await nights.connection.fetchval("SELECT name FROM items WHERE id = 5000") == "now real"
    notes = await nights.connection.fetch("SELECT note FROM tokens WHERE note LIKE '%real%' OR note = 'rewritten'")
    assert len(notes) == 3


async def test_a_repair_while_the_application_writes_leaves_nothing(nights: Nights) -> None:
    await nights.plant(SPOILED)
    validation = await nights.validate()
    with nights.writing():
        repaired = await repair(nights.connection, nights.live, validation.id, validation.differing)
        after = await nights.validate()
    assert repaired.left == ()
    assert after.passed


# ---------------------------------------------------------------- PostgreSQL in front


@pytest.fixture
async def switched(nights: Nights) -> Nights:
    """The same move, after its switch."""
    await nights.move.switch()
    nights.live = await nights.move.live(nights.connection)
    return nights


async def _write_back(url: URL, stop: asyncio.Event) -> None:
    writer = await connect(url)
    number = 0
    while not stop.is_set():
        number += 1
        row = number % 300 + 1
        async with writer.transaction():
            await writer.execute("UPDATE items SET price = price + 1 WHERE id = $1", row)
            await writer.execute("INSERT INTO trades VALUES ($1, $2, 'back')", 10_000 + number, row)
            await writer.execute("UPDATE tokens SET note = note || '.' WHERE note LIKE $1", f"note {row}%")
            await writer.execute("DELETE FROM log WHERE ctid = (SELECT min(ctid) FROM log)")
            await writer.execute("INSERT INTO log VALUES ('back', $1)", number)
    await writer.close()


async def test_after_the_switch_both_sides_are_held_the_other_way_round(switched: Nights, database_url: URL) -> None:
    stop = asyncio.Event()
    writing = asyncio.create_task(_write_back(database_url, stop))
    try:
        found = [await switched.validate() for _ in range(5)]
    finally:
        stop.set()
        await writing
    assert [validation.differences for validation in found] == [()] * 5
    assert all(validation.passed for validation in found)
    assert {validation.direction for validation in found} == {Direction.REVERSE}
    trades = [table.source_rows for validation in found for table in validation.tables if table.table == "trades"]
    assert trades == sorted(set(trades))


async def test_after_the_switch_a_repair_mends_sqlite(switched: Nights) -> None:
    with fence.writing(switched.move.source) as source:
        source.execute("UPDATE items SET name = 'x' WHERE id = 30")
        source.execute("DELETE FROM items WHERE id = 31")
        source.execute("INSERT INTO items VALUES (5000, 'extra', 1)")
        source.execute("UPDATE tokens SET note = 'x' WHERE note = 'note 8'")
        source.execute("UPDATE log SET level = 9 WHERE rowid = 5")
    validation = await switched.validate()
    assert validation.difference_count == 5
    await switched.connection.execute("UPDATE items SET name = 'newest' WHERE id = 30")
    repaired = await repair(switched.connection, switched.live, validation.id, validation.differing)
    assert (repaired.left, repaired.rows) == ((), 5)
    assert (await switched.validate()).passed
    with closing(sqlite3.connect(switched.move.source)) as source:
        assert source.execute("SELECT name FROM items WHERE id IN (30, 31, 5000)").fetchall() == [
            ("newest",),
            ("item 31",),
        ]
    recorded = await repairs(switched.connection, validation.id)
    assert {item.action for item in recorded} == {"carried from PostgreSQL"}
