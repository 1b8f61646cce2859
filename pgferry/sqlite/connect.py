"""Opens SQLite files, nearly always read-only, and turns SQLite's errors into sentences."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path

import aiosqlite

from pgferry.disk import sync
from pgferry.errors import FerryError, Permanent, Transient, UsageError, is_transient
from pgferry.model import UndecodableText
from pgferry.sqlite.collations import add_stand_ins

_OLDEST_SQLITE = (3, 37)  # `pragma table_list`


def open_read_only(
    path: Path, *, immutable: bool = False, busy_seconds: float = 5.0, stand_ins: bool | None = None
) -> sqlite3.Connection:
    """Open a SQLite file for reading; nothing is ever written to it.

    SQLite may leave an empty `-wal` and a `-shm` file beside a file in WAL mode, as any reader of it does.
    Text that is no valid UTF-8 comes as `UndecodableText`. The connection is in autocommit mode and may be handed
    from thread to thread, one at a time.
    `immutable` promises that nobody writes the file (a snapshot): no locks,
    and no `-shm` file beside it. An empty file is an empty database.
    `stand_ins` (by default for a snapshot) makes text of an application's own collation readable: see `collations`.
    Raises UsageError when the file is missing or no database, Transient when it is locked for more than
    `busy_seconds`, Permanent for anything else.
    """
    _check_library()
    _check_path(path)
    connection = _connect(path, "?mode=ro" + ("&immutable=1" if immutable else ""), busy_seconds)
    try:
        _read_schema(connection)
        connection.execute("BEGIN")
        _check_size(connection, path)
        connection.execute("COMMIT")
        if immutable if stand_ins is None else stand_ins:
            add_stand_ins(connection)
    except sqlite3.Error as error:
        problem = _explain_opening(connection, error, path)
        connection.close()
        raise problem from error
    except FerryError:
        connection.close()
        raise
    return connection


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Hold a connection to a snapshot; SQLite's errors inside the block become pgferry's own."""
    with closing(open_read_only(path, immutable=True)) as connection:
        try:
            yield connection
        except sqlite3.Error as error:
            raise explain(error, path) from error


@asynccontextmanager
async def control(path: Path) -> AsyncIterator[aiosqlite.Connection]:
    """Hold a connection to a snapshot, made as `open_read_only` makes it, for queries beside those of a server.

    SQLite's errors inside the block become pgferry's own.
    """
    try:
        async with aiosqlite.Connection(lambda: open_read_only(path, immutable=True), 64) as connection:
            yield connection
    except sqlite3.Error as error:
        raise explain(error, path) from error


def open_writable(path: Path, *, busy_seconds: float = 30.0) -> sqlite3.Connection:
    """Open an existing SQLite file for reading and writing; the connection is in autocommit mode.

    Text comes as by `open_read_only`; a statement waits up to `busy_seconds` for another program's lock.
    Raises as `open_read_only`, and Permanent when the file or its folder may not be written.
    """
    _check_library()
    _check_path(path)
    connection = _connect(path, "?mode=rw", busy_seconds)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error as error:
        problem = _explain_opening(connection, error, path)
        connection.close()
        raise problem from error
    return connection


@contextmanager
def write_transaction(path: Path, *, busy_seconds: float = 30.0) -> Iterator[sqlite3.Connection]:
    """Hold one write transaction: committed when the block ends, rolled back on any exception.

    It waits up to `busy_seconds` for other writers. Foreign keys are not enforced in it, and no action of one fires.
    SQLite's errors inside the block become pgferry's own: Transient when the file stays locked, Permanent otherwise.
    """
    with closing(open_writable(path, busy_seconds=busy_seconds)) as connection:
        try:
            connection.execute("PRAGMA foreign_keys=OFF")
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise explain_write(error, path) from error
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def flush_log(path: Path) -> None:
    """Make what is committed in a file in WAL mode safe from a power loss; returns when its disk has it.

    With synchronous=NORMAL SQLite leaves that to the next checkpoint, and loses its last commits when the power fails
    (https://www.sqlite.org/pragma.html#pragma_synchronous). In the other journal modes a commit waits by itself.
    """
    # Never the file itself: closing any handle of it would drop the locks that SQLite has on it in this process
    # (https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
    with suppress(FileNotFoundError):
        for place in (path.with_name(path.name + "-wal"), path.parent):
            sync(place)


