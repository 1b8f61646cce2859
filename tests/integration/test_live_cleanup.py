"""The cleanup: the archive first, the SQLite file fenced all along, and finished wherever it was cut off."""

from __future__ import annotations

import gzip
import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.live import cleanup
from pgferry.live.cleanup import Cleaned, finish, planned
from pgferry.live.model import Phase
from pgferry.live.phases import current
from pgferry.postgres.journal import read_recorded_capture
from pgferry.postgres.ledger import find_run
from pgferry.sqlite.capture import own_objects
from tests.live import LiveMove

Server = asyncpg.Connection

SOURCE = """
CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE notes (body TEXT);
INSERT INTO items VALUES (1, 'a'), (2, 'b');
INSERT INTO notes VALUES ('x'), ('x');
"""
TARGET = "CREATE TABLE items (id bigint PRIMARY KEY, name text NOT NULL); CREATE TABLE notes (body text)"


@pytest.fixture
async def move(tmp_path: Path, database_url: URL, connection: Server) -> LiveMove:
    """An application that PostgreSQL is in front of."""
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as made:
        made.execute("PRAGMA journal_mode = wal")
        made.executescript(SOURCE)
    await connection.execute(TARGET)
    found = LiveMove(database_url, path, tmp_path / "home")
    await found.dual_write()
    await found.switch()
    await connection.execute("INSERT INTO items VALUES (3, 'last')")
    return found


async def assert_clean(move: LiveMove, connection: Server, done: Cleaned) -> None:
    """See that nothing is left but the fence, and that the archive is whole and without it."""
    objects = "SELECT count(*) FROM pg_class WHERE relname ~ '^(outbox|rowid)_[0-9]' OR relname LIKE '%_pgferry_%'"
    assert await connection.fetchval(objects) == 0
    assert await connection.fetchval("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%pgferry%'") == 0
    assert await connection.fetchval("SELECT count(*) FROM pg_attribute WHERE attname = '_pgferry_rowid'") == 0
    run = await find_run(connection, str(move.source))
    assert run is not None
    assert (await current(connection, run.id)).phase is Phase.CLEANED
    assert await read_recorded_capture(connection, run.id) is None
    assert move.source.stat().st_mode & 0o222 == 0
    with closing(sqlite3.connect(move.source)) as opened:
        assert all(name.startswith("_pgferry_fence") for name in own_objects(opened))
    (packed,) = (move.home / "archive").iterdir()
    data = gzip.decompress(packed.read_bytes())
    assert (done.archive.path, done.archive.sha256) == (str(packed), hashlib.sha256(data).hexdigest())
    plain = move.home / "unpacked.db"
    plain.write_bytes(data)
    with closing(sqlite3.connect(plain)) as opened:
        assert own_objects(opened) == ()
        assert opened.execute("SELECT name FROM items ORDER BY id").fetchall() == [("a",), ("b",), ("last",)]


async def finished(move: LiveMove) -> Cleaned:
    """Finish what was cut off, as the command does."""
    async with move.session() as server:
        run = await find_run(server, str(move.source))
        assert run is not None
        return await finish(server, run, move.settings)


async def test_a_process_that_still_has_the_file_open_can_never_write(
    move: LiveMove, connection: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = cleanup.archived, []
    with closing(sqlite3.connect(move.source, isolation_level=None, check_same_thread=False)) as stale:
        stale.execute("SELECT * FROM items").fetchall()

        def archived(path: Path, folder: Path) -> cleanup.Archive:
            made = real(path, folder)
            with pytest.raises(sqlite3.IntegrityError, match="moved to PostgreSQL"):
                stale.execute("INSERT INTO items VALUES (9, 'stale')")
            refused.append(path)
            return made

        with monkeypatch.context() as patch:
            patch.setattr(cleanup, "archived", archived)
            done = await move.clean_up()
        assert refused == [move.source]
        with pytest.raises(sqlite3.Error):
            stale.execute("INSERT INTO items VALUES (9, 'stale')")
    await assert_clean(move, connection, done)


CUT_OFF = {
    "in the archive": (cleanup.snapshots, "check"),
    "behind the archive": (cleanup.target_capture, "remove"),
    "in PostgreSQL": (cleanup.target_fence, "unfence"),
    "at the hidden columns": (cleanup, "_drop_hidden"),
    "at the SQLite file": (cleanup.captures, "remove"),
    "at the record": (cleanup, "forget_live"),
}


@pytest.mark.parametrize("schema", ["as it was", "altered"])
@pytest.mark.parametrize("step", CUT_OFF)
async def test_a_cleanup_that_was_cut_off_is_finished(
    move: LiveMove, connection: Server, step: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = CUT_OFF[step]
    real = getattr(module, name)

    def killed(*arguments: object, **named: object) -> object:
        if step == "at the SQLite file" and arguments != (move.source,):
            return real(*arguments, **named)
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(module, name, killed)
        with pytest.raises(RuntimeError, match="killed"):
            await move.clean_up()
    with closing(sqlite3.connect(move.source)) as opened, pytest.raises(sqlite3.IntegrityError, match="moved to Post"):
        opened.execute("DELETE FROM items")
    if schema == "altered":
        await connection.execute("ALTER TABLE items ADD COLUMN extra text; ALTER TABLE notes RENAME TO remarks")
    async with move.session() as server:
        run = await find_run(server, str(move.source))
        assert run is not None
        await planned(server, run, move.settings)
    await assert_clean(move, connection, await finished(move))
