"""A replay loads the rows that the target takes, by any key, and keeps those that it refuses."""

from __future__ import annotations

import pytest

from pgferry.errors import Permanent
from pgferry.quarantine import overview
from pgferry.replay import TableReplay
from pgferry.settings import ColumnRules, Rules, TableRules
from tests.integration.replayed import (
    ALL_RULES,
    DIRTY,
    EVENTS,
    EVENTS_TARGET,
    FAMILY,
    FAMILY_RULES,
    FAMILY_TARGET,
    NEVER,
    Move,
    expected,
    move,
    rules,
)

__all__ = ["move"]


# ---------------------------------------------------------------- what the target refuses

FAMILY_KEYS = """
ALTER TABLE child ADD FOREIGN KEY (parent) REFERENCES parent {when}, ADD FOREIGN KEY (before) REFERENCES child {when}
"""


@pytest.mark.parametrize("when", ["", "DEFERRABLE INITIALLY DEFERRED"])
async def test_rows_that_the_target_refuses_stay_and_the_others_load(move: Move, when: str):
    moved = await move(FAMILY, FAMILY_TARGET)
    await moved.connection.execute(FAMILY_KEYS.format(when=when))
    await moved.connection.execute("INSERT INTO parent VALUES (3, 33, 'taken'), (7, 77, 'd')")

    result = await moved.replay(FAMILY_RULES)

    parents = [(1, 1, "a"), (2, None, "b"), (3, 33, "taken"), (7, 77, "d")]
    assert await moved.target("SELECT id, size, code FROM parent ORDER BY id") == parents
    # Child 2 refers to child 3 of the same batch, and both to a parent that the first pass loads after them.
    children = [(1, 1, None, 1), (2, 2, 3, None), (3, 2, None, None), (5, 1, None, None)]
    assert await moved.target("SELECT id, parent, before, n FROM child ORDER BY id") == children
    assert {table.table: (table.loaded, table.kept, table.orphans) for table in result.tables} == {
        "child": (3, 1, 1),
        "parent": (1, 2, 0),
    }
    assert set(await moved.reasons()) == {
        'the target refuses the row: duplicate key value violates unique constraint "parent_pkey": '
        "Key (id)=(3) already exists",
        'the target refuses the row: duplicate key value violates unique constraint "parent_code_key": '
        "Key (code)=(d) already exists",
        'the target refuses the row by a foreign key: insert or update on table "child" violates foreign key '
        'constraint "child_parent_fkey": Key (parent)=(99) is not present in table "parent"',
    }
    # The value that did not fit at first is still there.
    first = "SELECT DISTINCT column_name, value FROM pgferry.quarantine WHERE source_table = 'parent'"
    assert await moved.target(first) == [("size", b"")]


async def test_refused_rows_load_when_the_target_takes_them(move: Move):
    moved = await move(FAMILY, FAMILY_TARGET)
    await moved.connection.execute(FAMILY_KEYS.format(when=""))
    assert (await moved.replay(FAMILY_RULES)).kept == 1
    await moved.connection.execute("INSERT INTO parent VALUES (99)")
    assert (await moved.replay(FAMILY_RULES)).kept == 0
    assert await moved.target("SELECT count(*)::int FROM child") == [(5,)]


