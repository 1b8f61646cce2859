"""Every row that a statement removes through a unique index is noted, and found by that index."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pgferry.errors import Permanent
from pgferry.live.model import Capture
from pgferry.quoting import quote
from pgferry.sqlite import outbox
from pgferry.sqlite.capture import install
from pgferry.sqlite.connect import open_read_only


def captured(path: Path, script: str) -> Capture:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return install(path, "token")


def opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def noted(path: Path, capture: Capture, table: str) -> set[tuple[object, ...]]:
    """Return rowid and key, as SQL would write them, of every noted row."""
    with closing(open_read_only(path)) as connection:
        entries = outbox.touched(connection, capture.table(table), 0, outbox.last_id(connection))
    return {(entry.rowid, *map(repr, entry.key)) for entry in entries}


# A table, its rows, a statement that replaces the row with the rowid 1 through one unique index.
REPLACED = {
    "a unique column": ("CREATE TABLE t (a UNIQUE, b)", "(1, 2)", "REPLACE INTO t VALUES (1, 3)"),
    "by UPDATE": ("CREATE TABLE t (a UNIQUE, b)", "(1, 2), (2, 2)", "UPDATE OR REPLACE t SET a = 1 WHERE a = 2"),
    "its constraint says REPLACE": (
        "CREATE TABLE t (a UNIQUE ON CONFLICT REPLACE, b)", "(1, 2)", "INSERT INTO t VALUES (1, 3)",
    ),
    "the column's collation": (
        "CREATE TABLE t (a TEXT COLLATE NOCASE UNIQUE, b)", "('A', 2)", "REPLACE INTO t VALUES ('a', 3)",
    ),
    "the index's collation": (
        "CREATE TABLE t (a TEXT, b); CREATE UNIQUE INDEX i ON t (a COLLATE NOCASE)",
        "('A', 2)", "REPLACE INTO t VALUES ('a', 3)",
    ),
    "the index is stricter than the column": (
        "CREATE TABLE t (a TEXT COLLATE NOCASE, b); CREATE UNIQUE INDEX i ON t (a COLLATE BINARY)",
        "('a', 2), ('A', 3)", "UPDATE OR REPLACE t SET a = 'a' WHERE b = 3",
    ),
    "trailing blanks": (
        "CREATE TABLE t (a TEXT, b); CREATE UNIQUE INDEX i ON t (a COLLATE RTRIM DESC, b)",
        "('a ', 2)", "REPLACE INTO t VALUES ('a', 2)",
    ),
    "the value in the column's affinity": (
        "CREATE TABLE t (a INT UNIQUE, b)", "(1, 2)", "REPLACE INTO t VALUES ('1', 3)",
    ),
    "the value in no affinity": ("CREATE TABLE t (a UNIQUE, b)", "(1, 2)", "REPLACE INTO t VALUES (1.0, 3)"),
    "a key with an upsert before it": (
        "CREATE TABLE t (a PRIMARY KEY, b UNIQUE ON CONFLICT REPLACE)",
        "(1, 2)", "INSERT INTO t VALUES (9, 2) ON CONFLICT (a) DO UPDATE SET b = 7",
    ),
    "the second unique column": ("CREATE TABLE t (a UNIQUE, b UNIQUE)", "(1, 2)", "REPLACE INTO t VALUES (5, 2)"),
    "the rowid, which is no column": (
        "CREATE TABLE t (a PRIMARY KEY, b)", "(1, 2)", "REPLACE INTO t (rowid, a) VALUES (1, 9)",
    ),
    "the rowid by UPDATE": (
        "CREATE TABLE t (a PRIMARY KEY, b)", "(1, 2), (2, 2)", "UPDATE OR REPLACE t SET _rowid_ = 1 WHERE a = 2",
    ),
    "a partial index": (
        "CREATE TABLE t (a, b); CREATE UNIQUE INDEX i ON t (a) WHERE b > 1 OR b = \"yes\"",
        "(1, 'yes')", "REPLACE INTO t VALUES (1, 3)",
    ),
    "a partial index by its predicate": (
        "CREATE TABLE t (a, b); CREATE UNIQUE INDEX i ON t (a) WHERE b > 1",
        "(1, 2), (1, 0)", "UPDATE OR REPLACE t SET b = 5 WHERE b = 0",
    ),
    "the default in place of NULL": (
        "CREATE TABLE t (a TEXT NOT NULL DEFAULT 'x' UNIQUE, b)", "('x', 2)", "REPLACE INTO t VALUES (NULL, 3)",
    ),
    "a bare word as the default": (
        "CREATE TABLE t (a TEXT NOT NULL DEFAULT yes UNIQUE, b)", "('yes', 2)", "REPLACE INTO t VALUES (NULL, 3)",
    ),
    "an expression as the default": (
        "CREATE TABLE t (a NOT NULL DEFAULT (1 + 1 /* ) */) UNIQUE, b)", "(2, 2)", "REPLACE INTO t VALUES (NULL, 3)",
    ),
    "the default by UPDATE": (
        "CREATE TABLE t (a NOT NULL ON CONFLICT REPLACE DEFAULT -1 UNIQUE ON CONFLICT REPLACE, b)",
        "(-1, 2), (7, 3)", "UPDATE t SET a = NULL WHERE b = 3",
    ),
    "an expression": (
        "CREATE TABLE t (a, b); CREATE UNIQUE INDEX i ON t (lower(a) || '-', b DESC)",
        "('A', 2)", "REPLACE INTO t VALUES ('a', 2)",
    ),
    "an expression that compares in the column's affinity": (
        "CREATE TABLE t (a INT, b); CREATE UNIQUE INDEX i ON t ((a = '1'), (b / 2))",
        "(1, 2)", "REPLACE INTO t VALUES (1, 3)",
    ),
    "an expression with a collation": (
        "CREATE TABLE t (a, b); CREATE UNIQUE INDEX i ON t (substr(a, 1, 2) COLLATE NOCASE)",
        "('ABC', 2)", "REPLACE INTO t VALUES ('abd', 3)",
    ),
    "an expression by UPDATE": (
        "CREATE TABLE t (a, b); CREATE UNIQUE INDEX i ON t (abs(a))",
        "(5, 1), (2, 2)", "UPDATE OR REPLACE t SET a = -5 WHERE b = 2",
    ),
    "a generated column": (
        "CREATE TABLE t (a, b, c AS (a % 7) UNIQUE)", "(1, 2)", "REPLACE INTO t VALUES (8, 3)",
    ),
    "a stored generated column by UPDATE": (
        "CREATE TABLE t (a, b, c INT AS (a % 7) STORED UNIQUE)", "(1, 2), (2, 2)",
        "UPDATE OR REPLACE t SET a = 8 WHERE a = 2",
    ),
    "a generated column of a column with a default": (
        "CREATE TABLE t (a INT NOT NULL DEFAULT 3, b, c AS (d || '!') UNIQUE, d TEXT AS (coalesce(a, 'none')))",
        "(3, 2)", "REPLACE INTO t (a, b) VALUES (NULL, 3)",
    ),
    "a table called new": (
        "CREATE TABLE old (a UNIQUE, b); ALTER TABLE old RENAME TO t", "(1, 2)", "REPLACE INTO t VALUES (1, 3)",
    ),
    "a renamed column": (
        "CREATE TABLE t (z UNIQUE, b); ALTER TABLE t RENAME z TO a", "(1, 2)", "REPLACE INTO t VALUES (1, 3)",
    ),
    "STRICT": ("CREATE TABLE t (a ANY UNIQUE, b INT) STRICT", "('1', 2)", "REPLACE INTO t VALUES ('1', 3)"),
}  # fmt: skip


@pytest.mark.parametrize("name", REPLACED)
def test_a_replaced_row_is_noted(tmp_path: Path, name: str) -> None:
    script, rows, statement = REPLACED[name]
    path = tmp_path / "a.db"
    insert = f"INSERT INTO t{' (a, b)' if ' AS (' in script else ''} VALUES {rows}"
    capture = captured(path, f"{script}; {insert};")
    with closing(opened(path)) as connection:
        before = connection.execute("SELECT a, b FROM t WHERE _rowid_ = 1").fetchone()
        connection.execute(statement)
        assert connection.execute("SELECT a, b FROM t WHERE _rowid_ = 1").fetchone() != before
    key = (repr(before[0]),) if capture.table("t").key else ()
    assert (1, *key) in noted(path, capture, "t")


@pytest.mark.parametrize("name", REPLACED)
def test_each_look_up_uses_an_index(tmp_path: Path, name: str) -> None:
    script, _, _ = REPLACED[name]
    path = tmp_path / "a.db"
    captured(path, f"{script};")
    with closing(opened(path)) as connection:
        lookups = [
            found for sql in replace_triggers(connection) for found in re.findall(r"SELECT 1, .* FROM \"t\".*", sql)
        ]
        assert lookups
        for lookup in lookups:
            sql = with_marks(lookup)
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", [None] * ("?1" in sql))]
            assert plan[0].startswith("SEARCH t USING"), (lookup, plan)
            assert {step for step in plan if step.startswith("SCAN")} <= {"SCAN _pgferry_new_1"}


def replace_triggers(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute("SELECT sql FROM sqlite_schema WHERE name GLOB '_pgferry_*_replace_*'")
    return [row[0].replace("\n)", ")") for row in found]


def with_marks(sql: str) -> str:
    """Put a mark in place of each value of the new row, as nothing else knows it beforehand."""
    return re.sub(r'(NEW|OLD)\."(?:[^"]|"")+"', "?1", sql.rstrip(";"))


@pytest.mark.parametrize("name", ["new", "old", "NEW"])
def test_a_table_called_like_the_row_is_looked_up_by_its_index(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.db"
    capture = captured(
        path, f"CREATE TABLE {quote(name)} (a UNIQUE, b); INSERT INTO {quote(name)} VALUES (1, 1), (2, 2);"
    )
    with closing(opened(path)) as connection:
        connection.execute(f"REPLACE INTO {quote(name)} VALUES (2, 3)")
    assert noted(path, capture, name) == {(2,), (3,)}


@pytest.mark.parametrize(
    ("script", "triggers"),
    [
        ("CREATE TABLE t (id INTEGER PRIMARY KEY, a)", 3),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY, a); CREATE UNIQUE INDEX i ON t (a, id); CREATE INDEX j ON t (a)", 3),
        ("CREATE TABLE t (a TEXT, b INT, PRIMARY KEY (a, b)) WITHOUT ROWID", 3),
        ("CREATE TABLE t (a TEXT COLLATE NOCASE PRIMARY KEY) WITHOUT ROWID", 5),
        ("CREATE TABLE t (a PRIMARY KEY) WITHOUT ROWID", 5),
        ("CREATE TABLE t (a, b)", 3),
        ("CREATE TABLE t (a TEXT PRIMARY KEY)", 5),
    ],
)
def test_no_look_up_where_the_new_row_has_the_address_of_the_old(tmp_path: Path, script: str, triggers: int) -> None:
    path = tmp_path / "a.db"
    captured(path, script + ";")
    with closing(opened(path)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'").fetchone() == (triggers,)


CHANGED_KEYS = [
    ("INT PRIMARY KEY", "1", "2", {"1", "2"}),
    ("TEXT COLLATE NOCASE PRIMARY KEY", "'a'", "'A'", {"'a'", "'A'"}),
    ("PRIMARY KEY", "1", "1.0", {"1", "1.0"}),
    ("PRIMARY KEY", "NULL", "x'00ff'", {"None", r"b'\x00\xff'"}),
    ("PRIMARY KEY", "9007199254740993", "9007199254740992.0", {"9007199254740993", "9007199254740992.0"}),
    ("TEXT PRIMARY KEY", "'a'", "'a'", {"'a'"}),
]


@pytest.mark.parametrize(("column", "old", "new", "keys"), CHANGED_KEYS)
def test_an_update_notes_the_old_key_and_the_new_one(
    tmp_path: Path, column: str, old: str, new: str, keys: set[str]
) -> None:
    path = tmp_path / "a.db"
    capture = captured(path, f"CREATE TABLE t (k {column}, v); INSERT INTO t VALUES ({old}, 1);")
    with closing(opened(path)) as connection:
        connection.execute(f"UPDATE t SET k = {new}, v = 2")
        assert connection.execute("SELECT count(*) FROM _pgferry_outbox WHERE k0 IS NOT NULL").fetchone()[0] <= 3
    assert noted(path, capture, "t") == {(1, key) for key in keys}


def test_an_update_of_the_rowid_notes_both(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    capture = captured(path, "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 1), (2, 2);")
    with closing(opened(path)) as connection:
        connection.execute("UPDATE t SET rowid = 10 WHERE id = 1")
        connection.execute("UPDATE t SET id = -3 WHERE id = 10")
        connection.execute("UPDATE t SET v = 5 WHERE id = 2")
        assert connection.execute("SELECT count(*) FROM _pgferry_outbox").fetchone() == (5,)
    assert noted(path, capture, "t") == {(1,), (10,), (-3,), (2,)}


NAMES = ["select", 'a"b', "it's", "a b", "日本", "x;--", "[b]", "a.b", "rowid", "NEW", "_", "%s", "{x}"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_captured(tmp_path: Path, name: str) -> None:
    path, q = tmp_path / "a.db", quote(name)
    capture = captured(path, f"CREATE TABLE {q} ({q} TEXT PRIMARY KEY, v UNIQUE); INSERT INTO {q} VALUES ('x', 1);")
    with closing(opened(path)) as connection:
        connection.execute(f"REPLACE INTO {q} VALUES ('y', 1)")
        connection.execute(f"UPDATE {q} SET {q} = 'z'")
        connection.execute(f"DELETE FROM {q}")
    assert {key for _, key in noted(path, capture, name)} == {"'x'", "'y'", "'z'"}


@pytest.mark.parametrize(
    ("columns", "name"), [("rowid", "_rowid_"), ("_rowid_, rowid", "oid"), ("oid, ROWID", "_rowid_"), ("oid", "rowid")]
)
def test_the_rowid_is_read_by_a_name_that_no_column_hides(tmp_path: Path, columns: str, name: str) -> None:
    path = tmp_path / "a.db"
    capture = captured(path, f"CREATE TABLE t ({columns}, v UNIQUE); INSERT INTO t ({name}, v) VALUES (70, 1);")
    assert capture.table("t").rowid == name
    with closing(opened(path)) as connection:
        connection.execute(f"REPLACE INTO t ({name}, v) VALUES (80, 1)")
    assert noted(path, capture, "t") == {(70,), (80,)}


def test_a_table_whose_rows_nothing_addresses_is_named(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match=r"'nameless'.*rowid, _rowid_ and oid.*primary key"):
        captured(tmp_path / "a.db", "CREATE TABLE ok (a); CREATE TABLE nameless (rowid, _rowid_, oid UNIQUE);")
    with closing(opened(tmp_path / "a.db")) as connection:
        assert (
            connection.execute("SELECT name FROM sqlite_schema WHERE name LIKE '\\_pg%' ESCAPE '\\'").fetchall() == []
        )


def test_a_key_stands_in_for_a_rowid_that_cannot_be_named(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    capture = captured(
        path, "CREATE TABLE t (rowid PRIMARY KEY, _rowid_ UNIQUE, oid); INSERT INTO t VALUES ('x', 1, 1);"
    )
    with closing(opened(path)) as connection:
        connection.execute("REPLACE INTO t VALUES ('y', 1, 2)")
    assert capture.table("t").rowid is None
    assert noted(path, capture, "t") == {(None, "'x'"), (None, "'y'")}


def test_values_in_the_outbox_stay_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    values = [
        "1",
        "1.5",
        "9007199254740993",
        "-9223372036854775808",
        "1e300",
        "x'00ff'",
        "'é'",
        "CAST(x'ff41' AS TEXT)",
    ]
    capture = captured(path, "CREATE TABLE t (k PRIMARY KEY) WITHOUT ROWID;")
    with closing(open_read_only(path)) as reading, closing(opened(path)) as writing:
        writing.execute(f"INSERT INTO t VALUES {', '.join(f'({value})' for value in values)}")
        stored = {(type(row[0]), row[0]) for row in reading.execute("SELECT k FROM t")}
        entries = outbox.touched(reading, capture.table("t"), 0, outbox.last_id(reading))
    assert {(type(entry.key[0]), entry.key[0]) for entry in entries} == stored
    assert len(stored) == len(values)
