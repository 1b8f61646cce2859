"""Capture is installed in one transaction, mended at any time, and tells what happened to the file."""

from __future__ import annotations

import multiprocessing
import shutil
import sqlite3
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pgferry.errors import Permanent, Transient
from pgferry.live.model import Capture, Change, ChangeKind
from pgferry.plan.plan import make_plan
from pgferry.sqlite import outbox
from pgferry.sqlite.capture import PREFIX, changes, install, notes, read_capture, remove, set_note
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.connect import open_read_only, write_transaction

SCRIPT = """
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL);
CREATE TABLE a (id INTEGER PRIMARY KEY, name TEXT, email TEXT);
CREATE UNIQUE INDEX a_name ON a (lower(name));
CREATE TABLE b (x TEXT, y INT, v, PRIMARY KEY (x, y)) WITHOUT ROWID;
CREATE TABLE c (v);
CREATE TRIGGER app AFTER INSERT ON a BEGIN INSERT INTO c VALUES (NEW.id); END;
CREATE VIEW w AS SELECT 1;
INSERT INTO c VALUES (1), (2), (3); DELETE FROM c WHERE v = 1;
"""


def made(path: Path, script: str = SCRIPT) -> Path:
    execute(path, script)
    return path


def execute(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(script)


def schema(path: Path) -> list[tuple[object, ...]]:
    with closing(open_read_only(path)) as connection:
        return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name").fetchall()


def seen(path: Path, known: Capture, at_least: int = 0) -> tuple[Change, ...]:
    with closing(open_read_only(path)) as connection:
        return changes(connection, known, at_least)


def kinds(path: Path, known: Capture) -> dict[str, ChangeKind]:
    return {change.table: change.kind for change in seen(path, known)}


def test_all_tables_but_alembics_are_captured(tmp_path: Path) -> None:
    path = made(tmp_path / "a.db")
    capture = install(path, "token")
    described = [(t.number, t.name, t.rowid, t.key, t.stable) for t in capture.tables]
    assert described == [(1, "a", "rowid", (), True), (2, "b", None, ("x", "y"), True), (3, "c", "rowid", (), False)]
    with closing(open_read_only(path)) as connection:
        assert read_capture(connection) == capture
        assert outbox.last_id(connection) == 0
    assert seen(path, capture) == ()


def test_installing_again_changes_nothing(tmp_path: Path) -> None:
    path = made(tmp_path / "a.db")
    capture = install(path, "token")
    before = path.read_bytes(), schema(path)
    assert install(path, "token") == capture
    assert schema(path) == before[1]


def test_it_is_removed_without_a_trace(tmp_path: Path) -> None:
    path = made(tmp_path / "a.db")
    before = schema(path)
    install(path, "token")
    execute(path, "INSERT INTO a (name) VALUES ('x');")
    removed = remove(path)
    assert schema(path) == before
    assert all(name.startswith(PREFIX) for name in removed)
    assert {"_pgferry_outbox", "_pgferry_1_replace_insert", "_pgferry_new_1"} <= set(removed)
    assert remove(path) == ()
    with closing(open_read_only(path)) as connection:
        assert read_capture(connection) is None
        assert notes(connection) == {}
    install(path, "another")


def test_removing_leaves_a_table_that_only_begins_like_ours(tmp_path: Path) -> None:
    path = made(tmp_path / "a.db")
    install(path, "token")
    execute(path, "CREATE TABLE _pgferry_notes (a); INSERT INTO _pgferry_notes VALUES (1);")
    assert "_pgferry_notes" not in remove(path)
    with closing(open_read_only(path)) as connection:
        assert connection.execute("SELECT a FROM _pgferry_notes").fetchall() == [(1,)]


def test_another_run_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "a.db")
    capture = install(path, "one")
    with pytest.raises(Permanent, match=r"captured by another run.*python -m flows dual-write --undo"):
        install(path, "two")
    assert seen(path, capture) == ()


