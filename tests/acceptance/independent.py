"""A comparison of a SQLite file with a PostgreSQL database that shares no code with the project.

It reads both sides whole, turns every value into a plain form by its own reading of the rules, and compares the rows
of each table as a multiset: nothing is known of keys, chunks, order or wire formats.
"""

from __future__ import annotations

import json
import re
import sqlite3
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy.engine import URL

Row = tuple[Any, ...]

COLUMNS = """
WITH RECURSIVE below AS (
    SELECT oid AS domain, typbasetype AS oid, typtypmod AS modifier FROM pg_type WHERE typtype = 'd'
     UNION ALL
    SELECT b.domain, t.typbasetype, t.typtypmod FROM below b JOIN pg_type t ON t.oid = b.oid AND t.typtype = 'd'
), base AS (
    SELECT b.domain, format_type(b.oid, b.modifier) AS type
      FROM below b JOIN pg_type t ON t.oid = b.oid AND t.typtype <> 'd'
)
SELECT a.attname AS name, t.typtype = 'e' AS enum,
       coalesce(base.type, of_elements.type || '[]', format_type(a.atttypid, a.atttypmod)) AS type,
       coalesce(e.typtype = 'e', false) AS enums, a.attgenerated <> '' AS generated
  FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typlen = -1
  LEFT JOIN base ON base.domain = t.oid
  LEFT JOIN base of_elements ON of_elements.domain = e.oid
 WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $2)
   AND c.relname = $1 AND a.attnum > 0 AND NOT a.attisdropped
"""


