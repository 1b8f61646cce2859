"""What was changed behind the move's back is found, by key, column and both values; what was only rewritten is not."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.finishing import NotAccepted, judge_report
from pgferry.model import CellDifference, TableVerdict
from pgferry.postgres.definitions import Stage
from tests.acceptance.independent import differences
from tests.acceptance.moving import Mover

ROWS = 130
"""Rows a table: two chunks of 50 and one of 30."""

SOURCE = """
    CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC, ratio, tree TEXT, raw BLOB);
    CREATE TABLE tags (a TEXT, b INTEGER, note TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID;
    CREATE TABLE log (line TEXT, level INTEGER);
"""

TARGET = """
    CREATE TABLE items (id bigint PRIMARY KEY, name text, price numeric, ratio double precision, tree jsonb, raw bytea);
    CREATE INDEX items_name ON items (name);
    CREATE TABLE tags (a text, b integer, note text, PRIMARY KEY (a, b));
    CREATE TABLE log (line text, level integer);
"""


def source_file(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as file:
        file.executescript(SOURCE)
        items = [
            (n, f"name {n}", n / 4, -0.0 if n == 9 else n / 3, f'{{"n": {n}, "m": [1.50]}}', b"\x00")
            for n in range(ROWS)
        ]
        file.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)", items)
        file.execute("UPDATE items SET name = NULL, raw = NULL WHERE id = 7")
        file.executemany("INSERT INTO tags VALUES (?, ?, ?)", [(f"t{n % 9}", n, f"note {n}") for n in range(ROWS)])
        file.executemany("INSERT INTO log VALUES (?, ?)", [(f"line {n % 50}", n % 3) for n in range(ROWS)])
        file.commit()
    return path


@pytest.fixture
async def mover(tmp_path: Path, database_url: URL, connection: asyncpg.Connection) -> Mover:
    """A source and a target with its schema."""
    await connection.execute(TARGET)
    return Mover(connection, database_url, source_file(tmp_path / "a.db"), tmp_path / "home", sample_rows=0)


@dataclass(frozen=True)
class Planted:
    statement: str
    table: str
    found: tuple[tuple[str, str | None, str, str], ...]
    """Key, column, source's value, target's value."""


PLANTED = {
    "a text": Planted("UPDATE items SET name = 'name 60 ' WHERE id = 60", "items",
                      (("id=60", "name", "'name 60'", "'name 60 '"),)),
    "a NULL made empty": Planted("UPDATE items SET name = '' WHERE id = 7", "items", (("id=7", "name", "NULL", "''"),)),
    "a value made NULL": Planted("UPDATE items SET raw = NULL WHERE id = 8", "items",
                                 (("id=8", "raw", r"b'\x00'", "NULL"),)),
    "a sign of zero": Planted("UPDATE items SET ratio = 0.0 WHERE id = 9", "items",
                              (("id=9", "ratio", "-0.0", "0.0"),)),
    "a last digit": Planted("UPDATE items SET ratio = ratio + 1e-15 WHERE id = 1", "items",
                            (("id=1", "ratio", "0.3333333333333333", "0.3333333333333343"),)),
    "a numeric": Planted("UPDATE items SET price = 2.26 WHERE id = 9", "items",
                         (("id=9", "price", "Decimal('2.25')", "Decimal('2.26')"),)),
    "a jsonb": Planted("""UPDATE items SET tree = '{"n": 129, "m": [1.51]}' WHERE id = 129""", "items", (
        ("id=129", "tree", """'{"m": [1.50], "n": 129}'""", """'{"m": [1.51], "n": 129}'"""),)),
    "two columns of a row": Planted("UPDATE items SET name = 'x', price = NULL WHERE id = 4", "items",
                                    (("id=4", "name", "'name 4'", "'x'"), ("id=4", "price", "Decimal('1')", "NULL"))),
    "a row deleted": Planted("DELETE FROM items WHERE id = 49", "items", (("id=49", None, "present", "missing"),)),
    "a row added": Planted("INSERT INTO items VALUES (1000, 'new')", "items",
                           (("id=1000", None, "missing", "present"),)),
    "a row in another's stead": Planted("UPDATE items SET id = 5000 WHERE id = 5", "items",
                                        (("id=5", None, "present", "missing"),
                                         ("id=5000", None, "missing", "present"))),
    "two cells swapped": Planted(
        "UPDATE items SET name = CASE id WHEN 20 THEN 'name 120' ELSE 'name 20' END WHERE id IN (20, 120)", "items",
        (("id=20", "name", "'name 20'", "'name 120'"), ("id=120", "name", "'name 120'", "'name 20'"))),
    "a composite key": Planted("UPDATE tags SET note = 'N' WHERE b = 100", "tags",
                               (("a='t1', b=100", "note", "'note 100'", "'N'"),)),
    "a row deleted of a composite key": Planted("DELETE FROM tags WHERE b = 3", "tags",
                                                (("a='t3', b=3", None, "present", "missing"),)),
    "a row added of a composite key": Planted("INSERT INTO tags VALUES ('t0', -1, NULL)", "tags",
                                              (("a='t0', b=-1", None, "missing", "present"),)),
    "one of equal rows deleted": Planted(
        "DELETE FROM log WHERE ctid = (SELECT min(ctid) FROM log WHERE line = 'line 1' AND level = 1)", "log",
        (("line='line 1', level=1", None, "present", "missing"),)),
    "one of equal rows more": Planted("INSERT INTO log VALUES ('line 1', 1)", "log",
                                      (("line='line 1', level=1", None, "missing", "present"),)),
    "a cell of a table without a key": Planted(
        "UPDATE log SET level = 7 WHERE ctid = (SELECT min(ctid) FROM log WHERE line = 'line 2')", "log",
        (("line='line 2', level=2", None, "present", "missing"),
         ("line='line 2', level=7", None, "missing", "present"))),
}  # fmt: skip


def shown(verdict: TableVerdict) -> set[tuple[str, str | None, str, str]]:
    return {(item.key, item.column, item.source, item.target) for item in verdict.differences}


@pytest.mark.parametrize("case", PLANTED.values(), ids=PLANTED.keys())
async def test_what_was_planted_is_found_exactly(case: Planted, mover: Mover) -> None:
    move = await mover.load()
    await mover.connection.execute(case.statement)
    verdicts = await mover.check(move)
    assert shown(verdicts[case.table]) == set(case.found)
    assert verdicts[case.table].difference_count == len(case.found)
    assert {name for name, verdict in verdicts.items() if verdict.difference_count} == {case.table}
    report = await mover.finish(move, verdicts)
    assert not report.verified
    with pytest.raises(NotAccepted):
        judge_report(report)
    status = await mover.connection.fetchval("SELECT status FROM pgferry.run")
    assert status == "running", "a run with differences must not count as finished"


async def test_a_difference_planted_after_the_keys_were_built_is_found(mover: Mover) -> None:
    move = await mover.load()
    await mover.build(move, Stage.INDEX, Stage.ATTACH)
    await mover.connection.execute("UPDATE items SET name = 'x' WHERE id = 1; UPDATE tags SET note = 'x' WHERE b = 1")
    verdicts = await mover.check(move)
    assert [(item.key, item.column) for item in verdicts["items"].differences] == [("id=1", "name")]
    assert [(item.key, item.column) for item in verdicts["tags"].differences] == [("a='t1', b=1", "note")]


async def test_all_differences_are_counted_and_the_first_are_shown(mover: Mover) -> None:
    move = await mover.load()
    await mover.connection.execute("UPDATE items SET name = 'x' WHERE id >= 20; DELETE FROM log WHERE level = 0")
    verdicts = await mover.check(move)
    assert verdicts["items"].difference_count == ROWS - 20
    assert len(verdicts["items"].differences) == 20
    assert verdicts["log"].difference_count == len(range(0, ROWS, 3))


async def test_a_table_that_was_emptied_is_told(mover: Mover) -> None:
    move = await mover.load()
    await mover.connection.execute("TRUNCATE items; TRUNCATE log")
    verdicts = await mover.check(move)
    assert verdicts["items"].difference_count == ROWS
    assert verdicts["items"].differences[0] == CellDifference("items", "id=0", None, "present", "missing")
    assert verdicts["log"].difference_count == ROWS


async def test_the_second_reader_sees_what_the_digests_did_not(mover: Mover) -> None:
    """Changed between the read back and the judgement, so that only the sample can see it."""
    mover.sample_rows = 2000
    move = await mover.load()
    await mover.build(move, Stage.INDEX, Stage.ATTACH)
    read = await mover.read_back(move)
    await mover.connection.execute("""
        UPDATE items SET name = 'x' WHERE id = 11;
        UPDATE items SET tree = '{"n": 12}' WHERE id = 12;
        UPDATE items SET ratio = 0 WHERE id = 9;
        UPDATE tags SET note = NULL WHERE b = 2;
    """)
    verdicts = await mover.judge(move, read)
    assert {(item.key, item.column) for item in verdicts["items"].differences} == {
        ("id=11", "name"),
        ("id=12", "tree"),
        ("id=9", "ratio"),
    }
    assert {(item.key, item.column) for item in verdicts["tags"].differences} == {("a=t2, b=2", "note")}


async def test_a_chunk_that_the_server_lost_is_loaded_again_before_it_is_read_back(mover: Mover) -> None:
    """Commits do not wait for the disk: a server that crashes may forget the last of them, rows and record alike."""
    move = await mover.load()
    await mover.build(move, Stage.INDEX, Stage.ATTACH)
    await mover.connection.execute("""
        DELETE FROM items WHERE id BETWEEN 50 AND 99;
        UPDATE pgferry.chunk SET loaded_at = NULL WHERE source_table = 'items' AND number = 1;
    """)
    verdicts = await mover.judge(move, await mover.read_back(move))
    report = await mover.finish(move, verdicts)
    assert report.complete
    assert [verdict.loaded for verdict in report.tables if verdict.table == "items"] == [ROWS]
    assert await differences(mover.source, mover.url) == []


# ---------------------------------------------------------------- no false alarm

REWRITTEN = {
    "updated to what it was": (
        "UPDATE items SET name = name; UPDATE tags SET b = b WHERE b > 40; UPDATE log SET line = line",
    ),
    "moved to other pages": ("VACUUM FULL items", "VACUUM FULL tags", "VACUUM FULL log"),
    "rewritten by ALTER": ("ALTER TABLE items ALTER name TYPE varchar(40)", "ALTER TABLE items ALTER name TYPE text"),
    "frozen": ("VACUUM (FREEZE, ANALYZE) items", "VACUUM (FREEZE) tags", "VACUUM (FREEZE) log"),
    "deleted and inserted again": (
        "CREATE TEMP TABLE kept AS SELECT * FROM items",
        "DELETE FROM items",
        "INSERT INTO items SELECT * FROM kept ORDER BY name",
    ),
    "the same number in other digits": ("UPDATE items SET price = 2.2500 WHERE id = 9",),
}


@pytest.mark.parametrize("statements", REWRITTEN.values(), ids=REWRITTEN.keys())
async def test_rows_that_were_only_rewritten_are_no_differences(statements: tuple[str, ...], mover: Mover) -> None:
    move = await mover.load()
    for statement in statements:
        await mover.connection.execute(statement)
    await assert_clean(mover, await mover.check(move))
    report = await mover.finish(move, await mover.check(move))
    assert report.complete


async def test_a_clustered_table_is_no_difference(mover: Mover) -> None:
    move = await mover.load()
    await mover.build(move, Stage.INDEX, Stage.ATTACH)
    await mover.connection.execute("CLUSTER items USING items_name")
    await assert_clean(mover, await mover.check(move))


async def assert_clean(mover: Mover, verdicts: dict[str, TableVerdict]) -> None:
    assert {name: (verdict.difference_count, shown(verdict)) for name, verdict in verdicts.items()} == {
        "items": (0, set()),
        "tags": (0, set()),
        "log": (0, set()),
    }
    if await mover.connection.fetchval("SELECT count(*) FROM items WHERE price::text = '2.2500'") == 0:
        assert await differences(mover.source, mover.url) == []
