"""A pooler (PgBouncer) between here and the server: a move needs a session of its own, and is told when it has none."""

from __future__ import annotations

import asyncpg
from sqlalchemy.engine import URL

from pgferry.errors import Permanent
from pgferry.postgres.connection import Connection
from pgferry.postgres.connection import connection as another
from pgferry.postgres.problems import server_of

PROBES = 3
"""How often another client tries to get our session; PgBouncer gives the one that was used last, so once is enough."""

ANSWER_SECONDS = 5.0
"""How long our own session may take to answer while the other client holds what may be its only server connection."""

_MIXED_UP = ("26000", "42P05")
"""SQLSTATEs of a prepared statement that is another session's: unknown here, or known here already."""

CURE = (
    "Let PGFERRY_TARGET name PostgreSQL itself, or a pool with pool_mode = session. The application may stay behind"
    " the pooler: its own URL is PGFERRY_APPLICATION_URL."
)


class SharedSession(Permanent):
    """A pooler gives the transactions of one client different sessions of the server."""


async def refuse_shared_session(connection: Connection, url: URL, timeout: float) -> None:
    """Raise SharedSession when a pooler shares this connection's session with other clients.

    Locks, settings, temporary tables and prepared statements belong to a session: behind such a pooler a lock is held
    by nobody, and a temporary table is gone. Costs one question where there is no pooler. Raises as `connect` does.
    """
    if await _is_pooled(connection) and await is_shared(connection, url, timeout):
        raise SharedSession(
            f"Between here and PostgreSQL at {server_of(url)} a pooler gives each transaction another session"
            " (pool_mode transaction or statement); a move needs a session of its own.",
            CURE,
        )


async def is_shared(connection: Connection, url: URL, timeout: float) -> bool:
    """Say whether another client, by the same URL, is given the session of this connection between two statements.

    Raises what `connect` raises for the other client, which is there for moments.
    """
    async with another(url, timeout=timeout, application_name="pgferry pooler probe") as other:
        try:
            for _ in range(PROBES):
                if await _met(connection, other):
                    return True
        except TimeoutError:
            return True  # The other client holds the only server connection, and it was ours a moment ago.
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if tells_of_sharing(error):
                return True
            raise
        return False


def tells_of_sharing(error: BaseException) -> bool:
    """Say whether the error is one that only a pooler which shares sessions lets happen."""
    return getattr(error, "sqlstate", None) in _MIXED_UP or "statement pooling" in str(error)


async def _met(connection: Connection, other: Connection) -> bool:
    """Say whether the other client, in a transaction, has our session, or ours has become another one."""
    ours = await server_process(connection)
    async with other.transaction():
        theirs = await server_process(other)
        return ours == theirs or ours != await server_process(connection)


async def _is_pooled(connection: Connection) -> bool:
    try:
        return await server_process(connection) != connection.get_server_pid()
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if tells_of_sharing(error):
            return True
        raise


async def server_process(connection: Connection) -> int:
    """Return the server's process that answers; a pooler makes up the one that was told at the beginning."""
    return int(await connection.fetchval("SELECT pg_catalog.pg_backend_pid()", timeout=ANSWER_SECONDS))