def decode_text(raw: bytes) -> str | UndecodableText:
    """Decode a TEXT value, exactly or not at all; made for `text_factory`."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return UndecodableText(raw)


def explain(error: sqlite3.Error, path: Path) -> FerryError:
    """Return the sentence for a SQLite error met while `path` was read: Transient when it is locked."""
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if is_transient(error):
        return Transient(f"{path} is locked by another process ({error}).", "Try again when its writer is idle.")
    if primary == sqlite3.SQLITE_NOTADB:
        return _no_database(path)
    if primary == sqlite3.SQLITE_CORRUPT:
        return Permanent(
            f"{path} is damaged: {error}.", "Restore it from a backup, or rebuild it with `sqlite3 FILE .recover`."
        )
    if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return Permanent(
            f"{path} cannot be opened: {error}.",
            "Check the permissions of the file and its folder; an unfinished -journal or -wal file beside it must "
            "first be recovered by opening the database once with its application.",
        )
    return Permanent(f"{path} cannot be read: {error}.", "Check the file with `pragma integrity_check`.")


def explain_write(error: sqlite3.Error, path: Path) -> FerryError:
    """Return the sentence for a SQLite error met while `path` was written: Transient when it is locked."""
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return Permanent(f"{path} cannot be written: {error}.", "Check the space and the health of its disk.")
    if primary in (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_INTERNAL):
        return Permanent(f"{path} refuses a write: {error}.", "Check the object that the message names.")
    return explain(error, path)


def _check_library() -> None:
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise Permanent(
            f"This Python has SQLite {sqlite3.sqlite_version}; 3.37 or newer is needed.", "Use a newer Python."
        )


def _check_path(path: Path) -> None:
    # Never by opening the file: to close any handle of it drops the locks that SQLite has on it in this process
    # (https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
    try:
        is_directory = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {path}.", "Check the path of the source.") from error
    except PermissionError as error:
        raise _no_permission(path) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be opened: {error}.", "Check the path of the source.") from error
    if is_directory:
        raise UsageError(f"{path} is a directory, not a SQLite file.", "Name the database file in it.")
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise _no_permission(path)


def _no_permission(path: Path) -> Permanent:
    return Permanent(f"{path} may not be read by this user.", "Give this user permission to read it.")


def _explain_opening(connection: sqlite3.Connection, error: sqlite3.Error, path: Path) -> FerryError:
    """Return the sentence for an error met before anything was read: a file that is cut short is told from others."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT and _is_cut_short(connection, path):
        return _truncated(path, "fewer than its header says")
    return explain(error, path)


def _is_cut_short(connection: sqlite3.Connection, path: Path) -> bool:
    try:
        # It reads the header alone, and SQLite holds only that against the file's size.
        connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error:
        return True
    return bool(path.stat().st_size % connection.execute("PRAGMA page_size").fetchone()[0])


def _check_size(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a file of a few bytes, which is an empty database to SQLite, and one that lacks a part of its last page.

    To be called within a transaction, in which the file's size stays what it is.
    """
    pages, page = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    size = path.stat().st_size
    if size and not pages:
        raise _no_database(path)
    if size < pages * page and not _has_log(path):
        raise _truncated(path, f"of {pages * page:,}")


def _truncated(path: Path, than: str) -> Permanent:
    return Permanent(
        f"{path} is truncated: it has {path.stat().st_size:,} bytes, {than}.", "Copy it again, or restore a backup."
    )


def _has_log(path: Path) -> bool:
    # What is committed there is not in the file yet.
    logs = (path.with_name(path.name + suffix) for suffix in ("-wal", "-journal"))
    return any(log.exists() and log.stat().st_size for log in logs)


def _connect(path: Path, options: str, busy_seconds: float) -> sqlite3.Connection:
    uri = path.absolute().as_uri() + options
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise explain(error, path) from error
    connection.text_factory = decode_text
    return connection


def _read_schema(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.DatabaseError as error:
        if "malformed database schema" not in str(error):
            raise
        # One entry that does not parse makes the whole file unreadable; with this flag SQLite skips that entry.
        # The file is open read-only, so nothing can be written.
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()


def _no_database(path: Path) -> UsageError:
    return UsageError(
        f"{path} is no SQLite database, or is encrypted.", "Name a SQLite 3 file; decrypt an encrypted one first."
    )
