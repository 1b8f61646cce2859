"""Both sides held still for as long as a flow's block lasts, while its tasks compare them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from threading import Thread
from typing import Any, TypeVar

from prefect import get_run_logger

from pgferry.errors import Transient
from pgferry.live.holding import Held, hold, swept
from pgferry.live.model import Live
from pgferry.postgres.connection import Connection
from pgferry.settings import load_settings
from tasks.ends import session, target_url

T = TypeVar("T")


@contextmanager
def holding(live: Live) -> Iterator[Held]:
    """Hold both sides at one moment; tasks see PostgreSQL's by `pgferry.live.holding.joined`.

    Raises Transient when the connection that holds was lost meanwhile: begin again.
    """
    with entered(_held(live)) as (held, holder):
        get_run_logger().info(
            "Both sides are held as of %s UTC, %s.", f"{held.moment:%Y-%m-%d %H:%M:%S}", held.direction
        )
        try:
            yield held
        except Exception as error:
            if holder.is_closed():
                raise Transient("The connection that held PostgreSQL still is lost.", "Run it again.") from error
            raise


@asynccontextmanager
async def _held(live: Live) -> AsyncIterator[tuple[Held, Connection]]:
    # In a thread: it may start the embedded server, with a loop of its own.
    url, settings = await asyncio.to_thread(target_url, live.target), load_settings()
    folder = settings.home.absolute() / "held"
    with swept(folder):
        async with (
            session(url, settings) as connection,
            session(url, settings) as holder,
            hold(connection, holder, live, folder) as held,
        ):
            yield held, holder


@contextmanager
def entered(manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Hold an async context manager open in a loop and a thread of its own, for the block."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="pgferry-holding", daemon=True)
    thread.start()

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    async def enter() -> T:
        return await manager.__aenter__()

    async def leave(error: BaseException | None) -> None:
        await manager.__aexit__(type(error) if error else None, error, error.__traceback__ if error else None)

    try:
        value: T = run(enter())
        try:
            yield value
        except BaseException as error:
            run(leave(error))
            raise
        run(leave(None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
