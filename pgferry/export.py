"""Exports a chunk of the snapshot: the guarded read, the exact rules for what it keeps out, one Parquet file."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pgferry.convert.arrow import arrow_type, convert_array
from pgferry.convert.buffers import Bools
from pgferry.convert.mixed import convert_values
from pgferry.convert.row_width import PAGE_ROOM, too_wide, widths
from pgferry.convert.rules import Rejected, convert, storage_class
from pgferry.errors import Permanent
from pgferry.keys import encode_key
from pgferry.model import (
    Chunk,
    ColumnPair,
    ExportedChunk,
    QuarantinedRow,
    RawRow,
    Snapshot,
    SqliteValue,
    UndecodableText,
)
from pgferry.sqlite.arrow_reader import ArrowReader
from pgferry.sqlite.connect import explain, open_read_only
from pgferry.sqlite.guard import (
    TableRead,
    clean_query,
    clean_schema,
    guarded_rows_query,
    rest_query,
    rowids_query,
)
from pgferry.staging import Staging, WrittenFile, repeating_columns

ROWWISE_BATCH = 4096
"""Rows that the row-wise path gathers at the most before they become an Arrow batch."""

ROWWISE_BYTES = 4 * 1024 * 1024
"""Bytes of text and blobs that the row-wise path gathers at the most."""

ROWIDS_AT_ONCE = 500
"""Rows that one statement fetches again by their rowids; SQLite may take no more than 999 parameters."""

_SIZED = (str, bytes)

QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("column", pa.string(), nullable=False),
        pa.field("storage_class", pa.string(), nullable=False),
        pa.field("value", pa.binary(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


@dataclass(slots=True)
class _Part:
    """A range of a chunk that is read by one guard: `seen` rows of it, the last of them at `last`."""

    chunk: Chunk
    strict: bool
    seen: int = 0
    last: int | None = None

    def split(self) -> list[_Part]:
        """Return what was read, if anything, and the rest, to be read by the strict guard."""
        if self.last is None:
            return [_Part(self.chunk, strict=True)]
        read = replace(self, chunk=replace(self.chunk, high=(self.last,)))
        return [read, _Part(replace(self.chunk, low=(self.last + 1,)), strict=True)]


class _Stopped(Exception):
    """The Arrow reader met a value of another class than the light guard takes for granted."""


@dataclass(slots=True)
class _Misfits:
    """What the vectorised path found not to fit, to be judged row by row."""

    rowids: list[int] = field(default_factory=list)
    positions: set[int] = field(default_factory=set)


def semantic_schema(read: TableRead) -> pa.Schema:
    """Return the schema of a table's Parquet files: the target's names, and the types of its values."""
    columns = [column.pair.target for column in read.columns]
    return pa.schema([pa.field(column.name, arrow_type(column.type), not column.not_null) for column in columns])


def export_chunk(
    snapshot: Snapshot,
    read: TableRead,
    chunk: Chunk,
    staging: Staging,
    advance: Callable[[int], None] = lambda rows: None,
    reader: ArrowReader | None = None,
) -> ExportedChunk:
    """Write one chunk to staging and return what it holds; every row of it is in one of the two files.

    Reads the snapshot only. Idempotent: a chunk that an earlier try exported whole is found by its note and kept.
    `advance` is told of rows as they are read; `reader` is the snapshot's, for whoever exports many chunks. Raises
    Permanent when the rows found are not those of the chunk's plan.
    """
    fingerprint = _fingerprint(snapshot, read, chunk)
    found = staging.find(chunk, fingerprint)
    if found is not None:
        advance(chunk.rows)
        return found
    path = Path(snapshot.path)
    try:
        exported = _export(path, read, chunk, staging, advance, reader)
    except sqlite3.Error as error:
        raise explain(error, path) from error
    staging.note(exported, fingerprint)
    return exported


def _export(
    path: Path,
    read: TableRead,
    chunk: Chunk,
    staging: Staging,
    advance: Callable[[int], None],
    reader: ArrowReader | None,
) -> ExportedChunk:
    rows = ChunkRows(path, read, chunk, advance=advance, reader=reader)
    kinds = [(column.pair.target.name, column.pair.target.type.kind) for column in read.columns]
    with staging.parquet_writer(staging.chunk_path(chunk), rows.schema, repeating_columns(kinds)) as sink:
        for batch in rows:
            sink.write(batch)
    main, aside = sink.written, _write_quarantine(staging, chunk, rows.rejected)
    return ExportedChunk(
        chunk,
        main.path,
        sink.rows,
        main.bytes,
        main.sha256,
        len(rows.rejected),
        aside.path if aside else None,
        aside.sha256 if aside else None,
        in_order=rows.in_order,
    )


class ChunkRows:
    """A chunk's rows, converted: the batches of those that fit, by iterating once; then `rejected`, and what is known.

    First come the rows of the guarded read, in the order of their address or by the SQL terms of `order`; then those
    that the guard keeps out, in any order. Iterating raises Permanent when the rows found are not those of the chunk's
    plan, and SQLite's own errors.
    """

    def __init__(
        self,
        path: Path,
        read: TableRead,
        chunk: Chunk,
        *,
        order: str = "",
        advance: Callable[[int], None] = lambda rows: None,
        reader: ArrowReader | None = None,
    ) -> None:
        self.schema = semantic_schema(read)
        self.rows = 0
        self.rejected: list[QuarantinedRow] = []
        self._path, self._read, self._chunk, self._order = path, read, chunk, order
        self._advance = advance
        self._reader = reader
        self._by_guard = 0
        self._all_kept_out = False

    @property
    def in_order(self) -> bool:
        """Whether all rows came in the order of their address: all by the guarded read, or all that it keeps out."""
        return self.rows == self._by_guard or self._all_kept_out

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        misfits = _Misfits()
        # Behind a stop the reading goes on from the last rowid: without one, or in another order, nothing may stop it.
        parts = [_Part(self._chunk, strict=self._read.rowid is None or bool(self._order))]
        try:
            if not self._read.only_by_rule:
                yield from self._by_arrow(parts[0], misfits)
        except _Stopped:
            parts = parts[0].split()
            yield from self._by_arrow(parts[-1], misfits)
        self._by_guard = self.rows
        self._all_kept_out = not (self.rows or misfits.rowids or misfits.positions or self._read.rowid is None)
        if sum(part.seen for part in parts) < self._chunk.rows or misfits.rowids or misfits.positions:
            yield from self._by_rule(parts, misfits)
        _check_count(self._read, self._chunk, self.rows, len(self.rejected))

    def _by_arrow(self, part: _Part, misfits: _Misfits) -> Iterator[pa.RecordBatch]:
        with nullcontext(self._reader) if self._reader else ArrowReader(self._path) as reader:
            yield from self._read_by(reader, part, misfits)

    def _read_by(self, reader: ArrowReader, part: _Part, misfits: _Misfits) -> Iterator[pa.RecordBatch]:
        for batch in _clean_batches(reader, self._read, part.chunk, self._order, part.strict):
            good = _convert_batch(self._read, batch, self.schema, part.seen, misfits)
            part.seen += batch.num_rows
            if self._read.rowid is not None and batch.num_rows:
                part.last = batch.column(len(self._read.columns))[-1].as_py()
            yield from self._counted(good)
            self._advance(batch.num_rows)

    def _by_rule(self, parts: Sequence[_Part], misfits: _Misfits) -> Iterator[pa.RecordBatch]:
        kept_out = parts if sum(part.seen for part in parts) < self._chunk.rows else ()
        with closing(open_read_only(self._path, immutable=True)) as connection:
            for rows in gather(_misfit_rows(connection, self._read, self._chunk, self._order, misfits, kept_out)):
                batch, bad = convert_rows(self._read, rows, self.schema)
                self.rejected.extend(bad)
                yield from self._counted(batch)
                self._advance(len(rows))

    def _counted(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        self.rows += batch.num_rows
        if batch.num_rows:
            yield batch


def convert_rows(
    read: TableRead, rows: Sequence[RawRow], schema: pa.Schema
) -> tuple[pa.RecordBatch, list[QuarantinedRow]]:
    """Convert raw rows (address first, then columns) by the exact rules: a batch of those that fit, and the others.

    A row whose every value fits may still be too wide for a page of PostgreSQL: see `row_width`.
    """
    batch, wrong, sizes = _judged(read, rows, schema)
    if not wrong:
        return batch, []
    pairs, width = [column.pair for column in read.columns], len(read.pair.source.address)
    judged = zip(rows, wrong, sizes, strict=True)
    return batch, [
        _quarantined(read, pairs[place], row, width + place, size) for row, place, size in judged if place >= 0
    ]


def fitting_rows(read: TableRead, rows: Sequence[RawRow], schema: pa.Schema) -> tuple[pa.RecordBatch, Sequence[RawRow]]:
    """Convert raw rows as `convert_rows` does: a batch of those that fit, and the same rows raw."""
    batch, wrong, _ = _judged(read, rows, schema)
    return batch, [row for row, place in zip(rows, wrong, strict=True) if place < 0] if wrong else rows


def _judged(read: TableRead, rows: Sequence[RawRow], schema: pa.Schema) -> tuple[pa.RecordBatch, list[int], list[int]]:
    """Return the rows that fit; of each row the place of its first value that does not, or -1, and what it takes.

    Both lists are empty when all rows fit. Bytes are reckoned only where a row may be too wide, and else 0.
    """
    width = len(read.pair.source.address)
    pairs = [column.pair for column in read.columns]
    columns = list(zip(*rows, strict=True))[width:] if rows else [()] * len(pairs)
    arrays: list[pa.Array] = []
    faults: list[tuple[int, Bools]] = []
    for number, (pair, values) in enumerate(zip(pairs, columns, strict=True)):
        array, mask = convert_values(values, pair.target.type, pair.rule)
        mask = _or_null(array, mask, pair)
        arrays.append(array)
        if mask is not None:
            faults.append((number, mask.to_numpy(zero_copy_only=False)))
    wide = widths(read.pair, arrays)
    if not faults and wide is None:
        return pa.RecordBatch.from_arrays(arrays, schema=schema), [], []
    first = np.full(len(rows), -1) if wide is None else wide.places
    sizes = np.zeros(len(rows), np.int64) if wide is None else wide.bytes
    for number, wrong in reversed(faults):
        first[wrong] = number
    keep = pa.array(first < 0)
    good = pa.RecordBatch.from_arrays([array.filter(keep) for array in arrays], schema=schema)
    return good, first.tolist(), sizes.tolist()


def _or_null(array: pa.Array, mask: pa.Array | None, pair: ColumnPair) -> pa.Array | None:
    """Return the rows that do not fit, those among them that are NULL where the target takes none."""
    if not pair.target.not_null or not array.null_count:
        return mask
    return array.is_null() if mask is None else pc.or_(mask, array.is_null())


def _quarantined(read: TableRead, pair: ColumnPair, row: RawRow, place: int, size: int) -> QuarantinedRow:
    """Return a row that does not fit, with the reason of its first value that does not; `size` is of the whole row."""
    value, key = row[place], row[: len(read.pair.source.address)]
    answer = convert(value, pair.target.type, pair.rule)
    if isinstance(answer, Rejected):
        reason = answer.reason
    elif answer is None and pair.target.not_null:
        reason = "NULL in a column that is NOT NULL in the target"
    elif size > PAGE_ROOM:
        reason = too_wide(size)
    else:
        reason = "pgferry's two readings of this value disagree: please report it"
    return QuarantinedRow(read.pair.source.name, key, pair.source.name, storage_class(value), raw_bytes(value), reason)


def raw_bytes(value: SqliteValue | UndecodableText) -> bytes:
    """Return a value's own bytes: text and blobs as stored, numbers in their exact decimal form, NULL as nothing."""
    if value is None:
        return b""
    if isinstance(value, UndecodableText):
        return value.raw
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else repr(value)).encode("utf-8", "surrogatepass")


