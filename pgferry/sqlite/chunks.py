"""Cuts a table of the snapshot into chunks: ranges of its address that can be read again, with the same result."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pgferry.model import Chunk, Key, SourceTable, SqliteValue
from pgferry.quoting import quote
from pgferry.sqlite.binding import bound, marks
from pgferry.sqlite.collations import keyed_by_own
from pgferry.sqlite.wide import groups, joined

SAMPLE_PLACES = 64
"""Places of a table whose rows are looked at before it is cut or read."""

SAMPLE_RUN = 16
"""Neighbouring rows that are looked at in each place."""

HEAVY_ROW = 16 * 1024
"""Bytes; a table in whose sample a row is larger is cut by an exact count of bytes instead of by the average."""


@dataclass(frozen=True, slots=True)
class TableSample:
    """What a look at a few hundred rows, spread over a table, tells."""

    rows: int
    """Exact number of rows in the table."""
    seen: int
    average_bytes: float
    largest_bytes: int
    classes: tuple[dict[str, int], ...]
    """For each column of the table: storage class -> how many of the seen values have it."""


def count_rows(connection: sqlite3.Connection, table: SourceTable) -> int:
    """Return the source's own count of a table's rows."""
    return int(connection.execute(f"SELECT count(*) FROM {quote(table.name)}").fetchone()[0])


def sample_table(connection: sqlite3.Connection, table: SourceTable) -> TableSample:
    """Look at up to SAMPLE_PLACES x SAMPLE_RUN rows, spread evenly; the whole table when it is no larger."""
    rows = count_rows(connection, table)
    classes: tuple[dict[str, int], ...] = tuple({} for _ in table.columns)
    seen = total = largest = 0
    for where, values in _sample_places(connection, table, rows):
        for shape in _shapes(connection, table, where, values):
            size = sum(shape[1::2]) + 2 * len(classes)
            seen, total, largest = seen + 1, total + size, max(largest, size)
            for counts, storage in zip(classes, shape[::2], strict=True):
                counts[storage] = counts.get(storage, 0) + 1
    return TableSample(rows, seen, total / seen if seen else 0.0, largest, classes)


def _shapes(connection: sqlite3.Connection, table: SourceTable, where: str, values: Key) -> Iterator[tuple[Any, ...]]:
    """Yield the class and the length of each value, row by row; one statement for each group of columns."""
    parts = list(groups([quote(column.name) for column in table.columns]))
    # Through an index that holds all of one group's columns the rows would come in another order than the others'.
    place = f"{quote(table.name)}{' NOT INDEXED' if len(parts) > 1 else ''} {where}"
    found = []
    for part in parts:
        terms = ", ".join(f"typeof({name}), coalesce(length(CAST({name} AS BLOB)), 0)" for name in part)
        found.append(connection.execute(f"SELECT {terms} FROM {place}", values))
    for row in zip(*found, strict=True):
        yield tuple(chain.from_iterable(row))


def plan_chunks(
    connection: sqlite3.Connection, table: SourceTable, sample: TableSample, *, rows: int, size: int
) -> tuple[Chunk, ...]:
    """Cut a table into chunks of at most `rows` rows and about `size` bytes; none for an empty table.

    The ranges are disjoint, cover every row, and count their rows exactly. Deterministic for a given snapshot.
    """
    if sample.rows == 0:
        return ()
    if not table.address or (table.rowid_name is None and not table.without_rowid) or keyed_by_own(table):
        # A key that is not the rowid may hold NULL, which lies in no range; nor has a key that lies in an order of the
        # application's own any range that can be told here.
        return (Chunk(table.name, 0, sample.rows),)
    if sample.largest_bytes > HEAVY_ROW:
        ranges = _ranges_by_bytes(connection, table, rows, size)
    else:
        per_chunk = max(1, min(rows, int(size / max(sample.average_bytes, 1.0))))
        ranges = _ranges_by_rows(connection, table, sample.rows, per_chunk)
    return tuple(Chunk(table.name, number, count, low, high) for number, (count, low, high) in enumerate(ranges))


def address_list(table: SourceTable) -> str:
    """Return the columns of a table's address as SQL: `"rowid"`, or `"a", "b"`."""
    return ", ".join(quote(name) for name in table.address)


