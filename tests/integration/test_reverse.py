"""After the switch SQLite follows PostgreSQL: every row comes back as the application would have written it."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from pgferry.errors import Permanent, Transient
from pgferry.live import reverse, write_back
from pgferry.live.forms import Forms, to_json
from pgferry.live.model import HIDDEN, Live
from pgferry.live.pairs import add_hidden_columns, live_tables
from pgferry.live.reverse import carry_keys, sync_back, uncarried_keys
from pgferry.pairing import pair_tables
from pgferry.postgres import capture as target_capture
from pgferry.postgres import ledger
from pgferry.postgres.apply import apply_table
from pgferry.postgres.catalog import read_tables
from pgferry.postgres.connection import connect
from pgferry.postgres.journal import (
    begin_position,
    lock_sync,
    read_position,
    record_capture,
    record_forms,
    reserve_token,
    touched_since,
)
from pgferry.quoting import quote
from pgferry.settings import Rules
from pgferry.sqlite import capture as source_capture
from pgferry.sqlite import fence as source_fence
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.connect import open_read_only
from pgferry.sqlite.lexical import learn

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Switched:
    """A file and a database after the switch, as a session of the sync sees them."""

    path: Path
    connection: asyncpg.Connection
    live: Live
    forms: Forms

    async def run(self, *statements: str) -> None:
        """Write to PostgreSQL as the application does, then carry it back."""
        for statement in statements:
            await self.connection.execute(statement)
        await self.sync()

    async def sync(self):
        synced = await sync_back(self.connection, self.live, self.forms)
        assert await target_capture.pending(self.connection, self.live) == {}
        return synced

    def rows(self, table: str = "t", columns: str = "*") -> list[tuple]:
        """The raw rows of SQLite, types included, by a reader of its own."""
        with closing(sqlite3.connect(self.path)) as source:
            return sorted(source.execute(f"SELECT {columns} FROM {quote(table)}").fetchall(), key=repr)

    def execute(self, *statements: str) -> None:
        """Write to the SQLite file behind the fence's back."""
        with source_fence.writing(self.path) as target:
            for statement in statements:
                target.execute(statement)


@pytest.fixture
async def switch(connection, tmp_path):
    """A factory: makes both sides, loads what is in SQLite, and puts PostgreSQL in front."""

    async def make(schema: str, target_schema: str, rules: Rules | None = None, mode: str = "delete") -> Switched:
        path = tmp_path / "app.db"
        with closing(sqlite3.connect(path)) as source:
            source.execute(f"PRAGMA journal_mode={mode}")
            source.executescript(schema)
        await connection.execute(target_schema)
        await ledger.install(connection)
        run = await ledger.begin_run(connection, str(path), "f")
        token = await reserve_token(connection, run.id)
        captured = source_capture.install(path, token)
        await record_capture(connection, run.id, captured)
        live = await read_live(connection, path, run.id, captured, rules or Rules())
        with closing(open_read_only(path)) as source:
            forms = {
                table.name: {
                    pair.source.name: learn(source, table.pair.source, pair)
                    for pair in table.pair.columns
                    if not (table.hidden and pair in table.key)
                }
                for table in live.tables
            }
        await record_forms(connection, run.id, to_json(forms))
        await load(connection, path, live)
        await begin_position(connection, run.id, 0, MOMENT)
        source_fence.fence(path, "PostgreSQL is in front")
        await target_capture.install(connection, live)
        with source_fence.writing(path) as target:
            source_capture.set_note(target, "front", "postgres")
        await lock_sync(connection)
        return Switched(path, connection, live, forms)

    return make


async def read_live(connection, path, run_id, captured, rules) -> Live:
    with closing(open_read_only(path)) as source:
        catalog = read_catalog(source)
    tables = live_tables(pair_tables(catalog, await read_tables(connection), rules).pairs, captured)
    await add_hidden_columns(connection, tables)
    return Live(run_id, str(path), "target", tables, captured, catalog.sequences, frozenset())


async def load(connection, path, live) -> None:
    """Copy every row over by the forward sync's own work."""
    from pgferry.live.forward import _read_whole

    with closing(open_read_only(path)) as source:
        for table in live.tables:
            work = _read_whole(source, table, {})
            assert not work.rejected, work.rejected
            async with connection.transaction():
                await apply_table(connection, live.run_id, work)


