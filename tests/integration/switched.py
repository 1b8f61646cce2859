"""An application that was switched to PostgreSQL, and what tests of the way back ask of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from pgferry.live.forms import Forms, to_json
from pgferry.live.model import Live
from pgferry.live.pairs import add_hidden_columns, live_tables
from pgferry.live.reverse import sync_back
from pgferry.pairing import pair_tables
from pgferry.postgres import capture as target_capture
from pgferry.postgres import ledger
from pgferry.postgres.apply import apply_table
from pgferry.postgres.catalog import read_tables
from pgferry.postgres.journal import (
    begin_position,
    lock_sync,
    record_capture,
    record_forms,
    reserve_token,
)
from pgferry.quoting import quote
from pgferry.settings import Rules
from pgferry.sqlite import capture as source_capture
from pgferry.sqlite import fence as source_fence
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.connect import open_read_only
from pgferry.sqlite.lexical import learn

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Switched:
    """A file and a database after the switch, as a session of the sync sees them."""

    path: Path
    connection: asyncpg.Connection
    live: Live
    forms: Forms

    async def run(self, *statements: str) -> None:
        """Write to PostgreSQL as the application does, then carry it back."""
        for statement in statements:
            await self.connection.execute(statement)
        await self.sync()

    async def sync(self):
        synced = await sync_back(self.connection, self.live, self.forms)
        assert await target_capture.pending(self.connection, self.live) == {}
        return synced

    def rows(self, table: str = "t", columns: str = "*") -> list[tuple]:
        """The raw rows of SQLite, types included, by a reader of its own."""
        with closing(sqlite3.connect(self.path)) as source:
            return sorted(source.execute(f"SELECT {columns} FROM {quote(table)}").fetchall(), key=repr)

    def execute(self, *statements: str) -> None:
        """Write to the SQLite file behind the fence's back."""
        with source_fence.writing(self.path) as target:
            for statement in statements:
                target.execute(statement)


@pytest.fixture
async def switch(connection, tmp_path):
    """A factory: makes both sides, loads what is in SQLite, and puts PostgreSQL in front."""

    async def make(schema: str, target_schema: str, rules: Rules | None = None, mode: str = "delete") -> Switched:
        path = tmp_path / "app.db"
        with closing(sqlite3.connect(path)) as source:
            source.execute(f"PRAGMA journal_mode={mode}")
            source.executescript(schema)
        await connection.execute(target_schema)
        await ledger.install(connection)
        run = await ledger.begin_run(connection, str(path), "f")
        token = await reserve_token(connection, run.id)
        captured = source_capture.install(path, token)
        await record_capture(connection, run.id, captured)
        live = await read_live(connection, path, run.id, captured, rules or Rules())
        with closing(open_read_only(path)) as source:
            forms = {
                table.name: {
                    pair.source.name: learn(source, table.pair.source, pair)
                    for pair in table.pair.columns
                    if not (table.hidden and pair in table.key)
                }
                for table in live.tables
            }
        await record_forms(connection, run.id, to_json(forms))
        await load(connection, path, live)
        await begin_position(connection, run.id, 0, MOMENT)
        source_fence.fence(path, "PostgreSQL is in front")
        await target_capture.install(connection, live)
        with source_fence.writing(path) as target:
            source_capture.set_note(target, "front", "postgres")
        await lock_sync(connection)
        return Switched(path, connection, live, forms)

    return make


async def read_live(connection, path, run_id, captured, rules) -> Live:
    with closing(open_read_only(path)) as source:
        catalog = read_catalog(source)
    tables = live_tables(pair_tables(catalog, await read_tables(connection), rules).pairs, captured)
    await add_hidden_columns(connection, tables)
    return Live(run_id, str(path), "target", tables, captured, catalog.sequences, frozenset())


async def load(connection, path, live) -> None:
    """Copy every row over by the forward sync's own work."""
    from pgferry.live.forward import _read_whole

    with closing(open_read_only(path)) as source:
        for table in live.tables:
            work = _read_whole(source, table, {})
            assert not work.rejected, work.rejected
            async with connection.transaction():
                await apply_table(connection, live.run_id, work)