def range_condition(table: SourceTable, chunk: Chunk) -> tuple[str, tuple[SqliteValue, ...]]:
    """Return the WHERE condition of a chunk and the values to bind; `1` for a whole table."""
    address = address_list(table)
    parts: list[str] = []
    values: tuple[SqliteValue, ...] = ()
    for key, sign in ((chunk.low, ">="), (chunk.high, "<=")):
        if key is not None:
            parts.append(f"({address}) {sign} ({', '.join(marks(key))})")
            values += bound(key)
    return " AND ".join(parts) or "1", values


_Range = tuple[int, Key | None, Key | None]


def _ranges_by_rows(connection: sqlite3.Connection, table: SourceTable, total: int, per_chunk: int) -> Iterator[_Range]:
    """Yield ranges of `per_chunk` rows; by arithmetic where the rowids have no gaps, else by a walk along the keys."""
    if total <= per_chunk:
        yield total, None, None
    elif (lowest := _dense_start(connection, table, total)) is not None:
        for first in range(0, total, per_chunk):
            count = min(per_chunk, total - first)
            yield count, (lowest + first,), (lowest + first + count - 1,)
    else:
        yield from _walk(connection, table, total, per_chunk)


def _dense_start(connection: sqlite3.Connection, table: SourceTable, total: int) -> int | None:
    if table.rowid_name is None:
        return None
    name = quote(table.rowid_name)
    # Two statements: min() and max() in one would scan the table, alone each is one step in the b-tree.
    low = connection.execute(f"SELECT min({name}) FROM {quote(table.name)}").fetchone()[0]
    high = connection.execute(f"SELECT max({name}) FROM {quote(table.name)}").fetchone()[0]
    return int(low) if high - low + 1 == total else None


def _walk(connection: sqlite3.Connection, table: SourceTable, total: int, per_chunk: int) -> Iterator[_Range]:
    address, name = address_list(table), quote(table.name)
    low = _first(connection, f"SELECT {address} FROM {name} ORDER BY {address} LIMIT 1", ())
    left = total
    while low is not None:
        above = f"({address}) >= ({', '.join(marks(low))})"
        step = f"SELECT {address} FROM {name} WHERE {above} ORDER BY {address} LIMIT 1 OFFSET ?"
        count = min(per_chunk, left)
        high = _first(connection, step, (*bound(low), count - 1))
        following = _first(connection, step, (*bound(low), count)) if left > count else None
        yield count, low, high
        low, left = following, left - count


def _first(connection: sqlite3.Connection, sql: str, values: Key) -> Key | None:
    row = connection.execute(sql, values).fetchone()
    return None if row is None else tuple(row)


def _ranges_by_bytes(connection: sqlite3.Connection, table: SourceTable, rows: int, size: int) -> Iterator[_Range]:
    """Yield ranges of at most `rows` rows and `size` bytes (or one row), by a walk over the lengths of all values."""
    address = address_list(table)
    lengths = joined([f"coalesce(length(CAST({quote(column.name)} AS BLOB)), 0)" for column in table.columns], " + ")
    cursor = connection.execute(f"SELECT {lengths}, {address} FROM {quote(table.name)} ORDER BY {address}")
    low: Key | None = None
    high: Key | None = None
    count = total = 0
    for length, *values in cursor:
        if low is not None and (count >= rows or total + length > size):
            yield count, low, high
            low, count, total = None, 0, 0
        high = tuple(values)
        low = low or high
        count, total = count + 1, total + length
    if low is not None:
        yield count, low, high


def _sample_places(connection: sqlite3.Connection, table: SourceTable, rows: int) -> Iterator[tuple[str, Key]]:
    if rows <= SAMPLE_PLACES * SAMPLE_RUN or table.rowid_name is None:
        # Without a rowid there is no cheap way into the middle of a table; its first rows must do.
        yield f"LIMIT {SAMPLE_PLACES * SAMPLE_RUN}", ()
        return
    name = quote(table.rowid_name)
    low = connection.execute(f"SELECT min({name}) FROM {quote(table.name)}").fetchone()[0]
    high = connection.execute(f"SELECT max({name}) FROM {quote(table.name)}").fetchone()[0]
    for place in range(SAMPLE_PLACES):
        start = low + (high - low) * place // SAMPLE_PLACES
        yield f"WHERE {name} >= ? ORDER BY {name} LIMIT {SAMPLE_RUN}", (start,)