def _clean_batches(
    reader: ArrowReader, read: TableRead, chunk: Chunk, order: str, strict: bool
) -> Iterator[pa.RecordBatch]:
    """Yield the rows that the guard lets through; raises _Stopped where a light guard was not enough."""
    sql, values = clean_query(read, chunk, order, strict=strict)
    with reader.cursor(read.batch_rows) as cursor:
        cursor.execute(sql, values or None)
        batches = cursor.fetch_record_batch()
        _check_schema(read, batches.schema, strict)
        skip = 1
        try:
            for batch in batches:
                yield batch.slice(skip)
                skip = 0
        except OSError as error:
            if strict:
                raise
            # "Type mismatch in column …"; a fault of another kind comes again.
            raise _Stopped from error


def _check_schema(read: TableRead, found: pa.Schema, strict: bool) -> None:
    """Compare what the reader makes of the first batch with what is expected."""
    if found.types == clean_schema(read).types:
        return
    if not strict:
        raise _Stopped
    raise Permanent(
        f"The SQLite reader gave {found.types} for table {read.pair.source.name!r}.",
        "Report this: the guarded read must pin its types.",
    )


def _convert_batch(
    read: TableRead, batch: pa.RecordBatch, schema: pa.Schema, offset: int, misfits: _Misfits
) -> pa.RecordBatch:
    """Convert a batch of the guarded read; rows in which a value does not fit are left out and noted."""
    arrays: list[pa.Array] = []
    wrong: pa.Array | None = None
    for number, column in enumerate(read.columns):
        pair = column.pair
        array, mask = convert_array(batch.column(number), column.storage, pair.target.type, pair.rule)
        mask = _or_null(array, mask, pair)
        if mask is not None:
            wrong = mask if wrong is None else pc.or_(wrong, mask)
        arrays.append(array)
    if (wide := widths(read.pair, arrays)) is not None:
        over = pa.array(wide.places >= 0)
        wrong = over if wrong is None else pc.or_(wrong, over)
    if wrong is None or not pc.any(wrong).as_py():
        return pa.RecordBatch.from_arrays(arrays, schema=schema)
    if read.rowid is not None:
        misfits.rowids.extend(batch.column(len(read.columns)).filter(wrong).to_pylist())
    else:
        positions = pa.array(range(offset, offset + batch.num_rows)).filter(wrong)
        misfits.positions.update(positions.to_pylist())
    keep = pc.invert(wrong)
    return pa.RecordBatch.from_arrays([array.filter(keep) for array in arrays], schema=schema)


