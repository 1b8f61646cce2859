"""The target's catalog is read as it is: every type with its limits, defaults, identities and keys."""

from __future__ import annotations

import pytest

from pgferry.model import PgKind, PgType
from pgferry.postgres.catalog import count_rows, have_rows, read_tables, server_version

TYPES = [
    ("smallint", PgType(PgKind.SMALLINT)),
    ("integer", PgType(PgKind.INTEGER)),
    ("bigint", PgType(PgKind.BIGINT)),
    ("real", PgType(PgKind.REAL)),
    ("double precision", PgType(PgKind.DOUBLE)),
    ("numeric", PgType(PgKind.NUMERIC)),
    ("numeric(12,4)", PgType(PgKind.NUMERIC, precision=12, scale=4)),
    ("numeric(1000,1000)", PgType(PgKind.NUMERIC, precision=1000, scale=1000)),
    ("numeric(5,0)", PgType(PgKind.NUMERIC, precision=5, scale=0)),
    ("boolean", PgType(PgKind.BOOLEAN)),
    ("text", PgType(PgKind.TEXT)),
    ("character varying(64)", PgType(PgKind.VARCHAR, length=64)),
    ("character varying", PgType(PgKind.VARCHAR)),
    ("character(3)", PgType(PgKind.CHAR, length=3)),
    ("bpchar", PgType(PgKind.CHAR)),
    ("bytea", PgType(PgKind.BYTEA)),
    ("date", PgType(PgKind.DATE)),
    ("time without time zone", PgType(PgKind.TIME)),
    ("time(3) without time zone", PgType(PgKind.TIME, precision=3)),
    ("timestamp without time zone", PgType(PgKind.TIMESTAMP)),
    ("timestamp(0) without time zone", PgType(PgKind.TIMESTAMP, precision=0)),
    ("timestamp with time zone", PgType(PgKind.TIMESTAMPTZ)),
    ("timestamp(6) with time zone", PgType(PgKind.TIMESTAMPTZ, precision=6)),
    ("interval", PgType(PgKind.INTERVAL)),
    ("interval(2)", PgType(PgKind.INTERVAL, precision=2)),
    ("interval day to second", PgType(PgKind.INTERVAL)),
    ("interval day to second(3)", PgType(PgKind.INTERVAL, precision=3)),
    ("interval year to month", PgType(PgKind.UNSUPPORTED)),
    ("uuid", PgType(PgKind.UUID)),
    ("json", PgType(PgKind.JSON)),
    ("jsonb", PgType(PgKind.JSONB)),
    ("point", PgType(PgKind.UNSUPPORTED)),
    ("inet", PgType(PgKind.UNSUPPORTED)),
    ('"char"', PgType(PgKind.UNSUPPORTED)),
    ("time with time zone", PgType(PgKind.UNSUPPORTED)),
    ("int4range", PgType(PgKind.UNSUPPORTED)),
    ("int2vector", PgType(PgKind.UNSUPPORTED)),
    ("point[]", PgType(PgKind.UNSUPPORTED)),
]


def shape(type_: PgType) -> tuple[object, ...]:
    """A type without its oid and name."""
    element = shape(type_.element) if type_.element else None
    return type_.kind, type_.length, type_.precision, type_.scale, type_.labels, element


async def only_table(connection):
    (table,) = await read_tables(connection)
    return table


async def test_every_type_is_read_with_its_limits(connection):
    columns = ", ".join(f"c{number} {name}" for number, (name, _) in enumerate(TYPES))
    await connection.execute(f"CREATE TABLE t ({columns})")
    table = await only_table(connection)
    assert [(column.type.name, shape(column.type)) for column in table.columns] == [
        (name, shape(expected)) for name, expected in TYPES
    ]


async def test_a_negative_scale_is_read(connection):
    if (await server_version(connection))[0] < 15:
        pytest.skip("a scale below zero came with PostgreSQL 15")
    await connection.execute("CREATE TABLE t (a numeric(3,-6), b numeric(3,5))")
    first, second = (await only_table(connection)).columns
    assert (first.type.precision, first.type.scale) == (3, -6)
    assert (second.type.precision, second.type.scale) == (3, 5)


async def test_enum_labels_come_in_their_order_not_in_that_of_their_making(connection):
    await connection.execute("""CREATE TYPE "Mood" AS ENUM ('sad', 'happy')""")
    await connection.execute("""ALTER TYPE "Mood" ADD VALUE 'a bit''s "so"' BEFORE 'happy'""")
    await connection.execute("""CREATE TABLE t (a "Mood", b "Mood"[])""")
    first, second = (await only_table(connection)).columns
    oid, array = await connection.fetchrow("SELECT oid, typarray FROM pg_type WHERE typname = 'Mood'")
    assert (first.type.kind, first.type.labels, first.type.oid) == (PgKind.ENUM, ("sad", 'a bit\'s "so"', "happy"), oid)
    assert (second.type.kind, second.type.oid) == (PgKind.ARRAY, array)
    assert second.type.element is not None
    assert (second.type.element.kind, second.type.element.labels, second.type.element.oid) == (
        PgKind.ENUM,
        first.type.labels,
        oid,
    )


async def test_arrays_keep_the_limits_of_their_elements(connection):
    await connection.execute("CREATE TABLE t (a integer[], b varchar(7)[], c numeric(9,2)[][], d timestamp(3)[])")
    elements = [column.type.element for column in (await only_table(connection)).columns]
    assert [shape(element) for element in elements] == [
        shape(PgType(PgKind.INTEGER)),
        shape(PgType(PgKind.VARCHAR, length=7)),
        shape(PgType(PgKind.NUMERIC, precision=9, scale=2)),
        shape(PgType(PgKind.TIMESTAMP, precision=3)),
    ]


