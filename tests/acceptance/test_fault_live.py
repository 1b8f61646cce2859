"""The server dies in the midst of a sync, a validation, a switch and a rollback, while the application writes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgferry.errors import is_transient
from pgferry.live.model import Phase
from pgferry.live.phases import current
from pgferry.postgres.embedded import create_database
from pgferry.postgres.journal import live_run
from tests.acceptance.workload import Workload, equal
from tests.acceptance.workload_schema import POSTGRES, create_sqlite, misshapen
from tests.live import LiveMove
from tests.proxy import Proxy, simple
from tests.servers import Crashing, crashing_server


@pytest.fixture(scope="module")
def crashing() -> Iterator[Crashing]:
    with crashing_server({}) as server:
        yield server


@pytest.fixture
def proxy(crashing: Crashing) -> Iterator[Proxy]:
    with Proxy(asyncio.run(create_database(crashing.server, "live"))) as opened:
        yield opened


async def phase(move: LiveMove) -> Phase:
    async with move.session() as server:
        return (await current(server, (await live_run(server, str(move.source))).id)).phase


async def dies_in(
    crashing: Crashing, proxy: Proxy, word: bytes | re.Pattern[bytes], work: Callable[[], Awaitable[Any]]
) -> None:
    """Let the server die when these words have been sent, and start it again; the work must have failed by it."""
    before = crashing.crashes
    proxy.when(word, lambda link: crashing.crash())
    with pytest.raises(Exception) as caught:
        await work()
    assert crashing.crashes == before + 1
    assert is_transient(caught.value), repr(caught.value)
    await asyncio.to_thread(crashing.start)


async def wrong(load: Workload, move: LiveMove) -> list[str]:
    """Return what is wrong while nobody writes; the application goes on then."""
    await asyncio.to_thread(load.run_until, 20)
    load.pause()
    await (move.sync() if await phase(move) is Phase.DUAL_WRITE else move.sync_back())
    found = [*load.errors, *load.lost(move.source), *load.lost_in(move.url), *equal(move.source, move.url)]
    load.resume()
    return [*found, *misshapen(move.source)]


async def turns(move: LiveMove, load: Workload, to: Phase) -> None:
    """Undo what was left half-way, and change sides."""
    returned = await move.recover()
    if returned is not None and returned.turned:
        load.restart()
    if await phase(move) is not to:
        if to is Phase.SWITCHED:
            await move.switch(load.restart)
        else:
            await move.roll_back()
    load.restart()


async def test_a_server_that_dies_in_any_step_of_a_live_move(crashing: Crashing, proxy: Proxy, tmp_path: Path) -> None:
    create_sqlite(tmp_path / "app.db")
    move = LiveMove(proxy.url, tmp_path / "app.db", tmp_path / "home", chunk_rows=100)
    async with move.session() as server:
        for statement in POSTGRES:
            await server.execute(statement)
    move.write_environment()
    with Workload(tmp_path / "load", move.env_file, seed=41, rate=40, slow=True) as load:
        load.start()
        await move.dual_write()

        await asyncio.to_thread(load.run_until, 20)
        await dies_in(crashing, proxy, b"UPDATE pgferry.position", move.sync)
        assert await wrong(load, move) == []

        await dies_in(crashing, proxy, b"pg_export_snapshot", move.validate)
        assert (await move.validate()).passed

        for word in (b"INSERT INTO pgferry.phase", simple(b'ALTER TABLE "public"')):
            await dies_in(crashing, proxy, word, lambda: move.switch(load.restart))
            assert await phase(move) in (Phase.DUAL_WRITE, Phase.SWITCHING)
        await turns(move, load, Phase.SWITCHED)
        assert await wrong(load, move) == []

        await asyncio.to_thread(load.run_until, 20)
        await dies_in(crashing, proxy, b"COPY (", move.sync_back)
        assert await wrong(load, move) == []
        assert (await move.validate()).passed

        await dies_in(crashing, proxy, b"INSERT INTO pgferry.phase", move.roll_back)
        await turns(move, load, Phase.DUAL_WRITE)
        assert await wrong(load, move) == []
        assert (await move.validate()).passed
