"""Schemas that no real file has: hostile names, every kind of object, and what PostgreSQL cannot hold."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine

from pgferry.plan.files import WrittenPlan, write_plan
from pgferry.plan.model import SchemaPlan, TablePlan
from pgferry.plan.plan import make_plan
from pgferry.plan.trial import tried
from pgferry.quoting import quote
from pgferry.settings import read_rules

Server = asyncpg.Connection


def made(path: Path, script: str, *rows: tuple[str, tuple[object, ...]]) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
        for statement, values in rows:
            connection.execute(statement, values)
        connection.commit()
    return path


async def moved(source: Path, folder: Path, url: URL, server: Server) -> SchemaPlan:
    """Plan a file, try the plan, and run its revision on the server."""
    plan = await tried(make_plan(source), server)
    written = write_plan(plan, folder)
    read_rules(written.rules)
    await alembic(url, written, "upgrade", "head")
    return plan


async def alembic(url: URL, written: WrittenPlan, name: str, revision: str) -> None:
    def run(connection: Connection) -> None:
        config = Config(written.alembic_config)
        config.attributes["connection"] = connection
        getattr(command, name)(config, revision)

    engine = create_async_engine(url)
    async with engine.connect() as opened:
        await opened.run_sync(run)
        await opened.commit()
    await engine.dispose()


async def columns_of(server: Server, table: str) -> list[str]:
    rows = await server.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 ORDER BY attnum", quote(table)
    )
    return [row["attname"] for row in rows]


HOSTILE = [
    "MixedCase",
    "select",
    "with space",
    "dot.ted",
    "dash-ed",
    "100%",
    "%(name)s",
    'quo"te',
    "apo'strophe",
    "back\\slash",
    "a:b",
    "a::b c:d",
    ":start",
    "naïve",
    "日本語",
    "😀 emoji",
    "new\nline",
    "{brace}",
    "$1",
    "x_id_seq",
    "",
    "é" * 50,
    "n" * 100,
    "n" * 99 + "m",
]


@pytest.mark.parametrize("group", [HOSTILE[:12], HOSTILE[12:]])
async def test_hostile_names_of_everything(
    group: list[str], tmp_path: Path, database_url: URL, connection: Server
) -> None:
    script = 'CREATE TABLE "x" (id INTEGER PRIMARY KEY);'
    for name in group:
        q = quote(name)
        others = ", ".join(f"{quote(other)} TEXT DEFAULT {quote_text(other)}" for other in group if other != name)
        script += f"""
            CREATE TABLE {q} ({q} INTEGER PRIMARY KEY, parent INTEGER REFERENCES {q}({q}), {others},
                              CHECK ({quote(group[1] if name != group[1] else group[2])} <> {quote_text(name)}));
            CREATE INDEX {quote("i" + name)} ON {q} (parent, {quote(group[0] if name != group[0] else group[1])} DESC);
            CREATE UNIQUE INDEX {quote("u" + name)} ON {q} (lower({quote(group[0] if name != group[0] else group[1])}))
                WHERE {quote(group[2] if name != group[2] else group[3])} = {quote_text(name)};
            CREATE VIEW {quote("v" + name)} AS SELECT {q}, parent AS {quote("p" + name)} FROM {q};
        """
    plan = await moved(made(tmp_path / "a.db", script), tmp_path / "plan", database_url, connection)

    assert [item for item in plan.not_carried if item.reason] == []
    for table in plan.tables:
        assert await columns_of(connection, table.name) == [column.name for column in table.columns]
    for name in group:
        assert len(plan.table(name).indexes) == 2, name
        assert len(plan.table(name).foreign_keys) == 1, name
        assert len(plan.table(name).checks) == 1, name
        if name and len(name.encode()) <= 63:
            assert plan.table(name).name == name
    assert len(plan.views) == len(group)


def quote_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


async def test_every_keyword_is_a_name(tmp_path: Path, database_url: URL, connection: Server) -> None:
    words = [row["word"] for row in await connection.fetch("SELECT word FROM pg_get_keywords()")]
    columns = ", ".join(f"{quote(word)} TEXT" for word in words)
    tables = "".join(f"CREATE TABLE {quote(word)} ({quote(word)} INTEGER PRIMARY KEY);" for word in words[::7])
    script = f"CREATE TABLE words ({columns}); {tables}"
    plan = await moved(made(tmp_path / "a.db", script), tmp_path / "plan", database_url, connection)
    assert plan.not_carried == ()
    assert await columns_of(connection, "words") == words


async def test_system_columns_are_renamed(tmp_path: Path, database_url: URL, connection: Server) -> None:
    source = made(tmp_path / "a.db", "CREATE TABLE t (oid, xmin, ctid TEXT, ctid_ TEXT, tableoid INTEGER)")
    plan = await moved(source, tmp_path / "plan", database_url, connection)
    names = await columns_of(connection, "t")
    assert names[0] == "oid"
    assert names[1] == "xmin_"
    assert names[3] == "ctid_"
    assert names[2].startswith("ctid_") and names[2] != "ctid_"
    rules = read_rules(tmp_path / "plan" / "pgferry.toml")
    assert rules.table("t").columns["xmin"].rename == "xmin_"
    assert plan.table("t").column("tableoid").name == "tableoid_"


GENERATED = """
    CREATE TABLE g (
        a INTEGER, b INTEGER, name TEXT,
        total INTEGER GENERATED ALWAYS AS (a * b) STORED,
        shout TEXT AS (upper(name)) VIRTUAL,
        big INTEGER AS (a + b > 3),
        odd INTEGER AS (a % 2),
        twice INTEGER AS (total * 2)
    );
    INSERT INTO g (a, b, name) VALUES (2000000000, 3, 'é x'), (NULL, 1, NULL);
