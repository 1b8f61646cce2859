"""Every type, every kind of key, and what an application's schema adds to them: all of it arrives, value by value."""

from __future__ import annotations

import json
import random
import sqlite3
import string
from collections.abc import Callable
from contextlib import closing
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.postgres.definitions import Stage
from pgferry.settings import Rules
from tests.acceptance.independent import Ways, differences
from tests.acceptance.moving import Mover

ROWS = 170
"""Rows a table: three chunks of 50 and one of 20."""

LABELS = ("red", "Green", "dark blue", "ü", "a,b", 'quo"te', "it's")
LETTERS = string.ascii_letters + string.digits + " äß€😀\t\n\\'\",{}%_"

Make = Callable[[random.Random], Any]


def text(chance: random.Random, longest: int = 40) -> str:
    return "".join(chance.choice(LETTERS) for _ in range(chance.randint(0, longest)))


def moment(chance: random.Random, finest: int = 1) -> datetime:
    seconds = chance.randint(-62_135_596_800, 253_402_300_799)
    return datetime(1970, 1, 1) + timedelta(
        seconds=seconds, microseconds=chance.randrange(1_000_000) // finest * finest
    )


def aware(chance: random.Random) -> str:
    zone = timezone(timedelta(minutes=chance.choice((0, 60, -300, 345, -570))))
    late = datetime(1970, 1, 1, tzinfo=zone) + timedelta(seconds=chance.randint(-(10**9), 10**9))
    return chance.choice((late.isoformat(), late.isoformat(" "), late.replace(tzinfo=None).isoformat(" ")))


def document(chance: random.Random, depth: int = 3) -> Any:
    kinds: list[Make] = [
        lambda c: None,
        lambda c: c.random() < 0.5,
        lambda c: c.randint(-(2**70), 2**70),
        lambda c: c.uniform(-1e20, 1e20),
        text,
    ]
    if depth:
        kinds += [lambda c: [document(c, depth - 1) for _ in range(c.randint(0, 3))]] * 2
        kinds += [lambda c: {text(c, 6): document(c, depth - 1) for _ in range(c.randint(0, 3))}] * 2
    return chance.choice(kinds)(chance)


def array(make: Make) -> Make:
    return lambda chance: json.dumps(
        [None if chance.random() < 0.1 else make(chance) for _ in range(chance.randint(0, 4))]
    )


def number(chance: random.Random, digits: int, scale: int) -> Decimal:
    return Decimal(chance.randint(-(10**digits) + 1, 10**digits - 1)).scaleb(-scale)


INTERVALS = ("P1Y2M3DT4H5M6.789S", "1 year 2 mons 3 days 04:05:06.7", "-3 days", "04:05:06", "-00:00:00.000001", "PT0S",
             "P-1M", "100:00:00", "1 mon -1 days")  # fmt: skip

