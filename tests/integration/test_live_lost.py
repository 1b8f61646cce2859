"""A SQLite file that has lost writes which PostgreSQL has, as after an older backup was put back."""

from __future__ import annotations

import asyncio
import errno
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.errors import Permanent
from pgferry.live import forward, resume
from pgferry.live.changes import SchemaChanged
from pgferry.live.follow import follow
from pgferry.live.forward import sync_once
from pgferry.live.model import Live, Position, Synced
from pgferry.live.status import read_status
from pgferry.postgres import ledger
from pgferry.postgres.journal import live_run, read_position, set_position
from pgferry.sqlite.outbox import last_id, prune_before
from tests.acceptance.workload import equal
from tests.live import LiveMove

Server = asyncpg.Connection

SOURCE = """
CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE tags (word TEXT PRIMARY KEY, n INTEGER);
CREATE TABLE still (id INTEGER PRIMARY KEY);
INSERT INTO items VALUES (1, 'a'), (2, 'b');
INSERT INTO tags VALUES ('x', 1);
INSERT INTO still VALUES (7);
"""
TARGET = """
CREATE TABLE items (id bigint PRIMARY KEY, name text NOT NULL);
CREATE TABLE tags (word text PRIMARY KEY, n integer);
CREATE TABLE still (id bigint PRIMARY KEY);
"""


def insert(move: LiveMove, names: Sequence[str]) -> None:
    """Write rows as the application does, each in a transaction of its own; SQLite chooses the ids."""
    with closing(sqlite3.connect(move.source, isolation_level=None)) as opened:
        for name in names:
            opened.execute("INSERT INTO items (name) VALUES (?)", (name,))


def copies(path: Path, to: Path) -> None:
    """Copy a file as it lies on the disk, its log included."""
    for suffix in ("", "-wal"):
        there = path.with_name(path.name + suffix)
        if there.exists():
            shutil.copy(there, to.with_name(to.name + suffix))
        else:
            to.with_name(to.name + suffix).unlink(missing_ok=True)
    to.with_name(to.name + "-shm").unlink(missing_ok=True)


def newest(move: LiveMove) -> int:
    """Return the number of the newest entry of the outbox."""
    with closing(sqlite3.connect(move.source)) as opened:
        return last_id(opened)


@pytest.fixture
async def move(tmp_path: Path, database_url: URL, connection: Server) -> LiveMove:
    """An application in dual-write, with five entries that are carried."""
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as made:
        made.execute("PRAGMA journal_mode = wal")
        made.executescript(SOURCE)
    await connection.execute(TARGET)
    found = LiveMove(database_url, path, tmp_path / "home")
    await found.dual_write()
    insert(found, "cdefg")
    await found.sync()
    return found


async def lose(move: LiveMove, written_since: Sequence[str]) -> None:
    """Carry three more writes, let SQLite lose them, and write on by statements, each a transaction."""
    kept = move.source.with_name("kept.db")
    copies(move.source, kept)
    insert(move, ["lost 1", "lost 2", "lost 3"])
    await move.sync()
    copies(kept, move.source)
    with closing(sqlite3.connect(move.source, isolation_level=None)) as opened:
        for statement in written_since:
            opened.execute(statement)


ITEM = "INSERT INTO items (name) VALUES ('new')"
LATER = {
    "nothing": [],
    "as many, the last to another row": [ITEM, ITEM, "INSERT INTO tags VALUES ('y', 2)"],
    "more than were lost": ["INSERT INTO tags VALUES ('y', 2)", *[ITEM] * 10],
}


@pytest.mark.parametrize("written", LATER)
async def test_lost_writes_stop_the_sync_until_all_is_copied_again(move: LiveMove, written: str) -> None:
    await lose(move, LATER[written])
    before = newest(move)
    with pytest.raises(SchemaChanged, match=r"lost writes that PostgreSQL has.*flows dual-write --resume"):
        await move.sync()
    assert newest(move) == before
    with pytest.raises(Permanent, match="lost writes"):
        await move.validate()
    resumed = await move.resume()
    assert resumed.copied == ("items", "still", "tags")
    assert equal(move.source, move.url) == []
    insert(move, ["after"])
    await move.sync()
    assert equal(move.source, move.url) == []


async def test_a_resume_that_was_cut_off_still_copies_all(move: LiveMove) -> None:
    await lose(move, LATER["more than were lost"])
    async with move.session() as server:
        await resume.note_changes(server, await live_run(server, str(move.source)))
    assert (await move.resume()).copied == ("items", "still", "tags")
    assert equal(move.source, move.url) == []


async def test_a_change_of_the_schema_beside_it_is_told_too(move: LiveMove, connection: Server) -> None:
    async with move.session() as server:
        live = await move.live(server)
        await lose(move, LATER["more than were lost"])
        with closing(sqlite3.connect(move.source)) as opened:
            opened.executescript("CREATE TABLE more (id INTEGER PRIMARY KEY); INSERT INTO more VALUES (1)")
        with pytest.raises(SchemaChanged, match=r"lost writes.*'more' is new.*--resume"):
            await sync_once(server, live)
    await connection.execute("CREATE TABLE more (id bigint PRIMARY KEY)")
    assert (await move.resume()).copied == ("items", "more", "still", "tags")
    assert equal(move.source, move.url) == []


async def test_status_tells_of_it(move: LiveMove) -> None:
    await lose(move, LATER["as many, the last to another row"])
    async with move.session() as server:
        run = await live_run(server, None)
        status = await read_status(server, run, move.settings, move.rules)
    assert any("lost writes" in problem for problem in status.problems)


