"""Reads the outbox of a captured SQLite file: which rows were touched, and what they are now."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from pgferry.errors import Transient
from pgferry.live.model import CapturedTable, Touched
from pgferry.model import RawRow, SourceTable
from pgferry.quoting import quote
from pgferry.sqlite.collations import BUILT_IN_COLLATIONS
from pgferry.sqlite.connect import write_transaction
from pgferry.sqlite.guard import TableRead, raw_select
from pgferry.sqlite.triggers import OUTBOX, outbox_columns

_RANGE = f"FROM {quote(OUTBOX)} WHERE id > ?1 AND id <= ?2"
_LAST = f"SELECT max(id) FROM {quote(OUTBOX)}"
_PENDING = f"SELECT t, count(*) {_RANGE} GROUP BY t"
_PRUNE = (
    f"DELETE FROM {quote(OUTBOX)} WHERE id IN"
    f" (SELECT id FROM {quote(OUTBOX)} WHERE id <= ? AND id < ({_LAST}) ORDER BY id LIMIT ?)"
)
_PRUNE_PATIENCE = 0.5


def last_id(connection: sqlite3.Connection) -> int:
    """Return the number of the newest entry, 0 when there was never one."""
    return int(connection.execute(_LAST).fetchone()[0] or 0)


def mark_of(connection: sqlite3.Connection, number: int) -> str | None:
    """Tell which entry has that number, as `ID:DIGEST`; None when there is none.

    Another entry that comes to the same number has another mark, unless it is for the same row. (A random number in
    each entry would tell those apart, too; but a function that a trigger calls makes SQLite keep a journal for each
    statement, and take rows back after an error that it would have kept.)
    """
    cursor = connection.execute(f"SELECT * FROM {quote(OUTBOX)} WHERE id = ?", (number,))
    entry = cursor.fetchone()
    if entry is None:
        return None
    # Without NULL: the outbox gets more columns when tables with longer keys come.
    fields = [(head[0], value) for head, value in zip(cursor.description, entry, strict=True) if value is not None]
    return f"{number}:{hashlib.sha256(repr(fields).encode()).hexdigest()[:32]}"


def is_still(connection: sqlite3.Connection, number: int, mark: str | None) -> bool:
    """Say whether the entry of that number is the one that had the mark; True where no mark of it is known."""
    if mark is None or mark.partition(":")[0] != str(number):
        return True  # An earlier pgferry has moved the position on, and left the mark of another entry.
    return mark_of(connection, number) == mark


def pending(connection: sqlite3.Connection, after: int, upto: int) -> dict[int, int]:
    """Count the entries with after < id <= upto by their table's number, which may be one that is captured no more."""
    return dict(connection.execute(_PENDING, (after, upto)).fetchall())


def touched(connection: sqlite3.Connection, table: CapturedTable, after: int, upto: int) -> list[Touched]:
    """Return the rows that the entries with after < id <= upto name, each address once, in no particular order."""
    names = (["r"] if table.rowid else []) + list(outbox_columns(table))
    # 1 and 1.0 are one value to DISTINCT, but may be two on the other side.
    classes = [f"typeof({name})" for name in outbox_columns(table)]
    sql = f"SELECT DISTINCT {', '.join(names + classes)} {_RANGE} AND t = ?3"
    skip = 1 if table.rowid else 0
    rows = connection.execute(sql, (after, upto, table.number))
    return [Touched(row[0] if skip else None, tuple(row[skip : len(names)])) for row in rows]


def touched_rows(
    connection: sqlite3.Connection, read: TableRead, table: CapturedTable, after: int, upto: int
) -> Iterator[RawRow]:
    """Yield the rows that exist now and whose rowid or declared key has an entry with after < id <= upto.

    Each row once: its address first, then the raw columns of `read`. Both ways count because a VACUUM may have moved
    a row with a key to another rowid since; so rows may come that `touched` does not name.
    """
    condition = _touched_condition(read.pair.source, table)
    cursor = connection.execute(f"{raw_select(read)} WHERE {condition}", (after, upto, table.number))
    for row in cursor:
        yield tuple(row)


def prune(path: Path, upto: int, batch: int = 5000) -> int:
    """Remove the entries up to that number but the newest of all, in short write transactions; return how many.

    The newest stays so that no number is ever given twice. Stops without an error when the file is busy.
    """
    removed = 0
    while True:
        try:
            with write_transaction(path, busy_seconds=_PRUNE_PATIENCE) as connection:
                count = connection.execute(_PRUNE, (upto, batch)).rowcount
        except Transient:
            return removed
        removed += count
        if count < batch:
            return removed


def prune_before(path: Path, position: int) -> int:
    """Remove the entries before the position, as `prune` does; by its own a file that has lost writes is noticed."""
    return prune(path, position - 1)


def _touched_condition(source: SourceTable, table: CapturedTable) -> str:
    keys = outbox_columns(table)
    mine = f"{_RANGE} AND t = ?3"
    if table.rowid:
        ways = [f"SELECT r {mine}"] + ([_rowids_by_key(source, table)] if _is_comparable(source, table) else [])
        return f"{quote(table.rowid)} IN ({' UNION '.join(ways)})"
    names = ", ".join(quote(name) for name in table.key)
    whole = f"({names}) IN (SELECT {', '.join(keys)} {mine})"
    if source.without_rowid or all(source.column(name).not_null for name in table.key):
        return whole
    # A key that is not the rowid may hold NULL, which IN does not find.
    same = " AND ".join(
        f"{quote(source.name)}.{quote(name)} IS {key}" for name, key in zip(table.key, keys, strict=True)
    )
    hollow = " OR ".join(f"{quote(source.name)}.{quote(name)} IS NULL" for name in table.key)
    return f"{whole} OR (({hollow}) AND EXISTS (SELECT 1 {mine} AND {same}))"


def _rowids_by_key(source: SourceTable, table: CapturedTable) -> str:
    # CROSS JOIN, so that SQLite goes from the outbox into the table's index and not the other way round.
    name = quote(source.name)
    same = " AND ".join(
        f"{name}.{quote(column)} = entry.{key}" for column, key in zip(table.key, outbox_columns(table), strict=True)
    )
    of_range = "entry.id > ?1 AND entry.id <= ?2 AND entry.t = ?3"
    rowid = f"{name}.{quote(table.rowid or '')}"
    return f"SELECT {rowid} FROM {quote(OUTBOX)} AS entry CROSS JOIN {name} ON {same} WHERE {of_range}"


def _is_comparable(source: SourceTable, table: CapturedTable) -> bool:
    """Whether there is a declared key and this program has the collations that compare it."""
    return bool(table.key) and all(source.column(name).collation in BUILT_IN_COLLATIONS for name in table.key)