# name: (declared in SQLite, type in PostgreSQL, what makes a value)
TYPES: dict[str, tuple[str, str, Make]] = {
    "small": ("SMALLINT", "smallint", lambda c: c.choice((-(2**15), 2**15 - 1, c.randint(-9, 9)))),
    "whole": ("INTEGER", "integer", lambda c: c.choice((-(2**31), 2**31 - 1, c.randint(-9, 9)))),
    "big": ("BIGINT", "bigint", lambda c: c.choice((-(2**63), 2**63 - 1, 2**53 + 1, c.randint(-(2**62), 2**62)))),
    "single": ("REAL", "real", lambda c: c.choice((0.1, -1.5, 3.4e38, 1e-45, -0.0, float("inf"), c.randint(0, 99)))),
    "double": ("DOUBLE", "double precision", lambda c: c.choice((c.uniform(-1e300, 1e300), 5e-324, -0.0, 0.1, 7, 1e17,
                                                                 float("-inf")))),
    "money": ("NUMERIC(12, 2)", "numeric(12,2)", lambda c: float(number(c, 12, 2))),
    "digits": ("TEXT", "numeric(38,10)", lambda c: str(number(c, 38, 10))),
    "plain": ("NUMERIC", "numeric", lambda c: c.choice((c.randint(-(10**9), 10**9), c.randint(1, 99) / 100, 1e-7))),
    "exact": ("TEXT", "numeric", lambda c: c.choice(("1.500", "0.00", "-3", "123456789012345678901234567890.1"))),
    "flag": ("BOOLEAN", "boolean", lambda c: c.choice((0, 1))),
    "word": ("BOOLEAN", "boolean", lambda c: c.choice(("true", "f", "YES", "off", 1))),
    "note": ("TEXT", "text", text),
    "short": ("VARCHAR(12)", "varchar(12)", lambda c: text(c, 12)),
    "fixed": ("CHAR(5)", "char(5)", lambda c: text(c, 5)),
    "raw": ("BLOB", "bytea", lambda c: c.randbytes(c.randint(0, 30))),
    "day": ("DATE", "date", lambda c: moment(c).date().isoformat()),
    "clock": ("TIME", "time", lambda c: moment(c).time().isoformat()),
    "clock3": ("TIME", "time(3)", lambda c: moment(c, 1000).time().isoformat("milliseconds")),
    "at": ("DATETIME", "timestamp", lambda c: moment(c).isoformat(c.choice(" T"))),
    "at0": ("DATETIME", "timestamp(0)", lambda c: moment(c, 10**6).isoformat(" ")),
    "instant": ("DATETIME", "timestamptz", aware),
    "span": ("TEXT", "interval", lambda c: c.choice(INTERVALS)),
    "guid": ("CHAR(32)", "uuid", lambda c: c.choice((c.randbytes(16).hex(), str(UUID(bytes=c.randbytes(16)))))),
    "guid16": ("BLOB", "uuid", lambda c: c.randbytes(16)),
    "written": ("TEXT", "json", lambda c: json.dumps(document(c), indent=c.choice((None, 1)))),
    "nul": ("TEXT", "json", lambda c: json.dumps({"a": c.choice(("\x00", "\ud800", "b"))})),
    "tree": ("TEXT", "jsonb", lambda c: json.dumps(document(c), ensure_ascii=c.random() < 0.5)),
    "colour": ("VARCHAR(9)", '"Colour"', lambda c: c.choice(LABELS)),
    "ints": ("TEXT", "integer[]", array(lambda c: c.randint(-(2**31), 2**31 - 1))),
    "texts": ("TEXT", "text[]", array(text)),
    "doubles": ("TEXT", "double precision[]", array(lambda c: c.uniform(-1e9, 1e9))),
    "numbers": ("TEXT", "numeric(10,3)[]", array(lambda c: c.randint(-(10**6), 10**6) / 8)),
    "flags": ("TEXT", "boolean[]", array(lambda c: c.random() < 0.5)),
    "uuids": ("TEXT", "uuid[]", array(lambda c: str(UUID(bytes=c.randbytes(16))))),
    "days": ("TEXT", "date[]", array(lambda c: moment(c).date().isoformat())),
    "colours": ("TEXT", '"Colour"[]', array(lambda c: c.choice(LABELS))),
}  # fmt: skip

VALID = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated AND conrelid = '\"Order\"'::regclass"

ENUM = """CREATE TYPE "Colour" AS ENUM ('red', 'Green', 'dark blue', 'ü', 'a,b', 'quo"te', 'it''s')"""

KEYS: dict[str, tuple[str, str, Make]] = {
    "integer": ("INTEGER", "bigint", lambda c: c.randint(-(2**62), 2**62)),
    "small": ("SMALLINT", "smallint", lambda c: c.randint(-(2**15), 2**15 - 1)),
    "text": ("TEXT", "text", text),
    "varchar": ("VARCHAR(30)", "varchar(30)", lambda c: text(c, 30)),
    "char": ("CHAR(9)", "char(9)", lambda c: text(c, 9).rstrip()),
    "blob": ("BLOB", "bytea", lambda c: c.randbytes(c.randint(0, 9))),
    "uuid": ("CHAR(32)", "uuid", lambda c: c.randbytes(16).hex()),
    "moment": ("DATETIME", "timestamp", lambda c: moment(c).isoformat(" ")),
    "instant": ("DATETIME", "timestamptz", lambda c: moment(c).replace(year=2000).isoformat(" ") + "+02:00"),
    "clock": ("TIME", "time", lambda c: moment(c).time().isoformat()),
    "day": ("DATE", "date", lambda c: moment(c).date().isoformat()),
    "numeric": ("NUMERIC(15, 4)", "numeric(15,4)", lambda c: float(number(c, 15, 4))),
    "double": ("REAL", "double precision", lambda c: c.uniform(-1e9, 1e9)),
    "span": ("TEXT", "interval", lambda c: f"{c.randint(0, 10**6)}:00:00"),
}


