"""Whether a SQLite file and a PostgreSQL database hold the same, cell by cell, by sqlite3, asyncpg and plain Python.

Nothing of the project is used. Both sides are read whole, each in one transaction; what pgferry keeps beside the
application's data (the column `_pgferry_rowid`, tables `_pgferry_…`, the schema `pgferry`) is passed over.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.engine import URL, make_url

from tests.acceptance.independent import COLUMNS, form_of, quoted, text_of

Row = tuple[Any, ...]
T = TypeVar("T")

FIRST = 20
"""Differences of a table that are told one by one."""

SQLITE_TABLES = """
SELECT name FROM pragma_table_list
 WHERE schema = 'main' AND type = 'table' AND name <> 'alembic_version'
   AND name NOT GLOB 'sqlite_*' AND name NOT GLOB '_pgferry_*'
 ORDER BY name
"""
POSTGRES_TABLES = """
SELECT relname FROM pg_class
 WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relname <> 'alembic_version'
   AND relname NOT LIKE '\\_pgferry\\_%'
 ORDER BY relname
"""


@dataclass
class Side:
    """What one side holds of a table: rows in plain form, in the order of the columns."""

    columns: tuple[str, ...]
    rows: list[Row]


def equal(sqlite_path: Path, pg_url: URL | str) -> list[str]:
    """Return a line for each difference, in words; none when both sides hold the same.

    Tables with a primary key in SQLite are compared by it, others as multisets. Can be called with a running event
    loop, too. To be called while nothing is written.
    """
    return _alone(_differences(sqlite_path, pg_url))


def tokens(pg_url: URL | str) -> set[str]:
    """Return the tokens of the table `acknowledged` of a PostgreSQL database."""

    async def read() -> set[str]:
        server = await asyncpg.connect(_dsn(pg_url))
        try:
            return {row["token"] for row in await server.fetch("SELECT token FROM acknowledged")}
        finally:
            await server.close()

    return _alone(read())


def _alone(work: Coroutine[Any, Any, T]) -> T:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def _dsn(url: URL | str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


async def _differences(path: Path, url: URL | str) -> list[str]:
    server = await asyncpg.connect(_dsn(url))
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as file:
            file.execute("BEGIN")
            async with server.transaction(isolation="repeatable_read", readonly=True):
                return await _compare(file, server)
    finally:
        await server.close()


async def _compare(file: sqlite3.Connection, server: asyncpg.Connection[Any]) -> list[str]:
    mine = [name for (name,) in file.execute(SQLITE_TABLES)]
    theirs = [row["relname"] for row in await server.fetch(POSTGRES_TABLES)]
    found = [f"{name}: only in SQLite" for name in mine if name not in theirs]
    found += [f"{name}: only in PostgreSQL" for name in theirs if name not in mine]
    for table in mine:
        if table in theirs:
            found += await _table_differences(file, server, table)
    return found


async def _table_differences(file: sqlite3.Connection, server: asyncpg.Connection[Any], table: str) -> list[str]:
    info = file.execute(f"SELECT name, pk FROM pragma_table_xinfo({text_of(table)}) WHERE hidden <> 1").fetchall()
    types = {row["name"]: row for row in await server.fetch(COLUMNS, table, "public")}
    types.pop("_pgferry_rowid", None)
    columns = tuple(name for name, _ in info)
    if set(columns) != set(types):
        return [f"{table}: its columns are {sorted(columns)} in SQLite, {sorted(types)} in PostgreSQL"]
    forms = [form_of(types[column]) for column in columns]
    names = ", ".join(map(quoted, columns))
    mine = [_plain(row, forms) for row in file.execute(f"SELECT {names} FROM {quoted(table)}")]
    theirs = [_plain(row, forms) for row in await server.fetch(f"SELECT {names} FROM {quoted(table)}")]
    key = [place for _, place in sorted((pk, place) for place, (_, pk) in enumerate(info) if pk)]
    lines = list(_by_key(columns, key, mine, theirs) if key else _as_multisets(mine, theirs))
    told = [f"{table}{line}" for line in lines[:FIRST]]
    return told if len(lines) <= FIRST else [*told, f"{table}: {len(lines) - FIRST} more differences"]


def _plain(row: Any, forms: list[Any]) -> Row:
    return tuple(None if value is None else _form(form, value) for form, value in zip(forms, row, strict=True))


def _form(form: Any, value: Any) -> Any:
    try:
        return form(value)
    except Exception as error:
        return f"{value!r}, which is no value of the column ({error})"


def _by_key(columns: Row, key: list[int], mine: list[Row], theirs: list[Row]) -> Iterator[str]:
    one, other = _keyed(key, mine), _keyed(key, theirs)
    names = ", ".join(columns[place] for place in key)
    if len(one) != len(mine) or len(other) != len(theirs):
        yield f": a key ({names}) is there twice"
    for row in sorted(one.keys() | other.keys(), key=repr):
        where = f" ({names}) = {row!r}"
        if row not in other:
            yield f"{where}: only in SQLite"
        elif row not in one:
            yield f"{where}: only in PostgreSQL"
        else:
            cells = zip(columns, one[row], other[row], strict=True)
            yield from (f"{where}: {name} is {a!r} in SQLite, {b!r} in PostgreSQL" for name, a, b in cells if a != b)


def _keyed(key: list[int], rows: list[Row]) -> Mapping[Row, Row]:
    return {tuple(row[place] for place in key): row for row in rows}


def _as_multisets(mine: list[Row], theirs: list[Row]) -> Iterator[str]:
    one, other = Counter(mine), Counter(theirs)
    yield from (f": {count} times only in SQLite: {row!r}" for row, count in (one - other).items())
    yield from (f": {count} times only in PostgreSQL: {row!r}" for row, count in (other - one).items())
