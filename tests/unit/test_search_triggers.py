"""Which of an application's triggers keep a search index, and nothing else."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing

import pytest

from pgferry.sqlite.search_triggers import at_work, search_triggers, written_tables


@pytest.mark.parametrize(
    ("body", "tables"),
    [
        ("INSERT INTO f(f, rowid) VALUES ('delete', 1);", {"f"}),
        ("INSERT OR REPLACE INTO [the F] SELECT 1; REPLACE INTO g VALUES (2);", {"the f", "g"}),
        ('UPDATE a SET x = 1; UPDATE OR IGNORE "B" SET x = (SELECT max(y) FROM c);', {"a", "b"}),
        ("DELETE FROM d WHERE id IN (SELECT id FROM e);", {"d"}),
        ("INSERT INTO a VALUES (1) ON CONFLICT DO UPDATE SET x = 'INSERT INTO z';", {"a"}),
        ("SELECT RAISE(ABORT, 'no; DELETE FROM a') WHERE new.x = 1;", set()),
        ("/* DELETE FROM x; */ SELECT 1; -- DELETE FROM y;\n DELETE FROM z;", {"z"}),
    ],
)
def test_the_tables_that_a_trigger_writes_to(body, tables):
    sql = f"CREATE TRIGGER \"begin\" AFTER UPDATE OF x ON t WHEN new.x <> 'BEGIN' BEGIN {body} END"
    assert written_tables(sql) == tables


@pytest.fixture
def source():
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript("""
            CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT); CREATE TABLE log (n); CREATE TABLE u (n);
            CREATE VIRTUAL TABLE found USING fts5(body);
            CREATE TRIGGER keeps AFTER INSERT ON T BEGIN INSERT INTO Found(rowid, body) VALUES (new.id, new.body); END;
            CREATE TRIGGER counts AFTER INSERT ON t BEGIN INSERT INTO log VALUES (1); END;
            CREATE TRIGGER elsewhere AFTER INSERT ON u BEGIN DELETE FROM found; END""")
        yield connection


def test_only_those_of_the_wanted_tables_that_write_to_an_index_are_found(source):
    assert [trigger.name for trigger in search_triggers(source, ["t"])] == ["keeps"]
    assert [trigger.name for trigger in search_triggers(source, ["t", "u"])] == ["keeps", "elsewhere"]
    source.execute("DROP TABLE found")
    assert search_triggers(source, ["t"]) == ()


def test_one_that_does_more_is_left_out_with_a_warning(source, caplog):
    source.execute("""
        CREATE TRIGGER mixed AFTER DELETE ON t BEGIN DELETE FROM found WHERE rowid = old.id; DELETE FROM log; END""")
    with caplog.at_level(logging.WARNING):
        assert [trigger.name for trigger in search_triggers(source, ["t"])] == ["keeps"]
    assert "'mixed' does not see the rows that come back: it writes to log as well" in caplog.text


def test_one_whose_module_is_missing_is_left_out_with_a_warning(source, caplog):
    source.execute("PRAGMA writable_schema = ON")
    source.execute("UPDATE sqlite_schema SET sql = replace(sql, 'fts5', 'no_such_module') WHERE name = 'found'")
    source.execute("PRAGMA writable_schema = RESET")
    with caplog.at_level(logging.WARNING):
        assert search_triggers(source, ["t"]) == ()
    assert "cannot open found (no such module: no_such_module)" in caplog.text


def test_they_work_in_the_block_and_are_gone_after_it(source):
    triggers = search_triggers(source, ["t"])
    source.execute("DROP TRIGGER keeps")
    with at_work(source, triggers):
        source.execute("INSERT INTO t VALUES (5, 'pears')")
    source.execute("INSERT INTO t VALUES (6, 'pears')")
    assert source.execute("SELECT rowid FROM found WHERE found MATCH 'pears'").fetchall() == [(5,)]