def fill(file: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
    marks = ", ".join("?" * len(rows[0]))
    file.executemany(f'INSERT INTO "{table}" VALUES ({marks})', [tuple(plain(value) for value in row) for row in rows])


def plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date | time) else str(value) if isinstance(value, Decimal) else value


def distinct(make: Make, chance: random.Random, count: int) -> list[Any]:
    found: dict[Any, None] = {}
    while len(found) < count:
        found[make(chance)] = None
    return list(found)


def made(path: Path, *scripts: str, rows: dict[str, list[tuple[Any, ...]]]) -> Path:
    with closing(sqlite3.connect(path)) as file:
        for script in scripts:
            file.executescript(script)
        for table, values in rows.items():
            fill(file, table, values)
        file.commit()
    return path


async def moved(source: Path, schema: str, url: URL, connection: asyncpg.Connection, home: Path) -> None:
    """Move it by the library, and hold the verification and the independent comparison to the same answer."""
    await connection.execute(schema)
    mover = Mover(connection, url, source, home)
    move = await mover.load()
    await mover.build(move, Stage.INDEX, Stage.ATTACH)
    read = await mover.read_back(move)
    unlike = {verdict.loaded.chunk.table for verdicts in read.values() for verdict in verdicts if not verdict.equal}
    assert unlike == set(), "the bytes read back are not those that were sent"
    report = await mover.finish(move, await mover.judge(move, read))
    found = {table.table: (table.difference_count, table.differences, table.quarantined) for table in report.tables}
    assert found == {table.table: (0, (), 0) for table in report.tables}
    assert report.complete
    assert await differences(source, url) == []


# ---------------------------------------------------------------- types


@pytest.mark.parametrize("null", [True, False], ids=["nullable", "not null"])
async def test_every_type(null: bool, tmp_path: Path, database_url: URL, connection: asyncpg.Connection) -> None:
    chance, end = random.Random(f"types {null}"), "" if null else " NOT NULL"
    source = f"CREATE TABLE kinds (id INTEGER PRIMARY KEY, {', '.join(f'{n} {t[0]}{end}' for n, t in TYPES.items())})"
    target = f"CREATE TABLE kinds (id bigint PRIMARY KEY, {', '.join(f'{n} {t[1]}{end}' for n, t in TYPES.items())})"
    rows = [
        (number * 3, *(None if null and chance.random() < 0.2 else make(chance) for _, _, make in TYPES.values()))
        for number in range(ROWS)
    ]
    file = made(tmp_path / "a.db", source, rows={"kinds": rows})
    await moved(file, f"{ENUM}; {target}", database_url, connection, tmp_path / "home")


async def test_columns_that_hold_nothing_but_null(
    tmp_path: Path, database_url: URL, connection: asyncpg.Connection
) -> None:
    columns = {side: ", ".join(f"{name} {kind[side]}" for name, kind in TYPES.items()) for side in (0, 1)}
    file = made(
        tmp_path / "a.db",
        f"CREATE TABLE kinds (id INTEGER PRIMARY KEY, {columns[0]}); CREATE TABLE hollow (a, b); CREATE TABLE one (a);",
        rows={"kinds": [(number, *[None] * len(TYPES)) for number in range(60)], "one": [(None,)]},
    )
    schema = f"{ENUM}; CREATE TABLE kinds (id bigint PRIMARY KEY, {columns[1]}); CREATE TABLE hollow (a text, b bytea)"
    await moved(file, f"{schema}; CREATE TABLE one (a date)", database_url, connection, tmp_path / "home")


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize("without_rowid", [False, True], ids=["with rowid", "without rowid"])
async def test_every_kind_of_key(
    without_rowid: bool, tmp_path: Path, database_url: URL, connection: asyncpg.Connection
) -> None:
    chance = random.Random("keys")
    end = " WITHOUT ROWID" if without_rowid else ""
    source = [f'CREATE TABLE "by_{n}" (k {t[0]} NOT NULL PRIMARY KEY, v TEXT){end};' for n, t in KEYS.items()]
    target = [f'CREATE TABLE "by_{name}" (k {kind[1]} PRIMARY KEY, v text);' for name, kind in KEYS.items()]
    rows = {f"by_{n}": [(key, text(chance)) for key in distinct(t[2], chance, ROWS)] for n, t in KEYS.items()}
    source += [f"CREATE TABLE pair (b INTEGER, v TEXT, a TEXT, PRIMARY KEY (a, b)){end};",
               f"CREATE TABLE three (a BLOB, b TEXT, c INTEGER, PRIMARY KEY (c, a, b)){end};"]  # fmt: skip
    target += ["CREATE TABLE pair (b integer, v text, a text, PRIMARY KEY (a, b));",
               'CREATE TABLE three (a bytea, b "Colour", c smallint, PRIMARY KEY (b, c, a));']  # fmt: skip
    rows["pair"] = [(number % 7, text(chance), f"{number // 7:x}") for number in range(ROWS)]
    rows["three"] = [(bytes([number % 3]), LABELS[number % 7], number) for number in range(ROWS)]
    file = made(tmp_path / "a.db", *source, rows=rows)
    await moved(file, f"{ENUM}; {' '.join(target)}", database_url, connection, tmp_path / "home")


