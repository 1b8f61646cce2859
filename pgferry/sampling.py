"""The second reader: random rows of the source, by sqlite3 and the scalar rules, against the same rows by key.

It shares neither the export's reader (ADBC, Arrow) nor the load's wire format: a fault in those shows here.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiosqlite
from asyncpg.prepared_stmt import PreparedStatement

from pgferry.convert.rules import Rejected, convert
from pgferry.model import CellDifference, ColumnPair, PgKind, SqliteValue, TablePair
from pgferry.postgres.connection import Connection
from pgferry.quoting import qualified, quote
from pgferry.sqlite.connect import decode_text

_BY_SERVER = (PgKind.INTERVAL, PgKind.JSONB, PgKind.JSON, PgKind.UUID)
"""Kinds that are compared by PostgreSQL itself, with the expected value given as text."""


@dataclass(frozen=True, slots=True)
class SampleResult:
    """How many rows were looked up, and the cells in which they differ."""

    rows: int
    differences: tuple[CellDifference, ...]


async def check_sample(connection: Connection, snapshot: Path, pair: TablePair, rows: int, seed: str) -> SampleResult:
    """Compare up to `rows` random rows of a table with the target's, found by its primary key; reads only.

    The same seed picks the same rows. Rows that the rules reject are in quarantine and are passed over. A table
    without a primary key in the target, or whose key is not among the moved columns, has no row that can be looked
    up: nothing is compared, and `rows` says 0.
    """
    keys = [column for column in pair.columns if column.target.name in pair.target.key]
    if not keys or len(keys) < len(pair.target.key) or rows == 0:
        return SampleResult(0, ())
    statement = await connection.prepare(_lookup(pair, keys))
    compared = 0
    differences: list[CellDifference] = []
    for values in await _random_rows(snapshot, pair, rows, random.Random(seed)):
        expected = [
            convert(value, column.target.type, column.rule) for column, value in zip(pair.columns, values, strict=True)
        ]
        if any(isinstance(value, Rejected) for value in expected) or _misses(pair, expected):
            continue
        compared += 1
        differences.extend(await _compare(statement, pair, keys, expected))
    return SampleResult(compared, tuple(differences))


def _misses(pair: TablePair, expected: Sequence[object]) -> bool:
    return any(value is None and column.target.not_null for column, value in zip(pair.columns, expected, strict=True))


async def _random_rows(
    snapshot: Path, pair: TablePair, rows: int, chance: random.Random
) -> list[tuple[SqliteValue, ...]]:
    table, names = quote(pair.source.name), ", ".join(quote(column.source.name) for column in pair.columns)
    async with aiosqlite.connect(snapshot.absolute().as_uri() + "?mode=ro&immutable=1", uri=True) as source:
        source.text_factory = decode_text
        if pair.source.rowid_name is None:
            found = await source.execute_fetchall(f"SELECT {names} FROM {table} ORDER BY random() LIMIT ?", (rows,))
            return [tuple(row) for row in found]
        rowid = quote(pair.source.rowid_name)
        bounds = await source.execute_fetchall(f"SELECT (SELECT min({rowid}) FROM {table}), max({rowid}) FROM {table}")
        low, high = next(iter(bounds))
        if low is None:
            return []
        one = f"SELECT {names} FROM {table} WHERE {rowid} >= ? ORDER BY {rowid} LIMIT 1"
        places = {chance.randint(low, high) for _ in range(rows)}
        return [tuple(row) for place in sorted(places) for row in await source.execute_fetchall(one, (place,))]


def _lookup(pair: TablePair, keys: Sequence[ColumnPair]) -> str:
    """Return the SELECT of one row; its parameters are the key's members, then the values that the server judges."""
    where = [f"{quote(key.target.name)} = ${n}::text::{key.target.type.name}" for n, key in enumerate(keys, 1)]
    terms: list[str] = []
    parameter = len(keys)
    for column in pair.columns:
        name, kind = quote(column.target.name), column.target.type
        if kind.kind in _BY_SERVER:
            parameter += 1
            # json keeps its text, and has no equality of its own; not all of it can be cast to jsonb (\u0000).
            cast = "text" if kind.kind is PgKind.JSON else kind.name
            terms.append(f"{name}::text::{cast} IS NOT DISTINCT FROM ${parameter}::text::{cast}")
        elif kind.kind is PgKind.ARRAY:
            terms.append(f"to_jsonb({name})::text")
        else:
            terms.append(name)
    return (
        f"SELECT {', '.join(terms)} FROM {qualified(pair.target.schema, pair.target.name)} WHERE {' AND '.join(where)}"
    )


async def _compare(
    statement: PreparedStatement, pair: TablePair, keys: Sequence[ColumnPair], expected: Sequence[object]
) -> Iterator[CellDifference]:
    values = dict(zip((column.target.name for column in pair.columns), expected, strict=True))
    key = [_text(values[column.target.name]) for column in keys]
    judged = [_text(values[column.target.name]) for column in pair.columns if column.target.type.kind in _BY_SERVER]
    row = await statement.fetchrow(*key, *judged)
    shown = ", ".join(f"{column.target.name}={text}" for column, text in zip(keys, key, strict=True))
    if row is None:
        return iter([CellDifference(pair.source.name, shown, None, "present", "missing")])
    return iter(
        CellDifference(pair.source.name, shown, column.source.name, repr(value), repr(found))
        for column, value, found in zip(pair.columns, expected, row, strict=True)
        if not _equal(column, value, found)
    )


def _equal(column: ColumnPair, expected: object, found: object) -> bool:
    kind = column.target.type.kind
    if kind in _BY_SERVER:
        return found is True
    if kind is PgKind.ARRAY and expected is not None and found is not None:
        return len(json.loads(str(expected))) == len(json.loads(str(found)))
    if isinstance(expected, float):
        # repr tells -0.0 from 0.0; a float4 comes back as the double next to it.
        single = (
            kind is PgKind.REAL and isinstance(found, float) and struct.pack("f", expected) == struct.pack("f", found)
        )
        return single or repr(expected) == repr(found)
    return expected == found


def _text(value: object) -> str | None:
    # Without the mark, hexadecimal digits are taken as the bytes themselves.
    return None if value is None else f"\\x{value.hex()}" if isinstance(value, bytes) else str(value)
