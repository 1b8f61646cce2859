"""How a live move begins and how it is left: one a database, and left whatever has happened to the schemas."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.errors import UsageError
from pgferry.live.begin import begin_capture
from pgferry.live.model import Phase
from pgferry.live.phases import current, enter
from pgferry.postgres.journal import forget_live, live_run
from pgferry.postgres.ledger import find_run
from pgferry.postgres.runs import open_run
from pgferry.settings import Rules
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


def make(path: Path) -> Path:
    """Make an application's SQLite file."""
    with closing(sqlite3.connect(path)) as made:
        made.execute("PRAGMA journal_mode = wal")
        made.executescript(SOURCE)
    return path


def run_sql(path: Path, script: str) -> None:
    """Run statements as the application does."""
    with closing(sqlite3.connect(path)) as opened:
        opened.executescript(script)


def ours(path: Path) -> tuple[str, ...]:
    """Return what pgferry has in the file."""
    with closing(sqlite3.connect(path)) as opened:
        return own_objects(opened)


@pytest.fixture
async def move(tmp_path: Path, database_url: URL, connection: Server) -> LiveMove:
    """An application in dual-write."""
    await connection.execute(TARGET)
    found = LiveMove(database_url, make(tmp_path / "first.db"), tmp_path / "home")
    await found.dual_write()
    return found


# ---------------------------------------------------------------- one a database


async def begin_another(move: LiveMove, source: Path) -> None:
    """Begin the live move of another file into the same database."""
    async with move.session() as server:
        await begin_capture(server, await open_run(server, source, Rules(), restart=False))


@pytest.mark.parametrize(
    ("on_the_way", "words"),
    [
        ((), r"first\.db .* phase dual-write since 2.* dual-write --undo --source .*first\.db"),
        ((Phase.LOADING,), r"phase loading .* dual-write --undo --source"),
        ((Phase.SWITCHING,), r"phase switching .* flows rollback.*--source .*first\.db"),
        ((Phase.SWITCHING, Phase.SWITCHED), r"phase switched .* flows cleanup --source .*first\.db"),
        ((Phase.SWITCHING, Phase.EMERGENCY), r"phase emergency .* rollback --carry.*--source"),
        ((Phase.SWITCHING, Phase.SWITCHED, Phase.CLEANED), r"phase cleaned .* flows cleanup --source .*first\.db"),
    ],
)
async def test_a_second_live_move_into_one_database_is_refused(
    move: LiveMove, tmp_path: Path, on_the_way: tuple[Phase, ...], words: str
) -> None:
    second = make(tmp_path / "second.db")
    async with move.session() as server:
        first = await live_run(server, None)
        for phase in on_the_way:
            await enter(server, first.id, phase)
        with pytest.raises(UsageError, match=words):
            await begin_another(move, second)
        assert ours(second) == ()
        run = await find_run(server, str(second))
        assert run is not None
        assert (await current(server, run.id)).phase is Phase.NONE


@pytest.mark.parametrize("ended_by", ["undo", "cleanup", "restart"])
async def test_a_live_move_that_has_ended_is_no_obstacle(move: LiveMove, tmp_path: Path, ended_by: str) -> None:
    second = make(tmp_path / "second.db")
    async with move.session() as server:
        first = await live_run(server, None)
        if ended_by == "undo":
            await enter(server, first.id, Phase.NONE)
        elif ended_by == "cleanup":
            for phase in (Phase.SWITCHING, Phase.SWITCHED, Phase.CLEANED):
                await enter(server, first.id, phase)
            async with server.transaction():
                await forget_live(server, first.id)
        else:
            await server.execute("UPDATE pgferry.run SET status = 'restarted' WHERE id = $1", first.id)
        await begin_another(move, second)
    assert ours(second)


async def test_the_move_that_is_under_way_goes_on(move: LiveMove) -> None:
    await begin_another(move, move.source)
