"""Reads single rows of the snapshot again, by the key that addressed them."""

from __future__ import annotations

import sqlite3

from pgferry.model import Key, RawRow
from pgferry.sqlite.binding import bound, marks
from pgferry.sqlite.guard import TableRead, row_query

NOT_FOUND = "the row was not found again in the snapshot by its key"
AMBIGUOUS = "the row cannot be told from others in the snapshot by its key"


class RowLookup:
    """Looks rows of one table up; the connection stays the caller's."""

    def __init__(self, source: sqlite3.Connection, read: TableRead) -> None:
        self._source = source
        self._read = read
        self._members = len(read.pair.source.address)

    def row(self, key: Key) -> RawRow | str:
        """Return the row of a key, its address first and then the raw columns; or, as text, why there is none.

        A table whose rowid cannot be named and whose key holds NULL may have several rows of one key.
        """
        if not key or len(key) != self._members:
            return AMBIGUOUS
        conditions = [
            "IS NULL" if member is None else f"= {mark}" for member, mark in zip(key, marks(key), strict=True)
        ]
        sql = row_query(self._read, conditions)
        values = [member for member in bound(key) if member is not None]
        found = self._source.execute(sql, values).fetchmany(2)
        if len(found) == 1:
            return tuple(found[0])
        return AMBIGUOUS if found else NOT_FOUND