async def test_tables_without_a_key_hold_the_same_rows_as_often(
    tmp_path: Path, database_url: URL, connection: asyncpg.Connection
) -> None:
    chance = random.Random("no key")
    some = [
        (chance.choice((None, 1, 2)), chance.choice(("", "a", None)), chance.choice((0.5, None))) for _ in range(ROWS)
    ]
    script = """
        CREATE TABLE plain (a INTEGER, b TEXT, c REAL);
        CREATE TABLE keyless_there (id INTEGER PRIMARY KEY, b TEXT);
        CREATE TABLE keyed_there (id INTEGER, b TEXT);
    """
    rows = {"plain": some, "keyless_there": [(number, "x") for number in range(ROWS)],
            "keyed_there": [(number, "x") for number in reversed(range(ROWS))]}  # fmt: skip
    schema = """
        CREATE TABLE plain (a integer, b text, c double precision);
        CREATE TABLE keyless_there (id integer, b text);
        CREATE TABLE keyed_there (id integer PRIMARY KEY, b text);
    """
    await moved(made(tmp_path / "a.db", script, rows=rows), schema, database_url, connection, tmp_path / "home")


async def test_rows_are_read_in_key_order_although_an_index_holds_all_their_columns(
    tmp_path: Path, database_url: URL, connection: asyncpg.Connection
) -> None:
    """SQLite reads a table by a covering index where it may, in that index's order."""
    rows = [(number, f"{(number * 37) % 101:03}", "left out " * 9) for number in range(ROWS)]
    script = "CREATE TABLE wide (id INTEGER PRIMARY KEY, v TEXT, w TEXT); CREATE INDEX wide_v ON wide (v);"
    file = made(tmp_path / "a.db", script, rows={"wide": rows})
    await connection.execute("CREATE TABLE wide (id integer PRIMARY KEY, v text)")
    rules = Rules.model_validate({"tables": {"wide": {"columns": {"w": {"exclude": True}}}}})
    mover = Mover(connection, database_url, file, tmp_path / "home", rules, chunk_rows=1000)
    move = await mover.load()
    read = await mover.read_back(move)
    assert all(verdict.equal for verdicts in read.values() for verdict in verdicts), "the bytes came in another order"
    assert await differences(file, database_url, Ways(left_out=("wide.w",))) == []


async def test_the_misfit_of_a_table_without_rowid_is_the_row_that_is_kept_aside(
    tmp_path: Path, database_url: URL, connection: asyncpg.Connection
) -> None:
    """Found by place in the guarded read, so both reads must have one order; an index invites another."""
    rows = [
        (f"{number:03}", "no date" if number in (3, 90) else f"20{(number * 37) % 90 + 10}-01-01")
        for number in range(ROWS)
    ]
    script = "CREATE TABLE bare (a TEXT PRIMARY KEY, b DATE) WITHOUT ROWID; CREATE INDEX bare_b ON bare (b);"
    file = made(tmp_path / "a.db", script, rows={"bare": rows})
    await connection.execute("CREATE TABLE bare (a text PRIMARY KEY, b date)")
    report = await Mover(connection, database_url, file, tmp_path / "home", chunk_rows=1000).run()
    assert report.verified
    assert await connection.fetchval("SELECT count(*) FROM bare") == ROWS - 2
    kept = await connection.fetch(
        "SELECT key, convert_from(value, 'UTF8') AS value FROM pgferry.quarantine ORDER BY key"
    )
    assert [row["value"] for row in kept] == ["no date", "no date"]
    with closing(sqlite3.connect(file)) as source:
        source.execute("DELETE FROM bare WHERE b = 'no date'")
        source.commit()
    assert await differences(file, database_url) == []