KINDS_SQLITE = """
    CREATE TABLE t (id INTEGER PRIMARY KEY, flag BOOLEAN, at DATETIME, day DATE, price NUMERIC(10, 2), doc JSON,
                    uid CHAR(32), name VARCHAR(20), raw BLOB, ratio FLOAT, big BIGINT, clock TIME);
    INSERT INTO t VALUES
        (1, 1, '2024-05-06 07:08:09.123456', '2024-05-06', 12.5, '{"b": 1, "a": [1.50, null]}',
         '0123456789abcdef0123456789abcdef', 'Ä', x'00ff', 0.1, 9007199254740993, '01:02:03.000000'),
        (2, 0, '2024-05-06 00:00:00.000000', '0001-01-01', 3, '[]',
         'ffffffffffffffffffffffffffffffff', '', x'', -0.0, -1, '23:59:59.999999'),
        (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
        (4, 1, '2024-01-01T00:00:00', '2024-05-06', 0.1, '{"z":1,"a":2}',
         '01234567-89ab-cdef-0123-456789abcdef', 'x', x'31', 1e300, 0, '00:00:00.000000')"""
KINDS_TARGET = """
    CREATE TABLE t (id integer PRIMARY KEY, flag boolean, at timestamp, day date, price numeric(10, 2), doc jsonb,
                    uid uuid, name varchar(20), raw bytea, ratio double precision, big bigint, clock time)"""


async def test_rows_come_back_as_they_were_whatever_their_type(switch):
    s = await switch(KINDS_SQLITE, KINDS_TARGET)
    before = s.rows()
    await s.run("UPDATE t SET id = id")
    assert s.rows() == before
    await s.run("UPDATE t SET id = id + 100")
    await s.run("UPDATE t SET id = id - 100")
    usual = [row for row in s.rows() if row[0] != 4]
    assert usual == [row for row in before if row[0] != 4]
    assert s.rows()[3][2] == "2024-01-01 00:00:00.000000"  # a moved row is written anew, in the column's usual form


async def test_cells_that_did_not_change_keep_their_form_and_others_take_the_usual_one(switch):
    s = await switch(KINDS_SQLITE, KINDS_TARGET)
    await s.run(
        "UPDATE t SET flag = false, name = 'y' WHERE id = 4",
        "INSERT INTO t SELECT 5, false, at, day, 7.10, doc, uid, 'z', raw, ratio, big, clock FROM t WHERE id = 1",
        "DELETE FROM t WHERE id = 3",
    )
    rows = {row[0]: row for row in s.rows()}
    assert rows[4] == (
        4,
        0,
        "2024-01-01T00:00:00",
        "2024-05-06",
        0.1,
        '{"z":1,"a":2}',
        "01234567-89ab-cdef-0123-456789abcdef",
        "y",
        b"1",
        1e300,
        0,
        "00:00:00.000000",
    )
    assert rows[5][:5] == (5, 0, "2024-05-06 07:08:09.123456", "2024-05-06", 7.1)
    assert rows[5][6:] == ("0123456789abcdef" * 2, "z", b"\x00\xff", 0.1, 9007199254740993, "01:02:03.000000")
    assert 3 not in rows


@pytest.mark.parametrize("mode", ["delete", "wal"])
async def test_every_kind_of_write_arrives(switch, mode):
    s = await switch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, u TEXT UNIQUE); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')",
        "CREATE TABLE t (id integer PRIMARY KEY, u text UNIQUE DEFERRABLE INITIALLY DEFERRED)",
        mode=mode,
    )
    await s.run("UPDATE t SET u = CASE id WHEN 1 THEN 'b' WHEN 2 THEN 'c' ELSE 'a' END")
    assert s.rows() == [(1, "b"), (2, "c"), (3, "a")]
    await s.run("UPDATE t SET id = 4 - id WHERE id <> 2 AND false", "UPDATE t SET id = id + 10 WHERE id > 1")
    assert s.rows() == [(1, "b"), (12, "c"), (13, "a")]
    await s.run("INSERT INTO t VALUES (5, 'new'), (1, 'x') ON CONFLICT (id) DO UPDATE SET u = 'was b'")
    assert s.rows() == [(1, "was b"), (12, "c"), (13, "a"), (5, "new")]
    await s.run("INSERT INTO t VALUES (77, 'gone at once')", "DELETE FROM t WHERE id = 77")
    await s.run("DELETE FROM t WHERE id > 1")
    assert s.rows() == [(1, "was b")]
    await s.run("TRUNCATE t", "INSERT INTO t VALUES (1, 'b'), (2, 'again')")
    assert s.rows() == [(1, "b"), (2, "again")]
    await s.run("TRUNCATE t")
    assert s.rows() == []
    synced = await s.sync()
    assert synced.idle
    with closing(sqlite3.connect(s.path)) as source:
        assert source.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_what_a_cycle_did_is_told_and_recorded(switch):
    s = await switch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE TABLE u (a TEXT PRIMARY KEY, n); "
        "INSERT INTO t VALUES (1), (2); INSERT INTO u VALUES ('x', NULL)",
        "CREATE TABLE t (id integer PRIMARY KEY); CREATE TABLE u (a text PRIMARY KEY, n text)",
    )
    await s.connection.execute("DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (3); UPDATE u SET n = 'n', a = 'y'")
    synced = await s.sync()
    assert (synced.rows, synced.deleted, synced.quarantined) == (2, 2, 0)
    assert dict(synced.tables) == {"t": 2, "u": 2}
    touched = await touched_since(s.connection, s.live.run_id)
    assert {name: sorted(keys) for name, keys in touched.items()} == {"t": [(1,), (3,)], "u": [("x",), ("y",)]}
    with closing(open_read_only(s.path)) as source:
        last = source.execute("SELECT max(id), count(*) FROM _pgferry_outbox").fetchone()
        assert source_capture.notes(source)["carried_at"] == synced.moment.isoformat()
    assert last == (synced.position, 1)  # pruned, but for the last one
    position = await read_position(s.connection, s.live.run_id)
    assert (position.outbox_id, position.moment) == (synced.position, synced.moment)
    assert (await s.sync()).position == synced.position


