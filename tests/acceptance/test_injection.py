"""Names and values that try to end the statement they stand in, through the whole life of a move without downtime.

Each name stands for a table, its columns, its indexes and its constraints; each value is a default, a condition and a
cell. A canary on either side must not be touched, nothing may come to be that was not meant, every name is exact, and
the rows are equal by an independent comparison after every step.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL

from pgferry.plan.files import write_plan
from pgferry.plan.model import SchemaPlan, TablePlan
from pgferry.plan.outcome import merged_rules
from pgferry.plan.plan import make_plan
from pgferry.plan.trial import tried
from pgferry.postgres.connection import connection
from pgferry.postgres.schema import upgrade
from pgferry.settings import Rules, TableRules, read_rules
from tests.acceptance.canary import CANARY, new_names, postgres_objects, sqlite_objects, sung
from tests.acceptance.independent import Ways, differences, quoted, text_of
from tests.live import LiveMove

NAMES = [
    'x"; DROP TABLE canary; --',
    "'; DROP TABLE canary; --",
    '"); DELETE FROM canary; --',
    "$$; DROP TABLE canary; $$",
    "$1",
    "%s %(name)s %",
    "{} {0} {name!r}",
    "a :name ::text",
    "?1 ?",
    "back\\slash\\",
    "\\'",
    "two\nlines\r\n\t-- DROP",
    "/* open",
    "日本語 ñ 😀",
    "\u202egnirts \u200b",
    "",
    " ",
    "canary ",
    "é" * 40,
    "n" * 63,
    "n" * 64,
    "semi;colon",
    '"',
    "`[x]`",
]
VALUES = [
    *NAMES,
    "\\.",
    "\\N",
    "\\\\N",
    "\\x00",
    "a\tb\\tc\nd\\ne\r\n",
    "NULL",
    "E'\\047'",
    "', ''); DROP TABLE canary; --",
    "$body$ BEGIN; END $body$",
    "COPY canary FROM PROGRAM 'false'",
    "\x01\x1b[31m\x7f",
    "\ufffe\ufeff",
    "</td><script>",
    "x" * 500 + "'",
]
BLOBS = [b"", b"'; DROP TABLE canary; --", b"\\x00", b"\x00", b"\xff\xfe\\.\n", b"PGCOPY\n\xff\r\n\x00"]
TABLES = [NAMES[0], *NAMES[2:6], NAMES[9], NAMES[11], "", "n" * 64]
"""The names that stand for a table; all of them stand for columns. Those of KEYED_BY_TEXT are WITHOUT ROWID, those of
KEYLESS have no key at all."""
KEYED_BY_TEXT = TABLES[1::3]
KEYLESS = TABLES[2::3]
LABELS = [value for value in VALUES if 0 < len(value.encode()) <= 63]
SCHEMA = 's"; DROP TABLE canary; --'
ENUM, DOMAIN = 'e"; DROP TABLE canary; --', "d'; DROP TABLE canary; -- $1"


# ---------------------------------------------------------------- the application


@dataclass
class Application:
    """Writes hostile values to hostile columns, to whichever side is in front; its chances come from a seed."""

    move: LiveMove
    plan: SchemaPlan
    chance: random.Random = field(default_factory=lambda: random.Random("injection"))
    number: int = 1000

    def writes_sqlite(self) -> None:
        """Add, change and remove rows of every table of the file."""
        with closing(sqlite3.connect(self.move.source)) as file:
            file.execute("PRAGMA foreign_keys = on")
            for table in self.plan.tables:
                for statement, values in self._writes(table, {}):
                    file.execute(statement, values)
            file.commit()

    async def writes_postgres(self) -> None:
        """Do the same in PostgreSQL, by the names that the tables and columns have there."""
        async with self.move.session() as server:
            for table in self.plan.tables:
                schema = SCHEMA if table.source == TABLES[0] else "public"
                names = {column.source.name: column.name for column in table.columns}
                for statement, values in self._writes(table, names, f"{quoted(schema)}.{quoted(table.name)}"):
                    await server.execute(_numbered(statement), *values)

    def _writes(
        self, table: TablePlan, names: Mapping[str, str], goal: str = ""
    ) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield statements with `?` for each value."""
        rows = goal or quoted(table.source)
        key, *others = [quoted(names.get(c.source.name, c.source.name)) for c in table.columns]
        marks = ", ".join("?" for _ in (key, *others))
        for _ in range(2):
            self.number += 1
            # What an INSERT says is what PostgreSQL's sequence knows nothing of, as the row came with its key.
            yield f"INSERT INTO {rows} ({', '.join((key, *others))}) VALUES ({marks})", self._row(table)
        one = self.chance.randrange(len(others) - 3)
        yield f"UPDATE {rows} SET {others[one]} = ? WHERE {key} = ?", (self._text(), self._key(table, self.number))
        yield f"DELETE FROM {rows} WHERE {key} = ?", (self._key(table, self.number - 1),)

    def _row(self, table: TablePlan) -> list[Any]:
        texts = [self._text() for _ in table.columns[4:]]
        return [self._key(table, self.number), *texts, self.chance.choice(LABELS), self.chance.choice(BLOBS), None]

    def _key(self, table: TablePlan, number: int) -> Any:
        return f"{number} {table.source}" if table.source in KEYED_BY_TEXT else number

    def _text(self) -> str:
        return self.chance.choice(VALUES)