"""


async def test_generated_columns(tmp_path: Path, database_url: URL, connection: Server) -> None:
    source = made(tmp_path / "a.db", GENERATED)
    plan = await moved(source, tmp_path / "plan", database_url, connection)
    generated = {column.name for column in plan.table("g").columns if column.generated}
    assert generated == {"total", "shout", "big"}
    assert {item.name for item in plan.not_carried if item.kind == "generated"} == {"odd", "twice"}

    await connection.execute("INSERT INTO g (a, b, name) VALUES (2000000000, 3, 'é x'), (NULL, 1, NULL)")
    rows = await connection.fetch("SELECT total, shout, big FROM g ORDER BY a NULLS LAST")
    with closing(sqlite3.connect(source)) as reader:
        expected = reader.execute("SELECT total, shout, big FROM g ORDER BY a NULLS LAST").fetchall()
    assert [tuple(row) for row in rows] == expected


CHECKS = """
    CREATE TABLE c (
        i INTEGER CHECK (i BETWEEN 1 AND 5),
        t TEXT CHECK (t NOT LIKE 'x%' AND length(t) < 10),
        g TEXT CHECK (g GLOB '[a-z]*' OR g IS NULL),
        b BOOLEAN CHECK (b IN (0, 1)),
        s TEXT CHECK (s IN ('raw', "done")),
        d TEXT CHECK (d IS NULL OR date(d) IS NOT NULL),
        n TEXT COLLATE NOCASE CHECK (n <> 'A'),
        k INTEGER CHECK (typeof(k) = 'integer')
    );
