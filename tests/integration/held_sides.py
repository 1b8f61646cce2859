"""A SQLite file and a PostgreSQL database that are equal, table by table, for tests that then spoil one of them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from pgferry.export import ChunkRows
from pgferry.live.model import Capture, CapturedTable, LiveTable
from pgferry.live.pairs import add_hidden_columns, live_tables
from pgferry.model import Chunk, SourceTable
from pgferry.pairing import pair_tables
from pgferry.postgres.catalog import read_tables
from pgferry.postgres.load import copy_rows
from pgferry.settings import Rules
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.chunks import sample_table
from pgferry.sqlite.connect import reading
from pgferry.sqlite.guard import plan_read


@dataclass
class Sides:
    """The file, the tables and the connection to the target."""

    path: Path
    tables: dict[str, LiveTable]
    connection: asyncpg.Connection[asyncpg.Record]

    @asynccontextmanager
    async def held(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """Hold the target at this moment, as a comparison does."""
        async with self.connection.transaction(isolation="repeatable_read", readonly=True):
            yield self.connection

    def change(self, statements: str) -> None:
        """Change the source."""
        with closing(sqlite3.connect(self.path)) as source:
            source.executescript(statements)


async def equal_sides(
    path: Path, connection: asyncpg.Connection[asyncpg.Record], source: str, target: str, rules: Rules | None = None
) -> Sides:
    """Make both schemas, and copy every row of the source that fits to the target."""
    with closing(sqlite3.connect(path)) as file:
        file.executescript(source)
    await connection.execute(target)
    tables = await paired(path, connection, rules or Rules())
    for table in tables:
        await _copy(path, connection, table)
    return Sides(path, {table.pair.source.name: table for table in tables}, connection)


async def paired(path: Path, connection: asyncpg.Connection[asyncpg.Record], rules: Rules) -> tuple[LiveTable, ...]:
    """Pair the tables as the live move does, with hidden columns where they are needed."""
    with reading(path) as source:
        catalog = read_catalog(source)
    pairs = pair_tables(catalog, await read_tables(connection), rules).pairs
    captured = tuple(_captured(number, table) for number, table in enumerate(catalog.tables, 1))
    tables = live_tables(pairs, Capture("test", captured, 1))
    await add_hidden_columns(connection, tables)
    return tables


def _captured(number: int, table: SourceTable) -> CapturedTable:
    key = () if table.rowid_column else table.key
    return CapturedTable(number, table.name, None if table.without_rowid else table.rowid_name, key, "")


async def _copy(path: Path, connection: asyncpg.Connection[asyncpg.Record], table: LiveTable) -> None:
    with reading(path) as source:
        sample = sample_table(source, table.pair.source)
    rows = ChunkRows(path, plan_read(table.pair, sample), Chunk(table.pair.source.name, 0, sample.rows))
    batches = list(rows)
    async with connection.transaction():
        await copy_rows(connection, table.pair, batches, rows.rows)
