"""One run at a time in a target: a lock that lives as long as the process that holds it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from types import TracebackType
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.engine import URL

from pgferry.errors import FerryError, Permanent, Transient
from pgferry.postgres.connection import close, connect
from pgferry.postgres.handle import Connection
from pgferry.postgres.pooling import refuse_shared_session
from pgferry.postgres.statements import statements

SQL = statements("lock")

RUN_LOCK = 7164250413002
"""The number of the lock of a run."""

SYNC_LOCK = 7164250413003
"""The number of the lock of whoever carries changes or holds both sides still; see `journal`."""

POLL_SECONDS = 0.05

NAME_BYTES = 63
"""What PostgreSQL keeps of an application_name."""

LOOK_SECONDS = 0.5
"""How often the connection that holds the lock is looked at: a look costs no round trip."""

PATIENCE = 3.0
"""Seconds to wait for the lock: the server may take a moment to notice that a killed process is gone."""

ANSWER_SECONDS = 30.0
"""How long `check` waits for the server."""

_GONE = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

_Answer = TypeVar("_Answer")


class Taken(Permanent):
    """Another run holds the target's run lock."""


class RunLock:
    """A context manager that holds the target's run lock, on a connection and a thread of its own.

    A session-level advisory lock: the server releases it when the process ends, however it ends. When the connection is
    lost, because the server restarts, it is taken again as soon as that can be. Entering raises Taken, naming the
    holder, when another session has it, SharedSession behind a pooler that gives no session of its own, and what
    `connect` raises. It is synchronous, so that a flow holds it around event loops of its own; do not enter it inside a
    running event loop, which it would block.
    """

    def __init__(
        self,
        url: URL,
        source: str,
        *,
        timeout: float = 15.0,
        patience: float = PATIENCE,
        look: float = LOOK_SECONDS,
    ) -> None:
        self._url = url
        self._name = holder_name(source)
        self._timeout = timeout
        self._patience = patience
        self._look = look
        self._stopped = asyncio.Event()
        self._asking = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None

    def __enter__(self) -> RunLock:
        ready: Future[asyncio.AbstractEventLoop] = Future()
        self._stopped, self._asking = asyncio.Event(), asyncio.Lock()
        # A daemon: it must not keep a process alive that forgot to leave the block.
        self._thread = Thread(target=lambda: asyncio.run(self._serve(ready)), name="pgferry-run-lock", daemon=True)
        self._thread.start()
        self._loop = ready.result()
        try:
            self._connection = self._call(self._acquire())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._loop is not None:
                self._call(self._leave())
        finally:
            self._connection = None
            self._stop()

    def check(self) -> None:
        """Ask the server whether the lock is still held, and take it again if the connection was lost.

        Raises Taken when another run got it meanwhile: write nothing more; and what `connect` raises. Any thread may
        call it; it blocks for one round trip, so a coroutine calls it by `asyncio.to_thread`.
        """
        self._call(self._hold())

    def _call(self, coroutine: Coroutine[Any, Any, _Answer]) -> _Answer:
        if self._loop is None:
            coroutine.close()
            raise RuntimeError("the run lock is used outside its block")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _stop(self) -> None:
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join()
        self._loop = self._thread = None

    async def _serve(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        ready.set_result(asyncio.get_running_loop())
        keeping = asyncio.create_task(self._keep())
        await self._stopped.wait()
        keeping.cancel()
        await asyncio.wait([keeping])

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._look)
            if self._connection is not None and self._connection.is_closed():
                with suppress(FerryError, *_GONE):  # The server may be away for longer, or another run was quicker.
                    await self._hold()

    async def _hold(self) -> None:
        async with self._asking:
            if self._connection is not None and not await self._holds(self._connection):
                await close(self._connection)
                self._connection = await self._acquire()

    async def _leave(self) -> None:
        async with self._asking:
            if self._connection is not None:
                await close(self._connection)
                self._connection = None

    async def _acquire(self) -> asyncpg.Connection[asyncpg.Record]:
        connection = await connect(self._url, timeout=self._timeout, application_name=self._name)
        try:
            await refuse_shared_session(connection, self._url, self._timeout)
            await connection.execute(SQL["stay_alive"])
            await self._wait_for_lock(connection)
        except BaseException:
            await close(connection)
            raise
        return connection

    async def _wait_for_lock(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        if not await wait_for_lock(connection, SQL["try_lock"], RUN_LOCK, self._patience):
            raise _taken(await lock_holder(connection, RUN_LOCK))

    async def _holds(self, connection: asyncpg.Connection[asyncpg.Record]) -> bool:
        try:
            return bool(await connection.fetchval(SQL["still_held"], RUN_LOCK, timeout=ANSWER_SECONDS))
        except (Transient, *_GONE):
            return False


def holder_name(source: str) -> str:
    """Return the application_name of a lock's session: `pgferry` and the end of the source, in 63 bytes at the most."""
    room = NAME_BYTES - len("pgferry ")
    # The server keeps printable ASCII only, in one form or another by version.
    text = source.encode("ascii", "replace").decode()
    return f"pgferry {text if len(text) <= room else '...' + text[3 - room :]}"


async def wait_for_lock(conn: Connection, statement: str, number: int, patience: float) -> bool:
    """Try the statement, which tries to take that advisory lock, for `patience` seconds; say whether it was got."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + patience
    while not await conn.fetchval(statement, number):
        if clock() >= deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True


async def lock_holder(conn: Connection, number: int) -> asyncpg.Record | None:
    """Return the session that has the advisory lock; None when it was released a moment ago."""
    return await conn.fetchrow(SQL["holder"], number)


def describe_holder(holder: asyncpg.Record) -> str:
    """Return the session in words: its process, name, role, address and age, as far as this role may see them."""
    known = {
        "": holder["application_name"] or "an unnamed session",
        "role ": holder["role"],
        "from ": holder["address"] or "this machine",
        "since ": holder["since"] and f"{holder['since']:%Y-%m-%d %H:%M:%S %Z}",
    }
    what = ", ".join(f"{word}{value}" for word, value in known.items() if value)
    return f"server process {holder['pid']} ({what})"


def end_holder(holder: asyncpg.Record) -> str:
    """Return what to do when the holder does not let go."""
    return (
        "Wait until it ends. If its program is gone, end its session: "
        f"SELECT pg_terminate_backend({holder['pid']}); then run again."
    )


def _taken(holder: asyncpg.Record | None) -> Taken | Transient:
    if holder is None:
        return Transient("Another run held this target a moment ago.", "Try again.")
    return Taken(f"Another run works on this target: {describe_holder(holder)}.", end_holder(holder), **dict(holder))