@dataclass(frozen=True)
class Ways:
    """Where the names of the two sides differ (`schema.table` for another schema), and what stays behind."""

    tables: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[tuple[str, str], str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    """Tables, and columns as `table.column`."""


AS_NAMED = Ways()


async def differences(source: Path, target: URL, ways: Ways = AS_NAMED) -> list[str]:
    """Return a line for each row that only one side has, and for each table; none when both hold the same."""
    found: list[str] = []
    server = await asyncpg.connect(target.set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        await server.execute("SET intervalstyle = 'iso_8601'")
        with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as file:
            for table in tables_of(file):
                if table not in ways.left_out:
                    found += await table_differences(file, server, table, ways)
    finally:
        await server.close()
    return found


def tables_of(file: sqlite3.Connection) -> list[str]:
    """Return the names of the file's own tables."""
    names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'"
    return [name for (name,) in file.execute(names)]


async def table_differences(
    file: sqlite3.Connection, server: asyncpg.Connection, table: str, ways: Ways = AS_NAMED
) -> list[str]:
    """Return what one table's rows differ in."""
    goal = ways.tables.get(table, table)
    schema, _, name = goal.rpartition(".")
    types = {row["name"]: row for row in await server.fetch(COLUMNS, name, schema or "public")}
    if not types:
        return [f"{table}: no table {goal}"]
    pairs = [
        (name, ways.columns.get((table, name), name))
        for _, name, _, _, _, _, hidden in file.execute(f"SELECT * FROM pragma_table_xinfo({text_of(table)})")
        if f"{table}.{name}" not in ways.left_out and hidden != 1
    ]
    if missing := [theirs for _, theirs in pairs if theirs not in types]:
        return [f"{table}: no columns {missing}"]
    pairs = [(mine, theirs) for mine, theirs in pairs if not types[theirs]["generated"]]
    source = await source_rows(file, server, table, [(mine, types[theirs]) for mine, theirs in pairs])
    target = await target_rows(server, goal, [types[theirs] for _, theirs in pairs])
    return [
        *(f"{table}: only in the source, {count} times: {row}" for row, count in (source - target).items()),
        *(f"{table}: only in the target, {count} times: {row}" for row, count in (target - source).items()),
    ]


async def source_rows(
    file: sqlite3.Connection, server: asyncpg.Connection, table: str, columns: list[tuple[str, asyncpg.Record]]
) -> Counter[Row]:
    """Return the source's rows in plain form."""
    names = ", ".join(quoted(name) for name, _ in columns)
    rows = file.execute(f"SELECT {names} FROM {quoted(table)}").fetchall()
    forms = [await column_form([row[place] for row in rows], type_, server) for place, (_, type_) in enumerate(columns)]
    return Counter(zip(*forms, strict=True))


async def column_form(values: list[Any], type_: asyncpg.Record, server: asyncpg.Connection) -> list[Any]:
    """Return a source column's values in plain form."""
    if type_["type"].startswith("interval"):
        # PostgreSQL's own reading of the text; the forms of other programs are no business of this comparison.
        return list(
            await server.fetchval("SELECT array_agg(v::interval::text) FROM unnest($1::text[]) v", values) or []
        )
    form = form_of(type_)
    return [None if value is None else form(value) for value in values]


async def target_rows(server: asyncpg.Connection, table: str, types: list[asyncpg.Record]) -> Counter[Row]:
    """Return the target's rows in plain form."""
    terms = [quoted(t["name"]) + ("::text" if as_text(t["type"]) else "") for t in types]
    named = ".".join(quoted(part) for part in table.rpartition(".")[::2] if part)
    rows = await server.fetch(f"SELECT {', '.join(terms)} FROM {named}")
    forms = [str if type_["type"].startswith("interval") else form_of(type_) for type_ in types]
    return Counter(
        tuple(None if value is None else form(value) for value, form in zip(row, forms, strict=True)) for row in rows
    )


def as_text(type_: str) -> bool:
    """Say whether a type is fetched as text."""
    return type_.startswith("interval") or type_ in ("json", "jsonb")


def form_of(type_: asyncpg.Record) -> Callable[[Any], Any]:
    """Return the function that brings a value of either side into plain form."""
    name = type_["type"]
    if name.endswith("[]"):
        inner = str if type_["enums"] else scalar_form(name.removesuffix("[]"))
        return lambda value: tuple(None if item is None else inner(item) for item in elements(value))
    return str if type_["enum"] else scalar_form(name)


def elements(value: Any) -> Iterable[Any]:
    """Return an array's elements: JSON text in the source, a list from the target."""
    return json.loads(value, parse_float=Decimal) if isinstance(value, str) else value


def scalar_form(name: str) -> Callable[[Any], Any]:
    """Return the plain form for a type as `format_type` names it."""
    base, length = re.fullmatch(r"([a-z ]+?)(?:\(([0-9,]+)\))?( with(?:out)? time zone)?", name).group(1, 2)  # type: ignore[union-attr]
    zone = name.endswith("with time zone")
    forms: dict[str, Callable[[Any], Any]] = {
        "smallint": int,
        "integer": int,
        "bigint": int,
        "real": lambda value: struct.pack("f", float(value)),
        "double precision": lambda value: struct.pack("d", float(value)),
        "numeric": lambda value: numeric(value, length),
        "boolean": boolean,
        "text": words,
        "character varying": words,
        "character": lambda value: words(value).ljust(int(length or 1)),
        "bytea": lambda value: value.encode() if isinstance(value, str) else bytes(value),
        "date": lambda value: value if isinstance(value, date) else date.fromisoformat(value),
        "time": lambda value: value if isinstance(value, time) else time.fromisoformat(value),
        "timestamp": lambda value: instant(value) if zone else wall_clock(value),
        "uuid": uuid,
        "json": str,
        "jsonb": lambda value: document(json.loads(str(value), parse_float=Decimal, parse_int=Decimal)),
    }
    return forms[base.removesuffix(" with time zone").removesuffix(" without time zone")]


def words(value: Any) -> str:
    """Return text; a number in its shortest form."""
    return value if isinstance(value, str) else repr(value)


def boolean(value: Any) -> bool:
    """Return the truth that a 0, a 1 or a word says."""
    return str(value).lower() in ("1", "1.0", "true", "t", "yes", "on", "y")


def numeric(value: Any, length: str | None) -> str:
    """Return all digits that the type keeps."""
    number = value if isinstance(value, Decimal) else Decimal(repr(value) if isinstance(value, float) else str(value))
    if length is not None:
        return format(number, f".{length.partition(',')[2] or 0}f")
    return format(Decimal(int(number)) if isinstance(value, float) and value == int(value) else number, "f")


def wall_clock(value: Any) -> str:
    """Return a moment without a zone."""
    moment = value if isinstance(value, datetime) else moment_of(value)
    assert moment.tzinfo is None or not moment.utcoffset()
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds")


def instant(value: Any) -> datetime:
    """Return a moment in UTC; one without a zone is in UTC."""
    moment = value if isinstance(value, datetime) else moment_of(value)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def moment_of(text: str) -> datetime:
    """Read ISO text; UTC may stand for its offset."""
    return datetime.fromisoformat(re.sub(" ?UTC$", "+00:00", text))


def uuid(value: Any) -> str:
    """Return the dashed form of a UUID, its hexadecimal digits or its 16 bytes."""
    return str(UUID(bytes=value) if isinstance(value, bytes) else UUID(str(value)))


def document(node: Any) -> Any:
    """Return JSON as values that can be compared and counted: order of keys and trailing zeros do not matter."""
    if isinstance(node, dict):
        return ("object", *sorted((key, document(value)) for key, value in node.items()))
    if isinstance(node, list):
        return ("array", *map(document, node))
    return (type(node).__name__, node)


def quoted(name: str) -> str:
    """Return a name as both databases take it."""
    return '"' + name.replace('"', '""') + '"'


def text_of(value: str) -> str:
    """Return a SQL text literal."""
    return "'" + value.replace("'", "''") + "'"
