"""Finds rows that the target has refused again in the snapshot, by what they convert to.

A staged file holds no addresses, and a table without a key could not tell them anyway. But its rows are the source's
rows, converted: those of the snapshot that convert to what was refused are the refused ones, whatever their order.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa

from pgferry.convert.rules import storage_class
from pgferry.convert.wire import decode_rows
from pgferry.errors import LossError
from pgferry.export import ROWIDS_AT_ONCE, fitting_rows, gather, raw_bytes, semantic_schema
from pgferry.marks import Fields, Marks, mark, marks
from pgferry.model import Chunk, QuarantinedRow, RawRow, Snapshot
from pgferry.ordering import row_order
from pgferry.postgres.connection import Connection
from pgferry.postgres.load import rows_at, sent_bytes
from pgferry.postgres.quarantine import open_rows
from pgferry.postgres.refusals import REFUSED, Refusal
from pgferry.sqlite.chunks import range_condition
from pgferry.sqlite.connect import explain, open_read_only
from pgferry.sqlite.guard import TableRead, raw_select, rowids_query
from pgferry.sqlite.lookup import RowLookup

Refused = Mapping[bytes, Refusal]
"""The rows of a table that the target refuses, by the mark of what they convert to, and why."""


def find_again(
    snapshot: Snapshot, read: TableRead, chunk: Chunk, rows: Sequence[pa.RecordBatch], refusals: Sequence[Refusal]
) -> list[QuarantinedRow]:
    """Return refused rows of a chunk as they are kept in quarantine; reads the snapshot only.

    `rows` are the refused rows as they were sent, `refusals` the reasons in the same order. The value that is kept is
    that of the column which the server names, else of the first one. Raises LossError when not every row is found.
    """
    wanted = _Wanted(read, rows, refusals)
    path = Path(snapshot.path)
    try:
        with closing(open_read_only(path, immutable=True)) as source:
            found = list(wanted.among(_candidates(source, read, chunk, rows)))
    except sqlite3.Error as error:
        raise explain(error, path) from error
    if len(found) != len(refusals):
        raise LossError(
            f"Of {len(refusals)} rows of table {chunk.table!r}, chunk {chunk.number}, that the target refuses, only "
            f"{len(found)} are found again in the snapshot.",
            "Nothing of the chunk was kept. This is a defect of pgferry: please report it.",
        )
    return found


async def refused_marks(connection: Connection, run_id: int, snapshot: Snapshot, read: TableRead) -> Marks:
    """Return the marks of a table's rows that are in quarantine because the target has refused them; reads only.

    Left out are rows that no key tells from others. Memory: 16 bytes a row.
    """
    table, path = read.pair.source.name, Path(snapshot.path)
    types, schema = [column.pair.target.type for column in read.columns], semantic_schema(read)
    found, after = [marks(types, ())], 0
    with closing(open_read_only(path, immutable=True)) as source:
        lookup = RowLookup(source, read)
        while page := await open_rows(connection, run_id, table, after=after, reason=REFUSED):
            after = page[-1].id
            try:
                rows = [row for row in map(lookup.row, (each.key for each in page)) if not isinstance(row, str)]
            except sqlite3.Error as error:
                raise explain(error, path) from error
            batch, _ = fitting_rows(read, rows, schema)
            found.append(marks(types, decode_rows(sent_bytes(read.pair, [batch]))))
    return np.sort(np.concatenate(found))


def refused_rows(read: TableRead, batches: Iterable[pa.RecordBatch], refusals: Mapping[int, Refusal]) -> Refused:
    """Return the rows that `find_unfit` has found in these batches."""
    types = [column.pair.target.type for column in read.columns]
    rows = decode_rows(sent_bytes(read.pair, rows_at(batches, refusals)))
    return {mark(types, fields): why for fields, why in zip(rows, refusals.values(), strict=True)}


def sort_out(
    read: TableRead, rows: Sequence[RawRow], batch: pa.RecordBatch, refused: Refused
) -> tuple[pa.RecordBatch, list[QuarantinedRow]]:
    """Return a batch without the rows that the target refuses, and these; `rows` are the raw rows of the batch."""
    types = [column.pair.target.type for column in read.columns]
    found = [refused.get(mark(types, fields)) for fields in decode_rows(sent_bytes(read.pair, [batch]))]
    left = pa.array([why is None for why in found], pa.bool_())
    return batch.filter(left), [_quarantined(read, row, why) for row, why in zip(rows, found, strict=True) if why]


def _quarantined(read: TableRead, row: RawRow, why: Refusal) -> QuarantinedRow:
    """Return a refused row with the value of the column which the server names, else of the first one."""
    source, width = read.pair.source, len(read.pair.source.address)
    names = [column.pair.target.name for column in read.columns]
    place = names.index(why.column) if why.column in names else 0
    value = row[width + place]
    column = read.columns[place].pair.source.name
    return QuarantinedRow(source.name, row[:width], column, storage_class(value), raw_bytes(value), why.reason)


class _Wanted:
    """The refused rows by what they convert to."""

    def __init__(self, read: TableRead, rows: Sequence[pa.RecordBatch], refusals: Sequence[Refusal]) -> None:
        self._read = read
        self._types = [column.pair.target.type for column in read.columns]
        self._left: defaultdict[bytes, list[Refusal]] = defaultdict(list)
        for fields, why in zip(self._fields(rows), refusals, strict=True):
            self._left[mark(self._types, fields)].append(why)

    def among(self, rows: Iterator[RawRow]) -> Iterator[QuarantinedRow]:
        """Yield those of the rows that are wanted, each as often as it is."""
        schema = semantic_schema(self._read)
        for part in gather(rows):
            batch, fitting = fitting_rows(self._read, part, schema)
            for fields, row in zip(self._fields([batch]), fitting, strict=True):
                reasons = self._left.get(mark(self._types, fields))
                if reasons:
                    yield _quarantined(self._read, row, reasons.pop())

    def _fields(self, batches: Sequence[pa.RecordBatch]) -> Iterator[Fields]:
        return decode_rows(sent_bytes(self._read.pair, batches))


def _candidates(
    source: sqlite3.Connection, read: TableRead, chunk: Chunk, rows: Sequence[pa.RecordBatch]
) -> Iterator[RawRow]:
    """Yield the raw rows among which the refused ones are: where their key is the rowid, only these."""
    order = row_order(read.pair)
    if not order.natural:
        where, values = range_condition(read.pair.source, chunk)
        yield from source.execute(f"{raw_select(read)} WHERE {where}", values)
        return
    for batch in rows:
        rowids = batch.column(order.columns[0]).to_pylist()
        for first in range(0, len(rowids), ROWIDS_AT_ONCE):
            part = rowids[first : first + ROWIDS_AT_ONCE]
            yield from source.execute(rowids_query(read, len(part)), part)
