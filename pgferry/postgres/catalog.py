"""The target's tables as its catalog tells them; they decide what every value becomes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import asyncpg

from pgferry.model import PgKind, PgType, TargetColumn, TargetTable, UniqueKey
from pgferry.postgres.handle import Connection
from pgferry.postgres.statements import statements
from pgferry.quoting import qualified

SQL = statements("catalog")

# Object ids of built-in types never change (src/include/catalog/pg_type.dat).
_KINDS = {
    16: PgKind.BOOLEAN,
    17: PgKind.BYTEA,
    20: PgKind.BIGINT,
    21: PgKind.SMALLINT,
    23: PgKind.INTEGER,
    25: PgKind.TEXT,
    114: PgKind.JSON,
    700: PgKind.REAL,
    701: PgKind.DOUBLE,
    1042: PgKind.CHAR,
    1043: PgKind.VARCHAR,
    1082: PgKind.DATE,
    1083: PgKind.TIME,
    1114: PgKind.TIMESTAMP,
    1184: PgKind.TIMESTAMPTZ,
    1186: PgKind.INTERVAL,
    1700: PgKind.NUMERIC,
    2950: PgKind.UUID,
    3802: PgKind.JSONB,
}

ASKED_AT_ONCE = 200
"""Terms that one statement asks about, at the most."""

_HEADER = 4  # what the server adds to a length or a numeric's digits (VARHDRSZ)
_SECONDS = 1 << 12  # the bit of SECOND in an interval's field mask
_FULL_PRECISION = 0xFFFF


@dataclass(frozen=True, slots=True)
class _Resolved:
    type: PgType
    not_null: bool = False
    has_default: bool = False


async def read_tables(conn: Connection, schemas: Sequence[str] = ("public",)) -> tuple[TargetTable, ...]:
    """Return the tables of the schemas, by schema and name, columns in their order. Reads only.

    A partitioned table stands for its partitions. Left out are partitions, tables of extensions, the schema pgferry
    and `alembic_version`. Domains are resolved to their base type, with their NOT NULL and default; `oid` stays the
    declared type's own. A primary key that a run has dropped and not yet rebuilt is still the table's key.
    """
    tables = await conn.fetch(SQL["tables"], list(schemas))
    columns = await conn.fetch(SQL["columns"], [table["oid"] for table in tables])
    types = await _read_types(conn, {column["type"] for column in columns})
    waiting = await _waiting_keys(conn)
    of_table: dict[int, list[TargetColumn]] = defaultdict(list)
    for column in columns:
        of_table[column["table_oid"]].append(_column(column, types))
    return tuple(_table(table, of_table[table["oid"]], waiting) for table in tables)


async def read_unique_keys(conn: Connection, oids: Sequence[int]) -> tuple[UniqueKey, ...]:
    """Return the unique indexes that these tables have now, by name; those that a run has put aside are not there."""
    rows = await conn.fetch(SQL["unique_keys"], list(oids))
    return tuple(
        UniqueKey(
            table_oid=row["table_oid"],
            name=row["name"],
            terms=tuple(row["terms"]),
            columns=tuple(row["columns"]),
            bytewise=row["bytewise"],
            partial=row["partial"],
            nulls_equal=row["nulls_equal"],
        )
        for row in rows
    )


async def server_version(conn: Connection) -> tuple[int, int]:
    """Return the server's major and minor version."""
    number = await conn.fetchval(SQL["server_version"])
    return number // 10_000, number % 10_000


async def have_rows(conn: Connection, tables: Sequence[TargetTable]) -> list[bool]:
    """Say of each table whether it holds a row that this session can see."""
    return await values_of(conn, [f"EXISTS (SELECT 1 FROM {rows_of(table)})" for table in tables])


async def count_rows(conn: Connection, tables: Sequence[TargetTable]) -> list[int]:
    """Return the exact number of rows of each table; it reads all of them."""
    return await values_of(conn, [f"(SELECT count(*) FROM {rows_of(table)})" for table in tables])


async def values_of(conn: Connection, terms: Sequence[str]) -> list[Any]:
    """Return the values of terms of one type, in their order: many by one statement.

    For small tables the way to the server and back takes longer than the answer.
    """
    found: list[Any] = []
    for first in range(0, len(terms), ASKED_AT_ONCE):
        found.extend(await conn.fetchval(f"SELECT ARRAY[{', '.join(terms[first : first + ASKED_AT_ONCE])}]"))
    return found


