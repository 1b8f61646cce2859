"""How large the target becomes and how long the copy takes, by copying some thousand rows for trial."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg

from pgferry.export import ChunkRows
from pgferry.model import (
    Chunk,
    ColumnPair,
    PgKind,
    PgType,
    SourceTable,
    StorageClass,
    TablePair,
    TargetColumn,
    TargetTable,
)
from pgferry.pairing import ALEMBIC_TABLE
from pgferry.postgres.connection import Connection
from pgferry.postgres.load import sent_bytes
from pgferry.postgres.statements import statements
from pgferry.quoting import qualified, quote
from pgferry.settings import Rules
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.chunks import TableSample, address_list, range_condition, sample_table
from pgferry.sqlite.connect import reading
from pgferry.sqlite.guard import plan_read

SQL = statements("preflight")

SAMPLE_ROWS = 10_000
"""Rows that are copied of a table: enough to time, few enough for a second or so."""

SAMPLE_TABLES = 5
"""The largest tables are tried; the others are reckoned as these are."""

_TRIAL = "_pgferry_sample"

_KINDS = {
    StorageClass.INTEGER: PgKind.BIGINT,
    StorageClass.REAL: PgKind.DOUBLE,
    StorageClass.TEXT: PgKind.TEXT,
    StorageClass.BLOB: PgKind.BYTEA,
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the whole copy would take, reckoned from a sample."""

    rows: int
    """Exact number of rows that are to move."""
    source_bytes: float
    """Bytes of their values in SQLite."""
    target_bytes: float
    """Bytes of the tables and their indexes in PostgreSQL."""
    seconds: float
    """Seconds to convert and send them, one after the other."""
    sampled_rows: int
    by_class: bool = False
    """Whether the target's columns were not known, and the classes of the values stood in for their types."""

    @property
    def ratio(self) -> float:
        """Bytes in PostgreSQL for a byte of values in SQLite."""
        return self.target_bytes / max(self.source_bytes, 1.0)


@dataclass(frozen=True, slots=True)
class _Table:
    pair: TablePair
    sample: TableSample

    @property
    def bytes(self) -> float:
        return self.sample.rows * self.sample.average_bytes


@dataclass(frozen=True, slots=True)
class _Trial:
    """What some rows of a table took."""

    table: _Table
    rows: int
    target_bytes: int
    seconds: float

    @property
    def share(self) -> float:
        """How many times the table holds what was tried."""
        return self.table.sample.rows / self.rows


async def measure(connection: Connection, copy: Path, pairs: Sequence[TablePair], rules: Rules) -> Estimate | None:
    """Copy rows of the largest tables to temporary ones, and reckon; None where there is nothing to try.

    `copy` is a snapshot; `pairs` is empty while the target has no tables. Nothing stays in the target. Raises as the
    server does when it refuses temporary tables.
    """
    with reading(copy) as source:
        tables = [_Table(pair, sample_table(source, pair.source)) for pair in pairs] or _by_class(source, rules)
        largest = sorted(tables, key=lambda table: table.bytes, reverse=True)[:SAMPLE_TABLES]
        chunks = [(table, _chunk(source, table)) for table in largest if table.sample.rows]
    trials = [trial for table, chunk in chunks if (trial := await _try(connection, copy, table, chunk))]
    return replace(_reckon(tables, trials), by_class=not pairs) if trials else None


def _by_class(source: sqlite3.Connection, rules: Rules) -> list[_Table]:
    """Return the source's tables, each with a target whose types are the classes that its values have."""
    found = []
    for table in read_catalog(source).tables:
        if table.name != ALEMBIC_TABLE and not rules.table(table.name).exclude:
            sample = sample_table(source, table)
            found.append(_Table(_stand_in(table, sample), sample))
    return found


def _stand_in(table: SourceTable, sample: TableSample) -> TablePair:
    columns = tuple(
        ColumnPair(column, TargetColumn(f"c{place}", PgType(_kind(seen))))
        for place, (column, seen) in enumerate(zip(table.columns, sample.classes, strict=True))
    )
    return TablePair(table, TargetTable("", "", 0, tuple(pair.target for pair in columns)), columns)