# ---------------------------------------------------------------- keys


async def test_composite_blob_and_without_rowid_keys(switch):
    s = await switch(
        """CREATE TABLE t (a TEXT, b BLOB, c INTEGER, v TEXT, PRIMARY KEY (b, a, c)) WITHOUT ROWID;
           INSERT INTO t VALUES ('x', x'00', 1, 'one'), ('X', x'00', 1, 'two'), ('x', x'', 1, 'three')""",
        "CREATE TABLE t (a text, b bytea, c integer, v text, PRIMARY KEY (b, a, c))",
    )
    await s.run(
        "UPDATE t SET v = upper(v) WHERE a = 'x'",
        "DELETE FROM t WHERE a = 'X'",
        "INSERT INTO t VALUES ('ü', '\\xff', -5, NULL)",
        "UPDATE t SET c = 9 WHERE b = ''",
    )
    assert s.rows() == [("x", b"", 9, "THREE"), ("x", b"\x00", 1, "ONE"), ("ü", b"\xff", -5, None)]


async def test_keys_that_are_written_in_several_forms_are_found(switch):
    s = await switch(
        """CREATE TABLE t (at DATETIME, uid CHAR(36), v TEXT, PRIMARY KEY (at, uid));
           INSERT INTO t VALUES ('2024-01-01 00:00:00.000000', '0123456789abcdef0123456789abcdef', 'a'),
                                ('2024-01-02 00:00:00.000000', '1123456789abcdef0123456789abcdef', 'b'),
                                ('2024-01-03T00:00:00', '21234567-89AB-CDEF-0123-456789ABCDEF', 'c'),
                                ('2024-01-04', '31234567-89AB-CDEF-0123-456789ABCDEF', 'd')""",
        "CREATE TABLE t (at timestamp, uid uuid, v text, PRIMARY KEY (at, uid))",
    )
    await s.run(
        "UPDATE t SET v = v || '!' WHERE v <> 'd'",
        "DELETE FROM t WHERE v = 'd'",
        "INSERT INTO t VALUES ('2024-02-02', '41234567-89AB-CDEF-0123-456789ABCDEF', 'e')",
    )
    assert s.rows() == [
        ("2024-01-01 00:00:00.000000", "0123456789abcdef0123456789abcdef", "a!"),
        ("2024-01-02 00:00:00.000000", "1123456789abcdef0123456789abcdef", "b!"),
        ("2024-01-03T00:00:00", "21234567-89AB-CDEF-0123-456789ABCDEF", "c!"),
        ("2024-02-02 00:00:00.000000", "4123456789abcdef0123456789abcdef", "e"),
    ]
    assert "uniform_keys" not in notes_of(s)
    await s.run("DELETE FROM t WHERE v = 'c!'", "INSERT INTO t SELECT at, uid, 'f' FROM t WHERE false")
    await s.run("INSERT INTO t VALUES ('2024-02-03', '51234567-89AB-CDEF-0123-456789ABCDEF', 'f')")
    assert "uniform_keys" in notes_of(s)
    s.execute("UPDATE t SET at = '2024-02-03T00:00:00' WHERE v = 'f'")
    await s.run("UPDATE t SET v = 'g' WHERE v = 'f'")
    assert ("2024-02-03T00:00:00", "5123456789abcdef0123456789abcdef", "g") in s.rows()
    assert len(s.rows()) == 4


def notes_of(s) -> dict[str, str]:
    with closing(open_read_only(s.path)) as source:
        return source_capture.notes(source)