def rows_of(table: TargetTable) -> str:
    """Return how to name the table's own rows after FROM or TRUNCATE: without those of tables that inherit from it."""
    name = qualified(table.schema, table.name)
    return name if table.partitioned else f"ONLY {name}"


async def _read_types(conn: Connection, oids: set[int]) -> dict[int, asyncpg.Record]:
    return {row["oid"]: row for row in await conn.fetch(SQL["types"], sorted(oids))}


async def _waiting_keys(conn: Connection) -> dict[tuple[str, str], tuple[str, ...]]:
    if not await conn.fetchval(SQL["ledger_exists"]):
        return {}
    rows = await conn.fetch(SQL["waiting_keys"])
    return {(row["target_schema"], row["target_table"]): tuple(row["key_columns"]) for row in rows}


def _table(
    row: asyncpg.Record, columns: Sequence[TargetColumn], waiting: Mapping[tuple[str, str], tuple[str, ...]]
) -> TargetTable:
    return TargetTable(
        schema=row["schema"],
        name=row["name"],
        oid=row["oid"],
        columns=tuple(columns),
        key=tuple(row["key"]) or waiting.get((row["schema"], row["name"]), ()),
        partitioned=row["partitioned"],
    )


def _column(row: asyncpg.Record, types: Mapping[int, asyncpg.Record]) -> TargetColumn:
    resolved = _resolve(row["type"], row["modifier"], types)
    return TargetColumn(
        name=row["name"],
        type=replace(resolved.type, name=row["type_name"]),
        not_null=row["not_null"] or resolved.not_null,
        has_default=row["has_default"] or (resolved.has_default and not row["generated"]),
        identity=row["identity"],
        generated=row["generated"],
    )


def _resolve(oid: int, modifier: int, types: Mapping[int, asyncpg.Record]) -> _Resolved:
    row = types[oid]
    if row["type"] == "d":
        below = _resolve(row["base"], row["modifier"], types)
        return _Resolved(
            type=replace(below.type, oid=oid, name=row["name"]),
            not_null=row["not_null"] or below.not_null,
            has_default=row["has_default"] or below.has_default,
        )
    return _Resolved(_type(row, modifier, types))


def _type(row: asyncpg.Record, modifier: int, types: Mapping[int, asyncpg.Record]) -> PgType:
    plain = PgType(PgKind.UNSUPPORTED, oid=row["oid"], name=row["name"])
    if row["type"] == "e":
        return replace(plain, kind=PgKind.ENUM, labels=tuple(row["labels"]))
    if row["element"]:
        element = _resolve(row["element"], modifier, types).type
        known = element.kind is not PgKind.UNSUPPORTED
        return replace(plain, kind=PgKind.ARRAY, element=element) if known else plain
    kind = _KINDS.get(row["oid"], PgKind.UNSUPPORTED)
    return _modified(replace(plain, kind=kind), modifier)


def _modified(type_: PgType, modifier: int) -> PgType:
    if modifier < 0:
        return type_
    match type_.kind:
        case PgKind.VARCHAR | PgKind.CHAR:
            return replace(type_, length=modifier - _HEADER)
        case PgKind.NUMERIC:
            return replace(type_, precision=((modifier - _HEADER) >> 16) & 0xFFFF, scale=_scale(modifier))
        case PgKind.TIME | PgKind.TIMESTAMP | PgKind.TIMESTAMPTZ:
            return replace(type_, precision=modifier)
        case PgKind.INTERVAL:
            return _interval(type_, modifier)
    return type_


def _scale(modifier: int) -> int:
    # Eleven bits, signed: since PostgreSQL 15 a scale may be negative.
    return (((modifier - _HEADER) & 0x7FF) ^ 0x400) - 0x400


def _interval(type_: PgType, modifier: int) -> PgType:
    fields, precision = modifier >> 16, modifier & 0xFFFF
    if not fields & _SECONDS:
        # INTERVAL YEAR TO MONTH and its like cut values off silently.
        return replace(type_, kind=PgKind.UNSUPPORTED)
    return replace(type_, precision=None if precision == _FULL_PRECISION else precision)
