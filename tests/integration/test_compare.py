"""Both sides of a table are compared exactly: what was planted is found by key and column, and nothing else is."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pytest

from pgferry.live import units
from pgferry.live.compare import (
    CompareUnit,
    Level,
    TableComparison,
    combine,
    compare_keys,
    compare_table,
    compare_unit,
    plan_units,
)
from pgferry.live.units import Way
from pgferry.model import Key
from pgferry.sqlite.connect import reading
from tests.integration.held_sides import Sides, equal_sides

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
ROWS = 1_000

SOURCE = """
    CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC, tree TEXT);
    CREATE TABLE words (word TEXT PRIMARY KEY, uses INTEGER);
    CREATE TABLE tags (a TEXT, b INTEGER, note TEXT, PRIMARY KEY (b, a));
    CREATE TABLE pairs (a TEXT, b INTEGER, note TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID;
    CREATE TABLE folders (name TEXT COLLATE NOCASE PRIMARY KEY, size INTEGER) WITHOUT ROWID;
    CREATE TABLE tokens (id CHAR(32) PRIMARY KEY, note TEXT);
    CREATE TABLE rates (rate NUMERIC PRIMARY KEY, note TEXT);
    CREATE TABLE log (line TEXT, level INTEGER);
    WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1000)
    INSERT INTO items SELECT n * 3, 'name ' || n, n / 4.0, '{"n": ' || n || ', "m": [1.50]}' FROM n;
    INSERT INTO words SELECT 'w' || (id * 7919 % 3001), id FROM items;
    INSERT INTO tags SELECT 't' || (id % 9), id, 'note ' || id FROM items;
    INSERT INTO pairs SELECT 't' || (id % 9), id, 'note ' || id FROM items;
    INSERT INTO folders SELECT CASE id % 2 WHEN 0 THEN 'Folder ' ELSE 'folder ' END || id, id FROM items;
    INSERT INTO tokens SELECT printf('%032x', id * 104729), 'note ' || id FROM items;
    INSERT INTO rates SELECT id / 8.0, 'note ' || id FROM items;
    INSERT INTO log SELECT 'line ' || (id % 50), id % 3 FROM items;
"""
TARGET = """
    CREATE TABLE items (id bigint PRIMARY KEY, name text, price numeric, tree jsonb);
    CREATE TABLE words (word text PRIMARY KEY, uses integer);
    CREATE TABLE tags (a varchar(20), b integer, note text, PRIMARY KEY (b, a));
    CREATE TABLE pairs (a text, b integer, note text, PRIMARY KEY (a, b));
    CREATE TABLE folders (name text PRIMARY KEY, size integer);
    CREATE TABLE tokens (id uuid PRIMARY KEY, note text);
    CREATE TABLE rates (rate numeric PRIMARY KEY, note text);
    CREATE TABLE log (line text, level integer);