async def test_keys_that_differ_in_case_only_are_two_though_the_column_ignores_case(switch):
    s = await switch(
        "CREATE TABLE t (k TEXT COLLATE NOCASE PRIMARY KEY, v TEXT); INSERT INTO t VALUES ('A', 'one')",
        "CREATE TABLE t (k text PRIMARY KEY, v text)",
    )
    await s.run("INSERT INTO t VALUES ('a', 'two')", "DELETE FROM t WHERE k = 'a'")
    assert s.rows() == [("A", "one")]
    await s.run("UPDATE t SET k = 'a'")
    assert s.rows() == [("a", "one")]
    await s.connection.execute("INSERT INTO t VALUES ('A', 'both')")
    with pytest.raises(Permanent, match=r"SQLite refuses the row 'A' of table 't': UNIQUE constraint failed: t\.k"):
        await s.sync()
    assert s.rows() == [("a", "one")]
    await s.run("DELETE FROM t WHERE k = 'a'")
    assert s.rows() == [("A", "both")]


async def test_tables_without_a_key_are_carried_by_rowid(switch):
    s = await switch(
        "CREATE TABLE t (v TEXT); INSERT INTO t (rowid, v) VALUES (3, 'same'), (7, 'same'), (9, NULL)",
        "CREATE TABLE t (v text)",
    )
    await s.run(
        f"UPDATE t SET v = 'other' WHERE {HIDDEN} = 7",
        "INSERT INTO t (v) VALUES ('new')",
        "DELETE FROM t WHERE v IS NULL",
    )
    assert s.rows(columns="rowid, v") == [(10, "new"), (3, "same"), (7, "other")]
    await s.run("TRUNCATE t", "INSERT INTO t VALUES ('first')")
    assert s.rows(columns="rowid, v") == [(11, "first")]


async def test_rows_with_a_text_key_keep_their_rowids(switch):
    s = await switch(
        "CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT); INSERT INTO t (rowid, k, v) VALUES (5, 'a', '1'), (50, 'b', '2')",
        "CREATE TABLE t (k text PRIMARY KEY, v text)",
    )
    await s.run("INSERT INTO t VALUES ('0', 'new')", "UPDATE t SET v = v || '!'")
    assert s.rows(columns="rowid, k, v") == [(5, "a", "1!"), (50, "b", "2!"), (51, "0", "new!")]


async def test_hostile_names(switch):
    table, column = """O'Hara "x".%s""", 'k "0"? :a'
    schema = f"CREATE TABLE {quote(table)} ({quote(column)} TEXT PRIMARY KEY, {quote('select')} integer)"
    s = await switch(schema, schema)
    await s.run(f"INSERT INTO {quote(table)} VALUES ('it''s', 1)", f'UPDATE {quote(table)} SET "select" = 2')
    assert s.rows(table) == [("it's", 2)]


# ---------------------------------------------------------------- what SQLite has of its own


async def test_triggers_foreign_keys_and_generated_columns_do_not_interfere(switch):
    s = await switch(
        """CREATE TABLE p (id INTEGER PRIMARY KEY, n INTEGER DEFAULT 0);
           CREATE TABLE t (id INTEGER PRIMARY KEY, p INTEGER REFERENCES p ON DELETE CASCADE, a INTEGER,
                           twice INTEGER AS (a * 2) STORED, thrice INTEGER AS (a * 3));
           CREATE TRIGGER "count it" AFTER INSERT ON t BEGIN UPDATE p SET n = n + 1 WHERE id = new.p; END;
           CREATE TRIGGER guard BEFORE DELETE ON t WHEN old.a = 13 BEGIN SELECT RAISE(ABORT, 'never'); END;
           INSERT INTO p (id) VALUES (1), (2); INSERT INTO t (id, p, a) VALUES (1, 1, 5), (2, 2, 13)""",
        """CREATE TABLE p (id integer PRIMARY KEY, n integer DEFAULT 0);
           CREATE TABLE t (id integer PRIMARY KEY, p integer, a integer,
                           twice integer GENERATED ALWAYS AS (a * 2) STORED, thrice integer)""",
    )
    await s.connection.execute("ALTER TABLE t ADD FOREIGN KEY (p) REFERENCES p ON DELETE CASCADE")
    triggers = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND name NOT GLOB '_pg*' ORDER BY rowid"
    with closing(sqlite3.connect(s.path)) as source:
        before = source.execute(triggers).fetchall()
    await s.run(
        "INSERT INTO t (id, p, a, thrice) VALUES (3, 1, 7, 21)",
        "UPDATE t SET a = 1, thrice = 3 WHERE id = 2",
        "UPDATE p SET n = 2 WHERE id = 1",
    )
    assert s.rows() == [(1, 1, 5, 10, 15), (2, 2, 1, 2, 3), (3, 1, 7, 14, 21)]
    assert s.rows("p") == [(1, 2), (2, 1)]
    await s.run("DELETE FROM p WHERE id = 1")
    assert s.rows() == [(2, 2, 1, 2, 3)]
    with closing(sqlite3.connect(s.path)) as source:
        assert source.execute(triggers).fetchall() == before
        assert len(before) == 2
        with pytest.raises(sqlite3.IntegrityError, match="pgferry: PostgreSQL is in front"):
            source.execute("INSERT INTO t (id) VALUES (9)")


