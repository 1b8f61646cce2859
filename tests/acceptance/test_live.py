"""The whole life of a live move, under an application that writes all along; compared by an independent comparison."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from pgferry.postgres import embedded
from tests.acceptance.workload import Workload, equal
from tests.acceptance.workload_schema import POSTGRES, create_sqlite, misshapen
from tests.live import LiveMove


async def prepared(folder: Path, url: URL) -> LiveMove:
    """Make the application's file, and its empty schema in PostgreSQL."""
    create_sqlite(folder / "app.db")
    made = LiveMove(url, folder / "app.db", folder / "home", chunk_rows=100)
    async with made.session() as server:
        for statement in POSTGRES:
            await server.execute(statement)
    made.write_environment()
    return made


@pytest.fixture
async def move(tmp_path: Path, database_url: URL) -> LiveMove:
    """The application's move, not begun."""
    return await prepared(tmp_path, database_url)


@pytest.fixture
def load(tmp_path: Path, move: LiveMove) -> Iterator[Workload]:
    """The application, writing."""
    with Workload(tmp_path / "load", move.env_file, seed=11) as running:
        running.start()
        yield running


async def standing(load: Workload, move: LiveMove) -> list[str]:
    """Return what is wrong while nobody writes: errors, lost writes, differences. The application goes on then."""
    load.pause()
    await move.sync()
    found = [*load.errors, *load.lost(move.source), *load.lost_in(move.url), *equal(move.source, move.url)]
    load.resume()
    return found


async def test_dual_write_follows_an_application_that_never_stops(load: Workload, move: LiveMove) -> None:
    await asyncio.to_thread(load.run_until, 100)
    await move.dual_write()
    for _ in range(3):
        await asyncio.to_thread(load.run_until, 150)
        assert await standing(load, move) == []


async def test_the_whole_life(load: Workload, move: LiveMove) -> None:
    await move.dual_write()
    for _ in range(3):
        await asyncio.to_thread(load.run_until, 60)
        assert (await move.validate()).passed
    taken = await move.switch()
    load.restart()
    await asyncio.to_thread(load.run_until, 100)
    assert (await move.validate()).passed
    assert await standing_back(load, move) == []
    await move.roll_back()
    load.restart()
    await asyncio.to_thread(load.run_until, 150)
    assert await standing(load, move) == []
    await move.switch()
    load.restart()
    await asyncio.to_thread(load.run_until, 100)
    assert await standing_back(load, move) == []
    load.pause()
    cleaned = await move.clean_up()
    assert [*load.errors, *load.lost_in(move.url), *equal(move.source, move.url)] == []
    assert cleaned.removed
    assert taken.seconds < 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_twenty_validations_each_way_tell_no_false_difference(load: Workload, move: LiveMove) -> None:
    await move.dual_write()
    for _ in range(20):
        await asyncio.to_thread(load.run_until, 40)
        validation = await move.validate()
        assert validation.passed, validation
    await move.switch()
    load.restart()
    for _ in range(20):
        await asyncio.to_thread(load.run_until, 40)
        validation = await move.validate()
        assert validation.passed, validation


async def test_the_server_may_die_under_it(tmp_path: Path) -> None:
    home = tmp_path / "server"
    home.mkdir()
    tmp_path.chmod(0o755)
    server = embedded.start(home)
    try:
        url = await embedded.create_database(server, "app")
        move = await prepared(tmp_path, url)
        with Workload(tmp_path / "load", move.env_file, seed=31, rate=150) as load:
            load.start()
            await move.dual_write()
            stop = asyncio.Event()
            following = asyncio.create_task(move.follow(stop))
            for _ in range(2):
                await asyncio.to_thread(load.run_until, 60)
                os.kill(server.pid, signal.SIGKILL)
                await asyncio.to_thread(load.run_until, 40)
                server = await asyncio.to_thread(embedded.start, home)
            await asyncio.to_thread(load.run_until, 60)
            stop.set()
            await following
            assert (await move.validate()).passed
            assert await standing(load, move) == []
    finally:
        embedded.stop(home)


async def standing_back(load: Workload, move: LiveMove) -> list[str]:
    """Do the same as `standing` while PostgreSQL is in front; what is in SQLite is as the application writes it."""
    load.pause()
    await move.sync_back()
    found = [*load.errors, *load.lost(move.source), *load.lost_in(move.url), *equal(move.source, move.url)]
    found += misshapen(move.source)
    load.resume()
    return found
