"""The fence holds against every way to write, lets readers be, and lets pgferry alone pass."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from pgferry.errors import Permanent
from pgferry.live.model import Capture
from pgferry.sqlite import outbox
from pgferry.sqlite.capture import changes, install, remove
from pgferry.sqlite.connect import open_read_only
from pgferry.sqlite.fence import fence, is_fenced, unfence, writing

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
CREATE TABLE alembic_version (n);
CREATE TABLE a (id INTEGER PRIMARY KEY, v UNIQUE, up REFERENCES a ON DELETE CASCADE);
CREATE TABLE b (k TEXT PRIMARY KEY, n INT DEFAULT 0) WITHOUT ROWID;
CREATE TABLE log (what);
CREATE TRIGGER noted AFTER INSERT ON a BEGIN INSERT INTO log VALUES (NEW.v); END;
CREATE TRIGGER never BEFORE DELETE ON b BEGIN SELECT RAISE(ABORT, 'not here'); END;
CREATE VIEW w AS SELECT v FROM a;
CREATE TRIGGER through INSTEAD OF INSERT ON w BEGIN INSERT INTO a (v) VALUES (NEW.v); END;
INSERT INTO a VALUES (1, 'x', NULL), (2, 'y', 1); INSERT INTO b VALUES ('k', 1);
"""
MESSAGE = "the application moves; it's back in a minute"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "a.db"
    execute(file, SCRIPT)
    return file


@pytest.fixture
def capture(path: Path) -> Capture:
    return install(path, "token")


