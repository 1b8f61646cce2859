"""The snapshot: an immutable copy of the source, of one moment, checked, and kept as the user's backup."""

from __future__ import annotations

import hashlib
import math
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from pgferry.disk import sync
from pgferry.errors import Permanent, Transient
from pgferry.model import Snapshot
from pgferry.private import make_folder
from pgferry.sqlite.collations import stand_in_orders
from pgferry.sqlite.connect import explain, flush_log, open_read_only
from pgferry.sqlite.orphans import foreign_key_violations

STEP_PAGES = 8192
"""Pages that one step of a backup copies while the source is in rollback-journal mode; between steps writers get in."""

LOCK_SECONDS = 10.0
"""How long a backup waits for a source that another program has locked."""

FLUSH_SECONDS = 0.2
"""How often what a backup has written is put on the disk while it goes on."""

RESTARTS = 3
"""How often a backup may begin anew because the source was written to, before it is taken in one step."""

# What SQLite's checks say of values and index entries. The tables themselves can be read, so their rows move;
# the move's own rules then judge each value. Anything else means that the file's structure is broken. Of CHECK
# constraints nothing is ever said: SQLite does not even parse them in a file that is open for reading only.
_CONTENT_COMPLAINTS = (
    "NULL value in",
    "NUMERIC value in",
    "TEXT value in",
    "non-INT value in",
    "non-BLOB value in",
    "non-TEXT value in",
    "non-unique entry in index",
    "missing from index",
    "values differ from index",
    "wrong # of entries in index",
)


_MOST_COMPLAINTS = 1_000_000


class _Restarted(Exception):
    """The source was written to during a stepwise backup, which begins anew."""


@dataclass(frozen=True, slots=True)
class SnapshotCheck:
    """What SQLite's own checks say of a snapshot whose structure is sound."""

    complaints: tuple[str, ...]
    """Values or index entries that break the source's own rules."""
    foreign_key_violations: int
    unchecked: tuple[str, ...] = ()
    """Indexes whose order could not be checked: it is of a collation that only the application has."""


def take(source: Path, folder: Path, progress: Callable[[int, int], None] | None = None) -> Snapshot:
    """Copy the source, as of one moment, to a new read-only file in `folder`, and return what it is.

    The source is opened read-only and may be written to meanwhile: in WAL mode writers do not wait at all, else a step
    at a time, and at the worst for the time of one copy. Atomic: the file appears whole, synced to disk, or not at all.
    It bears the time at which the source was last written. `progress(remaining, total)` is told in pages. Raises
    UsageError for a file that is no database, Transient when the source stays locked, Permanent when it is damaged or
    the disk is full.
    """
    make_folder(folder)
    taken_at = datetime.now(UTC)
    final = folder / f"{source.stem}-{taken_at:%Y%m%dT%H%M%S.%fZ}.db"
    part = final.with_suffix(".part")
    written = _last_write(source)
    try:
        with closing(open_read_only(source)) as reader:
            _copy(reader, part, progress)
        # What is moved from here on the source may lose no more, when the power fails: the sync goes on from there.
        flush_log(source)
        sha256, size = _synced_digest(part)
        if written is not None:
            os.utime(part, ns=(written, written))
        part.chmod(0o400)
        part.replace(final)
        sync(folder)
    except sqlite3.Error as error:
        raise (_no_room(source, final, error) if _is_of_the_copy(error) else explain(error, source)) from error
    except OSError as error:
        raise _no_room(source, final, error.strerror or error) from error
    finally:
        part.unlink(missing_ok=True)
    return Snapshot(str(final), sha256, size, str(source), taken_at)


def _is_of_the_copy(error: sqlite3.Error) -> bool:
    # The source is only read: what cannot be written is the copy.
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_FULL or code in (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC)


def _no_room(source: Path, copy: Path, reason: object) -> Permanent:
    return Permanent(
        f"The backup of {source} to {copy} failed: {reason}.", "Make room or choose another folder with PGFERRY_HOME."
    )


def check(snapshot: Snapshot, *, indexes: bool = False) -> SnapshotCheck:
    """Run `quick_check` and `foreign_key_check` on the snapshot; reads only.

    With `indexes` it is `integrity_check`, which looks each row up in each index, too, and takes five times as long.
    Raises Permanent with SQLite's first words when the structure is damaged.
    """
    path = Path(snapshot.path)
    try:
        with closing(open_read_only(path, immutable=True)) as connection:
            # Looking rows up in indexes reads pages over and over with the default cache of 2 MB.
            connection.execute("PRAGMA cache_size = -32768")
            unknown, _ = stand_in_orders(connection)
            complaints = complaints_of(connection, "integrity_check" if indexes else "quick_check")
            broken = [text for text in complaints if not any(known in text for known in _CONTENT_COMPLAINTS)]
            if broken:
                raise Permanent(
                    f"{snapshot.source} is damaged: {broken[0]}.",
                    "Recover it first with the sqlite3 shell: `.recover`, then move the recovered file.",
                )
            return SnapshotCheck(complaints, foreign_key_violations(connection), tuple(sorted(unknown)))
    except sqlite3.Error as error:
        raise explain(error, Path(snapshot.source)) from error


def complaints_of(connection: sqlite3.Connection, pragma: str, most: int = 100) -> tuple[str, ...]:
    """Return what `quick_check` or `integrity_check` says, but of the order of a collation that only stands in.

    It ends at `most` complaints, unless the order of such an index alone may bring as many.
    """
    unknown, tables = stand_in_orders(connection)
    query = f"PRAGMA {pragma}({_MOST_COMPLAINTS if unknown else most})"
    found = [str(row[0]) for row in connection.execute(query) if row[0] != "ok"]
    return tuple(text for text in found if not _is_of_stand_in(text, unknown, tables))


