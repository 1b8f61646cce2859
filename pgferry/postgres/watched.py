"""A connection that ends when nothing passes on it any more, and never waits for ever.

A proxy or a firewall may keep a connection open and pass nothing on; keepalives are answered, and nothing fails. A long
index build is just as silent. So silence alone decides nothing: after a while of it the server is asked, on another
connection, whether the session works or waits for us.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import asyncpg

from pgferry.errors import Transient
from pgferry.postgres.watched_statement import WatchedStatement

if TYPE_CHECKING:
    _Base = asyncpg.Connection[asyncpg.Record]
else:
    _Base = asyncpg.Connection


class Elsewhere(Protocol):
    """Another way to the server, by which a session can be looked at and ended."""

    async def ask(self) -> str | None:
        """Say what is wrong with the session as the server sees it; None when it works, or nothing can be said."""
        ...

    async def end(self) -> None:
        """End the session if that can be done: nobody else will, and what it has locked stays locked. Never raises."""
        ...


_T = TypeVar("_T")

# linux/tcp.h, struct tcp_info: tcpi_bytes_acked and tcpi_bytes_received.
_COUNTERS = struct.Struct("=120x2Q")


# A dying server says so and no more; the driver then still waits for the end of that answer.
_OUT_OF_STEP = "cannot switch to state"
_LOST = "connection was closed in the middle of operation"


class Stalled(Transient):
    """Nothing passes on a connection any more, and the server waits as we do."""


class WatchedConnection(_Base):
    """A connection of asyncpg whose calls end with Stalled when nothing passes any more, once `watch` was called.

    So do those of its prepared statements and their cursors, by which SQLAlchemy sends all that it sends. A COPY whose
    connection is lost ends, too: asyncpg would go on waiting for room in the socket's buffer.
    """

    _elsewhere: Elsewhere | None = None
    _seconds: float = 0.0
    _ended: Exception | None = None
    """How it was found to be lost in a call; asyncpg itself learns of that a moment later."""

    def watch(self, elsewhere: Elsewhere, seconds: float) -> None:
        """Ask the server after each `seconds` in which a call waits and no byte passes; 0 is never."""
        self._elsewhere, self._seconds = elsewhere, seconds

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what is done in the block. Raises Stalled in place of the driver's error.

        A connection whose server died in the midst of a COPY is lost, whatever the driver says of its own state.
        """
        if self._ended is not None:
            raise self._ended
        look = _Look(self, self._elsewhere, self._seconds) if self._elsewhere and self._seconds > 0 else None
        try:
            yield
        except Exception as error:
            if look is not None and look.stalled is not None:
                self._ended = look.stalled
                raise self._ended from error
            if isinstance(error, asyncpg.InternalClientError) and _OUT_OF_STEP in str(error):
                self.sever()
                self._ended = asyncpg.ConnectionDoesNotExistError(_LOST)
                raise self._ended from error
            raise
        finally:
            if look is not None:
                look.end()

    async def execute(self, *arguments: Any, **options: Any) -> Any:
        """Do what asyncpg's method does, watched."""
        with self.watching():
            return await super().execute(*arguments, **options)

    async def executemany(self, *arguments: Any, **options: Any) -> Any:
        """Do what asyncpg's method does, watched."""
        with self.watching():
            return await super().executemany(*arguments, **options)

    async def fetch(self, *arguments: Any, **options: Any) -> Any:
        """Do what asyncpg's method does, watched."""
        with self.watching():
            return await super().fetch(*arguments, **options)

    async def fetchval(self, *arguments: Any, **options: Any) -> Any:
        """Do what asyncpg's method does, watched."""
        with self.watching():
            return await super().fetchval(*arguments, **options)

    async def fetchrow(self, *arguments: Any, **options: Any) -> Any:
        """Do what asyncpg's method does, watched."""
        with self.watching():
            return await super().fetchrow(*arguments, **options)

    async def prepare(self, query: str, **options: Any) -> Any:
        """Do what asyncpg's method does, watched, as is the statement that it returns."""
        with self.watching():
            return WatchedStatement.of(await super().prepare(query, **options))

    async def copy_from_query(self, *arguments: Any, **options: Any) -> Any:
        """Do what asyncpg's method does, watched."""
        with self.watching():
            return await super().copy_from_query(*arguments, **options)

    async def copy_to_table(self, *arguments: Any, source: Any, **options: Any) -> Any:
        """Do what asyncpg's method does, watched; it ends when the connection does."""
        given = _until_closed(source, self) if isinstance(source, AsyncIterable) else source
        with self.watching(), self._woken_at_the_end():
            return await super().copy_to_table(*arguments, source=given, **options)

    async def copy_records_to_table(self, *arguments: Any, **options: Any) -> Any:
        """Do what asyncpg's method does, watched; it ends when the connection does."""
        with self.watching(), self._woken_at_the_end():
            return await super().copy_records_to_table(*arguments, **options)

    @contextmanager
    def _woken_at_the_end(self) -> Iterator[None]:
        # A COPY that waits for room in the socket's buffer is not told that the connection is lost, and would wait on.
        protocol = self._protocol  # type: ignore[attr-defined]

        def wake(_: object) -> None:
            protocol.resume_writing()

        self.add_termination_listener(wake)
        try:
            yield
        finally:
            self.remove_termination_listener(wake)

    def is_in_transaction(self) -> bool:
        """Do what asyncpg's method does; raises InterfaceError on a connection that is lost."""
        if self._protocol is None:  # type: ignore[attr-defined]
            raise asyncpg.InterfaceError("connection is closed")
        return super().is_in_transaction()

    def passed(self) -> tuple[int, int] | None:
        """Return how many bytes the other end has taken and given; None where the system does not tell."""
        transport = self._transport  # type: ignore[attr-defined]
        line = None if transport is None else transport.get_extra_info("socket")
        if line is None or line.family == socket.AF_UNIX or not sys.platform.startswith("linux"):
            return None
        try:
            told = line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _COUNTERS.size)
        except OSError:
            return None  # It is closed.
        return _COUNTERS.unpack(told) if len(told) == _COUNTERS.size else None

    def sever(self) -> None:
        """End the connection as if it had been lost: the call that waits raises."""
        # Not terminate(): after it a COPY fails in other ways than by what it waits for.
        self._transport.abort()  # type: ignore[attr-defined]


