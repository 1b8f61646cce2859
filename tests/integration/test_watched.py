"""A call on a connection that passes nothing on ends within a time that is set; a slow statement does not."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from pgferry.errors import is_transient
from pgferry.postgres.connection import Connection, connect
from pgferry.postgres.watched import Stalled, WatchedConnection
from tests.proxy import Link, Proxy

SOON = 0.3
"""Seconds without a byte until the server is asked."""

PATIENCE = 300.0


@pytest.fixture
def proxy(database_url: URL) -> Iterator[Proxy]:
    with Proxy(database_url) as opened:
        yield opened


@asynccontextmanager
async def watched(url: URL, timeout: float = 15.0) -> AsyncIterator[Connection]:
    opened = await connect(url, stall_timeout=SOON, timeout=timeout)
    try:
        yield opened
    finally:
        opened.terminate()


async def lines(count: int = 4000) -> AsyncIterator[bytes]:
    """Yield more than sockets and buffers hold."""
    for _ in range(count):
        yield (b"x" * 8000 + b"\n") * 4


async def test_an_answer_that_never_comes_ends_the_call(proxy: Proxy) -> None:
    async with watched(proxy.url) as opened:
        proxy.when(b"SELECT 17", Link.stall)
        with pytest.raises(Stalled, match=r"nothing has passed for 0.3 seconds: .* waits for this side, ") as caught:
            await asyncio.wait_for(opened.fetchval("SELECT 17"), PATIENCE)
        assert is_transient(caught.value)
        assert "PGFERRY_STALL_TIMEOUT" in str(caught.value)
        assert opened.is_closed()
        with pytest.raises(Stalled):
            await opened.execute("ROLLBACK")


async def test_nor_does_a_copy_wait_for_ever_for_room(proxy: Proxy) -> None:
    async with watched(proxy.url) as opened:
        await opened.execute("CREATE TABLE t (a text)")
        proxy.when(b'COPY "t"', Link.stall, after=3_000_000)
        with pytest.raises(Stalled, match="waits for this side, active with ClientRead"):
            await asyncio.wait_for(opened.copy_to_table("t", source=lines(), format="text"), PATIENCE)


async def test_nor_does_a_copy_out_of_the_server(proxy: Proxy, tmp_path: Path) -> None:
    async with watched(proxy.url) as opened:
        proxy.when(b"COPY (", lambda link: link.stall(answers_only=True))
        query = "SELECT repeat('x', 8000) FROM generate_series(1, 4000)"
        with pytest.raises(Stalled, match="active with ClientWrite"):
            await asyncio.wait_for(opened.copy_from_query(query, output=tmp_path / "rows"), PATIENCE)


async def test_a_server_that_answers_no_new_connection_either_is_given_up(proxy: Proxy) -> None:
    async with watched(proxy.url, timeout=0.5) as opened:
        proxy.when(b"SELECT 17", lambda link: proxy.stall(new=True))
        with pytest.raises(Stalled, match="did not answer in time"):
            await asyncio.wait_for(opened.fetchval("SELECT 17"), PATIENCE)


async def test_a_statement_that_is_being_prepared_is_watched(proxy: Proxy) -> None:
    async with watched(proxy.url) as opened:
        proxy.when(b"SELECT 17", Link.stall)
        with pytest.raises(Stalled):
            await asyncio.wait_for(opened.prepare("SELECT 17"), PATIENCE)


@pytest.mark.parametrize(
    "call",
    [
        lambda statement: statement.fetch(1),
        lambda statement: statement.fetchval(1),
        lambda statement: statement.fetchrow(1),
        lambda statement: statement.fetchmany([(1,)]),
        lambda statement: statement.executemany([(1,)]),
    ],
    ids=["fetch", "fetchval", "fetchrow", "fetchmany", "executemany"],
)
async def test_a_prepared_statement_is_watched(call: Callable[[Any], Awaitable[Any]], proxy: Proxy) -> None:
    async with watched(proxy.url) as opened:
        statement = await opened.prepare("SELECT 17 + $1::int")
        await call(statement)
        proxy.stall()
        with pytest.raises(Stalled):
            await asyncio.wait_for(call(statement), PATIENCE)


NUMBERS = "SELECT number FROM generate_series(1, 300) number"


@pytest.mark.parametrize(
    "call",
    [lambda cursor: cursor.fetch(10), lambda cursor: cursor.fetchrow(), lambda cursor: cursor.forward(10)],
    ids=["fetch", "fetchrow", "forward"],
)
async def test_a_cursor_is_watched(call: Callable[[Any], Awaitable[Any]], proxy: Proxy) -> None:
    async with watched(proxy.url) as opened:
        await opened.execute("BEGIN")
        cursor = await (await opened.prepare(NUMBERS)).cursor()
        assert len(await cursor.fetch(10)) == 10
        await call(cursor)
        proxy.stall()
        with pytest.raises(Stalled):
            await asyncio.wait_for(call(cursor), PATIENCE)


async def test_so_are_a_cursor_that_opens_and_one_that_is_iterated(proxy: Proxy) -> None:
    async def count(opened: Connection, stalls_at: int) -> int:
        seen = 0
        async for _ in (await opened.prepare(NUMBERS)).cursor():
            seen += 1
            if seen == stalls_at:
                proxy.stall()
        return seen

    async with watched(proxy.url) as opened:
        await opened.execute("BEGIN")
        assert await count(opened, 0) == 300
        with pytest.raises(Stalled):
            await asyncio.wait_for(count(opened, 120), PATIENCE)
    proxy.resume()
    async with watched(proxy.url) as opened:
        await opened.execute("BEGIN")
        statement = await opened.prepare(NUMBERS)
        proxy.stall()
        with pytest.raises(Stalled):
            await asyncio.wait_for(statement.cursor(), PATIENCE)


async def test_so_is_what_sqlalchemy_sends(proxy: Proxy) -> None:
    creator = functools.partial(connect, proxy.url, stall_timeout=SOON)
    engine = create_async_engine("postgresql+asyncpg://", async_creator=creator, poolclass=NullPool)
    for asked in ("SELECT 17", "SELECT 18 WHERE 1 = :one"):
        async with engine.connect() as opened:
            proxy.when(asked[:9].encode(), Link.stall)
            with pytest.raises(Stalled):
                await asyncio.wait_for(opened.execute(text(asked), {"one": 1} if "one" in asked else {}), PATIENCE)


async def test_a_statement_that_takes_its_time_is_left_alone(proxy: Proxy, connection: Connection) -> None:
    async with watched(proxy.url) as opened:
        assert await opened.fetchval("SELECT 17 FROM pg_sleep($1)", 5 * SOON) == 17
        async with connection.transaction():
            # Waiting for a lock is work, too.
            await connection.execute("SELECT pg_advisory_xact_lock(5)")
            waiting = asyncio.create_task(opened.execute("SELECT pg_advisory_xact_lock(5)"))
            await asyncio.sleep(5 * SOON)
        await asyncio.wait_for(waiting, PATIENCE)
        assert await opened.fetchval("SELECT 18") == 18


async def test_a_connection_that_nobody_waits_on_is_left_alone(proxy: Proxy) -> None:
    async with watched(proxy.url) as opened, opened.transaction():
        await asyncio.sleep(5 * SOON)
        assert await opened.fetchval("SELECT 18") == 18


@pytest.mark.parametrize("held_back", [False, True], ids=["cut", "cut while it waits for room"])
async def test_a_copy_whose_connection_is_cut_ends(held_back: bool, proxy: Proxy) -> None:
    def cut(link: Link) -> None:
        if held_back:
            link.stall()
            asyncio.run(asyncio.sleep(0.5))
        link.cut()

    opened = await connect(proxy.url, stall_timeout=0)
    await opened.execute("CREATE TABLE t (a text)")
    proxy.when(b'COPY "t"', cut, after=3_000_000)
    with pytest.raises((asyncpg.ConnectionDoesNotExistError, ConnectionError)) as caught:
        await asyncio.wait_for(opened.copy_to_table("t", source=lines(), format="text"), PATIENCE)
    assert is_transient(caught.value)
    assert opened.is_closed()


async def test_the_bytes_that_pass_are_counted(database_url: URL) -> None:
    opened = await connect(database_url)
    assert isinstance(opened, WatchedConnection)
    before = opened.passed()
    await opened.fetchval("SELECT repeat('x', 1000)")
    after = opened.passed()
    assert before is not None
    assert after is not None
    assert after[0] > before[0]
    assert after[1] >= before[1] + 1000
    await opened.close()