def _is_of_stand_in(complaint: str, indexes: Collection[str], tables: Collection[str]) -> bool:
    """Whether a complaint says only that an index, or a WITHOUT ROWID table, has another order than the stand-in's."""
    start, _, name = complaint.partition(" index ")
    if start.endswith("missing from") or start == "non-unique entry in":
        return name in indexes
    start, _, name = complaint.partition("not in PRIMARY KEY order for ")
    return name in tables


def confirm(snapshot: Snapshot) -> None:
    """Make sure that the snapshot's file is the one that was taken; raises Permanent when it is gone or altered."""
    path = Path(snapshot.path)
    if not path.is_file():
        raise Permanent(
            f"The snapshot {path} of this unfinished run is gone.", "Begin anew with --restart, or put it back."
        )
    if digest(path)[0] != snapshot.sha256:
        raise Permanent(
            f"The snapshot {path} is not what was taken (its SHA-256 differs).", "Begin anew with --restart."
        )


def digest(path: Path) -> tuple[str, int]:
    """Return the SHA-256 and the size in bytes of a file."""
    with path.open("rb") as file:
        hashed = hashlib.file_digest(file, "sha256")
        return hashed.hexdigest(), file.tell()


def written_since(snapshot: Snapshot) -> bool:
    """Say whether the source (or its WAL) was written to after the snapshot was taken; False when it is gone."""
    now, then = _last_write(Path(snapshot.source)), _written_then(snapshot)
    return now is not None and now != then


def still_current(snapshot: Snapshot) -> bool:
    """Say whether the snapshot is there and nothing at all was done to the source (or its WAL) since it was taken."""
    changed = max((status.st_ctime for status in _source_files(Path(snapshot.source))), default=math.inf)
    there = Path(snapshot.path).is_file()
    return there and not written_since(snapshot) and changed <= snapshot.taken_at.timestamp()


def _last_write(source: Path) -> int | None:
    return max((status.st_mtime_ns for status in _source_files(source)), default=None)


def _written_then(snapshot: Snapshot) -> int:
    # The snapshot bears the time of its source, so that a clock that is set back hides no write.
    try:
        return Path(snapshot.path).stat().st_mtime_ns
    except OSError:
        return round(snapshot.taken_at.timestamp() * 1e9)


def _source_files(source: Path) -> list[os.stat_result]:
    # An empty WAL is what a reader leaves.
    found = [path.stat() for path in (source, source.with_name(source.name + "-wal")) if path.exists()]
    return [status for status in found if status.st_size or len(found) == 1]


def _copy(reader: sqlite3.Connection, part: Path, progress: Callable[[int, int], None] | None) -> None:
    if _is_wal(reader):
        _copy_pages(reader, part, -1, progress)
        return
    try:
        _copy_pages(reader, part, STEP_PAGES, progress)
    except _Restarted:
        part.unlink(missing_ok=True)
        _copy_pages(reader, part, -1, progress)


def _copy_pages(
    reader: sqlite3.Connection, part: Path, pages: int, progress: Callable[[int, int], None] | None
) -> None:
    watch = _BackupWatch(progress)
    part.touch(mode=0o600)
    with _flushed_meanwhile(part), closing(sqlite3.connect(part, isolation_level=None)) as copy:
        # Without a journal and without a sync at each step: the one fsync at the end is what counts. 3 times faster.
        copy.execute("PRAGMA journal_mode = off")
        copy.execute("PRAGMA synchronous = off")
        reader.backup(copy, pages=pages, progress=watch, sleep=0.05)


@contextmanager
def _flushed_meanwhile(path: Path) -> Iterator[None]:
    """Put on the disk what the block writes to a file, as it writes: a sync afterwards then has little left to do.

    Raises OSError for what could not be written: whoever opens the file later is not told of it any more.
    """
    handle, ended = os.open(path, os.O_RDONLY), Event()

    def flush() -> None:
        while not ended.wait(FLUSH_SECONDS):
            os.fsync(handle)

    try:
        with ThreadPoolExecutor(1) as beside:
            flushed = beside.submit(flush)
            try:
                yield
            finally:
                ended.set()
            flushed.result()
    finally:
        os.close(handle)


def _synced_digest(path: Path) -> tuple[str, int]:
    """Wait until a file is on the disk, and return its digest, reckoned meanwhile."""
    with ThreadPoolExecutor(1) as beside:
        synced = beside.submit(sync, path)
        found = digest(path)
        synced.result()
    return found


class _BackupWatch:
    def __init__(self, progress: Callable[[int, int], None] | None) -> None:
        self._progress = progress
        self._remaining: int | None = None
        self._restarts = 0
        self._busy_until = time.monotonic() + LOCK_SECONDS

    def __call__(self, status: int, remaining: int, total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            # Python's backup() tries again for ever when the source is locked.
            if time.monotonic() > self._busy_until:
                raise Transient(
                    f"The source is locked by another program for over {LOCK_SECONDS:.0f} s.",
                    "Close the transaction that holds it (or the program), then run this again.",
                )
            return
        self._busy_until = time.monotonic() + LOCK_SECONDS
        if self._remaining is not None and remaining > self._remaining:
            self._restarts += 1
            if self._restarts >= RESTARTS:
                raise _Restarted
        self._remaining = remaining
        if self._progress is not None:
            self._progress(remaining, total)


def _is_wal(connection: sqlite3.Connection) -> bool:
    return str(connection.execute("PRAGMA journal_mode").fetchone()[0]).lower() == "wal"
