"""Rows of both sides in one form, COPY's binary fields, and the key by which they find each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from pgferry.convert.wire import canonical_field, decode_field, decode_rows
from pgferry.export import ChunkRows
from pgferry.live.model import HIDDEN, LiveTable
from pgferry.marks import Fields
from pgferry.model import Chunk, Key, QuarantinedRow
from pgferry.ordering import StreamDigest, ordered_batches, row_order
from pgferry.postgres.catalog import rows_of
from pgferry.postgres.load import sent_bytes
from pgferry.quoting import quote
from pgferry.sqlite.guard import TableRead
from pgferry.verify import show

WireKey = tuple[bytes | None, ...]
"""A key of the target: its fields in COPY's binary format, each in its canonical form."""


class KeyReader:
    """Finds the key in a row of a table, and shows it."""

    def __init__(self, table: LiveTable) -> None:
        names = [column.target.name for column in table.pair.columns]
        self.places = tuple(names.index(column.target.name) for column in table.key)
        self.types = tuple(column.target.type for column in table.key)
        self._columns, self._kinds = names, [column.target.type for column in table.pair.columns]
        # The rowid has no name in the target that anyone knows.
        self._names = [column.source.name if table.hidden else column.target.name for column in table.key]

    def key(self, row: Fields) -> WireKey:
        """Return the row's key."""
        fields = [row[place] for place in self.places]
        return tuple(
            None if field is None else canonical_field(field, kind)
            for field, kind in zip(fields, self.types, strict=True)
        )

    def shown(self, row: Fields) -> str:
        """Return the row's key for people: `id=42`, `a='x', b=1`; without one, its first columns."""
        fields = [row[place] for place in self.places]
        members = list(zip(self._names, fields, self.types, strict=True))
        if None in fields:
            members = list(zip(self._columns, row, self._kinds, strict=True))[:3]
        return ", ".join(f"{name}={show(field, kind)}" for name, field, kind in members)

    def number(self, row: Fields) -> int | None:
        """Return the key of a table whose key is one integer."""
        field = row[self.places[0]]
        return None if field is None else int(str(decode_field(field, self.types[0])))


class SourceRows:
    """The rows of a chunk of the snapshot that PostgreSQL can hold; then `rows` and `rejected`.

    With `gather` they are brought into the order of the key, whatever order they come in: the chunk is held in memory.
    """

    def __init__(self, snapshot: Path, read: TableRead, chunk: Chunk, *, gather: bool, by: str = "") -> None:
        self._rows = ChunkRows(snapshot, read, chunk, order=by)
        self._pair = read.pair
        self._gather = gather

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows, once."""
        if not self._gather:
            yield from self._rows
            return
        gathered = list(self._rows)
        yield from ordered_batches(row_order(self._pair), gathered, sorted_already=self._rows.in_order)

    def stream(self) -> Iterator[bytes]:
        """Yield the rows as COPY's binary stream, once."""
        return sent_bytes(self._pair, self.batches())

    def fields(self) -> Iterator[Fields]:
        """Yield the rows field by field, once."""
        return decode_rows(self.stream())

    def digest(self) -> str:
        """Read all rows and return the digest of their stream."""
        digest = StreamDigest()
        for data in self.stream():
            digest.take(data)
        return digest.result()

    @property
    def rows(self) -> int:
        """Rows that were read and fit."""
        return self._rows.rows

    @property
    def rejected(self) -> Sequence[QuarantinedRow]:
        """Rows that no rule accepts."""
        return self._rows.rejected


def batch_fields(read: TableRead, batches: Iterable[pa.RecordBatch]) -> Iterator[Fields]:
    """Yield the rows of converted batches field by field."""
    return decode_rows(sent_bytes(read.pair, batches))


def target_query(table: LiveTable, where: str = "", order: str = "") -> str:
    """Return the SELECT of the target's rows, their columns as the source's are read."""
    columns = ", ".join(quote(column.target.name) for column in table.pair.columns)
    condition = f" WHERE {where}" if where else ""
    return f"SELECT {columns} FROM {rows_of(table.pair.target)}{condition}{f' ORDER BY {order}' if order else ''}"


def range_where(table: LiveTable, chunk: Chunk) -> str:
    """Return the condition of a range of integer keys; empty for all of them."""
    name = quote(table.key[0].target.name)
    bounds = [f"{name} >= {_number(chunk.low)}"] if chunk.low is not None else []
    bounds += [f"{name} <= {_number(chunk.high)}"] if chunk.high is not None else []
    return " AND ".join(bounds)


def unnumbered_where(table: LiveTable) -> str:
    """Return the condition of the rows that pgferry did not write, in a table with the hidden column."""
    return f"{quote(HIDDEN)} IS NULL"


def _number(key: Key) -> int:
    (value,) = key
    assert isinstance(value, int)
    return value