@pytest.mark.parametrize(
    "stranger",
    [
        "CREATE TRIGGER _pgferry_1_insert AFTER INSERT ON a BEGIN SELECT 1; END",
        "CREATE TRIGGER _PGFERRY_mine AFTER INSERT ON c BEGIN SELECT 1; END",
        "CREATE TABLE _pgferry_outbox (a)",
    ],
)
def test_an_object_called_like_ours_is_named(tmp_path: Path, stranger: str) -> None:
    path = made(tmp_path / "a.db")
    execute(path, stranger)
    before = schema(path)
    with pytest.raises(Permanent, match=r"(?i)'_pgferry_.*that pgferry did not make"):
        install(path, "token")
    assert schema(path) == before


def test_a_stranger_that_came_later_is_named(tmp_path: Path) -> None:
    path = made(tmp_path / "a.db")
    install(path, "token")
    execute(path, "CREATE TRIGGER _pgferry_x AFTER INSERT ON a BEGIN SELECT 1; END")
    with pytest.raises(Permanent, match="_pgferry_x"):
        install(path, "token")


def test_our_objects_are_no_data(tmp_path: Path) -> None:
    path = made(tmp_path / "a.db")
    with closing(open_read_only(path)) as connection:
        before = read_catalog(connection)
    install(path, "token")
    with closing(open_read_only(path)) as connection:
        after = read_catalog(connection)
    assert (after.tables, after.triggers, after.views) == (before.tables, before.triggers, before.views)
    assert {item.reason for item in after.left_out if item.name.startswith(PREFIX)} == {"pgferry's own, until cleanup"}
    assert [item for item in after.left_out if not item.name.startswith(PREFIX)] == list(before.left_out)


def test_the_plan_says_nothing_of_our_objects(tmp_path: Path) -> None:
    path = made(tmp_path / "a.db")
    before = make_plan(path)
    install(path, "token")
    assert make_plan(path) == before


def test_notes_are_kept(tmp_path: Path) -> None:
    path = made(tmp_path / "a.db")
    install(path, "token")
    with write_transaction(path) as connection:
        set_note(connection, "one", "é")
        set_note(connection, "one", "2")
        set_note(connection, "two", "")
    with closing(open_read_only(path)) as connection:
        assert notes(connection) == {"one": "2", "two": ""}


# ---------------------------------------------------------------- what happened to the file

UNIMPORTANT = [
    "ANALYZE",
    "CREATE INDEX plain ON a (email)",
    "CREATE INDEX plain ON a (email); DROP INDEX plain",
    "CREATE VIEW v AS SELECT 1; DROP VIEW w",
    "CREATE TRIGGER t2 BEFORE INSERT ON a WHEN NEW.id = 7 BEGIN SELECT RAISE(IGNORE); END",
    "CREATE TRIGGER t2 AFTER INSERT ON a WHEN NEW.id = 7 BEGIN SELECT RAISE(ABORT, 'ignore'); END; DROP TRIGGER app",
    "DROP TABLE alembic_version; CREATE TABLE alembic_version (n)",
    "CREATE VIRTUAL TABLE search USING fts5 (text)",
    "REINDEX; PRAGMA user_version = 7",
    "CREATE TEMP TABLE x (a)",
]


@pytest.mark.parametrize("script", UNIMPORTANT)
def test_what_is_no_change(tmp_path: Path, script: str) -> None:
    path = made(tmp_path / "a.db")
    capture = install(path, "token")
    execute(path, script)
    assert seen(path, capture) == ()


