"""Rows of both sides by their keys: those that were touched, or that were found to differ."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime, time
from itertools import compress, islice

import pyarrow as pa
import pyarrow.compute as pc

from pgferry.convert.mixed import convert_values
from pgferry.convert.wire import decode_field, decode_rows, encode
from pgferry.export import convert_rows, semantic_schema
from pgferry.keys import encode_key
from pgferry.live.findings import Findings
from pgferry.live.model import LiveTable
from pgferry.live.pairs import bare_read
from pgferry.live.rows import KeyReader, WireKey, target_query
from pgferry.marks import Fields, canonical_row
from pgferry.model import CellDifference, Key, PgKind, PgType, RawRow, SqliteValue
from pgferry.ordering import ordered_batches, row_order
from pgferry.postgres.connection import Connection
from pgferry.postgres.load import sent_bytes
from pgferry.postgres.quarantine import open_among
from pgferry.quoting import quote
from pgferry.sqlite.binding import bound, marks
from pgferry.sqlite.guard import raw_select
from pgferry.verify import read_binary

KEYS = 2_000
"""Rows that are looked up at once."""


@dataclass(frozen=True, slots=True)
class RawKey:
    """The values of a row's key as SQLite has them, and its address: the rowid, or the primary key without one."""

    key: Key
    address: Key


RawKeys = dict[WireKey, RawKey]

# Without the trailing length or precision: a cast to varchar(3) would cut a key silently.
_BARE = {PgKind.CHAR: "bpchar", PgKind.VARCHAR: "text"}

# A few thousand keys are looked up by the index, however large the table and whatever is known of it.
_BY_KEY = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "enable_material")


async def compare_keys(
    connection: Connection,
    source: sqlite3.Connection,
    table: LiveTable,
    keys: Sequence[Key],
    aside_of: int | None = None,
) -> list[CellDifference]:
    """Compare the rows of these keys only, all their cells; reads only.

    `keys` are the target's keys, each in any form that SQLite holds it in; a key that no row has on either side is
    equal. Rows that no rule accepts belong on SQLite's side only, and so may those that run `aside_of` has in
    quarantine. Both sides should be of one moment, or still.
    """
    findings = Findings(table)
    async with _planned_by_key(connection):
        for part in _parts(keys):
            wanted = converted_keys(table, part)
            mine = source_batch(source, table, part)
            theirs = await _target_stream(connection, table, wanted)
            if theirs != _source_stream(table, mine):
                rows = _rows_of(table, mine, frozenset(wire_keys(table, wanted)))
                findings.join(rows, decode_rows([theirs]) if theirs else ())
    if aside_of is not None:
        await _drop_aside(connection, source, findings, aside_of)
    return list(findings.cells())


async def _drop_aside(connection: Connection, source: sqlite3.Connection, findings: Findings, run_id: int) -> None:
    missing = [item.row for item in findings.found if not item.in_target]
    names = raw_keys(source, findings.table, missing) if missing else {}
    addresses = [name.address for name in names.values()]
    aside = await open_among(connection, run_id, findings.table.name, addresses) if addresses else frozenset()
    findings.drop_missing({key for key, name in names.items() if encode_key(name.address) in aside})


def _source_stream(table: LiveTable, batch: pa.RecordBatch) -> bytes:
    """Return the rows as the target would send them; no rows as nothing."""
    if not batch.num_rows:
        return b""
    return b"".join(sent_bytes(table.pair, ordered_batches(row_order(table.pair), [batch], sorted_already=False)))


def _rows_of(table: LiveTable, batch: pa.RecordBatch, wanted: Collection[WireKey]) -> list[Fields]:
    """Return the rows of the wanted keys, each once."""
    # Where letter case does not count in SQLite, a key finds a row that has become another one's.
    reader = KeyReader(table)
    return [row for row in decode_rows(sent_bytes(table.pair, [batch])) if reader.key(row) in wanted]


def converted_keys(table: LiveTable, keys: Sequence[Key]) -> pa.RecordBatch:
    """Convert keys to the target's types, each once; those that no row of the target can have are left out."""
    return _convert(table, list(dict.fromkeys(keys)))[0]


def _convert(table: LiveTable, keys: Sequence[Key]) -> tuple[pa.RecordBatch, list[bool]]:
    """Convert keys; returns those that the target can have, and of each key whether it is among them."""
    columns = list(zip(*keys, strict=True)) if keys else [()] * len(table.key)
    good = pa.array([True] * len(keys), pa.bool_())
    arrays: list[pa.Array] = []
    for pair, values in zip(table.key, columns, strict=True):
        array, wrong = convert_values(values, pair.target.type, pair.rule)
        good = pc.and_(good, array.is_valid())
        if wrong is not None:
            good = pc.and_not(good, wrong)
        arrays.append(array)
    names = [pair.target.name for pair in table.key]
    return pa.RecordBatch.from_arrays([array.filter(good) for array in arrays], names=names), good.to_pylist()


def named_keys(table: LiveTable, keys: Sequence[Key]) -> list[tuple[Key, WireKey]]:
    """Return each key with what it is found by in rows; those that no row of the target can have are left out."""
    batch, good = _convert(table, keys)
    return list(zip(compress(keys, good), wire_keys(table, batch), strict=True))


def wire_keys(table: LiveTable, keys: pa.RecordBatch) -> Iterator[WireKey]:
    """Yield converted keys as they are found in rows."""
    types = [pair.target.type for pair in table.key]
    for row in decode_rows(encode([keys], types)):
        yield canonical_row(types, row)