"""


async def test_checks_accept_and_refuse_the_same_rows(tmp_path: Path, database_url: URL, connection: Server) -> None:
    source = made(tmp_path / "a.db", CHECKS)
    plan = await moved(source, tmp_path / "plan", database_url, connection)
    refused = [item.sql for item in plan.not_carried if item.kind == "check"]
    assert refused == ["d IS NULL OR date(d) IS NOT NULL", "n <> 'A'"]
    trials = [
        ("i", 0), ("i", 5), ("t", "Xab"), ("t", "ab"), ("t", "a" * 10), ("g", "Abc"), ("g", "abc"), ("g", "a\nb"),
        ("b", 1), ("s", "done"), ("s", "nope"), ("k", 4),
    ]  # fmt: skip
    with closing(sqlite3.connect(source)) as lite:
        for column, value in trials:
            names, values = (column, "{}") if column == "k" else (f"{column}, k", "{}, 1")
            statement = f"INSERT INTO c ({names}) VALUES ({values})"
            assert await accepts(connection, statement.format("$1"), value) is lite_accepts(
                lite, statement.format("?"), value
            ), (column, value)


async def accepts(connection: Server, statement: str, value: object) -> bool:
    try:
        await connection.execute(statement, bool(value) if "(b," in statement else value)
    except asyncpg.CheckViolationError:
        return False
    return True


def lite_accepts(connection: sqlite3.Connection, statement: str, value: object) -> bool:
    try:
        connection.execute(statement, (value,))
    except sqlite3.IntegrityError:
        return False
    return True


KEYS = """
    CREATE TABLE parent (id INTEGER PRIMARY KEY, code TEXT UNIQUE, loose TEXT);
    CREATE TABLE child (
        a INTEGER REFERENCES parent ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
        b TEXT REFERENCES parent (code) ON UPDATE SET NULL,
        c TEXT REFERENCES parent (loose),
        d INTEGER REFERENCES missing (id),
        e TEXT REFERENCES parent (id),
        f TEXT REFERENCES parent (nowhere)
    );
    CREATE TABLE self (x INTEGER PRIMARY KEY, up INTEGER REFERENCES self);
    CREATE TABLE pair (p TEXT, q INT, PRIMARY KEY (p, q)) WITHOUT ROWID;
    CREATE TABLE of_pair (p TEXT, q INT, FOREIGN KEY (p, q) REFERENCES pair);
    CREATE TABLE loop_a (id INTEGER PRIMARY KEY, b INTEGER REFERENCES loop_b);
    CREATE TABLE loop_b (id INTEGER PRIMARY KEY, a INTEGER REFERENCES loop_a);
    CREATE TABLE null_key (usage TEXT PRIMARY KEY, n INT);
    CREATE TABLE nocase (name TEXT COLLATE NOCASE UNIQUE, r TEXT COLLATE RTRIM);
    CREATE INDEX by_r ON nocase (r);
    CREATE TABLE mixed (v PRIMARY KEY);
    CREATE TABLE long_key (t TEXT UNIQUE, u TEXT);
    CREATE INDEX by_u ON long_key (u);
    CREATE TABLE strict_one (i INT PRIMARY KEY, a ANY, t TEXT NOT NULL) STRICT;
    INSERT INTO parent VALUES (1, 'x', 'l');
    INSERT INTO child (a, b, e) VALUES (1, 'x', '1'), (7, 'nobody', '1');
    INSERT INTO null_key VALUES (NULL, 1), (NULL, 2);
    INSERT INTO nocase VALUES ('Ä', 'a '), ('ä', 'b');
    INSERT INTO mixed VALUES (1), ('1');
    INSERT INTO long_key VALUES (hex(randomblob(2000)), 'short');
    INSERT INTO strict_one VALUES (1, x'00', 'a'), (2, 3, 'b');