def execute(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(script)


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(open_read_only(path)) as connection:
        return connection.execute(sql).fetchall()


def content(path: Path) -> list[list[tuple[object, ...]]]:
    return [rows(path, f"SELECT * FROM {table}") for table in ("a", "b", "log", "_pgferry_outbox")]


def schema(path: Path) -> set[tuple[object, ...]]:
    return set(rows(path, "SELECT type, name, tbl_name, sql FROM sqlite_schema"))


WRITES = [
    "INSERT INTO a (v) VALUES (3)",
    "INSERT OR IGNORE INTO a (v) VALUES ('x')",
    "INSERT OR IGNORE INTO a (v) VALUES (9)",
    "INSERT OR REPLACE INTO a (id, v) VALUES (1, 'z')",
    "INSERT OR FAIL INTO a (v) VALUES (9)",
    "REPLACE INTO b VALUES ('k', 2)",
    "INSERT INTO b VALUES ('k', 2) ON CONFLICT DO NOTHING",
    "INSERT INTO b VALUES ('k', 2) ON CONFLICT (k) DO UPDATE SET n = 7",
    "UPDATE a SET v = 1 WHERE id = 1",
    "UPDATE OR IGNORE a SET v = 'y' WHERE id = 1",
    "UPDATE OR REPLACE a SET v = 'y' WHERE id = 1",
    "UPDATE OR ROLLBACK a SET id = 5 WHERE id = 2",
    "DELETE FROM a",
    "DELETE FROM a WHERE id = 1",
    "DELETE FROM a WHERE id = 1 RETURNING *",
    "INSERT INTO w VALUES (5)",
    "INSERT INTO log SELECT 1",
]


@pytest.mark.parametrize("recursive", [0, 1])
@pytest.mark.parametrize("write", WRITES)
def test_no_write_gets_past_it(path: Path, capture: Capture, write: str, recursive: int) -> None:
    fence(path, MESSAGE)
    before = content(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA recursive_triggers={recursive}")
        with pytest.raises(sqlite3.IntegrityError) as caught:
            connection.execute(write).fetchall()
    assert str(caught.value) == f"pgferry: {MESSAGE}"
    assert content(path) == before
    unfence(path)
    execute(path, "INSERT INTO a (v) VALUES (3)")
    assert rows(path, "SELECT v FROM a WHERE v = 3") == [(3,)]


def test_readers_and_alembic_are_let_be(path: Path, capture: Capture) -> None:
    fence(path, MESSAGE)
    assert rows(path, "SELECT v FROM w") == [("x",), ("y",)]
    execute(path, "INSERT INTO alembic_version VALUES (1); UPDATE a SET v = 1 WHERE id = 99")
    assert rows(path, "SELECT n FROM alembic_version") == [(1,)]


def test_it_is_put_up_and_taken_down_any_number_of_times(path: Path, capture: Capture) -> None:
    before = schema(path)
    unfence(path)
    fence(path, "one")
    fence(path, "two")
    with closing(open_read_only(path)) as connection:
        assert is_fenced(connection)
        assert changes(connection, capture) == ()
    with pytest.raises(sqlite3.IntegrityError, match="pgferry: two"):
        execute(path, "DELETE FROM a")
    unfence(path)
    unfence(path)
    assert schema(path) == before
    with closing(open_read_only(path)) as connection:
        assert not is_fenced(connection)


def test_a_file_that_is_not_captured_is_not_fenced(path: Path) -> None:
    with pytest.raises(Permanent, match="is not captured"):
        fence(path, MESSAGE)
    unfence(path)


def test_removal_of_the_capture_takes_the_fence_down(path: Path) -> None:
    before = schema(path)
    install(path, "token")
    fence(path, MESSAGE)
    assert "_pgferry_fence" in remove(path)
    assert schema(path) == before


def test_a_transaction_that_was_open_before_is_waited_for(path: Path, capture: Capture) -> None:
    opened, done = threading.Event(), threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO a (v) VALUES ('before')")
            opened.set()
            done.wait(0.3)
            connection.execute("COMMIT")

    writer = threading.Thread(target=write)
    writer.start()
    opened.wait()
    fence(path, MESSAGE)
    writer.join()
    assert rows(path, "SELECT count(*) FROM a WHERE v = 'before'") == [(1,)]


# ---------------------------------------------------------------- passing it


@pytest.mark.parametrize("fenced", [True, False])
def test_pgferry_passes_and_only_writes_what_it_writes(path: Path, capture: Capture, fenced: bool) -> None:
    if fenced:
        fence(path, MESSAGE)
    before = schema(path)
    with writing(path) as connection:
        connection.execute("DELETE FROM b")
        connection.execute("INSERT INTO a (id, v, up) VALUES (7, 'seven', 99)")
        connection.execute("DELETE FROM a WHERE id = 1")
    assert rows(path, "SELECT * FROM a") == [(2, "y", 1), (7, "seven", 99)]
    assert rows(path, "SELECT * FROM b UNION ALL SELECT *, 1 FROM log") == [("x", 1), ("y", 1)]
    assert schema(path) == before
    with closing(open_read_only(path)) as connection:
        assert is_fenced(connection) == fenced
        assert outbox.pending(connection, 0, 99) == {1: 2, 2: 1}
        assert changes(connection, capture) == ()


def test_an_exception_rolls_everything_back(path: Path, capture: Capture) -> None:
    fence(path, MESSAGE)
    before = content(path), schema(path)
    with pytest.raises(ZeroDivisionError), writing(path) as connection:
        connection.execute("DELETE FROM a")
        raise ZeroDivisionError
    with pytest.raises(Permanent, match=r"refuses a write: UNIQUE constraint failed: a.v"), writing(path) as connection:
        connection.execute("UPDATE a SET v = 'x'")
    assert (content(path), schema(path)) == before
    with pytest.raises(sqlite3.IntegrityError, match="pgferry:"):
        execute(path, "DELETE FROM b")


def test_a_trigger_that_skips_rows_stays_behind_ours(path: Path, capture: Capture) -> None:
    execute(path, "DROP TRIGGER noted; CREATE TRIGGER skip AFTER INSERT ON b BEGIN SELECT RAISE(IGNORE); END")
    known = install(path, "token")
    with writing(path) as connection:
        connection.execute("DELETE FROM log")
    execute(path, "INSERT INTO b VALUES ('new', 1)")
    with closing(open_read_only(path)) as connection:
        assert changes(connection, known) == ()
        assert outbox.pending(connection, 0, 99) == {2: 1, 3: 2}


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_no_one_else_writes_while_it_is_open(path: Path, capture: Capture, mode: str) -> None:
    execute(path, f"PRAGMA journal_mode={mode}")
    fence(path, MESSAGE)
    stop, passed, refused = threading.Event(), [], []

    def write() -> None:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
            while not stop.is_set():
                try:
                    connection.execute("INSERT INTO log VALUES ('passed')")
                    passed.append(1)
                except sqlite3.IntegrityError as error:
                    refused.append(str(error))

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    for number in range(25):
        with writing(path) as connection:
            connection.execute("INSERT INTO b VALUES (?, ?)", (f"n{number}", number))
    stop.set()
    for writer in writers:
        writer.join()
    assert passed == []
    assert set(refused) == {f"pgferry: {MESSAGE}"}
    assert rows(path, "SELECT count(*) FROM b WHERE k LIKE 'n%'") == [(25,)]


def test_a_killed_writer_leaves_it_closed(path: Path, capture: Capture) -> None:
    execute(path, "PRAGMA journal_mode=wal")
    fence(path, MESSAGE)
    before = content(path), schema(path)
    code = f"""
import time
from pathlib import Path
from pgferry.sqlite.fence import writing
with writing(Path({str(path)!r})) as connection:
    connection.execute("DELETE FROM a")
    print("open", flush=True)
    time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "open\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert (content(path), schema(path)) == before
    with pytest.raises(sqlite3.IntegrityError, match="pgferry:"):
        execute(path, "DELETE FROM b")
    with writing(path) as connection:
        connection.execute("DELETE FROM b")
    assert rows(path, "SELECT * FROM b") == []