def _numbered(statement: str) -> str:
    """Return the statement with PostgreSQL's marks; the names in it may hold question marks."""
    parts, inside, count = [], False, 0
    for character in statement:
        inside ^= character == '"'
        count += (mark := character == "?" and not inside)
        parts.append(f"${count}" if mark else character)
    return "".join(parts)


def columns_of(table: str) -> list[str]:
    """Return the columns of text of a table; the last one holds LABELS only."""
    return [NAMES[(TABLES.index(table) * 5 + step) % len(NAMES)] for step in range(6)]


def script() -> Iterator[str]:
    """Yield statements that make the tables: a key, hostile columns, a BLOB, a reference to itself; indexes, a view."""
    yield from CANARY.split(";")
    for place, name in enumerate(TABLES):
        columns = columns_of(name)
        yield _table(name, columns)
        first, second = quoted(columns[0]), quoted(columns[1])
        value = text_of(VALUES[(place * 7) % len(VALUES)])
        yield f"CREATE INDEX {quoted('i' + name)} ON {quoted(name)} ({first}, {second} DESC) WHERE {first} <> {value}"
        yield f"CREATE INDEX {quoted('x' + name)} ON {quoted(name)} (lower({second}))"
        yield f"CREATE VIEW {quoted('v' + name)} AS SELECT {first} AS {quoted('c' + name)} FROM {quoted(name)}"


def _table(name: str, columns: Sequence[str]) -> str:
    keyed, keyless = name in KEYED_BY_TEXT, name in KEYLESS
    key = "TEXT" if keyed else "INTEGER"
    declared = ("NOT NULL" if keyless else "PRIMARY KEY") + (" NOT NULL" if keyed else "")
    texts = ", ".join(f"{quoted(column)} TEXT DEFAULT {text_of(column)}" for column in columns)
    refers = key if keyless else f"{key} REFERENCES {quoted(name)} ({quoted('k' + name)})"
    check = f"CONSTRAINT {quoted('c' + name)} CHECK ({quoted(columns[2])} <> {text_of('no ' + name)})"
    return (
        f"CREATE TABLE {quoted(name)} ({quoted('k' + name)} {key} {declared}, {texts}, {quoted('b' + name)} BLOB,"
        f" {quoted('r' + name)} {refers}, {check}){' WITHOUT ROWID' if keyed else ''}"
    )


def fill(file: sqlite3.Connection) -> None:
    """Give each table a row for every value."""
    for name in TABLES:
        for number, value in enumerate(VALUES):
            key = f"{number} {name}" if name in KEYED_BY_TEXT else number
            texts = [value, *(VALUES[(number + step) % len(VALUES)] for step in range(4))]
            row = [key, *texts, LABELS[number % len(LABELS)], BLOBS[number % len(BLOBS)], None]
            file.execute(f"INSERT INTO {quoted(name)} VALUES ({', '.join('?' for _ in row)})", row)


# ---------------------------------------------------------------- what is looked at


def planned_objects(plan: SchemaPlan) -> set[tuple[str, str]]:
    """Return the tables, indexes and views that the plan means, by kind and name."""
    return {
        *(("r", table.name) for table in plan.tables),
        *(("i", index.name) for table in plan.tables for index in table.indexes),
        *(("v", view.name) for view in plan.views),
    }


@dataclass
class Watch:
    """What must be so after each step."""

    application: Application
    file: set[tuple[str, str]]
    database: set[tuple[str, str, str]]

    async def look(self, *, level: bool = True) -> None:
        """Look at canaries, objects, names and rows of both sides."""
        move = self.application.move
        assert new_names(self.file, move.source) == []
        async with move.session() as server:
            assert await sung(move.source, server)
            now = await postgres_objects(server)
        # Foreign keys are put aside while rows are carried, and come back with the switch.
        assert {item for item in self.database - now if item[0] != "foreign key"} == set()
        assert [item for item in now - self.database if "pgferry" not in item[2]] == []
        if level:
            assert await differences(move.source, move.url, self._ways()) == []

    def _ways(self) -> Ways:
        """Return where the target's names differ: those that it cannot hold, and the table in another schema."""
        tables, moved = self.application.plan.tables, TABLES[0]
        renamed = {table.source: table.name for table in tables if table.source != table.name}
        columns = {(t.source, c.source.name): c.name for t in tables for c in t.columns if c.source.name != c.name}
        own = [name for _, name in sqlite_objects(self.application.move.source) if "pgferry" in name]
        return Ways({**renamed, moved: f"{SCHEMA}.{moved}"}, columns, ("canary", *own))


