"""Random schemas with random hostile values move whole, or keep aside by name what cannot move."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from sqlalchemy.engine import URL

from pgferry.postgres.connection import connect
from pgferry.quoting import quote
from tests.acceptance.corpus_compare import compare
from tests.acceptance.library_move import plan_and_move
from tests.acceptance.objects import left_behind, source_objects, target_objects, unaccounted

EXAMPLES = 25
SLOW_EXAMPLES = int(os.environ.get("PGFERRY_FUZZ_EXAMPLES", "300"))


@dataclass(frozen=True)
class Bytes:
    """Text of any bytes."""

    raw: bytes


@dataclass(frozen=True)
class Source:
    """A file to make: statements, then rows; those that SQLite refuses are left out."""

    encoding: str
    statements: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Any, ...]], ...]
    chunk_rows: int


# ---------------------------------------------------------------- values

NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2, 2**31 - 1, 2**31, -(2**31) - 1, 2**53, 2**53 + 1, -(2**62), 2**63 - 1, -(2**63)]),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(1, 9),
)
REALS = st.one_of(
    st.sampled_from([0.0, -0.0, 0.1, 1.0, 1.5, -2.25, 1e15, 1e16, 1e300, 5e-324, float("inf"), float("-inf"), 2.0**63]),
    st.floats(allow_nan=False),
)
WORDS = st.sampled_from([
    "", " ", "a", "A", "ä", "Ä", "0", "1", "01", "-1", "+1", "1.0", "1.50", ".5", "1e5", "0x10", "true", "FALSE", "t",
    "null", "inf", "NaN", "2024-01-02", "2024-02-30", "0000-00-00", "2024-01-02 03:04:05", "2024-01-02T03:04:05.123456",
    "2024-01-02 03:04:05Z", "2024-01-02 03:04:05+02:00", "23:59:59", "24:00:00", "9999-12-31 23:59:59",
    "123e4567-e89b-12d3-a456-426614174000", "123E4567E89B12D3A456426614174000", "{}", "[1, 2.50]", '{"a": 1, "a": 2}',
    '"\\u0000"', "[", "\x00", "a\x00b", "\n", "\t", "\\", "\\N", "'", '"', "日本語", "😀", "\ufeff", "x" * 3000,
    "9223372036854775808", "1234567890123456789012345678901234567890.5",
])  # fmt: skip
TEXTS = st.one_of(WORDS, WORDS, st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
BLOBS = st.one_of(st.sampled_from([b"", b"\x00", b"a", b"\xff", bytes(16), b"[]", b"1"]), st.binary(max_size=20))
ODD = st.sampled_from([Bytes(b"\xff"), Bytes(b"a\xc3"), Bytes(b"\xed\xa0\x80"), Bytes(b"\xd8\x3d"), Bytes(b"\xc0\x80")])
KINDS = [st.none(), NUMBERS, REALS, TEXTS, BLOBS, ODD]
COLUMN_VALUES = st.one_of(
    st.sampled_from([NUMBERS, REALS, TEXTS, BLOBS, st.integers(0, 1), st.dates().map(str), st.datetimes().map(str),
                     st.uuids().map(str), st.uuids().map(lambda u: u.bytes), st.times().map(str)]),
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=3).map(lambda kinds: st.one_of(*kinds)),
)  # fmt: skip
"""What one column holds: mostly one kind of value, or a mixture of a few."""


# ---------------------------------------------------------------- schemas

NAMES = st.one_of(
    st.sampled_from(["a", "B", "id", "Order", "select", "xmin", "oid", "rowid", "_rowid_", "é" * 40, "x" * 70, 'q"uo',
                     "a.b", "%s", ":p", "'", "\\", "new\nline", "😀", "user", "ctid", "t_a_key", "a_id_seq"]),
    st.text("abcXYZ_é1", min_size=1, max_size=5).filter(lambda name: not name[0].isdigit()),
)  # fmt: skip
DECLARED = ["", "INTEGER", "INT", "BIGINT", "TEXT", "VARCHAR(3)", "REAL", "FLOAT", "NUMERIC", "DECIMAL(6,2)", "BLOB",
            "BOOLEAN", "DATE", "DATETIME", "TIMESTAMP", "TIME", "UUID", "GUID", "JSON", "STRING", "UNSIGNED BIG INT",
            "TEXT\n", "any thing"]  # fmt: skip
STRICT = ["INTEGER", "INT", "REAL", "TEXT", "BLOB", "ANY"]
DEFAULTS = ["0", "''", "'x'", "NULL", "CURRENT_TIMESTAMP", "(1 + 1)", "-1.5", "x'00'", "true", "(datetime('now'))"]
CHECKS = ["{c} IS NOT NULL", "length({c}) < 4000", "{c} <> 'zz'", "typeof({c}) <> 'real'", "{c} IN (0, 1)", "{c} > 0"]
WHERES = ["{c} IS NOT NULL", "{c} > 0", "{c} = 'a'", "length({c}) > 1"]


@st.composite
def tables(draw: st.DrawFn, name: str, parents: list[tuple[str, list[str]]]) -> tuple[list[str], list[Any]]:
    """Return the statements that make a table, its insert statement and its rows."""
    strict = draw(st.integers(0, 5)) == 0
    columns = draw(st.lists(NAMES, min_size=1, max_size=5, unique_by=str.lower))
    parts, kinds = [], []
    keyed = False
    for column in columns:
        declared = draw(st.sampled_from(STRICT if strict else DECLARED))
        text = f"{quote(column)} {declared}"
        if not keyed and draw(st.integers(0, 4)) == 0:
            keyed = True
            text += " PRIMARY KEY" + draw(st.sampled_from(["", "", " DESC"]))
        text += draw(st.sampled_from(["", "", "", " NOT NULL", " UNIQUE", " COLLATE NOCASE", " COLLATE RTRIM"]))
        if draw(st.integers(0, 3)) == 0:
            text += f" DEFAULT {draw(st.sampled_from(DEFAULTS))}"
        if draw(st.integers(0, 4)) == 0:
            text += f" CHECK ({draw(st.sampled_from(CHECKS)).format(c=quote(column))})"
        if parents and draw(st.integers(0, 3)) == 0:
            parent, theirs = draw(st.sampled_from(parents))
            text += f" REFERENCES {quote(parent)} ({quote(draw(st.sampled_from(theirs)))})"
            text += draw(
                st.sampled_from(["", " ON DELETE CASCADE", " ON UPDATE SET NULL DEFERRABLE INITIALLY DEFERRED"])
            )
        parts.append(text)
        kinds.append(draw(COLUMN_VALUES))
    plain = list(columns)
    if draw(st.integers(0, 5)) == 0:
        extra = draw(NAMES.filter(lambda new: new.lower() not in {column.lower() for column in columns}))
        parts.append(f"{quote(extra)} {'ANY' if strict else 'TEXT'} AS (upper({quote(columns[0])}))")
    if not keyed and len(plain) > 1 and draw(st.booleans()):
        keyed = True
        members = draw(st.lists(st.sampled_from(plain), min_size=1, max_size=3, unique=True))
        parts.append(f"PRIMARY KEY ({', '.join(map(quote, members))})")
    options = (["WITHOUT ROWID"] if keyed and draw(st.booleans()) else []) + (["STRICT"] if strict else [])
    statements = [f"CREATE TABLE {quote(name)} ({', '.join(parts)}) {', '.join(options)}"]
    for number in range(draw(st.integers(0, 2))):
        statements.append(draw(indexes(f"{name[:50]} i{number}", name, plain)))
    rows = draw(st.lists(st.tuples(*kinds), max_size=25))
    return statements, [(name, tuple(zip(plain, row, strict=True))) for row in rows]


@st.composite
def indexes(draw: st.DrawFn, name: str, table: str, columns: list[str]) -> str:
    """Return a CREATE INDEX."""
    column = quote(draw(st.sampled_from(columns)))
    term = draw(st.sampled_from(["{c}", "{c} DESC", "lower({c})", "{c} COLLATE NOCASE", "length({c})", "abs({c})"]))
    unique = draw(st.sampled_from(["", "UNIQUE "]))
    where = draw(st.sampled_from(["", f" WHERE {draw(st.sampled_from(WHERES)).format(c=column)}"]))
    return f"CREATE {unique}INDEX {quote(name)} ON {quote(table)} ({term.format(c=column)}){where}"


@st.composite
def sources(draw: st.DrawFn) -> Source:
    """Return a file of a few tables."""
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique_by=str.lower))
    statements: list[str] = []
    rows: list[Any] = []
    parents: list[tuple[str, list[str]]] = []
    for name in names:
        made, filled = draw(tables(name, parents))
        statements += made
        rows += filled
        if filled:
            parents.append((name, [column for column, _ in filled[0][1]]))
    if draw(st.booleans()):
        statements.append(f"CREATE VIEW {quote('v ' + names[0][:20])} AS SELECT * FROM {quote(names[0])}")
    encoding = draw(st.sampled_from(["UTF-8", "UTF-8", "UTF-8", "UTF-16le", "UTF-16be"]))
    return Source(encoding, tuple(statements), tuple(rows), draw(st.integers(1, 9)))


def make(path: Path, source: Source) -> None:
    """Make the file; what SQLite refuses is left out."""
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute(f"PRAGMA encoding = '{source.encoding}'")
        file.execute("BEGIN")
        for statement in source.statements:
            with suppress(sqlite3.Error):
                file.execute(statement)
        for table, cells in source.rows:
            names = ", ".join(quote(name) for name, _ in cells)
            marks = ", ".join("CAST(? AS TEXT)" if isinstance(value, Bytes) else "?" for _, value in cells)
            values = [value.raw if isinstance(value, Bytes) else value for _, value in cells]
            with suppress(sqlite3.Error):
                file.execute(f"INSERT INTO {quote(table)} ({names}) VALUES ({marks})", values)
        file.execute("COMMIT")


# ---------------------------------------------------------------- the test


async def moves(server: URL, source: Source) -> None:
    """Move the source into a database of its own, and compare."""
    name = f"pgferry_fuzz_{uuid4().hex[:12]}"
    admin = await connect(server)
    await admin.execute(f"CREATE DATABASE {quote(name)} TEMPLATE template0 ENCODING 'UTF8'")
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "fuzz.db"
            make(path, source)
            await _moves(path, server.set(database=name), source)
    finally:
        await admin.execute(f"DROP DATABASE {quote(name)} WITH (FORCE)")
        await admin.close()


async def _moves(path: Path, url: URL, source: Source) -> None:
    moved = await plan_and_move(path, url, path.parent / "home", chunk_rows=source.chunk_rows)
    found = await compare(path, url)
    wrong = [text for table in found.values() for text in table.wrong]
    assert not wrong, wrong
    assert all(table.closed for table in found.values()), found
    assert moved.report.verified, moved.report
    for table in found.values():
        note(f"quarantined of {table.table}: {table.reasons}")
    server = await connect(url)
    try:
        there = await target_objects(server, moved.plan)
    finally:
        await server.close()
    lost = unaccounted(source_objects(path, moved.plan), there, left_behind(moved.plan), moved.plan)
    assert not lost, lost


QUICK = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
SLOW = settings(
    max_examples=SLOW_EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
)


@QUICK
@given(source=sources())
def test_random_files_move(server_url: URL, source: Source) -> None:
    asyncio.run(moves(server_url, source))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@SLOW
@given(source=sources())
def test_many_random_files_move(server_url: URL, source: Source) -> None:
    asyncio.run(moves(server_url, source))
