"""The second reader: random rows of the source, by sqlite3 and the scalar rules, against the same rows by key.

It shares neither the export's reader (ADBC, Arrow) nor the load's wire format: a fault in those shows here.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import aiosqlite
import asyncpg

from pgferry.convert.rules import Rejected, convert
from pgferry.keys import encode_key
from pgferry.model import CellDifference, ColumnPair, PgKind, RawRow, TablePair
from pgferry.postgres.connection import Connection
from pgferry.postgres.quarantine import open_among
from pgferry.quoting import qualified, quote

LOOKED_UP_AT_ONCE = 500
"""Rows that one statement looks up, at the most."""

Expected = Sequence[object]
"""A row's values, in the order of the pair's columns, as the rules convert them."""

_BY_SERVER = (PgKind.INTERVAL, PgKind.JSONB, PgKind.JSON, PgKind.UUID)
"""Kinds that are compared by PostgreSQL itself, with the expected value given as text."""


@dataclass(frozen=True, slots=True)
class SampleResult:
    """How many rows were looked up, and the cells in which they differ."""

    rows: int
    differences: tuple[CellDifference, ...]


async def check_sample(
    connection: Connection,
    snapshot: aiosqlite.Connection,
    pair: TablePair,
    rows: int,
    seed: str,
    *,
    aside_of: int | None = None,
) -> SampleResult:
    """Compare up to `rows` random rows of a table with the target's, found by its primary key; reads only.

    The same seed picks the same rows. Rows that the rules reject are passed over, and so is what run `aside_of` has in
    quarantine; None where it has nothing. A table without a primary key in the target, or whose key is not among the
    moved columns, has no row that can be looked up: nothing is compared, and `rows` says 0.
    """
    keys = [column for column in pair.columns if column.target.name in pair.target.key]
    if not keys or len(keys) < len(pair.target.key) or rows == 0:
        return SampleResult(0, ())
    sampled = await _random_rows(snapshot, pair, rows, random.Random(seed))
    if aside_of is not None:
        sampled = await _not_aside(connection, pair, sampled, aside_of)
    expected = [values for values in _expected(pair, sampled) if not _misses(pair, values)]
    differences: list[CellDifference] = []
    for first in range(0, len(expected), LOOKED_UP_AT_ONCE):
        differences += await _look_up(connection, pair, keys, expected[first : first + LOOKED_UP_AT_ONCE])
    return SampleResult(len(expected), tuple(differences))


async def _not_aside(connection: Connection, pair: TablePair, rows: Sequence[RawRow], run_id: int) -> list[RawRow]:
    """Return the rows that are not in quarantine."""
    width = len(pair.source.address)
    aside = await open_among(connection, run_id, pair.source.name, [row[:width] for row in rows])
    return [row for row in rows if encode_key(row[:width]) not in aside]


def _expected(pair: TablePair, rows: Iterable[RawRow]) -> Iterator[Expected]:
    width = len(pair.source.address)
    for row in rows:
        values = zip(pair.columns, row[width:], strict=True)
        converted = [convert(value, column.target.type, column.rule) for column, value in values]
        if not any(isinstance(value, Rejected) for value in converted):
            yield converted


def _misses(pair: TablePair, expected: Sequence[object]) -> bool:
    return any(value is None and column.target.not_null for column, value in zip(pair.columns, expected, strict=True))


async def _random_rows(
    snapshot: aiosqlite.Connection, pair: TablePair, rows: int, chance: random.Random
) -> list[RawRow]:
    table = quote(pair.source.name)
    names = ", ".join(map(quote, (*pair.source.address, *(column.source.name for column in pair.columns))))
    if pair.source.rowid_name is None:
        found = await snapshot.execute_fetchall(f"SELECT {names} FROM {table} ORDER BY random() LIMIT ?", (rows,))
        return [tuple(row) for row in found]
    rowid = quote(pair.source.rowid_name)
    # By subqueries: min() and max() in one would scan the table, alone each is one step in the b-tree.
    query = f"SELECT (SELECT min({rowid}) FROM {table}), (SELECT max({rowid}) FROM {table})"
    ((low, high),) = await snapshot.execute_fetchall(query)
    if low is None:
        return []
    places = sorted({chance.randint(low, high) for _ in range(rows)})
    # By few statements: each goes to another thread and back.
    following = f"SELECT {rowid} FROM {table} WHERE {rowid} >= _pgferry_places.place ORDER BY {rowid} LIMIT 1"
    sampled: list[RawRow] = []
    for first in range(0, len(places), LOOKED_UP_AT_ONCE):
        part = places[first : first + LOOKED_UP_AT_ONCE]
        found = await snapshot.execute_fetchall(
            f"WITH _pgferry_places (place) AS (VALUES {', '.join(['(?)'] * len(part))}) SELECT {names} FROM {table}"
            f" WHERE {rowid} IN (SELECT ({following}) FROM _pgferry_places)",
            part,
        )
        sampled += [tuple(row) for row in found]
    return sampled


async def _look_up(
    connection: Connection, pair: TablePair, keys: Sequence[ColumnPair], rows: Sequence[Expected]
) -> list[CellDifference]:
    """Compare rows with the target's: all of them by one statement."""
    judged = [column for column in pair.columns if column.target.type.kind in _BY_SERVER]
    places = {column.target.name: place for place, column in enumerate(pair.columns)}
    asked = [[_text(row[places[column.target.name]]) for row in rows] for column in (*keys, *judged)]
    found = await connection.fetch(_query(pair, keys, judged), *asked)
    return [each for row, answer in zip(rows, found, strict=True) for each in _differences(pair, keys, row, answer)]


