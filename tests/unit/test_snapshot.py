"""The snapshot: of one moment, whole or absent, checked, and never a change to the source."""

from __future__ import annotations

import errno
import hashlib
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from pgferry.errors import Permanent, Transient, UsageError
from pgferry.plan.plan import make_plan
from pgferry.sqlite import snapshot as snapshots
from pgferry.sqlite.snapshot import check, confirm, take, written_since


def _make(path: Path, *, wal: bool = False, rows: int = 1000) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        if wal:
            connection.execute("PRAGMA journal_mode = wal")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO t (a) VALUES (?)", (("x" * 200,) for _ in range(rows)))
        connection.execute("COMMIT")


def _count(path: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM t").fetchone()[0])


@pytest.mark.parametrize("wal", [False, True])
def test_a_snapshot_is_a_whole_read_only_copy_and_the_source_stays_as_it_was(tmp_path: Path, wal: bool) -> None:
    source = tmp_path / "app.db"
    _make(source, wal=wal)
    before = source.read_bytes()

    snapshot = take(source, tmp_path / "backups")

    path = Path(snapshot.path)
    assert source.read_bytes() == before
    assert hashlib.sha256(path.read_bytes()).hexdigest() == snapshot.sha256
    assert path.stat().st_size == snapshot.bytes
    assert path.stat().st_mode & 0o777 == 0o400
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    assert check(snapshot).complaints == ()
    assert not written_since(snapshot)
    confirm(snapshot)


def test_a_wal_that_is_not_checkpointed_is_in_the_snapshot(tmp_path: Path) -> None:
    source = tmp_path / "app.db"
    _make(source, wal=True)
    with closing(sqlite3.connect(source, isolation_level=None)) as writer:
        writer.execute("INSERT INTO t (a) VALUES ('only in the wal')")
        snapshot = take(source, tmp_path / "backups")
        writer.execute("INSERT INTO t (a) VALUES ('after')")
        assert written_since(snapshot)
    with closing(sqlite3.connect(f"file:{snapshot.path}?mode=ro&immutable=1", uri=True)) as reader:
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (1001,)


def test_a_snapshot_under_steady_writes_ends_and_is_of_one_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "app.db"
    _make(source, rows=20_000)
    monkeypatch.setattr(snapshots, "STEP_PAGES", 16)
    stop = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(source, timeout=30, isolation_level=None)) as writer:
            while not stop.is_set():
                # Two rows in one transaction: a torn copy would hold an odd number.
                writer.execute("BEGIN IMMEDIATE")
                writer.execute("INSERT INTO t (a) VALUES ('one')")
                writer.execute("INSERT INTO t (a) VALUES ('two')")
                writer.execute("COMMIT")
                time.sleep(0.002)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        time.sleep(0.05)
        snapshot = take(source, tmp_path / "backups")
    finally:
        stop.set()
        writer.join()

    assert check(snapshot).complaints == ()
    assert _count(snapshot.path) % 2 == 0
    assert _count(snapshot.path) > 20_000


