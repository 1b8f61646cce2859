"""Random hostile names and values through capture, sync, the switch and back, compared, and with a canary each side."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import URL

from pgferry.plan.files import write_plan
from pgferry.plan.model import SchemaPlan
from pgferry.plan.outcome import merged_rules
from pgferry.plan.plan import make_plan
from pgferry.plan.trial import tried
from pgferry.postgres.connection import connection
from pgferry.postgres.schema import upgrade
from pgferry.settings import Rules, TableRules, read_rules
from tests.acceptance.canary import CANARY, new_names, postgres_objects, sqlite_objects, sung
from tests.acceptance.independent import Ways, differences, quoted, text_of
from tests.live import LiveMove

EXAMPLES = int(os.environ.get("PGFERRY_INJECTION_EXAMPLES", "15"))

Cell = str | bytes | None
Row = tuple[Cell, ...]

KEYS = range(100, 108)
SEED = "it's \\ hostile; --"
"""A text in each column from the start, so that no plan takes the column for numbers or times."""


@dataclass(frozen=True)
class Table:
    """A table to make: a key, texts, and a BLOB at the end."""

    name: str
    key: str
    texts: tuple[str, ...]
    blob: str
    form: str
    """`rowid`, `text` (a text key WITHOUT ROWID), or `keyless`."""
    default: str
    never: str
    """A text that a CHECK excludes."""


@dataclass(frozen=True)
class Write:
    """A write to one table: a row is put in place of the one with this key, changed, or removed."""

    table: int
    kind: str
    key: int
    row: Row


@dataclass(frozen=True)
class Life:
    """Tables, and what is written to them at first, in each phase in turn."""

    tables: tuple[Table, ...]
    phases: tuple[tuple[Write, ...], ...]


# ---------------------------------------------------------------- what is drawn

PIECES = st.sampled_from([
    '"', '""', "'", "''", "; DROP TABLE canary; --", "); DELETE FROM canary; --", "$$", "$1", "$body$", "%s", "%(a)s",
    "%", "{}", "{0}", ":a", "::text", "?", "?1", "\\", "\\'", "\\.", "\n", "\r\n", "\t", "/*", "*/", "--", " ", ".",
    ",", "(", ")", "E'\\047'", "U&\"", "||", "`", "[", "]", "canary", "NEW.", "OLD.", "NULL", "\\N", "é", "日本", "😀",
    "\u202e", "\ufeff", "\x01", "\x7f", "n" * 30,
])  # fmt: skip
ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=4)
TEXTS = st.lists(st.one_of(PIECES, PIECES, ANY), max_size=5).map("".join)
CELLS = st.one_of(TEXTS, TEXTS, st.none())
# An index has its table's name with an i before it, and the comparison takes what is before a dot for a schema.
NAMES = TEXTS.map(lambda text: text.replace(".", "")).filter(
    lambda name: "pgferry" not in name.lower() and not name.lower().startswith(("sqlite_", "i"))
)


def unlike(names: Sequence[str]) -> Callable[[str], bool]:
    """Return what tells a name that is another one, also for SQLite, to which A and a are the same."""
    taken = {name.lower() for name in names}
    return lambda name: name.lower() not in taken


@st.composite
def table_of(draw: st.DrawFn, taken: list[str]) -> Table:
    """Return a table whose name is not taken."""
    name = draw(NAMES.filter(unlike(["canary", *taken])))
    columns = draw(st.lists(NAMES, min_size=3, max_size=5, unique_by=str.lower))
    form = draw(st.sampled_from(["rowid", "text", "keyless"]))
    never = draw(TEXTS.filter(lambda text: text != SEED))
    return Table(name, columns[0], tuple(columns[1:-1]), columns[-1], form, draw(TEXTS), never)


@st.composite
def lives(draw: st.DrawFn) -> Life:
    """Return one to three tables and four phases of writes."""
    tables: list[Table] = []
    for _ in range(draw(st.integers(1, 3))):
        tables.append(draw(table_of([table.name for table in tables])))
    phases = tuple(tuple(draw(st.lists(writes(tables), max_size=8))) for _ in range(4))
    return Life(tuple(tables), phases)


@st.composite
def writes(draw: st.DrawFn, tables: Sequence[Table]) -> Write:
    """Return a write to one of the tables."""
    number = draw(st.integers(0, len(tables) - 1))
    table = tables[number]
    texts = [draw(CELLS.filter(lambda text: text != table.never)) for _ in table.texts]
    blob = draw(st.one_of(st.none(), st.binary(max_size=12), TEXTS.map(str.encode)))
    kind = draw(st.sampled_from(["put", "put", "change", "remove"]))
    return Write(number, kind, draw(st.sampled_from(KEYS)), (*texts, blob))


# ---------------------------------------------------------------- what is written


def made(table: Table) -> str:
    """Return the statement that makes a table."""
    kind = "TEXT" if table.form == "text" else "INTEGER"
    key = f"{quoted(table.key)} {kind} NOT NULL{'' if table.form == 'keyless' else ' PRIMARY KEY'}"
    first, *others = [f"{quoted(column)} TEXT" for column in table.texts]
    check = f"CHECK ({quoted(table.texts[0])} <> {text_of(table.never)})"
    parts = (key, f"{first} DEFAULT {text_of(table.default)} {check}", *others, f"{quoted(table.blob)} BLOB")
    return f"CREATE TABLE {quoted(table.name)} ({', '.join(parts)}){' WITHOUT ROWID' if table.form == 'text' else ''}"


def index(table: Table) -> str:
    """Return the statement that makes an index whose condition has a hostile text in it."""
    column = quoted(table.texts[0])
    named = quoted(f"i{table.name}")
    return f"CREATE INDEX {named} ON {quoted(table.name)} ({column}) WHERE {column} <> {text_of(table.default)}"


Statement = tuple[str, tuple[str | int | bytes | None, ...]]


def statements(write: Write, table: Table, goal: str, columns: Sequence[str], mark: str) -> Iterator[Statement]:
    """Yield what does a write; `columns` are the names on that side, the key's first, and `mark` is `?` or `$`."""
    key: str | int = f"{write.key} {table.name}" if table.form == "text" else write.key
    marks = ["?" if mark == "?" else f"${number}" for number in range(1, len(columns) + 1)]
    first, *others = map(quoted, columns)
    if write.kind == "change":
        changed = ", ".join(f"{column} = {place}" for column, place in zip(others, marks, strict=False))
        yield f"UPDATE {goal} SET {changed} WHERE {first} = {marks[-1]}", (*write.row, key)
        return
    yield f"DELETE FROM {goal} WHERE {first} = {marks[0]}", (key,)
    if write.kind == "put":
        yield f"INSERT INTO {goal} ({', '.join((first, *others))}) VALUES ({', '.join(marks)})", (key, *write.row)