def _misfit_rows(
    connection: sqlite3.Connection,
    read: TableRead,
    chunk: Chunk,
    order: str,
    misfits: _Misfits,
    kept_out: Sequence[_Part],
) -> Iterator[RawRow]:
    if misfits.rowids:
        for first in range(0, len(misfits.rowids), ROWIDS_AT_ONCE):
            rowids = misfits.rowids[first : first + ROWIDS_AT_ONCE]
            yield from connection.execute(rowids_query(read, len(rowids)), rowids)
    if misfits.positions:
        for position, row in enumerate(connection.execute(*guarded_rows_query(read, chunk, order))):
            if position in misfits.positions:
                yield row
    for part in kept_out:
        yield from connection.execute(*rest_query(read, part.chunk, strict=part.strict))


def gather(rows: Iterator[RawRow]) -> Iterator[list[RawRow]]:
    """Yield rows in lists, bounded in rows and in bytes."""
    while True:
        gathered: list[RawRow] = []
        size = 0
        for row in islice(rows, ROWWISE_BATCH):
            gathered.append(row)
            for value in row:
                # The class itself: isinstance() takes most of the time here.
                if value.__class__ in _SIZED:
                    size += len(value)
            if size >= ROWWISE_BYTES:
                break
        if not gathered:
            return
        yield gathered