def _query(pair: TablePair, keys: Sequence[ColumnPair], judged: Sequence[ColumnPair]) -> str:
    """Return the SELECT of many rows by their keys; its parameters are an array for each member of the key, then for
    each column that the server judges. Whether the row is there comes first; rows come in the order of the arrays."""
    given = {column.target.name: f"wanted.k{n}" for n, column in enumerate(keys)}
    judged_by = {column.target.name: f"wanted.v{n}" for n, column in enumerate(judged)}
    names = [f"k{n}" for n in range(len(keys))] + [f"v{n}" for n in range(len(judged))]
    arrays = ", ".join(f"${n}::text[]" for n in range(1, len(names) + 1))
    where = " AND ".join(
        f"{quote(column.target.name)} = {given[column.target.name]}::{column.target.type.name}" for column in keys
    )
    terms = ", ".join(f"{_term(column, judged_by)} AS c{n}" for n, column in enumerate(pair.columns))
    return (
        f"SELECT found.* FROM unnest({arrays}) WITH ORDINALITY AS wanted ({', '.join(names)}, place)"
        f" LEFT JOIN LATERAL (SELECT true AS is_there, {terms}"
        f" FROM {qualified(pair.target.schema, pair.target.name)} WHERE {where}) AS found ON true ORDER BY wanted.place"
    )


def _term(column: ColumnPair, judged_by: Mapping[str, str]) -> str:
    name, kind = quote(column.target.name), column.target.type
    if kind.kind in _BY_SERVER:
        # json keeps its text, and has no equality of its own; not all of it can be cast to jsonb (\u0000).
        cast = "text" if kind.kind is PgKind.JSON else kind.name
        return f"{name}::text::{cast} IS NOT DISTINCT FROM {judged_by[column.target.name]}::{cast}"
    return f"to_jsonb({name})::text" if kind.kind is PgKind.ARRAY else name


def _differences(
    pair: TablePair, keys: Sequence[ColumnPair], expected: Expected, found: asyncpg.Record
) -> Iterator[CellDifference]:
    values = dict(zip((column.target.name for column in pair.columns), expected, strict=True))
    shown = ", ".join(f"{column.target.name}={_text(values[column.target.name])}" for column in keys)
    is_there, *cells = found
    if not is_there:
        yield CellDifference(pair.source.name, shown, None, "present", "missing")
        return
    for column, value, cell in zip(pair.columns, expected, cells, strict=True):
        if not _equal(column, value, cell):
            yield CellDifference(pair.source.name, shown, column.source.name, repr(value), repr(cell))


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