@dataclass(frozen=True)
class Application:
    """Writes to whichever side is in front."""

    move: LiveMove
    life: Life
    plan: SchemaPlan

    def writes_sqlite(self, phase: int) -> None:
        """Write what the phase has to the file, in one transaction."""
        with closing(sqlite3.connect(self.move.source)) as file:
            write_to_file(file, self.life, self.life.phases[phase])

    async def writes_postgres(self, phase: int) -> None:
        """Write what the phase has to PostgreSQL, by the names that tables and columns have there."""
        planned = {table.source: table for table in self.plan.tables}
        async with self.move.session() as server, server.transaction():
            for write in self.life.phases[phase]:
                table = self.life.tables[write.table]
                names = {column.source.name: column.name for column in planned[table.name].columns}
                columns = [names[name] for name in (table.key, *table.texts, table.blob)]
                goal = f"public.{quoted(planned[table.name].name)}"
                for statement, values in statements(write, table, goal, columns, "$"):
                    await server.execute(statement, *values)

    def ways(self) -> Ways:
        """Return where the target's names differ: those that it cannot hold."""
        tables = {table.source: table.name for table in self.plan.tables if table.source != table.name}
        columns = {
            (table.source, column.source.name): column.name
            for table in self.plan.tables
            for column in table.columns
            if column.source.name != column.name
        }
        own = [name for _, name in sqlite_objects(self.move.source) if "pgferry" in name]
        return Ways(tables, columns, ("canary", *own))


def write_to_file(file: sqlite3.Connection, life: Life, batch: Sequence[Write]) -> None:
    """Write to the tables of the file, in one transaction."""
    for write in batch:
        table = life.tables[write.table]
        columns = (table.key, *table.texts, table.blob)
        for statement, values in statements(write, table, quoted(table.name), columns, "?"):
            file.execute(statement, values)
    file.commit()


# ---------------------------------------------------------------- the test


def make_file(path: Path, life: Life) -> None:
    """Make the file, with a row in each table."""
    with closing(sqlite3.connect(path)) as file:
        file.executescript(CANARY)
        for number, table in enumerate(life.tables):
            file.execute(made(table))
            file.execute(index(table))
            row = (*(SEED for _ in table.texts), b"\xff'; DROP TABLE canary; --")
            write_to_file(file, life, [Write(number, "put", KEYS[0] - 1, row)])
        write_to_file(file, life, life.phases[0])


async def lived(life: Life, url: URL, folder: Path) -> None:
    """Carry a life's tables there, the writes after them, and those of the other side back."""
    make_file(folder / "app.db", life)
    given = Rules(tables={"canary": TableRules(exclude=True)})
    async with connection(url) as server:
        await server.execute(CANARY)
        plan = await tried(make_plan(folder / "app.db", given), server)
        written = write_plan(plan, folder / "plan")
        await upgrade(url, written.alembic_config)
        before = sqlite_objects(folder / "app.db"), await postgres_objects(server)
    rules = merged_rules(given, read_rules(written.rules))
    move = LiveMove(url, folder / "app.db", folder / "home", rules, chunk_rows=3)
    application = Application(move, life, plan)

    await move.dual_write()
    application.writes_sqlite(1)
    await move.sync()
    await unharmed(application, *before)
    await move.switch()
    await application.writes_postgres(2)
    await move.sync_back()
    await unharmed(application, *before)
    await move.roll_back()
    application.writes_sqlite(3)
    await move.sync()
    await unharmed(application, *before)


async def unharmed(application: Application, file: set[tuple[str, str]], database: set[tuple[str, str, str]]) -> None:
    """Compare both sides, and look for what came to be or is gone."""
    move = application.move
    assert new_names(file, move.source) == []
    async with move.session() as server:
        assert await sung(move.source, server)
        now = await postgres_objects(server)
    assert [item for item in now ^ database if "pgferry" not in item[2]] == []
    assert await differences(move.source, move.url, application.ways()) == []


async def lived_in_a_database_of_its_own(life: Life, server_url: URL) -> None:
    name = f"pgferry_hostile_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(server_url.set(drivername="postgresql").render_as_string(hide_password=False))
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    try:
        with tempfile.TemporaryDirectory() as folder:
            await lived(life, server_url.set(database=name), Path(folder))
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # A life takes seconds, and to make one smaller takes hundreds.
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@given(life=lives())
def test_no_random_name_and_no_random_value_ends_a_statement(server_url: URL, life: Life) -> None:
    asyncio.run(lived_in_a_database_of_its_own(life, server_url))
