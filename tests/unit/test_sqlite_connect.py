"""SQLite files are opened read-only, whatever their path, and each problem has its sentence."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pgferry.errors import FerryError, Permanent, Transient, UsageError
from pgferry.model import UndecodableText
from pgferry.sqlite.connect import decode_text, explain, flush_log, open_read_only, open_writable


def make(path: Path, script: str = "CREATE TABLE t (a); INSERT INTO t VALUES (1);") -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return path


@pytest.mark.parametrize("name", ["plain.db", "a?b#c%20.db", "ä 日本.db", "x&mode=rwc.db", "%41.db", "a'b\"c.db"])
def test_any_path_opens(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / "made.db").rename(tmp_path / name)
    for immutable in (False, True):
        with closing(open_read_only(path, immutable=immutable)) as connection:
            assert connection.execute("SELECT a FROM t").fetchall() == [(1,)]
    assert [found.name for found in tmp_path.iterdir()] == [name]


def test_relative_path_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "made.db")
    monkeypatch.chdir(tmp_path)
    with closing(open_read_only(Path("made.db"))) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_nothing_can_be_written(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db")
    with closing(open_read_only(path)) as connection, pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("INSERT INTO t VALUES (2)")


def test_undecodable_text_is_kept(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db", "CREATE TABLE t (a TEXT); INSERT INTO t VALUES (CAST(x'ff41' AS TEXT)), ('é');")
    with closing(open_read_only(path)) as connection:
        assert connection.execute("SELECT a FROM t").fetchall() == [(UndecodableText(b"\xffA"),), ("é",)]
    assert decode_text(b"\xc3") == UndecodableText(b"\xc3")


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_utf16_files_are_read(tmp_path: Path, encoding: str) -> None:
    script = f"PRAGMA encoding='{encoding}'; CREATE TABLE t (a); INSERT INTO t VALUES ('é😀');"
    with closing(open_read_only(make(tmp_path / "a.db", script))) as connection:
        assert connection.execute("SELECT a FROM t").fetchall() == [("é😀",)]


def test_an_empty_file_is_an_empty_database(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    with closing(open_read_only(path)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)
    assert path.stat().st_size == 0


def failure(path: Path, kind: type[FerryError], **options: float) -> str:
    with pytest.raises(kind) as caught:
        open_read_only(path, **options)  # type: ignore[arg-type]
    assert caught.value.action
    assert str(path) in caught.value.message
    return caught.value.message


def test_missing_file(tmp_path: Path) -> None:
    assert "There is no file" in failure(tmp_path / "none.db", UsageError)
    assert list(tmp_path.iterdir()) == []


def test_directory(tmp_path: Path) -> None:
    assert "is a directory" in failure(tmp_path, UsageError)


@pytest.mark.parametrize("content", [b"x", b"not a database at all" * 99, os.urandom(4096)])
def test_not_a_database_or_encrypted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(content)
    assert "is no SQLite database, or is encrypted" in failure(path, UsageError)


@pytest.mark.parametrize("keep", [50, 3000, 4096])
def test_truncated(tmp_path: Path, keep: int) -> None:
    path = make(tmp_path / "a.db", "CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(50000));")
    path.write_bytes(path.read_bytes()[:keep])
    assert "is truncated" in failure(path, Permanent)


def test_damaged_pages(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db")
    content = bytearray(path.read_bytes())
    content[100:200] = b"\xff" * 100
    path.write_bytes(content)
    assert "is damaged" in failure(path, Permanent)


def test_locked(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        assert "is locked" in failure(path, Transient, busy_seconds=0.05)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db")
    path.chmod(0)
    assert "may not be read" in failure(path, Permanent)


def test_a_malformed_entry_does_not_hide_the_others(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db", "CREATE TABLE t (a); INSERT INTO t VALUES (1); CREATE TABLE u (b);")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_schema SET sql = 'CREATE TABLE u (((' WHERE name = 'u'")
        connection.commit()
    with closing(open_read_only(path)) as connection:
        assert connection.execute("SELECT a FROM t").fetchall() == [(1,)]


def test_errors_while_reading_are_explained(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db")
    with closing(open_read_only(path)) as connection, pytest.raises(sqlite3.Error) as caught:
        connection.execute("SELECT nothing_there FROM t")
    assert "cannot be read" in explain(caught.value, path).message


def test_the_log_is_flushed_and_the_file_itself_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To close another handle of the file would drop the locks that SQLite has on it in this process."""
    path = make(tmp_path / "app.db")
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(str(Path(f"/proc/self/fd/{handle}").readlink())))
    flush_log(path)
    assert flushed == [], "a commit waits for the disk by itself where there is no log"
    with closing(sqlite3.connect(path, isolation_level=None)) as application:
        application.execute("PRAGMA journal_mode = wal")
        application.execute("INSERT INTO t VALUES (2)")
        flush_log(path)
    assert flushed == [f"{path}-wal", str(tmp_path)]


@pytest.mark.parametrize("opening", [open_read_only, open_writable])
def test_to_open_a_file_drops_no_lock_that_this_process_has_on_it(
    tmp_path: Path, opening: Callable[[Path], sqlite3.Connection]
) -> None:
    path = make(tmp_path / "a.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        opening(path).close()
        tried = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
        done = subprocess.run([sys.executable, "-c", tried, path], capture_output=True, text=True, check=False)
        assert "database is locked" in done.stderr