REBUILT = """
CREATE TABLE _alembic_tmp_a (id INTEGER PRIMARY KEY, name TEXT, email TEXT);
INSERT INTO _alembic_tmp_a SELECT * FROM a; DROP TABLE a; ALTER TABLE _alembic_tmp_a RENAME TO a;
CREATE UNIQUE INDEX a_name ON a (lower(name));
"""
CHANGES = [
    ("ALTER TABLE a ADD COLUMN more INT", {"a": ChangeKind.ALTERED}),
    ("ALTER TABLE a RENAME email TO mail", {"a": ChangeKind.ALTERED}),
    ("ALTER TABLE a RENAME name TO title", {"a": ChangeKind.ALTERED}),
    ("ALTER TABLE b RENAME x TO z", {"b": ChangeKind.ALTERED}),
    ("ALTER TABLE a DROP COLUMN email", {"a": ChangeKind.ALTERED}),
    ("ALTER TABLE a RENAME TO d", {"a": ChangeKind.DROPPED, "d": ChangeKind.NEW}),
    (REBUILT, {"a": ChangeKind.UNCAPTURED}),
    (REBUILT.replace("email TEXT", "email TEXT, x"). replace("SELECT *", "SELECT *, 1"), {"a": ChangeKind.UNCAPTURED}),
    ("DROP TABLE c; CREATE TABLE c (v)", {"c": ChangeKind.UNCAPTURED}),
    ("CREATE UNIQUE INDEX u ON a (email)", {"a": ChangeKind.ALTERED}),
    ("CREATE UNIQUE INDEX u ON c (v) WHERE v > 1", {"c": ChangeKind.ALTERED}),
    ("DROP INDEX a_name", {"a": ChangeKind.ALTERED}),
    ("DROP INDEX a_name; CREATE UNIQUE INDEX a_name ON a (upper(name))", {"a": ChangeKind.ALTERED}),
    ("CREATE TABLE d (v)", {"d": ChangeKind.NEW}),
    ("DROP TABLE b", {"b": ChangeKind.DROPPED}),
    ("DROP TRIGGER _pgferry_1_delete", {"a": ChangeKind.UNCAPTURED}),
    ("DROP TABLE _pgferry_new_1", {"a": ChangeKind.UNCAPTURED}),
    ("VACUUM", {"c": ChangeKind.RENUMBERED}),
    (
        "CREATE TRIGGER late AFTER INSERT ON a BEGIN SELECT RAISE ( ignore ) WHERE NEW.id = 7; END",
        {"a": ChangeKind.UNCAPTURED},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("script", "expected"), CHANGES)
def test_what_is_a_change_and_how_it_is_mended(tmp_path: Path, script: str, expected: dict[str, ChangeKind]) -> None:
    path = made(tmp_path / "a.db")
    capture = install(path, "token")
    execute(path, "INSERT INTO a (name) VALUES ('x');")
    assert seen(path, capture) == ()
    execute(path, script)
    assert kinds(path, capture) == expected
    mended = install(path, "token")
    numbers = {table.name: table.number for table in capture.tables}
    assert all(table.number == numbers.get(table.name, 4) for table in mended.tables)
    assert seen(path, mended) == ()
    # A crash between this and the ledger's record of it must not hide that rows were missed.
    assert kinds(path, capture).keys() == expected.keys()
    assert install(path, "token") == mended


def test_a_vacuum_keeps_the_rows_of_tables_with_a_key(tmp_path: Path) -> None:
    path = made(tmp_path / "a.db", SCRIPT.replace("CREATE TABLE c (v);", "CREATE TABLE c (v PRIMARY KEY);"))
    capture = install(path, "token")
    execute(path, "VACUUM")
    assert seen(path, capture) == ()
    with closing(open_read_only(path)) as connection:
        assert connection.execute("SELECT rowid, v FROM c ORDER BY 1").fetchall() == [(2, 2), (3, 3)]


def test_another_file_is_told(tmp_path: Path) -> None:
    path = made(tmp_path / "a.db")
    other = made(tmp_path / "b.db")
    capture = install(path, "token")
    assert kinds(other, capture) == {"": ChangeKind.REPLACED}
    install(other, "else")
    assert kinds(other, capture) == {"": ChangeKind.REPLACED}
    remove(path)
    assert kinds(path, capture) == {"": ChangeKind.REPLACED}


def test_an_older_backup_is_told(tmp_path: Path) -> None:
    path = made(tmp_path / "a.db")
    capture = install(path, "token")
    shutil.copy(path, tmp_path / "backup.db")
    execute(path, "INSERT INTO c VALUES (1), (2)")
    assert seen(path, capture, 2) == ()
    shutil.copy(tmp_path / "backup.db", path)
    (change,) = seen(path, capture, 2)
    assert (change.kind, change.table) == (ChangeKind.REPLACED, "")
    assert "ends at 0, but 2" in change.detail


def test_a_forgotten_number_is_not_given_again(tmp_path: Path) -> None:
    path = made(tmp_path / "a.db")
    install(path, "token")
    execute(path, "DROP TABLE c")
    assert [table.number for table in install(path, "token").tables] == [1, 2]
    execute(path, "CREATE TABLE c (v)")
    assert [table.number for table in install(path, "token").tables] == [1, 2, 4]


def test_a_wider_key_fits_the_outbox(tmp_path: Path) -> None:
    path = made(tmp_path / "a.db")
    install(path, "token")
    execute(path, "CREATE TABLE d (p, q, r, PRIMARY KEY (r, q, p)); ")
    capture = install(path, "token")
    execute(path, "INSERT INTO d VALUES (1, 2, 3)")
    with closing(open_read_only(path)) as connection:
        (entry,) = outbox.touched(connection, capture.table("d"), 0, 9)
    assert (entry.rowid, entry.key) == (1, (3, 2, 1))


ENDINGS = ["SELECT RAISE(IGNORE)", "SELECT raise /**/ (FAIL, 'x')", "INSERT OR FAIL INTO a (id) VALUES (1)"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_trigger_that_ends_the_statement_comes_after_ours_once_mended(tmp_path: Path, ending: str) -> None:
    path = made(tmp_path / "a.db")
    known = install(path, "token")
    execute(path, f"INSERT INTO a (id) VALUES (1); CREATE TRIGGER late AFTER INSERT ON c BEGIN {ending}; END;")
    assert kinds(path, known) == {"c": ChangeKind.UNCAPTURED}
    with closing(open_read_only(path)) as connection:
        position = outbox.last_id(connection)
    write_whatever_comes(path, "INSERT INTO c VALUES (8)")
    with closing(open_read_only(path)) as connection:
        assert connection.execute("SELECT v FROM c WHERE v = 8").fetchone() == (8,)
        assert outbox.last_id(connection) == position, "SQLite no longer fires the newest trigger first"
    capture = install(path, "token")
    write_whatever_comes(path, "INSERT INTO c VALUES (9)")
    with closing(open_read_only(path)) as connection:
        assert outbox.pending(connection, position, 99) == {capture.table("c").number: 1}


def write_whatever_comes(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection, suppress(sqlite3.IntegrityError):
        connection.execute(statement)


RENAMES = [
    "ALTER TABLE a RENAME TO d",
    "ALTER TABLE a RENAME name TO title",
    "ALTER TABLE a RENAME id TO number",
    "ALTER TABLE b RENAME y TO z; ALTER TABLE b RENAME TO bb",
    "DROP INDEX a_name",
]


@pytest.mark.parametrize("script", RENAMES)
def test_the_application_writes_on_after_a_change_and_is_noted(tmp_path: Path, script: str) -> None:
    path = made(tmp_path / "a.db", SCRIPT + "CREATE UNIQUE INDEX b_v ON b (v, x) WHERE y > 1;")
    install(path, "token")
    execute(path, script)
    a, b = ("d" if " d" in script else "a"), ("bb" if "bb" in script else "b")
    execute(
        path,
        f"""
        INSERT INTO {a} VALUES (1, 'N', 'e'); INSERT OR IGNORE INTO {a} VALUES (2, 'n', 'e'); UPDATE {a} SET email = 1;
        INSERT INTO {b} VALUES ('x', 2, 3); REPLACE INTO {b} VALUES ('x', 4, 3); DELETE FROM {b}""",
    )
    with closing(open_read_only(path)) as connection:
        noted = outbox.pending(connection, 0, 99)
    assert noted[1] >= 2
    assert noted[2] == 4


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_other_encodings_are_captured(tmp_path: Path, encoding: str) -> None:
    path = made(tmp_path / "a.db", f'PRAGMA encoding=\'{encoding}\'; CREATE TABLE "ä日" ("ö😀" PRIMARY KEY, v UNIQUE);')
    capture = install(path, "token")
    execute(path, "INSERT INTO ä日 VALUES ('é😀', 1); REPLACE INTO ä日 VALUES ('b', 1)")
    with closing(open_read_only(path)) as connection:
        entries = outbox.touched(connection, capture.table("ä日"), 0, 99)
    assert {entry.key for entry in entries} == {("é😀",), ("b",)}
    assert seen(path, capture) == ()


# ---------------------------------------------------------------- with other programs


def hold(path: Path, held: threading.Event, seconds: float) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO c VALUES ('held')")
        held.set()
        time.sleep(seconds)
        connection.execute("COMMIT")


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_installing_waits_for_a_writer(tmp_path: Path, mode: str) -> None:
    path = made(tmp_path / "a.db", f"PRAGMA journal_mode={mode};" + SCRIPT)
    held = threading.Event()
    writer = threading.Thread(target=hold, args=(path, held, 0.5))
    writer.start()
    held.wait()
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        # A connection that knows the old schema writes on, and is captured.
        reader.execute("SELECT count(*) FROM c").fetchone()
        capture = install(path, "token")
        writer.join()
        reader.execute("INSERT INTO c VALUES ('later')")
    with closing(open_read_only(path)) as connection:
        assert outbox.pending(connection, 0, 9) == {capture.table("c").number: 1}
        assert connection.execute("SELECT count(*) FROM c WHERE v = 'held'").fetchone() == (1,)


def test_a_locked_file_is_transient_and_left_as_it_was(tmp_path: Path) -> None:
    path = made(tmp_path / "a.db")
    held = threading.Event()
    writer = threading.Thread(target=hold, args=(path, held, 0.6))
    writer.start()
    held.wait()
    with pytest.raises(Transient, match="locked"), write_transaction(path, busy_seconds=0.1):
        pass
    writer.join()
    assert not [row for row in schema(path) if str(row[1]).startswith(PREFIX)]


def test_a_reader_that_stays_is_not_waited_for_forever(tmp_path: Path) -> None:
    path = made(tmp_path / "a.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM c").fetchone()
        with pytest.raises(Transient, match="locked"), write_transaction(path, busy_seconds=0.1) as connection:
            connection.execute("DELETE FROM c")
        reader.execute("COMMIT")
    with closing(open_read_only(path)) as connection:
        assert connection.execute("SELECT count(*) FROM c").fetchone() == (2,)


def write_much(path: Path, who: int, rows: int) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        for number in range(rows):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("REPLACE INTO a (id, name) VALUES (?, ?)", (who * 1000 + number, f"n{number % 7}"))
            connection.execute("UPDATE a SET email = 'e' WHERE id % 5 = ?", (number % 5,))
            connection.execute("DELETE FROM a WHERE id = ?", (who * 1000 + number - 4,))
            connection.execute("COMMIT" if number % 6 else "ROLLBACK")


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_several_processes_write_and_a_replica_follows(tmp_path: Path, mode: str) -> None:
    path = made(tmp_path / "a.db", f"PRAGMA journal_mode={mode};" + SCRIPT)
    capture = install(path, "token")
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_much, args=(path, who, 60)) for who in range(3)]
    for writer in writers:
        writer.start()
    replica: dict[int, tuple[object, ...]] = {}
    position = 0
    busy = True
    while busy:
        busy = any(writer.is_alive() for writer in writers)
        position = follow(path, capture, replica, position)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    with closing(open_read_only(path)) as connection:
        rows = connection.execute("SELECT rowid, * FROM a").fetchall()
    assert rows
    assert replica == {row[0]: row for row in rows}


def follow(path: Path, capture: Capture, replica: dict[int, tuple[object, ...]], position: int) -> int:
    """Carry the touched rows of table a into the replica, as of one moment."""
    with closing(open_read_only(path, busy_seconds=60)) as connection:
        connection.execute("BEGIN")
        upto = outbox.last_id(connection)
        for entry in outbox.touched(connection, capture.table("a"), position, upto):
            assert entry.rowid is not None
            replica.pop(entry.rowid, None)
            row = connection.execute("SELECT rowid, * FROM a WHERE rowid = ?", (entry.rowid,)).fetchone()
            if row:
                replica[entry.rowid] = row
        return upto
