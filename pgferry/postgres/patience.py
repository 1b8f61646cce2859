"""Changes tables that an application is writing to: no deadlock with it, and no long queue behind a lock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg

from pgferry.errors import Transient
from pgferry.postgres.handle import Connection

PATIENCE = 30.0
"""Seconds for which a lock on a busy table is tried for."""

_PAUSE: Final = 0.05

# Shorter than deadlock_timeout (1 s): a deadlock ends here, never in the application's transaction. And writers queue
# behind a lock that is waited for, so each attempt is short.
_SHORT_WAIT = "SET LOCAL lock_timeout = '500ms'"

# Autovacuum gives way to whoever has waited for deadlock_timeout, and to nobody before. Of its workers every role sees
# that they have no user.
_LONG_WAIT = """
SELECT set_config('lock_timeout', (extract(epoch FROM current_setting('deadlock_timeout')::interval) * 1000 + 500)::text
                  || 'ms', true)
"""
_BY_AUTOVACUUM = """
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid)
     WHERE l.relation = to_regclass($1::text) AND l.granted AND l.mode = 'ShareUpdateExclusiveLock'
       AND a.usesysid IS NULL)
"""

_HOLDERS = """
SELECT string_agg(DISTINCT format('server process %s (%s)', l.pid, coalesce(nullif(a.application_name, ''), 'unnamed')),
                  ', ')
  FROM pg_catalog.pg_locks l
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.relation = to_regclass($1::text) AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
"""


async def patiently(
    conn: Connection, work: Callable[[], Awaitable[None]], relation: str, *, patience: float = PATIENCE
) -> None:
    """Run `work` in a transaction of its own, again and again while it cannot get a lock.

    Between the attempts nothing is held, and an autovacuum of the table is made to give way. Raises Transient, naming
    who holds `relation` (a qualified, quoted name), when `patience` seconds were not enough; other errors pass through.
    Joins an open transaction by a savepoint, and then keeps what that transaction has locked.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + patience
    wait = _SHORT_WAIT
    while True:
        try:
            async with conn.transaction():
                await conn.execute(wait)
                await work()
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            if clock() >= deadline:
                raise await _busy(conn, relation, patience) from error
        else:
            return
        wait = _LONG_WAIT if await conn.fetchval(_BY_AUTOVACUUM, relation) else _SHORT_WAIT
        await asyncio.sleep(_PAUSE)


async def _busy(conn: Connection, relation: str, patience: float) -> Transient:
    holders = await conn.fetchval(_HOLDERS, relation)
    return Transient(
        f"Table {relation} was locked for {patience:g} seconds, by {holders or 'a session that is gone now'}.",
        "Let its transaction end (or end it: SELECT pg_terminate_backend(<process>)), then run the same command again.",
    )