def test_a_source_that_stays_locked_is_transient_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "app.db"
    _make(source)
    monkeypatch.setattr(snapshots, "LOCK_SECONDS", 0.5)
    with closing(sqlite3.connect(source, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Transient, match="locked"):
            take(source, tmp_path / "backups")
        holder.execute("ROLLBACK")
    assert not list((tmp_path / "backups").glob("*"))


def test_damage_is_an_error_and_broken_values_are_complaints(tmp_path: Path) -> None:
    source = tmp_path / "app.db"
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE p (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, p INTEGER REFERENCES p)")
        connection.execute("INSERT INTO t (a, p) VALUES (NULL, 7), ('x', NULL)")
        connection.execute("PRAGMA writable_schema = on")
        connection.execute("UPDATE sqlite_schema SET sql = replace(sql, 'a TEXT', 'a TEXT NOT NULL') WHERE name = 't'")
    found = check(take(source, tmp_path / "backups"))
    assert found.complaints == ("NULL value in t.a",)
    assert found.foreign_key_violations == 1

    broken = tmp_path / "broken.db"
    _make(broken)
    data = bytearray(broken.read_bytes())
    data[3 * 4096 : 3 * 4096 + 200] = bytes(200)
    broken.write_bytes(data)
    with pytest.raises(Permanent, match=r"broken\.db is damaged"):
        check(take(broken, tmp_path / "backups"))


def test_indexes_are_looked_at_when_that_is_asked_for(tmp_path: Path) -> None:
    source = tmp_path / "app.db"
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
        connection.execute("INSERT INTO t (a) VALUES ('x'), ('y')")
        connection.execute("CREATE INDEX by_a ON t (a)")
        connection.execute("PRAGMA writable_schema = on")
        connection.execute("UPDATE sqlite_schema SET sql = replace(sql, '(a)', '(a DESC)') WHERE name = 'by_a'")
    snapshot = take(source, tmp_path / "backups")
    assert check(snapshot).complaints == ()
    complaints = check(snapshot, indexes=True).complaints
    assert complaints
    assert all("by_a" in complaint for complaint in complaints)


def test_a_snapshot_that_is_gone_or_altered_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "app.db"
    _make(source)
    snapshot = take(source, tmp_path / "backups")
    path = Path(snapshot.path)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(Permanent, match="not what was taken"):
        confirm(snapshot)
    path.unlink()
    with pytest.raises(Permanent, match="is gone"):
        confirm(snapshot)


def test_a_missing_source_makes_no_folder_entries(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no file"):
        take(tmp_path / "nothing.db", tmp_path / "backups")
    assert not list((tmp_path / "backups").glob("*"))


def test_a_disk_that_fails_while_the_copy_is_written_leaves_no_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The disk's error is told once: to who writes out meanwhile, and not to the sync at the end.
    _make(tmp_path / "source.db")
    told: list[int] = []

    def fail_once(handle: int) -> None:
        told.append(handle)
        if len(told) == 1:
            raise OSError(errno.EIO, "Input/output error")

    def copy_slowly(*_: object) -> None:
        time.sleep(10 * snapshots.FLUSH_SECONDS)

    monkeypatch.setattr(snapshots.os, "fsync", fail_once)
    monkeypatch.setattr(snapshots, "FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(snapshots, "_BackupWatch", lambda progress: copy_slowly)
    with pytest.raises(Permanent, match="Input/output error"):
        take(tmp_path / "source.db", tmp_path / "backups")
    assert told
    assert not list((tmp_path / "backups").glob("*"))


@pytest.mark.parametrize("indexes", [False, True])
def test_an_index_in_an_order_of_the_application_s_own_is_not_called_damaged(tmp_path: Path, indexes: bool) -> None:
    source = tmp_path / "app.db"
    with closing(sqlite3.connect(source)) as connection:
        connection.create_collation("ICU", lambda a, b: (a < b) - (a > b))
        connection.executescript(
            """CREATE TABLE t (n TEXT COLLATE ICU UNIQUE, m TEXT COLLATE ICU, c INTEGER);
               CREATE INDEX by_m ON t (m);
               CREATE TABLE w (k TEXT COLLATE ICU PRIMARY KEY, v) WITHOUT ROWID; CREATE INDEX by_v ON w (v);"""
        )
        rows = [(str(n), str(n), n + 1) for n in range(300)]
        connection.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)
        connection.executemany("INSERT INTO w VALUES (?, ?)", [row[:2] for row in rows])
        connection.execute("UPDATE t SET c = NULL WHERE c = 300")
        connection.execute("PRAGMA writable_schema = on")
        sql = "UPDATE sqlite_schema SET sql = replace(sql, 'c INTEGER', 'c INTEGER NOT NULL') WHERE name = 't'"
        connection.execute(sql)
        connection.commit()
    found = check(take(source, tmp_path / "backups"), indexes=indexes)
    assert found.complaints == ("NULL value in t.c",)
    assert found.unchecked == ("by_m", "by_v", "sqlite_autoindex_t_1", "sqlite_autoindex_w_1")


def test_of_check_constraints_nothing_is_said(tmp_path: Path) -> None:
    """SQLite reads none of a file that is open for reading only; `plan` counts the rows that break one."""
    source = tmp_path / "app.db"
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (a INTEGER CHECK (a > 0))")
        connection.execute("PRAGMA ignore_check_constraints = on")
        connection.execute("INSERT INTO t VALUES (-1)")
        connection.execute("PRAGMA ignore_check_constraints = off")
        assert connection.execute("PRAGMA quick_check").fetchall() == [("CHECK constraint failed in t",)]
    snapshot = take(source, tmp_path / "backups")
    assert check(snapshot).complaints == check(snapshot, indexes=True).complaints == ()
    (left,) = make_plan(Path(snapshot.path)).not_carried
    assert (left.kind, left.reason) == ("check", "1 rows break it")