class _Look:
    """Looks after a call that waits: at the bytes that pass, and when none do, at the server."""

    def __init__(self, connection: WatchedConnection, elsewhere: Elsewhere, seconds: float) -> None:
        self.stalled: Stalled | None = None
        self._connection, self._elsewhere, self._seconds = connection, elsewhere, seconds
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._passed = connection.passed()
        self._timer = self._loop.call_later(seconds, self._look) if self._passed is not None else None

    def end(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _look(self) -> None:
        before, self._passed = self._passed, self._connection.passed()
        if self._passed is None or self._connection.is_closed():
            return
        if self._passed == before:
            self._task = self._loop.create_task(self._ask_the_server())
        else:
            self._again()

    def _again(self) -> None:
        self._timer = self._loop.call_later(self._seconds, self._look)

    async def _ask_the_server(self) -> None:
        reason = await self._elsewhere.ask()
        if reason is None or self._connection.passed() != self._passed:
            self._again()
            return
        self.stalled = Stalled(
            f"On a connection nothing has passed for {self._seconds:g} seconds: {reason}.",
            "Look for a proxy or a firewall in between that holds connections back; then run the same command again, "
            "it goes on where it stopped. PGFERRY_STALL_TIMEOUT sets the seconds.",
        )
        await self._elsewhere.end()
        self._connection.sever()


async def _until_closed(source: AsyncIterable[_T], connection: WatchedConnection) -> AsyncIterator[_T]:
    async for each in source:
        if connection.is_closed():
            return
        yield each


def judge(session: asyncpg.Record | None, server: str) -> str | None:
    """Return what is wrong with the session of a call that waits, as the server sees it; None when it works."""
    if session is None:
        return f"{server} has no such session any more"
    if session["state"] is None or (session["state"] == "active" and session["wait_event_type"] != "Client"):
        return None
    return f"{server} waits for this side, {session['state']} with {session['wait_event'] or 'nothing to do'}"