def _write_quarantine(staging: Staging, chunk: Chunk, rows: Sequence[QuarantinedRow]) -> WrittenFile | None:
    if not rows:
        return None
    columns = [
        [encode_key(row.key) for row in rows],
        [row.column for row in rows],
        [str(row.storage_class) for row in rows],
        [row.value for row in rows],
        [row.reason for row in rows],
    ]
    batch = pa.RecordBatch.from_arrays(
        [pa.array(values, kind) for values, kind in zip(columns, QUARANTINE_SCHEMA.types, strict=True)],
        schema=QUARANTINE_SCHEMA,
    )
    with staging.parquet_writer(
        staging.chunk_path(chunk, ".quarantine.parquet"), QUARANTINE_SCHEMA, ["column"]
    ) as sink:
        sink.write(batch)
    return sink.written


def _check_count(read: TableRead, chunk: Chunk, loaded: int, quarantined: int) -> None:
    if loaded + quarantined != chunk.rows:
        raise Permanent(
            f"Chunk {chunk.number} of table {read.pair.source.name!r} holds {chunk.rows} rows, "
            f"but {loaded} were read and {quarantined} kept aside.",
            "Check the snapshot with `PRAGMA integrity_check`; begin anew with --restart.",
        )


def _fingerprint(snapshot: Snapshot, read: TableRead, chunk: Chunk) -> str:
    what = repr((snapshot.sha256, chunk, [(column.pair, column.storage) for column in read.columns]))
    return hashlib.sha256(what.encode("utf-8", "surrogatepass")).hexdigest()