"""


async def test_keys_and_references(tmp_path: Path, database_url: URL, connection: Server) -> None:
    plan = await moved(made(tmp_path / "a.db", KEYS), tmp_path / "plan", database_url, connection)
    child = plan.table("child")
    assert {key.columns: key.orphans for key in child.foreign_keys} == {("a",): 1, ("b",): 1, ("e",): 0}
    # e holds digits that all fit its parent's key, so it takes the key's type.
    assert child.column("e").type == plan.table("parent").column("id").type
    first = child.foreign_keys[0]
    assert (first.on_delete, first.deferrable, first.initially_deferred) == ("CASCADE", True, True)
    reasons = {(item.table, item.kind): item.reason for item in plan.not_carried}
    assert "NULL" in reasons["null_key", "primary key"]
    assert "class" in reasons["mixed", "primary key"]
    assert "more than an index row" in reasons["long_key", "unique"]
    assert [item.name for item in plan.not_carried if item.kind == "foreign key"] == ["c", "d", "f"]
    assert keys_of(plan.table("of_pair")) == [("p", "q")]
    assert keys_of(plan.table("self")) == [("up",)]
    assert keys_of(plan.table("loop_a")) == [("b",)]
    assert keys_of(plan.table("loop_b")) == [("a",)]
    assert plan.table("nocase").indexes[0].terms == ('lower("name" COLLATE "C")',)
    assert [index.source for index in plan.table("long_key").indexes] == ["by_u"]
    await connection.execute("INSERT INTO nocase (name) VALUES ('Ä'), ('ä'), ('abc')")
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute("INSERT INTO nocase (name) VALUES ('ABC')")
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await connection.execute("INSERT INTO child (b) VALUES ('nobody')")


def keys_of(table: TablePlan) -> list[tuple[str, ...]]:
    return [key.columns for key in table.foreign_keys]


async def test_defaults(tmp_path: Path, database_url: URL, connection: Server) -> None:
    script = """
        CREATE TABLE d (
            id INTEGER PRIMARY KEY, a TEXT DEFAULT "x", b INTEGER DEFAULT '7', c BOOLEAN DEFAULT 1, e REAL DEFAULT 1.5,
            f TEXT DEFAULT (datetime('now')), g TIMESTAMP DEFAULT CURRENT_TIMESTAMP, h DATE DEFAULT (date('now')),
            i BLOB DEFAULT x'00ff', j TEXT DEFAULT 'null', k INTEGER DEFAULT -1, l TEXT DEFAULT 'a:b''c\\',
            m INTEGER DEFAULT (strftime('%s', 'now')), n NUMERIC DEFAULT FALSE, o TEXT DEFAULT (hex(randomblob(4))),
            p DATETIME DEFAULT (datetime('now', 'localtime')), q DECIMAL(10, 2) DEFAULT 1.25, r INTEGER DEFAULT 'no',
            s TEXT DEFAULT NULL, t TEXT DEFAULT 5, u TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
        );
    """
    plan = await moved(made(tmp_path / "a.db", script), tmp_path / "plan", database_url, connection)
    assert [item.name for item in plan.not_carried] == ["o", "p", "r"]
    row = await connection.fetchrow("INSERT INTO d DEFAULT VALUES RETURNING *")
    expected = {"id": 1, "a": "x", "b": 7, "c": True, "e": 1.5, "i": b"\x00\xff", "j": "null", "k": -1, "l": "a:b'c\\"}
    assert {name: row[name] for name in expected} == expected
    assert (row["n"], str(row["q"]), row["s"], row["t"]) == (0, "1.25", None, "5")
    assert await connection.fetchval("SELECT f::timestamp - g < interval '5 s' AND g::date = h FROM d")
    assert await connection.fetchval("SELECT u ~ '^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z$' FROM d")
    assert abs(row["m"] - row["g"].timestamp()) < 90_000


async def test_views(tmp_path: Path, database_url: URL, connection: Server) -> None:
    script = """
        CREATE TABLE Item (Id INTEGER PRIMARY KEY, Name TEXT, Active BOOLEAN);
        CREATE VIEW first_one AS SELECT i.id, NAME AS "Label" FROM item AS i WHERE active = 1 AND name LIKE 'a%';
        CREATE VIEW second_one AS SELECT label, count(*) AS n FROM FIRST_ONE GROUP BY label;
        CREATE VIEW broken AS SELECT missing FROM item;
        CREATE VIEW foreign_one AS SELECT julianday(name) FROM item;
        CREATE VIEW with_part AS WITH p(x) AS (SELECT id FROM item) SELECT x FROM p;
        INSERT INTO item VALUES (1, 'Abc', 1), (2, 'b', 0);
    """
    plan = await moved(made(tmp_path / "a.db", script), tmp_path / "plan", database_url, connection)
    assert [view.name for view in plan.views] == ["first_one", "second_one", "with_part"]
    assert {item.name for item in plan.not_carried if item.kind == "view"} == {"broken", "foreign_one"}
    await connection.execute("""INSERT INTO "Item" VALUES (1, 'Abc', true), (2, 'b', false)""")
    assert await connection.fetch('SELECT "Id", "Label" FROM first_one') == [(1, "Abc")]
    assert await connection.fetch("SELECT * FROM second_one") == [("Abc", 1)]


async def test_many_columns_many_tables_and_none(tmp_path: Path, database_url: URL, connection: Server) -> None:
    columns = ", ".join(f"c{number} INTEGER" for number in range(200))
    wide = ", ".join(f"c{number}" for number in range(1700))
    tables = "".join(f"CREATE TABLE t{n} (id INTEGER PRIMARY KEY, v TEXT);" for n in range(300))
    script = f"CREATE TABLE wide ({columns}); CREATE TABLE too_wide ({wide}); {tables}"
    plan = await moved(made(tmp_path / "a.db", script), tmp_path / "plan", database_url, connection)
    assert len(plan.tables) == 301
    assert plan.excluded == ("too_wide",)
    assert read_rules(tmp_path / "plan" / "pgferry.toml").table("too_wide").exclude
    empty = make_plan(made(tmp_path / "b.db", ""))
    assert empty.tables == ()
    assert write_plan(empty, tmp_path / "empty").revision.exists()
