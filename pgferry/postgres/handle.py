"""The type of a connection to the target: one of its own, or one on loan from a pool."""

from __future__ import annotations

from typing import TypeAlias

import asyncpg
import asyncpg.pool

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


def require_transaction(conn: Connection, what: str) -> None:
    """Raise RuntimeError when no transaction is open: `what` must commit together with what it records."""
    if not conn.is_in_transaction():
        raise RuntimeError(f"{what} must be called inside the transaction whose work it records")


async def require_read_committed(conn: Connection, what: str) -> None:
    """Raise RuntimeError inside a transaction of any other isolation.

    Its first statement fixes what it sees: after waiting for a lock it would still see the state before the wait.
    """
    if conn.is_in_transaction() and await conn.fetchval("SHOW transaction_isolation") != "read committed":
        raise RuntimeError(f"{what} must be called before a transaction of that isolation begins, not inside it")
