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

# What is done to one table locks others, too: the parent of a foreign key, the other tables of a capture. Of those, who
# has held one for less than an attempt did not stand in its way; a role that may not see since when has to be told of.
_HOLDERS = """
SELECT DISTINCT l.relation = to_regclass($1::text) AS itself,
       format('%I.%I', n.nspname, c.relname) AS relation,
       format('server process %s (%s)', l.pid, coalesce(nullif(a.application_name, ''), 'unnamed')) AS holder
  FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_class c ON c.oid = l.relation
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
   AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid() AND c.relkind IN ('r', 'p')
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgferry')
   AND (l.relation = to_regclass($1::text) OR coalesce(a.xact_start < clock_timestamp() - interval '500ms', true))
 ORDER BY 1 DESC, 2, 3
"""


async def patiently(
    conn: Connection, work: Callable[[], Awaitable[None]], relation: str, *, patience: float = PATIENCE
) -> None:
    """Run `work` in a transaction of its own, again and again while it cannot get a lock.

    Between the attempts nothing is held, and an autovacuum of the table is made to give way. Raises Transient when
    `patience` seconds were not enough, naming who holds `relation` (a qualified, quoted name), or, if nobody does, who
    has held another table for longer than an attempt; other errors pass through.
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
    held = await conn.fetch(_HOLDERS, relation)
    itself = ", ".join(row["holder"] for row in held if row["itself"])
    others = ", ".join(f"{row['relation']} by {row['holder']}" for row in held)
    if itself or not others:
        what = f"Table {relation} was locked for {patience:g} seconds, by {itself or 'a session that is gone now'}."
    else:
        what = f"What changes table {relation} waited {patience:g} seconds for a lock. Held now: {others}."
    return Transient(
        what,
        "Let its transaction end (or end it: SELECT pg_terminate_backend(<process>)), then run the same command again.",
    )