SEARCHED = """
    CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT);
    CREATE TABLE log (what TEXT);
    CREATE VIRTUAL TABLE found USING fts5(body, content='t', content_rowid='id');
    CREATE TRIGGER ai AFTER INSERT ON t BEGIN INSERT INTO found(rowid, body) VALUES (new.id, new.body); END;
    CREATE TRIGGER ad AFTER DELETE ON t BEGIN
        INSERT INTO found(found, rowid, body) VALUES ('delete', old.id, old.body); END;
    CREATE TRIGGER noise AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.body); END;
    INSERT INTO t VALUES (1, 'apples and pears'), (2, 'plums')"""


async def test_a_search_index_stays_current(switch):
    s = await switch(SEARCHED, "CREATE TABLE t (id integer PRIMARY KEY, body text); CREATE TABLE log (what text)")
    await s.run(
        "UPDATE t SET body = 'cherries' WHERE id = 1",
        "DELETE FROM t WHERE id = 2",
        "INSERT INTO t VALUES (3, 'more pears')",
    )
    assert len(s.rows("log")) == 2
    with closing(sqlite3.connect(s.path)) as source:
        for word, ids in (("pears", [3]), ("cherries", [1]), ("plums", []), ("apples", [])):
            assert [row[0] for row in source.execute("SELECT rowid FROM found WHERE found MATCH ?", (word,))] == ids
        source.execute("INSERT INTO found (found, rank) VALUES ('integrity-check', 1)")
        assert source.execute("SELECT count(*) FROM sqlite_schema WHERE name IN ('ai', 'ad', 'noise')").fetchone() == (
            3,
        )


async def test_autoincrement_never_gives_a_number_again(switch):
    s = await switch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v);"
        "CREATE TABLE u (id INTEGER PRIMARY KEY AUTOINCREMENT);"
        "INSERT INTO t VALUES (50, NULL); DELETE FROM t",
        "CREATE TABLE t (id integer PRIMARY KEY, v text); CREATE TABLE u (id integer PRIMARY KEY)",
    )
    await s.run("INSERT INTO t VALUES (7, 'x')", "INSERT INTO u VALUES (3), (90)", "DELETE FROM u WHERE id = 90")
    assert s.rows("sqlite_sequence") == [("t", 50), ("u", 90)]
    await s.run("TRUNCATE t, u")
    assert s.rows("sqlite_sequence") == [("t", 50), ("u", 90)]


async def test_columns_that_stay_behind_keep_their_values(switch):
    rules = Rules.model_validate({"tables": {"t": {"columns": {"secret": {"exclude": True}}}}})
    s = await switch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, secret BLOB NOT NULL DEFAULT 'none');"
        "INSERT INTO t VALUES (1, 'a', x'00'), (2, 'b', CAST(x'ff' AS TEXT))",
        "CREATE TABLE t (id integer PRIMARY KEY, v text)",
        rules,
    )
    await s.run("UPDATE t SET v = 'c'", "INSERT INTO t VALUES (3, 'new')")
    columns = "id, v, typeof(secret), hex(secret)"
    # A row that is new has the default of the column only where SQLite gives it.
    assert s.rows(columns=columns) == [(1, "c", "blob", "00"), (2, "c", "text", "FF"), (3, "new", "text", "6E6F6E65")]


# ---------------------------------------------------------------- what stands against it


async def test_nothing_is_written_when_sqlite_is_in_front(switch):
    s = await switch("CREATE TABLE t (id INTEGER PRIMARY KEY)", "CREATE TABLE t (id integer PRIMARY KEY)")
    await s.connection.execute("INSERT INTO t VALUES (1)")
    with source_fence.writing(s.path) as target:
        source_capture.set_note(target, "front", "sqlite")
    with pytest.raises(Permanent, match="says that sqlite is in front"):
        await sync_back(s.connection, s.live, s.forms)
    assert s.rows() == []
    assert await uncarried_keys(s.connection, s.live) == {"t": [(1,)]}