# ---------------------------------------------------------------- what a schema adds


async def test_names_self_references_and_columns_of_one_side_only(
    tmp_path: Path, database_url: URL, connection: asyncpg.Connection
) -> None:
    script = """
        CREATE TABLE "Order" ("ID" INTEGER PRIMARY KEY AUTOINCREMENT, "select" TEXT NOT NULL, "Group" INTEGER,
            "with space" TEXT, "quo""te" TEXT, "per%cent" REAL, "dot.ted" BLOB,
            "parent" INTEGER REFERENCES "Order" ("ID"));
        CREATE TABLE "user" (id INTEGER PRIMARY KEY, "from" TEXT, UPPER TEXT);
        CREATE TABLE "täble" ("ключ" TEXT PRIMARY KEY, "数" INTEGER, doubled INTEGER AS ("数" * 2) VIRTUAL,
            twin TEXT AS ("ключ"));
    """
    rows = {
        "Order": [(n, f"s{n}", n % 5, " ", '"', n / 7, b"\x00", None if n == 1 else n // 2) for n in range(1, ROWS)],
        "user": [(number * 10, f"from {number}", "U") for number in range(ROWS)],
    }
    schema = """
        CREATE TABLE "Order" ("ID" integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, "select" text NOT NULL,
            "Group" integer, "with space" text, "quo""te" text, "per%cent" double precision, "dot.ted" bytea,
            parent integer REFERENCES "Order", created timestamptz NOT NULL DEFAULT now(), extra text);
        CREATE INDEX "Order by Group" ON "Order" ("Group" DESC) WHERE "Group" > 1;
        CREATE TABLE "user" (upper text, "from" text, id serial PRIMARY KEY, state text NOT NULL DEFAULT 'new',
            "From Upper" text GENERATED ALWAYS AS (upper || "from") STORED);
        CREATE TABLE "täble" ("ключ" text PRIMARY KEY, "数" integer, twin text,
            doubled integer GENERATED ALWAYS AS ("数" * 2) STORED);
    """
    file = made(tmp_path / "a.db", script, rows=rows)
    with closing(sqlite3.connect(file)) as source:
        source.executemany('INSERT INTO "täble" VALUES (?, ?)', [(f"к{number}", number) for number in range(ROWS)])
        source.execute('UPDATE "user" SET id = -5 WHERE id = 0')
        source.execute("UPDATE sqlite_sequence SET seq = 900")
        source.commit()
    await connection.execute(schema)
    report = await Mover(connection, database_url, file, tmp_path / "home").run()
    assert report.complete
    found = await differences(renamed(file), database_url)
    assert found == []
    assert await connection.fetchval('SELECT count(DISTINCT created) FROM "Order"') >= 1
    assert (
        await connection.fetchval(
            """SELECT count(*) FROM "user" WHERE state = 'new' AND "From Upper" = upper || "from" """
        )
        == ROWS
    )
    assert await connection.fetchval('SELECT bool_and(doubled = "数" * 2 AND twin = "ключ") FROM "täble"')
    assert await connection.fetchval("""INSERT INTO "Order" ("select") VALUES ('new') RETURNING "ID" """) == 901
    assert await connection.fetchval("INSERT INTO \"user\" (upper) VALUES ('new') RETURNING id") == (ROWS - 1) * 10 + 1
    assert await connection.fetchval(VALID) == 1


def renamed(file: Path) -> Path:
    """Return a copy in which the one column that pairs by another letter case has the target's name."""
    copy = file.with_name("renamed.db")
    copy.write_bytes(file.read_bytes())
    with closing(sqlite3.connect(copy)) as source:
        source.execute('ALTER TABLE "user" RENAME COLUMN UPPER TO upper')
        source.commit()
    return copy


async def test_a_table_that_is_empty_keeps_its_sequence_past_what_was_given_once(
    tmp_path: Path, database_url: URL, connection: asyncpg.Connection
) -> None:
    file = tmp_path / "a.db"
    with closing(sqlite3.connect(file)) as source:
        source.executescript(
            "CREATE TABLE once (id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT);"
            "CREATE TABLE never (id INTEGER PRIMARY KEY);"
            "INSERT INTO once VALUES (41, 'gone'); DELETE FROM once;"
        )
    schema = "CREATE TABLE once (id bigserial PRIMARY KEY, a text); CREATE TABLE never (id bigserial PRIMARY KEY)"
    await moved(file, schema, database_url, connection, tmp_path / "home")
    assert await connection.fetchval("INSERT INTO once (a) VALUES ('new') RETURNING id") == 42
    assert await connection.fetchval("INSERT INTO never DEFAULT VALUES RETURNING id") == 1


async def test_targets_of_other_forms(tmp_path: Path, database_url: URL, connection: asyncpg.Connection) -> None:
    """Partitioned, in another schema under another name, unlogged, with columns of domains."""
    chance = random.Random("forms")
    script = """
        CREATE TABLE parted (id INTEGER PRIMARY KEY, v TEXT);
        CREATE TABLE listed (k TEXT, n INTEGER, v TEXT, PRIMARY KEY (k, n)) WITHOUT ROWID;
        CREATE TABLE old_name (id INTEGER PRIMARY KEY, "old column" TEXT, d TEXT);
        CREATE TABLE loose (v TEXT);
    """
    rows: dict[str, list[tuple[Any, ...]]] = {
        "parted": [(number, text(chance)) for number in range(ROWS)],
        "listed": [("abc"[number % 3], number, text(chance)) for number in range(ROWS)],
        "old_name": [(number, f"user{number}@x.org", str(number % 9)) for number in range(ROWS)],
        "loose": [(text(chance),) for _ in range(ROWS)],
    }
    schema = """
        CREATE TABLE parted (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
        CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (60);
        CREATE TABLE parted_high PARTITION OF parted DEFAULT;
        CREATE TABLE listed (k text, n integer, v text, PRIMARY KEY (k, n)) PARTITION BY LIST (k);
        CREATE TABLE listed_a PARTITION OF listed FOR VALUES IN ('a');
        CREATE TABLE listed_rest PARTITION OF listed FOR VALUES IN ('b', 'c');
        CREATE SCHEMA "New"; CREATE DOMAIN address AS varchar(30) CHECK (VALUE LIKE '%@%');
        CREATE DOMAIN digit AS smallint;
        CREATE TABLE "New".people (id bigint PRIMARY KEY, mail address NOT NULL, d digit);
        CREATE INDEX ON "New".people (mail);
        CREATE UNLOGGED TABLE loose (v text);
    """
    rules = {"old_name": {"rename": "New.people", "columns": {"old column": {"rename": "mail"}}}}
    file = made(tmp_path / "a.db", script, rows=rows)
    await connection.execute(schema)
    report = await Mover(
        connection, database_url, file, tmp_path / "home", Rules.model_validate({"tables": rules})
    ).run()
    assert {table.table: table.difference_count for table in report.tables} == dict.fromkeys(rows, 0)
    assert {table.table for table in report.tables if table.sampled} == {"parted", "listed", "old_name"}
    assert report.complete
    ways = Ways({"old_name": "New.people"}, {("old_name", "old column"): "mail"})
    assert await differences(file, database_url, ways) == []


async def test_what_a_trigger_of_the_target_changes_is_reported(
    tmp_path: Path, database_url: URL, connection: asyncpg.Connection
) -> None:
    schema = """
        CREATE TABLE people (id integer PRIMARY KEY, name text);
        CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF NEW.id = 5 THEN NEW.name := upper(NEW.name); END IF; RETURN NEW; END $$;
        CREATE TRIGGER shout BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION shout();
    """
    script = "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)"
    file = made(tmp_path / "a.db", script, rows={"people": [(number, f"n{number}") for number in range(ROWS)]})
    await connection.execute(schema)
    report = await Mover(connection, database_url, file, tmp_path / "home").run()
    assert not report.verified
    (found,) = report.tables[0].differences
    assert (found.key, found.column, found.source, found.target) == ("id=5", "name", "'n5'", "'N5'")