"""
TABLES = ("items", "words", "tags", "pairs", "folders", "tokens", "rates", "log")


@pytest.fixture
async def sides(tmp_path: Path, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> Sides:
    """Tables of every shape, all equal, in ranges of 300 rows."""
    monkeypatch.setattr(units, "RANGE_ROWS", 300)
    return await equal_sides(tmp_path / "a.db", connection, SOURCE, TARGET)


@pytest.fixture(params=[Way.SORTED, Way.STREAMED])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Way:
    """How tables whose key is not the rowid are compared."""
    chosen: Way = request.param
    if chosen is Way.STREAMED:
        monkeypatch.setattr(units, "SORT_BYTES", 0)
    return chosen


async def compared(sides: Sides, table: str, level: Level = Level.CELLS, percent: float = 10.0) -> TableComparison:
    """Compare one table."""
    async with sides.held() as connection:
        return await compare_table(connection, sides.path, sides.tables[table], level, percent=percent)


def found(comparison: TableComparison) -> list[tuple[str, str | None, str, str]]:
    """Return the differences in short: key, column, source, target."""
    return sorted((item.key, item.column, item.source, item.target) for item in comparison.differences)


async def test_equal_tables_are_equal_in_every_cell(sides: Sides, way: Way) -> None:
    for table in TABLES:
        comparison = await compared(sides, table)
        assert comparison.passed, comparison
        assert (comparison.source_rows, comparison.target_rows, comparison.compared) == (ROWS, ROWS, ROWS)
        assert comparison.cells == ROWS * len(sides.tables[table].pair.columns)


@dataclass(frozen=True)
class Planted:
    """A change of the target, and what is to be found."""

    table: str
    statement: str
    found: tuple[tuple[str, str | None, str, str], ...]
    rows: tuple[tuple[Key | None, bool, bool], ...]
    """The rows concerned: key, in the source, in the target."""


GONE, MORE = (None, "present", "missing"), (None, "missing", "present")
TOKEN = f"{30 * 104729:032x}"
PLANTED = {
    "one cell, rowid": Planted("items", "UPDATE items SET name = 'x' WHERE id = 30",
        (("id=30", "name", "'name 10'", "'x'"),), (((30,), True, True),)),
    "one cell, text key": Planted("words", "UPDATE words SET uses = 4 WHERE word = 'w1746'",
        (("word='w1746'", "uses", "15", "4"),), ((("w1746",), True, True),)),
    "one cell, composite key": Planted("tags", "UPDATE tags SET note = NULL WHERE b = 30",
        (("b=30, a='t3'", "note", "'note 30'", "NULL"),), (((30, "t3"), True, True),)),
    "one cell, WITHOUT ROWID": Planted("pairs", "UPDATE pairs SET note = '' WHERE b = 30",
        (("a='t3', b=30", "note", "'note 30'", "''"),), ((("t3", 30), True, True),)),
    "one cell, NOCASE key": Planted("folders", "UPDATE folders SET size = 0 WHERE name = 'Folder 30'",
        (("name='Folder 30'", "size", "30", "0"),), ((("Folder 30",), True, True),)),
    "another case of a NOCASE key": Planted("folders", "UPDATE folders SET name = 'folder 30' WHERE name = 'Folder 30'",
        (("name='Folder 30'", *GONE), ("name='folder 30'", *MORE)),
        ((("Folder 30",), True, False), (("folder 30",), False, True))),
    "one cell, uuid key": Planted("tokens", "UPDATE tokens SET note = 'x' WHERE note = 'note 30'",
        ((f"id='{TOKEN[:8]}-{TOKEN[8:12]}-{TOKEN[12:16]}-{TOKEN[16:20]}-{TOKEN[20:]}'", "note", "'note 30'", "'x'"),),
        (((TOKEN,), True, True),)),
    "one cell, numeric key": Planted("rates", "UPDATE rates SET note = 'x' WHERE rate = 3.75",
        (("rate=Decimal('3.75')", "note", "'note 30'", "'x'"),), (((3.75,), True, True),)),
    "one cell, no key": Planted("log", "UPDATE log SET level = 9 WHERE _pgferry_rowid = 10",
        (("rowid=10", "level", "0", "9"),), (((10,), True, True),)),
    "a missing row, rowid": Planted("items", "DELETE FROM items WHERE id = 903",
        (("id=903", *GONE),), (((903,), True, False),)),
    "a missing row, text key": Planted("words", "DELETE FROM words WHERE word = 'w1746'",
        (("word='w1746'", *GONE),), ((("w1746",), True, False),)),
    "a missing row, composite key": Planted("tags", "DELETE FROM tags WHERE b = 30",
        (("b=30, a='t3'", *GONE),), (((30, "t3"), True, False),)),
    "a missing row, no key": Planted("log", "DELETE FROM log WHERE _pgferry_rowid = 10",
        (("rowid=10", *GONE),), (((10,), True, False),)),
    "an extra row below": Planted("items", "INSERT INTO items VALUES (-5)",
        (("id=-5", *MORE),), (((-5,), False, True),)),
    "an extra row between two ranges": Planted("items", "INSERT INTO items VALUES (901)",
        (("id=901", *MORE),), (((901,), False, True),)),
    "an extra row above": Planted("items", "INSERT INTO items VALUES (9000000000000)",
        (("id=9000000000000", *MORE),), (((9_000_000_000_000,), False, True),)),
    "an extra row, uuid key": Planted("tokens", "INSERT INTO tokens VALUES ('00000000-0000-0000-0000-000000000001')",
        (("id='00000000-0000-0000-0000-000000000001'", *MORE),),
        ((("00000000-0000-0000-0000-000000000001",), False, True),)),
    "an extra row, numeric key": Planted("rates", "INSERT INTO rates VALUES (0.10)",
        (("rate=Decimal('0.10')", *MORE),), ((("0.10",), False, True),)),
    "a duplicate, no key": Planted("log", "INSERT INTO log SELECT line, level, 5000 FROM log WHERE _pgferry_rowid = 7",
        (("rowid=5000", *MORE),), (((5000,), False, True),)),
    "a duplicate that pgferry did not write": Planted("log", "INSERT INTO log SELECT line, level FROM log LIMIT 1",
        (("line='line 3', level=0, _pgferry_rowid=NULL", *MORE),), ((None, False, True),)),
    "a swapped pair, rowid": Planted("items",
        "UPDATE items i SET price = j.price FROM items j WHERE (i.id, j.id) IN ((30, 2400), (2400, 30))",
        (("id=30", "price", "Decimal('2.5')", "Decimal('200')"),
         ("id=2400", "price", "Decimal('200')", "Decimal('2.5')")),
        (((30,), True, True), ((2400,), True, True))),
    "a swapped pair, composite key": Planted("pairs",
        "UPDATE pairs i SET note = j.note FROM pairs j WHERE (i.b, j.b) IN ((30, 2400), (2400, 30))",
        (("a='t3', b=30", "note", "'note 30'", "'note 2400'"), ("a='t6', b=2400", "note", "'note 2400'", "'note 30'")),
        ((("t3", 30), True, True), (("t6", 2400), True, True))),
    "a swapped pair, no key": Planted("log",
        "UPDATE log i SET line = j.line FROM log j "
        "WHERE (i._pgferry_rowid, j._pgferry_rowid) IN ((10, 800), (800, 10))",
        (("rowid=10", "line", "'line 30'", "'line 0'"), ("rowid=800", "line", "'line 0'", "'line 30'")),
        (((10,), True, True), ((800,), True, True))),
}  # fmt: skip


Found = list[tuple[str, str | None, str, str]]
Rows = list[tuple[Key | None, bool, bool]]


async def test_what_was_planted_is_found_by_key_and_column(sides: Sides, way: Way) -> None:
    answers: dict[str, tuple[Found, Rows, int]] = {}
    for name, planted in PLANTED.items():
        async with spoiled(sides, planted):
            comparison = await compare_table(sides.connection, sides.path, sides.tables[planted.table], Level.CELLS)
        rows = [(row.key, row.in_source, row.in_target) for row in comparison.differing]
        answers[name] = found(comparison), sorted(rows, key=repr), comparison.difference_count
        assert not comparison.passed
    assert answers == {
        name: (sorted(planted.found), sorted(planted.rows, key=repr), len(planted.found))
        for name, planted in PLANTED.items()
    }


async def test_by_their_keys_alone_the_same_rows_are_found(sides: Sides) -> None:
    answers: dict[str, Found] = {}
    with reading(sides.path) as source:
        for name, planted in PLANTED.items():
            keys = [key for key, _, _ in planted.rows if key is not None]
            async with spoiled(sides, planted):
                cells = await compare_keys(sides.connection, source, sides.tables[planted.table], keys)
            if keys:
                answers[name] = sorted((item.key, item.column, item.source, item.target) for item in cells)
        others: list[Key] = [(33,), (-1,), (36,)]
        assert await compare_keys(sides.connection, source, sides.tables["items"], others) == []
    assert answers == {name: sorted(planted.found) for name, planted in PLANTED.items() if name in answers}
    assert len(answers) == len(PLANTED) - 1
    assert await sides.connection.fetchval("SHOW enable_seqscan") == "on"


@asynccontextmanager
async def spoiled(sides: Sides, planted: Planted) -> AsyncIterator[None]:
    """Plant a change for the block."""
    change = sides.connection.transaction()
    await change.start()
    await sides.connection.execute(planted.statement)
    yield
    await change.rollback()


async def test_a_sample_says_what_it_read_and_is_exact_there(sides: Sides) -> None:
    comparison = await compared(sides, "items", Level.SAMPLE, 20.0)
    assert comparison.passed
    assert 200 <= comparison.compared <= 400
    again = await compared(sides, "items", Level.SAMPLE, 20.0)
    assert again.compared == comparison.compared
    await sides.connection.execute("UPDATE items SET name = 'x'; UPDATE tags SET note = 'y'")
    spoiled = await compared(sides, "items", Level.SAMPLE, 20.0)
    assert spoiled.difference_count == spoiled.compared == comparison.compared
    looked_up = await compared(sides, "tags", Level.SAMPLE, 20.0)
    assert looked_up.difference_count == looked_up.compared
    assert 200 <= looked_up.compared < ROWS


@pytest.mark.parametrize("level", [Level.COUNTS, Level.SAMPLE])
async def test_counts_are_compared_at_every_level(sides: Sides, level: Level) -> None:
    await sides.connection.execute("DELETE FROM tags WHERE b > 2900")
    comparison = await compared(sides, "tags", level, 0.1)
    assert (comparison.source_rows, comparison.target_rows) == (1000, 966)
    assert comparison.difference_count == 34
    assert comparison.differences[0].key == "(all rows)"
    assert not comparison.passed


async def test_rows_that_no_rule_accepts_are_in_quarantine_not_missing(tmp_path: Path, connection: Connection) -> None:
    source = """
        CREATE TABLE items (id INTEGER PRIMARY KEY, price INTEGER);
        INSERT INTO items VALUES (1, 5), (2, 'dear'), (3, 7);
        CREATE TABLE tags (a TEXT PRIMARY KEY, n INTEGER);
        INSERT INTO tags VALUES ('a', 1), ('b', 'x'), (NULL, 3), ('d', 4);
    """
    target = "CREATE TABLE items (id int PRIMARY KEY, price int); CREATE TABLE tags (a text PRIMARY KEY, n int)"
    sides = await equal_sides(tmp_path / "a.db", connection, source, target)
    items, tags = await compared(sides, "items"), await compared(sides, "tags")
    assert (items.passed, items.source_rows, items.target_rows, items.quarantined) == (True, 3, 2, 1)
    assert [(row.key, row.column, row.value) for row in items.rejected] == [((2,), "price", b"dear")]
    assert (tags.passed, tags.source_rows, tags.target_rows, tags.quarantined) == (True, 4, 2, 2)
    assert sorted(row.key for row in tags.rejected) == [(2,), (3,)]


async def test_a_row_without_a_rowid_is_named_whatever_the_order(
    tmp_path: Path, connection: Connection, way: Way
) -> None:
    source = """
        CREATE TABLE days (name TEXT COLLATE NOCASE PRIMARY KEY, day TEXT) WITHOUT ROWID;
        INSERT INTO days VALUES ('a', '2024-01-01'), ('B', 'never'), ('c', '2024-01-02'), ('D', '2024-01-03');
    """
    sides = await equal_sides(
        tmp_path / "a.db", connection, source, "CREATE TABLE days (name text PRIMARY KEY, day date)"
    )
    comparison = await compared(sides, "days")
    assert comparison.passed
    assert [(row.key, row.value) for row in comparison.rejected] == [(("B",), b"never")]


@pytest.mark.parametrize("table", ["items", "tags"])
async def test_a_row_that_the_target_refused_is_in_quarantine_as_well(sides: Sides, table: str) -> None:
    address, statement = {
        "items": ((30,), "DELETE FROM items WHERE id = 30"),
        "tags": ((10,), "DELETE FROM tags WHERE b = 30"),
    }[table]
    await sides.connection.execute(statement)
    async with sides.held() as connection:
        known = frozenset({address})
        comparison = await compare_table(connection, sides.path, sides.tables[table], Level.CELLS, aside=known)
        unknown = await compare_table(connection, sides.path, sides.tables[table], Level.CELLS)
    assert comparison.passed
    assert (comparison.compared, comparison.quarantined) == (ROWS - 1, 1)
    assert unknown.difference_count == 1


async def test_an_empty_table_has_no_row_too_many(sides: Sides) -> None:
    await sides.connection.execute("DELETE FROM items")
    sides.change("DELETE FROM items")
    assert (await compared(sides, "items")).passed
    await sides.connection.execute("INSERT INTO items VALUES (7)")
    assert found(await compared(sides, "items")) == [("id=7", None, "missing", "present")]


async def test_units_travel_and_add_up(sides: Sides) -> None:
    table = sides.tables["items"]
    with reading(sides.path) as source:
        planned = plan_units(source, table, Level.CELLS)
    (unit,) = pickle.loads(pickle.dumps(planned))
    assert isinstance(unit, CompareUnit)
    assert [part.rows for part in unit.parts] == [300, 300, 300, 100]
    await sides.connection.execute("DELETE FROM items WHERE id = 30")
    async with sides.held() as connection:
        result = pickle.loads(pickle.dumps(await compare_unit(connection, sides.path, unit)))
    whole = combine(table, Level.CELLS, ROWS, ROWS - 1, [result])
    assert (whole.difference_count, whole.compared) == (1, ROWS)
    assert combine(table, Level.CELLS, ROWS, ROWS, [result]).difference_count == 2


ALIKE_SOURCE = """
    CREATE TABLE kinds (id INTEGER PRIMARY KEY, tree TEXT, plain TEXT, price TEXT, free TEXT, ratio REAL, single REAL,
                        code TEXT, moment TEXT, zoned TEXT, day TEXT, flag INTEGER, raw BLOB, list TEXT, token TEXT);
    INSERT INTO kinds VALUES
      (1, '{"b":1, "a" : [1.50, 2e2, -0]}', ' {"x": 1.0}', '12.5', '1.5000', 0.1, 0.5, 'ab', '2024-01-02 03:04:05',
       '2024-01-02T03:04:05.120+02:00', '2024-01-02', 1, x'00ff', '[1, 2.50, null]',
       'A0EEBC999C0B4EF8BB6D6BB9BD380A11'),
      (2, '[]', 'null', '7', '100', -0.0, -0.0, '', '2024-01-02T03:04:05.000000Z', '2024-01-02 03:04', '0001-01-01', 0,
       x'', '[]', '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12}'),
      (3, NULL, NULL, NULL, NULL, 1e308, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
    CREATE TABLE named AS SELECT * FROM kinds;
    CREATE TABLE coded (code TEXT PRIMARY KEY, tree TEXT);
    INSERT INTO coded SELECT code || id, tree FROM kinds WHERE code IS NOT NULL;
"""
_KINDS = """id bigint {key}, tree jsonb, plain json, price numeric(10, 2), free numeric, ratio double precision,
    single real, code char(6), moment timestamp, zoned timestamptz, day date, flag boolean, raw bytea, list numeric[],
    token uuid"""
ALIKE_TARGET = f"""
    CREATE TABLE kinds ({_KINDS.format(key="PRIMARY KEY")}); CREATE TABLE named ({_KINDS.format(key="")});
    CREATE TABLE coded (code char(6) PRIMARY KEY, tree jsonb);
"""


@pytest.mark.parametrize("table", ["kinds", "named", "coded"])
async def test_equal_values_in_another_form_are_no_difference(
    table: str, tmp_path: Path, connection: Connection, way: Way
) -> None:
    sides = await equal_sides(tmp_path / "a.db", connection, ALIKE_SOURCE, ALIKE_TARGET)
    assert (await compared(sides, table)).passed
    for other in ("kinds", "named"):
        await connection.execute(f"""
            UPDATE {other} SET free = free * 1.000, tree = replace(tree::text, '1.50', '1.5000')::jsonb,
                   plain = replace(plain::text, ' ', E'\n ')::json, code = rtrim(code), list = '{{1.0,2.5,NULL}}'
             WHERE id = 1
        """)
    await connection.execute("UPDATE coded SET tree = replace(tree::text, '1.50', '1.500')::jsonb")
    comparison = await compared(sides, table)
    assert found(comparison) == []
    assert comparison.passed
    with reading(sides.path) as source:
        keys: list[Key] = [("ab1",), ("2",)] if table == "coded" else [(1,), (2,), (3,)]
        assert await compare_keys(connection, source, sides.tables[table], keys) == []


async def test_a_row_whose_key_changed_its_case_is_compared_as_what_it_is_now(sides: Sides) -> None:
    sides.change("UPDATE folders SET name = 'FOLDER 30' WHERE name = 'folder 30'")
    await sides.connection.execute("UPDATE folders SET name = 'FOLDER 30' WHERE name = 'Folder 30'")
    with reading(sides.path) as source:
        table = sides.tables["folders"]
        assert await compare_keys(sides.connection, source, table, [("Folder 30",), ("FOLDER 30",)]) == []
        await sides.connection.execute("INSERT INTO folders VALUES ('Folder 30', 1)")
        cells = await compare_keys(sides.connection, source, table, [("Folder 30",), ("FOLDER 30",)])
    assert [(item.key, item.source, item.target) for item in cells] == [("name='Folder 30'", "missing", "present")]


async def test_large_values_and_mixed_classes_keep_their_place(
    tmp_path: Path, connection: Connection, way: Way
) -> None:
    source = """
        CREATE TABLE papers (id INTEGER PRIMARY KEY, body);
        CREATE TABLE notes (name TEXT PRIMARY KEY, body);
        INSERT INTO papers VALUES (1, 'a'), (2, printf('%.70000c', 'x')), (3, 5), (4, 'd');
        INSERT INTO notes SELECT 'n' || id, body FROM papers;
    """
    target = (
        "CREATE TABLE papers (id int PRIMARY KEY, body text); CREATE TABLE notes (name text PRIMARY KEY, body text)"
    )
    sides = await equal_sides(tmp_path / "a.db", connection, source, target)
    for table, key in (("papers", "id"), ("notes", "name")):
        assert (await compared(sides, table)).passed
        await connection.execute(f"UPDATE {table} SET body = body || 'y' WHERE {key}::text LIKE '%2'")
        (difference,) = (await compared(sides, table)).differences
        assert (difference.column, difference.key.endswith(("2", "2'"))) == ("body", True)