async def test_an_emergency_between_reading_and_writing_is_noticed(switch, monkeypatch):
    s = await switch("CREATE TABLE t (id INTEGER PRIMARY KEY)", "CREATE TABLE t (id integer PRIMARY KEY)")
    await s.connection.execute("INSERT INTO t VALUES (1)")

    def late(*args, **kwargs):
        with source_fence.writing(s.path) as target:
            source_capture.set_note(target, "front", "sqlite")
        return write_back.write_back(*args, **kwargs)

    monkeypatch.setattr(reverse, "write_back", late)
    with pytest.raises(Permanent, match="says that sqlite is in front"):
        await sync_back(s.connection, s.live, s.forms)
    assert s.rows() == []


async def test_older_rows_never_overwrite_newer_ones(switch, monkeypatch):
    s = await switch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'a')",
        "CREATE TABLE t (id integer PRIMARY KEY, v text)",
    )
    await s.connection.execute("UPDATE t SET v = 'old'")

    def late(*args, **kwargs):
        with source_fence.writing(s.path) as target:  # another sync, that took the lock when this one's was lost
            target.execute("UPDATE t SET v = 'new'")
            source_capture.set_note(target, "carried", "1")
        return write_back.write_back(*args, **kwargs)

    monkeypatch.setattr(reverse, "write_back", late)
    with pytest.raises(Transient, match="Another process has carried changes"):
        await sync_back(s.connection, s.live, s.forms)
    assert s.rows() == [(1, "new")]


async def test_a_value_that_sqlite_has_no_form_for_is_named_and_nothing_is_written(switch):
    s = await switch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, at DATETIME); CREATE TABLE u (id INTEGER PRIMARY KEY)",
        "CREATE TABLE t (id integer PRIMARY KEY, at timestamp); CREATE TABLE u (id integer PRIMARY KEY)",
    )
    await s.connection.execute("INSERT INTO t VALUES (1, 'infinity'); INSERT INTO u VALUES (1)")
    with pytest.raises(Permanent, match=r"t\.at holds .*infinity"):
        await s.sync()
    assert s.rows() == s.rows("u") == []
    await s.run("UPDATE t SET at = '2024-01-01'")
    assert s.rows() == [(1, "2024-01-01 00:00:00.000000")]
    assert s.rows("u") == [(1,)]


async def test_a_gap_in_the_capture_stops_it(switch):
    s = await switch("CREATE TABLE t (id INTEGER PRIMARY KEY)", "CREATE TABLE t (id integer PRIMARY KEY)")
    await s.connection.execute("INSERT INTO t VALUES (1); ALTER TABLE t DISABLE TRIGGER ALL")
    with pytest.raises(Permanent, match="not captured"):
        await sync_back(s.connection, s.live, s.forms)
    assert s.rows() == []


async def test_rows_that_a_policy_would_hide_are_no_deleted_rows(switch, database_url):
    s = await switch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)", "CREATE TABLE t (id integer PRIMARY KEY)"
    )
    role = f"sync_{database_url.database[-8:]}"
    await s.connection.execute(f"""
        UPDATE t SET id = 1; ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE ROLE {role};
        GRANT ALL ON ALL TABLES IN SCHEMA public, pgferry TO {role}; GRANT USAGE ON SCHEMA pgferry TO {role};
        SET ROLE {role}""")
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await sync_back(s.connection, s.live, s.forms)
    finally:
        await s.connection.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
    assert s.rows() == [(1,)]


# ---------------------------------------------------------------- crashes

STEPS = ("before SQLite's commit", "after SQLite's commit", "after PostgreSQL's commit")

CHILD = """
import asyncio, os, pickle, signal, sys
from sqlalchemy.engine import make_url
from pgferry.live import reverse
from pgferry.postgres.connection import connect
from pgferry.postgres.journal import lock_sync
from pgferry.sqlite import fence

step = sys.argv[1]
live, forms = pickle.load(open(sys.argv[3], "rb"))

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

if step == "before SQLite's commit":
    fence.put_triggers_back = die
elif step == "after SQLite's commit":
    reverse._settle = die
else:
    reverse.prune = die

async def main():
    connection = await connect(make_url(sys.argv[2]))
    await lock_sync(connection)
    await reverse.sync_back(connection, live, forms)

asyncio.run(main())
"""


@pytest.mark.parametrize("step", STEPS)
async def test_a_killed_cycle_is_done_again_and_both_sides_are_equal(switch, database_url, tmp_path, step):
    s = await switch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, u TEXT UNIQUE); CREATE TABLE bare (n TEXT);"
        "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')",
        "CREATE TABLE t (id integer PRIMARY KEY, u text UNIQUE DEFERRABLE INITIALLY DEFERRED);"
        "CREATE TABLE bare (n text)",
    )
    await s.connection.execute("""
        UPDATE t SET u = CASE id WHEN 1 THEN 'b' ELSE 'a' END WHERE id < 3; UPDATE t SET id = 30 WHERE id = 3;
        INSERT INTO bare (n) VALUES ('x'), ('x')""")
    await s.connection.execute("SELECT pg_advisory_unlock_all()")
    before = s.rows()
    (tmp_path / "live").write_bytes(pickle.dumps((s.live, s.forms)))
    url = database_url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", CHILD, step, url, str(tmp_path / "live")]
    child = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    after = [(1, "b"), (2, "a"), (30, "c")]
    assert s.rows() == (before if step == STEPS[0] else after)
    await lock_sync(s.connection)
    await s.connection.execute("DELETE FROM t WHERE id = 2")
    await s.sync()
    assert s.rows() == [(1, "b"), (30, "c")]
    assert s.rows("bare", "rowid, n") == [(1, "x"), (2, "x")]


