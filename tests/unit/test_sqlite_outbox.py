"""The outbox names each touched row once, and the rows are read as they are now."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pgferry.live.model import Capture, Touched
from pgferry.model import (
    ColumnPair,
    PgKind,
    PgType,
    SourceTable,
    StorageClass,
    TablePair,
    TargetColumn,
    TargetTable,
    UndecodableText,
)
from pgferry.sqlite import outbox
from pgferry.sqlite.capture import install
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.connect import open_read_only
from pgferry.sqlite.guard import ColumnRead, TableRead


def captured(path: Path, script: str) -> Capture:
    execute(path, script)
    return install(path, "token")


def execute(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(script)


def bare(source: SourceTable) -> TableRead:
    """Return a read of all columns, whatever their types are to be."""
    pairs = tuple(ColumnPair(column, TargetColumn(column.name, PgType(PgKind.TEXT))) for column in source.columns)
    columns = tuple(ColumnRead(pair, StorageClass.TEXT, "", "") for pair in pairs)
    return TableRead(TablePair(source, TargetTable("public", source.name, 0, ()), pairs), columns, 1)


def rows(path: Path, capture: Capture, after: int = 0, upto: int = 10**9) -> list[tuple[object, ...]]:
    """Return the touched rows of table t, sorted."""
    with closing(open_read_only(path)) as connection:
        read = bare(read_catalog(connection).table("t"))
        return sorted(outbox.touched_rows(connection, read, capture.table("t"), after, upto), key=repr)


def names(path: Path, capture: Capture, after: int = 0, upto: int = 10**9) -> set[Touched]:
    with closing(open_read_only(path)) as connection:
        found = outbox.touched(connection, capture.table("t"), after, upto)
    assert len(set(found)) == len(found)
    return set(found)


def test_entries_are_counted_by_table_and_range(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    capture = captured(path, "CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE TABLE u (v);")
    with closing(open_read_only(path)) as connection:
        assert (outbox.last_id(connection), outbox.pending(connection, 0, 9)) == (0, {})
    execute(path, "INSERT INTO t VALUES (1, 1), (2, 2); INSERT INTO u VALUES (1); UPDATE t SET v = 9; DELETE FROM t")
    with closing(open_read_only(path)) as connection:
        assert outbox.last_id(connection) == 7
        assert outbox.pending(connection, 0, 7) == {1: 6, 2: 1}
        assert outbox.pending(connection, 1, 3) == {1: 1, 2: 1}
        assert outbox.pending(connection, 7, 7) == {}
    assert names(path, capture, 0, 1) == {Touched(1, ())}
    assert names(path, capture) == {Touched(1, ()), Touched(2, ())}
    assert rows(path, capture) == []


def test_rows_come_as_they_are_now(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    capture = captured(path, "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 1), (2, 2), (3, 3);")
    execute(
        path, "UPDATE t SET v = x'00' WHERE id = 1; UPDATE t SET v = 2.0 WHERE id = 1; UPDATE t SET id = 9 WHERE v = 3"
    )
    assert rows(path, capture) == [(1, 1, 2.0), (9, 9, 3)]
    assert rows(path, capture, 0, 2) == [(1, 1, 2.0)]
    assert names(path, capture, 2) == {Touched(3, ()), Touched(9, ())}


def test_a_row_comes_once_under_nocase(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    script = "CREATE TABLE t (k TEXT COLLATE NOCASE PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO t VALUES ('a', 1);"
    capture = captured(path, script)
    execute(path, "UPDATE t SET k = 'A'; UPDATE t SET v = 2; REPLACE INTO t VALUES ('a', 3); UPDATE t SET k = 'A'")
    assert names(path, capture) == {Touched(None, ("a",)), Touched(None, ("A",))}
    assert rows(path, capture) == [("A", "A", 3)]


def test_a_row_that_a_vacuum_has_moved_is_found_by_its_key(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    capture = captured(path, "CREATE TABLE t (k TEXT COLLATE NOCASE PRIMARY KEY, v); INSERT INTO t VALUES ('x', 0);")
    execute(
        path, "INSERT INTO t VALUES ('a', 1); DELETE FROM t WHERE k = 'x'; UPDATE _pgferry_outbox SET r = 77, k0 = 'A'"
    )
    assert rows(path, capture) == [(2, "a", 1)]


@pytest.mark.parametrize("ending", ["", " WITHOUT ROWID"])
def test_keys_of_every_class_find_their_rows(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "a.db"
    capture = captured(path, f"CREATE TABLE t (a, b TEXT, v, PRIMARY KEY (b, a)){ending};")
    values = ["1", "2.5", "9007199254740993", "x'00ff'", "'é'", "CAST(x'ff41' AS TEXT)", "-0.0", "''", "x''"]
    execute(path, f"INSERT INTO t (a, b) VALUES {', '.join(f'({value}, {value})' for value in values)}")
    found = rows(path, capture)
    assert len(found) == len(values)
    assert {row[-2] for row in found} >= {"1", "9007199254740993", b"\x00\xff", UndecodableText(b"\xffA")}
    assert {entry.key for entry in names(path, capture)} == {(row[-2], row[-3]) for row in found}


def test_null_in_a_key_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    capture = captured(path, "CREATE TABLE t (a, b, PRIMARY KEY (a, b)); INSERT INTO t VALUES (NULL, 1), (NULL, 2);")
    execute(path, "INSERT INTO t VALUES (NULL, 1), (NULL, NULL), (3, 4)")
    assert rows(path, capture) == [(3, None, 1), (4, None, None), (5, 3, 4)]


def test_rows_without_a_name_for_their_rowid_are_found_by_their_key(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    script = "CREATE TABLE t (rowid, _rowid_, oid, PRIMARY KEY (rowid, oid)); INSERT INTO t VALUES (7, 7, 7);"
    capture = captured(path, script)
    execute(path, "INSERT INTO t VALUES (1, 'v', 2), (NULL, 'v', 2), (NULL, 'w', 2), (NULL, 'v', NULL)")
    assert {entry.key for entry in names(path, capture)} == {(1, 2), (None, 2), (None, None)}
    assert [row[2:] for row in rows(path, capture)] == [(1, "v", 2), (None, "v", 2), (None, "w", 2), (None, "v", None)]


def plan(path: Path, capture: Capture) -> list[str]:
    """Return how SQLite reads the touched rows of table t."""
    steps: list[str] = []
    with closing(open_read_only(path)) as connection:
        read = bare(read_catalog(connection).table("t"))
        connection.set_trace_callback(steps.append)
        list(outbox.touched_rows(connection, read, capture.table("t"), 0, 9))
        connection.set_trace_callback(None)
        return [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + steps[0])]


@pytest.mark.parametrize("columns", ["id INTEGER PRIMARY KEY, v", "k TEXT PRIMARY KEY, v", "v"])
def test_touched_rows_are_read_without_a_scan_of_the_table(tmp_path: Path, columns: str) -> None:
    path = tmp_path / "a.db"
    capture = captured(path, f"CREATE TABLE t ({columns}); CREATE INDEX covering ON t (v);")
    execute(path, "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 999) INSERT INTO t (v) "
                  "SELECT i FROM n; ANALYZE")  # fmt: skip
    steps = plan(path, capture)
    assert steps[0] == "SEARCH t USING INTEGER PRIMARY KEY (rowid=?)"
    assert not [step for step in steps if step.startswith("SCAN t")]


@pytest.mark.parametrize("key", ["k", "k, l"])
def test_touched_rows_without_rowid_are_read_without_a_scan(tmp_path: Path, key: str) -> None:
    path = tmp_path / "a.db"
    capture = captured(path, f"CREATE TABLE t (k TEXT, l INT, v, PRIMARY KEY ({key})) WITHOUT ROWID;")
    execute(path, "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 999) INSERT INTO t "
                  "SELECT i, i, i FROM n; ANALYZE")  # fmt: skip
    assert plan(path, capture)[0].startswith("SEARCH t USING PRIMARY KEY (k=?")


def test_pruning_keeps_the_newest_entry(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    captured(path, "CREATE TABLE t (v);")
    execute(path, "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) INSERT INTO t "
                  "SELECT i FROM n")  # fmt: skip
    assert outbox.prune(path, 25, batch=10) == 25
    assert outbox.prune(path, 25, batch=10) == 0
    assert outbox.prune(path, 1000, batch=10) == 74
    execute(path, "DELETE FROM t WHERE v = 1")
    with closing(open_read_only(path)) as connection:
        assert connection.execute("SELECT id FROM _pgferry_outbox").fetchall() == [(100,), (101,)]


def test_pruning_gives_way_to_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    captured(path, "CREATE TABLE t (v);")
    execute(path, "INSERT INTO t VALUES (1), (2)")
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert outbox.prune(path, 10) == 0
        writer.execute("ROLLBACK")
    assert outbox.prune(path, 10) == 1