def source_batch(source: sqlite3.Connection, table: LiveTable, keys: Sequence[Key]) -> pa.RecordBatch:
    """Return the rows of these keys that the target can hold, converted, each once."""
    read = bare_read(table.pair)
    return convert_rows(read, list(dict.fromkeys(raw_rows(source, table, keys))), semantic_schema(read))[0]


def raw_rows(source: sqlite3.Connection, table: LiveTable, keys: Iterable[Key]) -> Iterator[RawRow]:
    """Yield the raw rows of these keys, their address first; a row may come more than once."""
    select = raw_select(bare_read(table.pair))
    names = [quote(column.source.name) for column in table.key]
    for key in keys:
        if None not in key:
            conditions = [f"{name} = {mark}" for name, mark in zip(names, marks(key), strict=True)]
            yield from source.execute(f"{select} WHERE {' AND '.join(conditions)}", bound(key))


def raw_keys(source: sqlite3.Connection, table: LiveTable, rows: Sequence[Fields]) -> RawKeys:
    """Return the keys of these rows as SQLite has them, and how the quarantine knows the rows.

    Where the rowid is not the key and a value was written in a form of its own, all keys of the table are read.
    """
    reader = KeyReader(table)
    if table.by_rowid:
        numbers = [(reader.key(row), (reader.number(row),)) for row in rows]
        return {key: RawKey(number, number) for key, number in numbers}
    wanted = {reader.key(row) for row in rows}
    plain = [key for row in rows if (key := plain_key(table, row)) is not None]
    found = _named(table, raw_rows(source, table, plain), wanted)
    if len(found) < len(wanted):
        found |= _named(table, source.execute(raw_select(bare_read(table.pair))), wanted)
    return found


def _named(table: LiveTable, rows: Iterable[RawRow], wanted: Collection[WireKey]) -> RawKeys:
    width = len(table.pair.source.address)
    names = [column.source.name for column in table.pair.columns]
    places = [width + names.index(column.source.name) for column in table.key]
    found: RawKeys = {}
    waiting = iter(rows)
    while part := list(islice(waiting, KEYS)):
        keys = [tuple(row[place] for place in places) for row in part]
        batch, good = _convert(table, keys)
        fitting = [(key, row[:width]) for key, row, fits in zip(keys, part, good, strict=True) if fits]
        for name, (key, address) in zip(wire_keys(table, batch), fitting, strict=True):
            if name in wanted:
                found[name] = RawKey(key, address)
    return found


async def target_rows(connection: Connection, table: LiveTable, keys: pa.RecordBatch) -> Iterator[Fields]:
    """Return the target's rows of these keys."""
    stream = await _target_stream(connection, table, keys)
    return decode_rows([stream]) if stream else iter(())


async def _target_stream(connection: Connection, table: LiveTable, keys: pa.RecordBatch) -> bytes:
    """Return the rows of these keys as COPY sends them, in the order of the key if it has one; no rows as nothing."""
    if not keys.num_rows:
        return b""
    parts: list[bytes] = []
    query = target_query(table, _where(table), row_order(table.pair).terms)
    rows = await read_binary(connection, query, parts.append, *_arguments(table, keys))
    return b"".join(parts) if rows else b""


def _where(table: LiveTable) -> str:
    names = [quote(pair.target.name) for pair in table.key]
    arrays = [f"${number}::text[]::{_cast(pair.target.type)}[]" for number, pair in enumerate(table.key, 1)]
    if len(names) == 1:
        return f"{names[0]} = ANY ({arrays[0]})"
    return f"({', '.join(names)}) IN (SELECT * FROM unnest({', '.join(arrays)}))"


def _cast(type: PgType) -> str:
    return type.name if type.kind is PgKind.ENUM else _BARE.get(type.kind, str(type.kind))


def _arguments(table: LiveTable, keys: pa.RecordBatch) -> list[list[str]]:
    return [[_text(value) for value in column.to_pylist()] for column in keys.columns]


def plain_key(table: LiveTable, row: Fields) -> Key | None:
    """Return the key of a target's row as values of SQLite that are converted to it; None when there are none such."""
    reader = KeyReader(table)
    fields = [row[place] for place in reader.places]
    if None in fields:
        return None
    members = zip(fields, reader.types, strict=True)
    plain = tuple(_stored(decode_field(field, kind)) for field, kind in members if field is not None)
    return plain if reader.key(row) in list(wire_keys(table, converted_keys(table, [plain]))) else None


def _stored(value: object) -> SqliteValue:
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, int | float | bytes) else _text(value)


def _text(value: object) -> str:
    """Return a semantic value as PostgreSQL reads it."""
    if isinstance(value, bytes):
        # Without the mark, hexadecimal digits are taken as the bytes themselves.
        return f"\\x{value.hex()}"
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    return repr(value) if isinstance(value, float) else str(value)


def _parts(keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
    for first in range(0, len(keys), KEYS):
        yield keys[first : first + KEYS]


@asynccontextmanager
async def _planned_by_key(connection: Connection) -> AsyncIterator[None]:
    await connection.execute("; ".join(f"SET {name} = off" for name in _BY_KEY))
    yield
    # Not in a `finally`: a transaction that has failed takes no more statements, and what it has set goes with it.
    await connection.execute("; ".join(f"RESET {name}" for name in _BY_KEY))