async def test_writes_that_commit_during_a_cycle_are_carried_by_the_next(switch, database_url, monkeypatch):
    s = await switch("CREATE TABLE t (id INTEGER PRIMARY KEY)", "CREATE TABLE t (id integer PRIMARY KEY)")
    other = await connect(database_url)
    try:
        await other.execute("BEGIN; INSERT INTO t VALUES (1)")  # the lower id commits later
        await s.connection.execute("INSERT INTO t VALUES (2)")
        real = write_back.write_back
        loop = asyncio.get_running_loop()

        def meanwhile(*args, **kwargs):
            asyncio.run_coroutine_threadsafe(other.execute("COMMIT"), loop).result()
            return real(*args, **kwargs)

        monkeypatch.setattr(reverse, "write_back", meanwhile)
        await sync_back(s.connection, s.live, s.forms)
        assert s.rows() == [(2,)]
        monkeypatch.setattr(reverse, "write_back", real)
        assert await target_capture.pending(s.connection, s.live) == {"t": 1}
        await s.sync()
        assert s.rows() == [(1,), (2,)]
    finally:
        await other.close()


async def test_a_cancelled_cycle_leaves_no_thread_that_writes_later(switch, monkeypatch):
    s = await switch("CREATE TABLE t (id INTEGER PRIMARY KEY)", "CREATE TABLE t (id integer PRIMARY KEY)")
    await s.connection.execute("INSERT INTO t VALUES (1)")
    began, done = asyncio.Event(), []
    loop = asyncio.get_running_loop()

    def slow(*args, **kwargs):
        loop.call_soon_threadsafe(began.set)
        time.sleep(0.3)
        done.append(write_back.write_back(*args, **kwargs))
        return done[0]

    monkeypatch.setattr(reverse, "write_back", slow)
    task = asyncio.create_task(sync_back(s.connection, s.live, s.forms))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done
    assert s.rows() == [(1,)]


# ---------------------------------------------------------------- by keys


async def test_rows_are_carried_by_their_keys_whichever_side_is_in_front(switch):
    s = await switch(
        "CREATE TABLE t (at DATETIME PRIMARY KEY, v TEXT); CREATE TABLE bare (n TEXT);"
        "INSERT INTO t VALUES ('2024-01-01 00:00:00.000000', 'a'), ('2024-01-02 00:00:00.000000', 'b');"
        "INSERT INTO bare (rowid, n) VALUES (5, 'x'), (6, 'y')",
        "CREATE TABLE t (at timestamp PRIMARY KEY, v text); CREATE TABLE bare (n text)",
    )
    first, second = "2024-01-01 00:00:00.000000", "2024-01-02 00:00:00.000000"
    s.execute(
        f"UPDATE t SET v = 'wrong' WHERE at = '{first}'",
        "INSERT INTO t VALUES ('2024-01-03 00:00:00.000000', 'extra')",
        "UPDATE bare SET n = 'wrong'",
        f"DELETE FROM t WHERE at = '{second}'",
    )
    with source_fence.writing(s.path) as target:
        source_capture.set_note(target, "front", "sqlite")
    position = await read_position(s.connection, s.live.run_id)
    keys = {"t": [(first,), (second,), ("2024-01-03 00:00:00.000000",)], "bare": [(6,)]}
    synced = await carry_keys(s.connection, s.live, s.forms, keys)
    assert (synced.rows, synced.deleted) == (3, 1)
    assert s.rows() == [(first, "a"), (second, "b")]
    assert s.rows("bare", "rowid, n") == [(5, "wrong"), (6, "y")]
    assert await read_position(s.connection, s.live.run_id) == position
    await carry_keys(s.connection, s.live, s.forms, {"bare": [(5,), (77,)], "t": []})
    assert s.rows("bare", "rowid, n") == [(5, "x"), (6, "y")]