async def test_one_refused_row_among_many_costs_no_other(move: Move):
    source = """
    CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO t SELECT i, '' FROM n;
    """
    moved = await move(
        source, "CREATE TABLE t (id integer PRIMARY KEY CHECK (id <> 1234), n integer NOT NULL)", rows=1000
    )
    await moved.connection.execute("ALTER TABLE t ALTER n DROP NOT NULL")
    result = await moved.replay(rules("t", n=ColumnRules(on_empty="null")))
    assert result.tables == (TableReplay("t", 3000, 2999, 1),)
    assert await moved.target("SELECT count(*)::int, sum(id)::int FROM t") == [(2999, 3000 * 3001 // 2 - 1234)]


async def test_rows_that_a_trigger_changes_are_not_loaded(move: Move):
    moved = await move(EVENTS, EVENTS_TARGET)
    await moved.connection.execute(
        "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note := upper(NEW.note); RETURN NEW; "
        "END $$; CREATE TRIGGER shout BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION shout()"
    )
    with pytest.raises(Permanent, match="31 rows of table 'events' read back other than they were sent"):
        await moved.replay(ALL_RULES)
    assert await moved.events() == expected(moved, DIRTY)
    assert (await overview(moved.connection, moved.run)).rows == len(DIRTY)


async def test_a_trigger_that_raises_refuses_its_row_only(move: Move):
    moved = await move(EVENTS, EVENTS_TARGET)
    await moved.connection.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not %', NEW.id; END $$; "
        "CREATE TRIGGER no BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.id = 13) EXECUTE FUNCTION no()"
    )
    await moved.replay(ALL_RULES)
    assert await moved.events() == expected(moved, NEVER | {13})
    assert (await moved.reasons())["the target refuses the row: not 13"] == 1


# ---------------------------------------------------------------- keys of every kind

KEYS = """
CREATE TABLE words (word TEXT, part BLOB, real REAL, n INTEGER, PRIMARY KEY (word, part, real)) WITHOUT ROWID;
INSERT INTO words VALUES ('a', x'00ff', 0.1, 1), ('a', x'00ff', -0.5, ''), ('é' || char(0) || '"', x'', 1e300, ''),
    (CAST(x'ff41' AS TEXT), x'01', 2.0, ''), ('a', x'', 5e-324, ''), ('z', x'10', 9007199254740993.0, 'no');
CREATE TABLE bag (n INTEGER, t TEXT);
INSERT INTO bag VALUES (1, 'x'), ('', 'y'), ('', 'y'), (NULL, NULL), ('', NULL);
CREATE TABLE texts (n INTEGER, id TEXT PRIMARY KEY);
INSERT INTO texts VALUES (1, 'one'), ('', 'two'), ('', NULL);
CREATE TABLE hidden (rowid TEXT, _rowid_ TEXT, oid TEXT, n INTEGER);
INSERT INTO hidden VALUES ('a', 'b', 'c', ''), ('d', 'e', 'f', 4);
CREATE TABLE hidden_key (rowid TEXT PRIMARY KEY, _rowid_ TEXT, oid TEXT, n INTEGER);
INSERT INTO hidden_key VALUES ('a', 'b', 'c', ''), (NULL, 'e', 'f', ''), (NULL, 'g', 'h', '');
"""
KEYS_TARGET = """
CREATE TABLE words (word bytea, part bytea, "real" double precision, n integer, PRIMARY KEY (word, part, "real"));
CREATE TABLE bag (n integer, t text);
CREATE TABLE texts (n integer, id text);
CREATE TABLE hidden (rowid text, _rowid_ text, oid text, n integer);
CREATE TABLE hidden_key (rowid text, _rowid_ text, oid text, n integer);
"""


async def test_rows_are_found_again_by_any_key(move: Move):
    moved = await move(KEYS, KEYS_TARGET)
    rule = TableRules(columns={"n": ColumnRules(on_empty="null")})

    result = await moved.replay(Rules(tables=dict.fromkeys(("words", "bag", "texts", "hidden", "hidden_key"), rule)))

    source = "SELECT CAST(word AS BLOB), part, real, nullif(n, '') FROM words WHERE n <> 'no' ORDER BY 1, 2, 3"
    assert await moved.target('SELECT word, part, "real", n FROM words ORDER BY 1, 2, 3') == moved.rows(source)
    for table, column in (("bag", "t"), ("texts", "id")):
        found = await moved.target(f"SELECT n, {column} FROM {table}")
        assert sorted(map(repr, found)) == sorted(map(repr, moved.rows(f"SELECT nullif(n, ''), {column} FROM {table}")))
    assert await moved.target("SELECT n FROM hidden") == [(4,)]
    assert await moved.target("SELECT rowid, n FROM hidden_key") == [("a", None)]
    assert {table.table: (table.loaded, table.kept) for table in result.tables} == {
        "words": (4, 1),
        "bag": (3, 0),
        "texts": (2, 0),
        "hidden": (0, 1),
        "hidden_key": (1, 2),
    }
    left = "SELECT reason, count(*)::int FROM pgferry.quarantine WHERE replayed_at IS NULL GROUP BY 1 ORDER BY 2"
    assert await moved.target(left) == [
        ("'no' is no integer", 1),
        ("the row cannot be told from others in the snapshot by its key", 3),
    ]
