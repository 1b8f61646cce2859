"""Keys, indexes and expressions that SQLite bears and PostgreSQL would refuse only when the rows are there."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.model import PgKind, PgType
from pgferry.plan.model import SchemaPlan
from pgferry.plan.plan import make_plan
from pgferry.plan.trial import tried
from tests.acceptance.corpus_compare import compare
from tests.acceptance.library_move import plan_and_move

Server = asyncpg.Connection
Move = Callable[..., Awaitable[SchemaPlan]]


@pytest.fixture
def move(tmp_path: Path, database_url: URL) -> Move:
    """Plan and move a file that a script makes; every row arrives unchanged, or the test fails."""

    async def run(script: str, *rows: tuple[str, tuple[object, ...]], encoding: str = "UTF-8") -> SchemaPlan:
        source = tmp_path / "made.db"
        with closing(sqlite3.connect(source)) as file:
            file.execute(f"PRAGMA encoding = '{encoding}'")
            file.executescript(script)
            for statement, values in rows:
                file.execute(statement, values)
            file.commit()
        moved = await plan_and_move(source, database_url, tmp_path / "home")
        found = await compare(source, database_url)
        assert [text for table in found.values() for text in table.wrong] == []
        assert all(table.closed and not table.quarantined for table in found.values())
        assert moved.report.verified
        return moved.plan

    return run


def reasons(plan: SchemaPlan) -> dict[tuple[str, str], str]:
    """Return why something is not carried, by kind and name."""
    return {(item.kind, item.name or item.sql): item.reason for item in plan.not_carried}


# ---------------------------------------------------------------- arithmetic


async def test_integer_arithmetic_that_overflows_is_left_out(move: Move) -> None:
    plan = await move(
        """CREATE TABLE g (id INTEGER PRIMARY KEY, a INTEGER, v AS (a * 2), small INTEGER AS (id * 2));
           CREATE TABLE c (id INTEGER PRIMARY KEY, a INTEGER, CHECK (a + 1 > 0), CHECK (id + 1 > 0),
                           CHECK (a - 1 + 1 > 0), CHECK (-(a * -1) > 0), CHECK (abs(a) + abs(a) > 0));
           CREATE INDEX sums ON c (a + 1); CREATE INDEX firsts ON c (id) WHERE a * 2 > 5;
           CREATE INDEX fine ON c (id + 1);
           INSERT INTO g (id, a) VALUES (1, 9223372036854775807), (2, 5);
           INSERT INTO c VALUES (1, 9223372036854775807), (2, 5);"""
    )
    left = reasons(plan)
    assert {key for key, reason in left.items() if "out of the range of bigint" in reason} == {
        ("generated", "v"), ("check", "a + 1 > 0"), ("check", "abs(a) + abs(a) > 0"), ("index", "sums"),
        ("index", "firsts"),
    }  # fmt: skip
    assert {column.name for column in plan.table("g").columns if column.generated} == {"small"}
    assert [index.name for index in plan.table("c").indexes] == ["fine"]
    assert len(plan.table("c").checks) == 3


async def test_real_arithmetic_that_overflows_or_vanishes_is_left_out(move: Move) -> None:
    plan = await move(
        """CREATE TABLE c (id INTEGER PRIMARY KEY, huge REAL CHECK (huge * huge >= 0),
                           tiny REAL CHECK (tiny * tiny >= 0),
                           endless REAL CHECK (endless + 1 > 0), price REAL CHECK (price * 1.2 >= 0),
                           share REAL CHECK (price * (1 - share) >= 0 AND price < 1e999), total REAL AS (price * id));
           INSERT INTO c VALUES (1, 1e300, 1e-200, 1e999, 9.99, 0.25), (2, 1, 1, 1, 0, 0);"""
    )
    assert {name: reason.split(", ")[-1] for (kind, name), reason in reasons(plan).items() if kind == "check"} == {
        "huge * huge >= 0": "out of the range of double precision: an error in PostgreSQL",
        "tiny * tiny >= 0": "which is an error in PostgreSQL",
        "endless + 1 > 0": "out of the range of double precision: an error in PostgreSQL",
        "price * (1 - share) >= 0 AND price < 1e999": "which is an error in PostgreSQL",
    }
    assert [check.source for check in plan.table("c").checks] == ["price * 1.2 >= 0"]
    assert plan.table("c").column("total").generated


async def test_expressions_over_both_integers_and_reals_are_left_out(move: Move) -> None:
    plan = await move(
        """CREATE TABLE c (id INTEGER PRIMARY KEY, n NUMERIC, v AS (n * n), t AS (typeof(n)), r REAL AS (id * 2),
                           CHECK (n > 0));
           INSERT INTO c (id, n) VALUES (1, 94906267), (2, 0.5), (3, 9007199254740991);"""
    )
    generated = {column.name for column in plan.table("c").columns if column.generated}
    assert generated == {"r"}
    assert set(reasons(plan)) == {("generated", "v"), ("generated", "t")}
    assert len(plan.table("c").checks) == 1


# ---------------------------------------------------------------- uniqueness


async def test_a_foreign_key_never_takes_its_unique_column_to_a_type_where_values_become_equal(move: Move) -> None:
    low = "0f8fad5b-d9cb-469f-a165-70867728950e"
    plan = await move(
        """CREATE TABLE days (at DATETIME PRIMARY KEY); CREATE TABLE at_day (at TEXT UNIQUE REFERENCES days (at));
           CREATE TABLE ids (id UUID PRIMARY KEY); CREATE TABLE of_id (id TEXT UNIQUE REFERENCES ids (id));
           CREATE TABLE one (id INTEGER PRIMARY KEY); CREATE TABLE of_one (id TEXT PRIMARY KEY REFERENCES one (id));
           INSERT INTO days VALUES ('2024-01-02 00:00:00');
           INSERT INTO at_day VALUES ('2024-01-02'), ('2024-01-02 00:00:00');
           INSERT INTO one VALUES (1), (2); INSERT INTO of_one VALUES ('1'), ('2');""",
        ("INSERT INTO ids VALUES (?)", (low,)),
        ("INSERT INTO of_id VALUES (?), (?)", (low, low.upper())),
    )
    for name in ("days", "at_day", "ids", "of_id"):
        assert plan.table(name).columns[0].type.kind.value == "text", name
    assert plan.table("of_one").columns[0].type.kind.value == "bigint"
    assert plan.table("of_one").key


async def test_the_length_of_text_that_is_kept_as_bytes_is_left_out(move: Move) -> None:
    """SQLite counts the characters of what is no valid UTF-8, too, and of text up to a NUL."""
    plan = await move(
        """CREATE TABLE undecodable (a PRIMARY KEY, CHECK (typeof(a) = 'text'));
           CREATE UNIQUE INDEX of_undecodable ON undecodable (length(a));
           CREATE TABLE cut (a TEXT PRIMARY KEY);
           CREATE UNIQUE INDEX of_cut ON cut (length(a));
           CREATE TABLE bytes (a BLOB PRIMARY KEY);
           CREATE UNIQUE INDEX of_bytes ON bytes (length(a));
           INSERT INTO undecodable VALUES (CAST(x'61c3' AS TEXT)), (CAST(x'c080' AS TEXT));
           INSERT INTO cut VALUES (CAST(x'610062' AS TEXT)), ('abc');
           INSERT INTO bytes VALUES (x'61c3'), (x'c0');"""
    )
    left = reasons(plan)
    kept_as_bytes = "length() of text that is kept as bytes"
    assert left["unique", "of_undecodable"].startswith(kept_as_bytes)
    assert left["unique", "of_cut"].startswith(kept_as_bytes)
    assert ("unique", "of_bytes") not in left


async def test_unique_expressions_are_compared_as_the_target_sees_them(move: Move) -> None:
    plan = await move(
        """CREATE TABLE t (a, b TEXT, d DATETIME, e DATETIME);
           CREATE UNIQUE INDEX collide ON t (a, lower(b)); CREATE UNIQUE INDEX folded ON t (a, b COLLATE NOCASE);
           CREATE UNIQUE INDEX some ON t (a, lower(b)) WHERE b <> 'x'; CREATE UNIQUE INDEX kept ON t (lower(b || b), b);
           CREATE UNIQUE INDEX moments ON t (coalesce(d, e), b);
           INSERT INTO t VALUES (1, 'x', '2024-01-02', NULL), ('1', 'X', '2024-01-02 00:00:00', NULL);"""
    )
    left = reasons(plan)
    assert "are equal in a" in left["unique", "collide"]
    assert "are equal in a" in left["unique", "folded"]
    assert "may become equal" in left["unique", "moments"]
    assert [index.name for index in plan.table("t").indexes] == ["some", "kept"]


# ---------------------------------------------------------------- what a B-tree holds


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le"])
async def test_index_rows_that_are_too_long_are_left_out(move: Move, encoding: str) -> None:
    plan = await move(
        """CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT, name TEXT, raw BLOB);
           CREATE INDEX bodies ON t (lower(body)); CREATE INDEX names ON t (name, id);
           CREATE UNIQUE INDEX twice ON t (name || name); CREATE INDEX short ON t (substr(body, 1, 20), id + 1);
           CREATE INDEX raws ON t (raw); CREATE INDEX foreign_to ON t (body) WHERE date(body) > '2024';""",
        ("INSERT INTO t VALUES (1, hex(randomblob(10000)), ?, ?)", (scattered(1200), b"\xff" * 2601)),
        ("INSERT INTO t VALUES (2, 'short', 'short', x'00')", ()),
        encoding=encoding,
    )
    too_long = {name for (_, name), reason in reasons(plan).items() if "more than an index row" in reason}
    assert too_long == {"bodies", "names", "twice", "raws"}
    assert [index.name for index in plan.table("t").indexes] == ["short"]


def scattered(count: int) -> str:
    """Return characters of three bytes in UTF-8 that do not compress."""
    return "".join(chr(0x4E00 + number * 7919 % 20000) for number in range(count))


async def test_keys_of_more_columns_than_an_index_has_are_left_out_and_their_rows_are_not(move: Move) -> None:
    names = [f"c{number}" for number in range(40)]
    columns, listed = ", ".join(f"{name} INTEGER" for name in names), ", ".join(names)
    values = ", ".join(map(str, range(40)))
    plan = await move(
        f"""CREATE TABLE k ({columns}, PRIMARY KEY ({listed})); CREATE TABLE u ({columns}, UNIQUE ({listed}));
            CREATE TABLE i ({columns}); CREATE INDEX wide ON i ({listed});
            CREATE INDEX wide_terms ON i ({", ".join(f"{name} + 1" for name in names)});
            CREATE INDEX widest ON i ({", ".join(names[:32])});
            INSERT INTO k VALUES ({values}); INSERT INTO u VALUES ({values}); INSERT INTO i VALUES ({values});"""
    )
    assert plan.excluded == ()
    left = [(item.kind, item.table) for item in plan.not_carried if "40 columns" in item.reason]
    assert sorted(left) == [("index", "i"), ("index", "i"), ("primary key", "k"), ("unique", "u")]
    assert [index.name for index in plan.table("i").indexes] == ["widest"]


async def test_a_table_is_tried_without_its_keys_before_it_is_given_up(tmp_path: Path, connection: Server) -> None:
    source = tmp_path / "made.db"
    with closing(sqlite3.connect(source)) as file:
        file.execute("CREATE TABLE t (a INTEGER, b TEXT, j, PRIMARY KEY (a, b), UNIQUE (b), UNIQUE (j))")
        file.commit()
    plan = make_plan(source)
    table = plan.table("t")
    unorderable = replace(table.columns[2], type=PgType(PgKind.JSON))
    plan = replace(plan, tables=(replace(table, columns=(*table.columns[:2], unorderable)),))
    found = await tried(plan, connection)
    assert found.excluded == ()
    assert [(item.kind, item.name) for item in found.not_carried] == [("unique", "j")]
    assert found.table("t").key == table.key
    assert [unique.columns for unique in found.table("t").uniques] == [("b",)]


# ---------------------------------------------------------------- foreign keys


async def test_foreign_keys_that_would_write_a_generated_column_are_left_out(move: Move) -> None:
    plan = await move(
        """CREATE TABLE p (id INTEGER PRIMARY KEY, code TEXT UNIQUE);
           CREATE TABLE c (id INTEGER PRIMARY KEY, raw TEXT, a TEXT AS (upper(raw)) REFERENCES p (code),
               n INTEGER AS (id + 1) REFERENCES p ON DELETE SET NULL,
               u TEXT AS (lower(raw)) STORED REFERENCES p (code) ON UPDATE CASCADE,
               k TEXT AS (trim(raw)) STORED REFERENCES p (code) ON DELETE CASCADE,
               plain TEXT REFERENCES p (code) ON DELETE SET NULL ON UPDATE CASCADE);
           INSERT INTO p VALUES (2, 'X'), (3, 'x'); INSERT INTO c (id, raw, plain) VALUES (1, 'X', 'x');"""
    )
    left = {name: reason for (kind, name), reason in reasons(plan).items() if kind == "foreign key"}
    assert left == {
        "n": "ON DELETE SET NULL would write n, which is generated",
        "u": "ON UPDATE CASCADE would write u, which is generated",
    }
    assert sorted(key.columns for key in plan.table("c").foreign_keys) == [("a",), ("k",), ("plain",)]


# ---------------------------------------------------------------- views

VIEWS = {
    "totals": "SELECT kind, count(*), sum(n), min(name), max(name) FROM t GROUP BY kind",
    "sorted": "SELECT name FROM t ORDER BY name DESC",
    "sizes": "SELECT id, CASE WHEN n > 2 THEN 'big' ELSE 'small' END AS size FROM t WHERE name LIKE 'A%' OR n * 2 > 5",
    "joined": "SELECT a.id, b.name AS other, a.label FROM t a LEFT JOIN t b ON a.n = b.id AND b.name <> 'a'",
    "nested": "SELECT x FROM (SELECT kind AS x FROM t WHERE kind IS NOT NULL) GROUP BY x",
}
UNLIKE = {
    "epochs": "SELECT strftime('%s', d) FROM t", "tails": "SELECT substr(name, -3) FROM t",
    "cut": "SELECT CAST(r AS INTEGER) FROM t", "rounded": "SELECT round(r) FROM t",
    "greater": "SELECT max(n, id) FROM t", "lucky": "SELECT random() FROM t", "halves": "SELECT n / 2 FROM t",
    "labels": "SELECT label, count(*) FROM t GROUP BY label", "same": "SELECT id FROM t WHERE label = 'a'",
    "doubled": "SELECT big * 2 FROM t", "of_labels": "SELECT label FROM joined GROUP BY label",
}  # fmt: skip


async def test_views_that_are_carried_yield_what_they_did(move: Move, tmp_path: Path, connection: Server) -> None:
    script = """CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, label TEXT COLLATE NOCASE, kind TEXT, n INTEGER,
                                r REAL, d DATETIME, big INTEGER);
        INSERT INTO t VALUES (1, 'a', 'A', 'x', 2, 2.5, '2024-01-02 03:04:05', 9223372036854775807),
            (2, 'B', 'a', 'x', 3, 3.5, NULL, 1), (3, 'ä', 'b', NULL, NULL, -0.5, NULL, 1),
            (4, 'Ab', 'B', 'y', 1, 0, NULL, 1);
    """
    script += "".join(f"CREATE VIEW {name} AS {query};" for name, query in (VIEWS | UNLIKE).items())
    plan = await move(script)
    assert {view.name for view in plan.views} == VIEWS.keys()
    assert {item.name: item.sql.partition(" AS ")[2] for item in plan.not_carried if item.kind == "view"} == UNLIKE
    with closing(sqlite3.connect(tmp_path / "made.db")) as lite:
        for name in VIEWS:
            before = lite.execute(f"SELECT * FROM {name}").fetchall()
            after = [tuple(row) for row in await connection.fetch(f"SELECT * FROM {name}")]
            if name != "sorted":
                before, after = sorted(before, key=repr), sorted(map(plain, after), key=repr)
            assert after == before, name


def plain(row: tuple[object, ...]) -> tuple[object, ...]:
    """Return a row with the integers that PostgreSQL sums as numeric."""
    return tuple(int(value) if isinstance(value, Decimal) else value for value in row)
