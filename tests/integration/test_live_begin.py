"""How a live move begins and how it is left: one a database, and left whatever has happened to the schemas."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.errors import UsageError
from pgferry.live import begin
from pgferry.live.begin import begin_capture
from pgferry.live.changes import SchemaChanged
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


# ---------------------------------------------------------------- the way out

DISAGREE = {
    "an altered table": "ALTER TABLE items ADD COLUMN extra TEXT",
    "a new table": "CREATE TABLE more (id INTEGER PRIMARY KEY)",
    "a dropped table": "DROP TABLE notes",
    "a renamed table": "ALTER TABLE items RENAME TO things",
    "renumbered rows": "DELETE FROM notes WHERE rowid = 1; VACUUM",
    "a trigger that is gone": "DROP TRIGGER _pgferry_1_insert",
}


async def undo(move: LiveMove) -> None:
    """Leave dual-write."""
    async with move.session() as server:
        await begin.undo(server, await live_run(server, str(move.source)))


async def assert_left(move: LiveMove, connection: Server) -> None:
    """See that nothing of the move is left but its record, and that a new one can begin."""
    assert ours(move.source) == ()
    assert await connection.fetchval("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%pgferry%'") == 0
    assert await connection.fetchval("SELECT to_regprocedure('pgferry.fence()')") is None
    await connection.execute("DELETE FROM items")
    run = await find_run(connection, str(move.source))
    assert run is not None
    assert (await current(connection, run.id)).phase is Phase.NONE


@pytest.mark.parametrize("name", DISAGREE)
async def test_dual_write_is_left_whatever_happened_to_the_schema(
    move: LiveMove, connection: Server, name: str
) -> None:
    run_sql(move.source, DISAGREE[name])
    with pytest.raises(SchemaChanged):
        await move.sync()
    await undo(move)
    await assert_left(move, connection)


async def test_dual_write_is_left_when_another_file_stands_there(move: LiveMove, connection: Server) -> None:
    for suffix in ("", "-wal", "-shm"):
        move.source.with_name(move.source.name + suffix).unlink(missing_ok=True)
    make(move.source)
    with pytest.raises(SchemaChanged, match="dual-write --undo"):
        await move.sync()
    await undo(move)
    await assert_left(move, connection)


@pytest.mark.parametrize("step", ["source fence", "capture", "target fence", "within the target fence"])
async def test_an_undo_that_was_cut_off_is_finished_by_the_next(
    move: LiveMove, connection: Server, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sql(move.source, "ALTER TABLE items ADD COLUMN extra TEXT")
    module, name = {
        "source fence": (begin.source_fence, "unfence"),
        "capture": (begin.captures, "remove"),
        "target fence": (begin.target_fence, "unfence"),
        "within the target fence": (begin.target_fence, "_unfence"),
    }[step]
    real = getattr(module, name)

    def killed(*arguments: object) -> object:
        done = real(*arguments)
        if not step.endswith("target fence"):
            raise KeyboardInterrupt

        async def work() -> None:
            await done
            raise KeyboardInterrupt

        return work()

    with monkeypatch.context() as patch:
        patch.setattr(module, name, killed)
        with pytest.raises(KeyboardInterrupt):
            await undo(move)
    await undo(move)
    await assert_left(move, connection)