def _kind(seen: Mapping[str, int]) -> PgKind:
    values = {storage: count for storage, count in seen.items() if storage != StorageClass.NULL}
    return _KINDS[StorageClass(max(values, key=values.__getitem__, default=StorageClass.TEXT))]


def _reckon(tables: Iterable[_Table], trials: Sequence[_Trial]) -> Estimate:
    tried = {trial.table.pair.source.name for trial in trials}
    known = sum(trial.table.bytes for trial in trials)
    rest = sum(table.bytes for table in tables if table.pair.source.name not in tried)
    scale = 1 + rest / max(known, 1.0)
    return Estimate(
        rows=sum(table.sample.rows for table in tables),
        source_bytes=known + rest,
        target_bytes=scale * sum(trial.target_bytes * trial.share for trial in trials),
        seconds=scale * sum(trial.seconds * trial.share for trial in trials),
        sampled_rows=sum(trial.rows for trial in trials),
    )


def _chunk(source: sqlite3.Connection, table: _Table) -> Chunk:
    """Return the table's first rows, as a chunk."""
    name, rows = table.pair.source.name, table.sample.rows
    address = address_list(table.pair.source)
    if rows <= SAMPLE_ROWS or not table.pair.source.address:
        return Chunk(name, 0, rows)
    query = f"SELECT {address} FROM {quote(name)} ORDER BY {address} LIMIT 1 OFFSET {SAMPLE_ROWS - 1}"
    chunk = Chunk(name, 0, SAMPLE_ROWS, None, tuple(source.execute(query).fetchone()))
    where, values = range_condition(table.pair.source, chunk)
    # Where the key may hold NULL no range counts its rows exactly.
    exact = source.execute(f"SELECT count(*) FROM {quote(name)} WHERE {where}", values).fetchone()[0]
    return Chunk(name, 0, exact, None, chunk.high)


async def _try(connection: Connection, copy: Path, table: _Table, chunk: Chunk) -> _Trial | None:
    """Convert and send a chunk into a temporary table with the target's indexes; None when the target refuses it."""
    rows = ChunkRows(copy, plan_read(table.pair, table.sample), chunk)
    transaction = connection.transaction()
    await transaction.start()
    try:
        for statement in _definitions(table.pair):
            await connection.execute(statement)
        started = time.monotonic()
        await connection.copy_to_table(
            _TRIAL,
            columns=[column.target.name for column in table.pair.columns],
            source=_sent(table.pair, rows),
            format="binary",
        )
        seconds = time.monotonic() - started
        size = int(await connection.fetchval(SQL["size"], f"pg_temp.{_TRIAL}"))
    except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, asyncpg.ProgramLimitExceededError):
        return None  # What stands against such rows is told by the move, and with their keys.
    finally:
        await transaction.rollback()
    return _Trial(table, chunk.rows, size, seconds) if rows.rows else None


def _definitions(pair: TablePair) -> list[str]:
    """Return the statements that make the temporary table: as the target's, or with the indexes that SQLite has."""
    if pair.target.oid:
        name = qualified(pair.target.schema, pair.target.name)
        parts = "INCLUDING GENERATED INCLUDING STORAGE INCLUDING INDEXES"
        return [f"CREATE TEMPORARY TABLE {_TRIAL} (LIKE {name} {parts})"]
    columns = {column.source.name: column.target for column in pair.columns}
    made = ", ".join(f"{column.name} {column.type.kind}" for column in columns.values())
    indexed = [[term.column for term in index.terms] for index in pair.source.indexes]
    if pair.source.rowid_column:
        indexed.append([pair.source.rowid_column])
    return [f"CREATE TEMPORARY TABLE {_TRIAL} ({made})"] + [
        f"CREATE INDEX ON pg_temp.{_TRIAL} ({', '.join(columns[name].name for name in names if name)})"
        for names in indexed
        if names and all(name in columns for name in names)
    ]


async def _sent(pair: TablePair, rows: ChunkRows) -> AsyncIterator[bytes]:
    for data in sent_bytes(pair, rows):
        if data:
            yield data