async def test_what_is_not_carried_is_named(switch):
    s = await switch(
        "CREATE TABLE t (at DATETIME PRIMARY KEY); CREATE TABLE u (id INTEGER PRIMARY KEY);"
        "INSERT INTO t VALUES ('2024-01-01 00:00:00.000000'); INSERT INTO u VALUES (1), (2)",
        "CREATE TABLE t (at timestamp PRIMARY KEY); CREATE TABLE u (id integer PRIMARY KEY)",
    )
    assert await uncarried_keys(s.connection, s.live) == {}
    await s.connection.execute("UPDATE t SET at = '2024-01-02'; TRUNCATE u; INSERT INTO u VALUES (2), (3)")
    found = await uncarried_keys(s.connection, s.live)
    assert {name: sorted(keys) for name, keys in found.items()} == {
        "t": [("2024-01-01 00:00:00.000000",), ("2024-01-02 00:00:00.000000",)],
        "u": [(1,), (2,), (3,)],
    }


# ---------------------------------------------------------------- many

OPERATIONS = (
    "INSERT INTO t SELECT g, 'u' || g, 'n' FROM generate_series({a}, {a} + 5) g ON CONFLICT (id) DO NOTHING",
    "UPDATE t SET v = v || {b} WHERE id % 7 = {b}",
    "UPDATE t SET id = id + 500 WHERE id = {a}",
    "UPDATE t SET u = 'x' || (1000 - id) WHERE id BETWEEN {b} AND {a}",
    "WITH ids AS (SELECT min(id) AS low, max(id) AS high FROM t) UPDATE t SET u = other.u FROM t AS other, ids"
    " WHERE t.id IN (low, high) AND other.id IN (low, high) AND other.id <> t.id",
    "DELETE FROM t WHERE id % 5 = {b} % 5",
    "INSERT INTO bare (v) SELECT 'b' || g FROM generate_series(1, {b}) g",
    "UPDATE bare SET v = v || '.' WHERE length(v) = {b}",
    "DELETE FROM bare WHERE v LIKE '%{b}%'",
    "TRUNCATE bare",
    "INSERT INTO k VALUES ('k{a}', {b}, 'v'), ('K{a}', {b}, 'w') ON CONFLICT (a, b) DO UPDATE SET v = k.v || 'again'",
    "UPDATE k SET b = b + 1, a = upper(a) WHERE b = {b}",
)


@pytest.mark.parametrize("seed", range(4))
async def test_any_mix_of_writes_leaves_both_sides_equal(switch, monkeypatch, seed):
    monkeypatch.setattr(write_back, "_IN_MEMORY", 200 if seed % 2 else 1_000_000)
    s = await switch(
        """CREATE TABLE t (id INTEGER PRIMARY KEY, u TEXT UNIQUE, v TEXT); CREATE TABLE bare (v TEXT);
           CREATE TABLE k (a TEXT, b INTEGER, v TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID""",
        """CREATE TABLE t (id integer PRIMARY KEY, u text UNIQUE DEFERRABLE, v text); CREATE TABLE bare (v text);
           CREATE TABLE k (a text, b integer, v text, PRIMARY KEY (a, b))""",
    )
    chance = random.Random(seed)
    for _ in range(25):
        for _ in range(chance.randint(1, 6)):
            statement = chance.choice(OPERATIONS)
            with contextlib.suppress(asyncpg.UniqueViolationError):
                await s.connection.execute(statement.format(a=chance.randint(1, 60), b=chance.randint(1, 9)))
        await s.sync()
        for table, columns in (("t", "*"), ("k", "*"), ("bare", f"{HIDDEN}, v")):
            there = [tuple(row) for row in await s.connection.fetch(f"SELECT {columns} FROM {table}")]
            assert s.rows(table, columns.replace(HIDDEN, "rowid")) == sorted(there, key=repr)


async def test_thirty_thousand_rows_are_carried_in_one_cycle(switch):
    s = await switch(
        """CREATE TABLE t (id INTEGER PRIMARY KEY, k TEXT UNIQUE, v TEXT, at DATETIME, n FLOAT);
           WITH RECURSIVE c (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 30000)
           INSERT INTO t SELECT i, 'k' || i, 'some text of a row', '2024-01-01 00:00:00.000000', i / 7.0 FROM c""",
        "CREATE TABLE t (id integer PRIMARY KEY, k text UNIQUE, v text, at timestamp, n double precision)",
    )
    before = s.rows()
    await s.connection.execute("UPDATE t SET v = v || '!'")
    synced = await s.sync()
    print(f"{synced.rows / synced.seconds:,.0f} rows/s")
    assert synced.rows == 30_000
    assert s.rows() == [(i, k, v + "!", at, n) for i, k, v, at, n in before]
    await s.connection.execute("DELETE FROM t WHERE id > 10")
    synced = await s.sync()
    print(f"{synced.deleted / synced.seconds:,.0f} deleted rows/s")
    assert len(s.rows()) == 10