async def test_domains_are_their_base_type_with_their_own_rules(connection):
    await connection.execute("""
        CREATE DOMAIN code AS varchar(5);
        CREATE DOMAIN strict_code AS code NOT NULL DEFAULT 'x';
        CREATE DOMAIN codes AS numeric(6,3)[];
        CREATE TABLE t (a code, b strict_code, c codes, d code[])""")
    a, b, c, d = (await only_table(connection)).columns
    assert (shape(a.type), a.type.name, a.not_null, a.has_default) == (
        shape(PgType(PgKind.VARCHAR, length=5)),
        "code",
        False,
        False,
    )
    assert (shape(b.type), b.not_null, b.has_default) == (shape(PgType(PgKind.VARCHAR, length=5)), True, True)
    assert shape(c.type) == shape(PgType(PgKind.ARRAY, element=PgType(PgKind.NUMERIC, precision=6, scale=3)))
    assert d.type.element is not None
    assert shape(d.type.element) == shape(PgType(PgKind.VARCHAR, length=5))
    assert d.type.element.oid == await connection.fetchval("SELECT 'code'::regtype::oid")


async def test_what_the_server_fills_in_by_itself_is_told(connection):
    await connection.execute("""
        CREATE SEQUENCE shared;
        CREATE TABLE t (
            always integer GENERATED ALWAYS AS IDENTITY, other bigint GENERATED BY DEFAULT AS IDENTITY,
            s serial, b bigserial, drawn integer DEFAULT nextval('shared'), plain integer, d integer NOT NULL DEFAULT 7,
            g integer GENERATED ALWAYS AS (d * 2) STORED)""")
    columns = (await only_table(connection)).columns
    assert {column.name for column in columns if column.identity} == {"always", "other", "s", "b"}
    assert {column.name for column in columns if column.has_default} == {"s", "b", "drawn", "d"}
    assert {column.name for column in columns if column.generated} == {"g"}
    assert {column.name for column in columns if column.not_null} == {"always", "other", "s", "b", "d"}


async def test_a_virtual_generated_column_is_generated(connection):
    if (await server_version(connection))[0] < 18:
        pytest.skip("virtual generated columns came with PostgreSQL 18")
    await connection.execute("CREATE TABLE t (a integer, g integer GENERATED ALWAYS AS (a + 1) VIRTUAL)")
    assert [column.generated for column in (await only_table(connection)).columns] == [False, True]


async def test_the_key_is_in_key_order_without_included_columns(connection):
    await connection.execute("CREATE TABLE t (a integer, b text, c integer, PRIMARY KEY (c, a) INCLUDE (b))")
    assert (await only_table(connection)).key == ("c", "a")


async def test_dropped_columns_are_gone_and_names_are_exact(connection):
    await connection.execute("""CREATE TABLE "We ird""T.able" (gone text, "limit" integer, "ünï" text)""")
    await connection.execute("""ALTER TABLE "We ird""T.able" DROP COLUMN gone""")
    table = await only_table(connection)
    assert table.name == 'We ird"T.able'
    assert [column.name for column in table.columns] == ["limit", "ünï"]


async def test_only_the_application_s_own_tables_are_read(connection):
    # A role that is called pgferry would make its tables in the schema of its name.
    await connection.execute("""
        SET search_path = public; CREATE SCHEMA pgferry; CREATE TABLE pgferry.run (id integer);
        CREATE SCHEMA other; CREATE TABLE other.z (id integer); CREATE SCHEMA third; CREATE TABLE third.no (id integer);
        CREATE TABLE alembic_version (version_num text); CREATE TABLE kept (id integer);
        CREATE TABLE parted (id integer PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (10);
        CREATE VIEW v AS SELECT 1 AS id; CREATE MATERIALIZED VIEW m AS SELECT 1 AS id""")
    tables = await read_tables(connection, ("public", "other", "pgferry"))
    assert [(table.schema, table.name, table.partitioned) for table in tables] == [
        ("other", "z", False),
        ("public", "kept", False),
        ("public", "parted", True),
    ]
    assert tables[2].key == ("id",)


async def test_an_empty_schema_has_no_tables(connection):
    assert await read_tables(connection) == ()
    assert await read_tables(connection, ()) == ()


async def test_rows_are_seen_and_counted_without_those_of_inheriting_tables(connection):
    await connection.execute("""
        CREATE TABLE parent (id integer); CREATE TABLE child () INHERITS (parent); INSERT INTO child VALUES (1), (2);
        CREATE TABLE parted (id integer) PARTITION BY LIST (id); CREATE TABLE part PARTITION OF parted DEFAULT;
        INSERT INTO parted VALUES (1), (2), (3)""")
    tables = {table.name: table for table in await read_tables(connection)}
    asked = [tables[name] for name in ("parent", "child", "parted")]
    assert await have_rows(connection, asked) == [False, True, True]
    assert await count_rows(connection, asked) == [0, 2, 3]


async def test_more_tables_than_one_statement_asks_about_are_all_answered(connection, monkeypatch):
    monkeypatch.setattr("pgferry.postgres.catalog.ASKED_AT_ONCE", 2)
    for number in range(5):
        name = f'"{{}} {number}"'
        await connection.execute(f"CREATE TABLE {name} (id integer)")
        await connection.execute(f"INSERT INTO {name} SELECT generate_series(1, {number})")
    tables = await read_tables(connection)
    assert await count_rows(connection, tables) == [0, 1, 2, 3, 4]
    assert await have_rows(connection, tables) == [False, True, True, True, True]
    assert await count_rows(connection, ()) == []


async def test_the_server_s_version_is_told(connection):
    major, minor = await server_version(connection)
    assert (await connection.fetchval("SHOW server_version")).startswith(f"{major}.{minor}")