async def test_writes_lost_after_the_way_back_are_noticed(move: LiveMove, connection: Server) -> None:
    await move.switch()
    kept = move.source.with_name("kept.db")
    copies(move.source, kept)
    await connection.execute("INSERT INTO items VALUES (100, 'in front')")
    await move.roll_back()
    with closing(sqlite3.connect(kept)) as older:
        older.execute("UPDATE _pgferry_meta SET value = 'sqlite' WHERE name = 'front'")
        older.execute("UPDATE _pgferry_fence SET open = 1")
        older.execute("INSERT INTO items VALUES (101, 'another')")
        older.commit()
    copies(kept, move.source)
    with pytest.raises(SchemaChanged, match="lost writes"):
        await move.sync()


async def test_nothing_reaches_postgresql_before_the_log_is_on_the_disk(
    move: LiveMove, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power loss would take back in SQLite, with synchronous=NORMAL, what PostgreSQL has."""
    asked: list[Path] = []

    def flush(path: Path) -> None:
        asked.append(path)
        raise OSError(errno.EIO, "the disk")

    async with move.session() as server:
        run = (await live_run(server, None)).id
        before = await read_position(server, run)
        insert(move, ["later"])
        monkeypatch.setattr(forward, "flush_log", flush)
        with pytest.raises(OSError, match="the disk"):
            await move.sync()
        assert asked == [move.source]
        assert await read_position(server, run) == before
        assert await server.fetchval("SELECT count(*) FROM items WHERE name = 'later'") == 0
    monkeypatch.undo()
    await move.sync()
    assert equal(move.source, move.url) == []


async def test_the_entry_at_the_position_outlives_pruning(move: LiveMove) -> None:
    async with move.session() as server:
        position = await read_position(server, (await live_run(server, None)).id)
    assert position is not None
    insert(move, ["later"])
    prune_before(move.source, position.outbox_id)
    with closing(sqlite3.connect(move.source)) as opened:
        entries = [row[0] for row in opened.execute("SELECT id FROM _pgferry_outbox ORDER BY id")]
    assert entries == [position.outbox_id, position.outbox_id + 1]
    await move.sync()
    assert equal(move.source, move.url) == []


async def test_another_sync_that_was_quicker_is_no_loss(move: LiveMove, monkeypatch: pytest.MonkeyPatch) -> None:
    insert(move, ["one"])
    real, quicker = forward.read_position, [True]

    async def read(server: Server, run_id: int) -> Position | None:
        position = await real(server, run_id)
        if quicker:
            quicker.clear()
            await move.sync()
            insert(move, ["two"])
        return position

    monkeypatch.setattr(forward, "read_position", read)
    async with move.session() as server:
        await sync_once(server, await move.live(server))
    assert equal(move.source, move.url) == []


async def test_a_follower_goes_on_for_many_cycles(move: LiveMove, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgferry.live.follow.PRUNE_SECONDS", 0.0)
    stop, seen = asyncio.Event(), []

    async def back(server: Server) -> Synced:
        raise AssertionError

    async def write() -> None:
        for n in range(20):
            await asyncio.to_thread(insert, move, [f"followed {n}"])
            await asyncio.sleep(0.05)
        stop.set()

    async with move.session() as server:
        await asyncio.gather(follow(server, await move.live(server), back, seen.append, stop), write())
    assert len(seen) > 3
    await move.sync()
    assert equal(move.source, move.url) == []


# ---------------------------------------------------------------- moves that an earlier pgferry has begun


async def test_a_move_of_an_earlier_version_goes_on(move: LiveMove, connection: Server) -> None:
    """Its ledger has no marks, and its entry at the position may be pruned."""
    await connection.execute("ALTER TABLE pgferry.position DROP COLUMN mark")
    await connection.execute("DELETE FROM pgferry.schema_version WHERE version > 4")
    insert(move, ["later"])
    with closing(sqlite3.connect(move.source)) as opened:
        opened.execute("DELETE FROM _pgferry_outbox WHERE id < (SELECT max(id) FROM _pgferry_outbox)")
        opened.commit()
    assert (await _status_problems(move, connection)) == ()
    await move.sync()
    assert equal(move.source, move.url) == []
    assert await connection.fetchval("SELECT max(version) FROM pgferry.schema_version") == ledger.VERSION
    kept = move.source.with_name("kept.db")
    copies(move.source, kept)
    insert(move, ["lost"])
    await move.sync()
    copies(kept, move.source)
    with closing(sqlite3.connect(move.source)) as opened:
        opened.execute("DELETE FROM tags")
        opened.commit()
    with pytest.raises(SchemaChanged, match="lost writes"):
        await move.sync()


async def _status_problems(move: LiveMove, connection: Server) -> tuple[str, ...]:
    run = await ledger.find_run(connection, str(move.source))
    assert run is not None
    return (await read_status(connection, run, move.settings, move.rules)).problems


async def test_a_mark_of_another_entry_says_nothing(move: LiveMove, connection: Server) -> None:
    """A sync of an earlier version, still at work, moves the position on and leaves the mark."""
    insert(move, ["later"])
    async with move.session() as server:
        live: Live = await move.live(server)
        position = await read_position(server, live.run_id)
        assert position is not None
        async with server.transaction():
            await set_position(server, live.run_id, position.outbox_id - 1, position.moment, position.mark)
    await move.sync()
    assert equal(move.source, move.url) == []