# ---------------------------------------------------------------- the test


async def prepared(folder: Path, url: URL) -> tuple[LiveMove, SchemaPlan]:
    """Make the file and, by its plan, the target's schema; one table goes to a hostile schema and has hostile types."""
    source = folder / 'it\'s a "file"; $HOME %s\n.db'
    with closing(sqlite3.connect(source)) as file:
        for statement in script():
            file.execute(statement)
        fill(file)
        file.commit()
    given = Rules(tables={"canary": TableRules(exclude=True)})
    async with connection(url) as server:
        await server.execute(CANARY)
        plan = await tried(make_plan(source, given), server)
        written = write_plan(plan, folder / 'the plan\'s "folder" %s')
        await upgrade(url, written.alembic_config)
        await server.execute(elsewhere(TABLES[0]))
    moved = TableRules(rename=f"{SCHEMA}.{TABLES[0]}")
    rules = merged_rules(Rules(tables={**given.tables, TABLES[0]: moved}), read_rules(written.rules))
    return LiveMove(url, source, folder / "home of '\"$(touch gone)\"'", rules, chunk_rows=11), plan


def elsewhere(table: str) -> str:
    """Return the statements that put a table in a hostile schema and give two of its columns hostile types."""
    rows, schema, (*_, first, last) = quoted(table), quoted(SCHEMA), map(quoted, columns_of(table))
    return (
        f"CREATE SCHEMA {schema}; CREATE DOMAIN {schema}.{quoted(DOMAIN)} AS text;"
        f"CREATE TYPE {schema}.{quoted(ENUM)} AS ENUM ({', '.join(map(text_of, LABELS))});"
        f"ALTER TABLE {rows} ALTER {first} TYPE {schema}.{quoted(DOMAIN)}, ALTER {last} DROP DEFAULT,"
        f" ALTER {last} TYPE {schema}.{quoted(ENUM)} USING {last}::{schema}.{quoted(ENUM)};"
        f"ALTER TABLE {rows} SET SCHEMA {schema}"
    )


@pytest.fixture
async def watch(tmp_path: Path, database_url: URL) -> Watch:
    """A move not begun, and what both sides hold."""
    move, plan = await prepared(tmp_path, database_url)
    async with move.session() as server:
        objects = await postgres_objects(server)
    return Watch(Application(move, plan), sqlite_objects(move.source), objects)


def text_with_nul(source: Path, text: str) -> list[tuple[str, str]]:
    """Write a text to one cell of a table whose name and column are hostile; return table and column."""
    table = TABLES[3]
    column = columns_of(table)[0]
    with closing(sqlite3.connect(source)) as file:
        file.execute(f"UPDATE {quoted(table)} SET {quoted(column)} = ? WHERE {quoted('k' + table)} = 5", (text,))
        file.commit()
    return [(table, column)]


async def quarantined(move: LiveMove) -> list[tuple[str, str]]:
    """Return table and column of each value that PostgreSQL cannot hold."""
    query = "SELECT source_table, column_name FROM pgferry.quarantine WHERE replayed_at IS NULL"
    async with move.session() as server:
        return [tuple(row) for row in await server.fetch(query)]


async def test_no_name_and_no_value_ends_a_statement(watch: Watch) -> None:
    application, move, plan = watch.application, watch.application.move, watch.application.plan
    assert [item for item in plan.not_carried if item.name != "canary"] == []
    assert planned_objects(plan) <= {(kind, name) for kind, _, name in watch.database}
    exact = [table.name for table in plan.tables if table.source == table.name]
    assert set(TABLES) - set(exact) == {"", "n" * 64}

    with_nul = text_with_nul(move.source, "a\x00b")
    await move.dual_write()
    assert await quarantined(move) == with_nul
    await watch.look(level=False)
    text_with_nul(move.source, "ab")
    await move.sync()
    await watch.look()
    for _ in range(2):
        application.writes_sqlite()
        await move.sync()
        await watch.look()
    assert (await move.validate()).passed
    await move.switch()
    await application.writes_postgres()
    assert await move.sync_back() > 0
    await watch.look()
    assert (await move.validate()).passed
    await application.writes_postgres()
    await move.roll_back()
    application.writes_sqlite()
    await move.sync()
    await watch.look()
    await move.switch()
    await application.writes_postgres()
    await move.clean_up()
    await watch.look(level=False)
    fence = {item for item in sqlite_objects(move.source) if item[1].startswith("_pgferry_fence")}
    assert fence, "the file refuses writes for good"
    assert sqlite_objects(move.source) - fence == watch.file
    async with move.session() as server:
        assert await postgres_objects(server) - {("schema", "", "pgferry")} == watch.database
