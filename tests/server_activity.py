"""What the PostgreSQL server does at the moment when a test runs out of time: the trace of Python does not say."""

from __future__ import annotations

import asyncio
import os
from threading import Thread

import asyncpg
from sqlalchemy.engine import URL

SESSIONS = """
SELECT format('%s %s %s, %s %s for %s, blocked by %s: %s', datname, pid, application_name, state,
              concat_ws('/', wait_event_type, wait_event), clock_timestamp() - state_change, pg_blocking_pids(pid),
              left(query, 1000))
  FROM pg_stat_activity WHERE backend_type IN ('client backend', 'autovacuum worker') AND pid <> pg_backend_pid()
   AND state <> 'idle'
"""


def activity(url: URL) -> str:
    """Return a line for each session that is at work or in a transaction; never raises for a server that is gone."""
    said: list[str] = []
    # The test's own event loop was interrupted wherever it stood, and belongs to the main thread.
    asked = Thread(target=lambda: said.append(asyncio.run(_ask(url))))
    asked.start()
    asked.join(20)
    return "".join(said) or "the server did not answer"


async def _ask(url: URL) -> str:
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        connection = await asyncpg.connect(dsn, timeout=5)
        try:
            lines = [row[0] for row in await connection.fetch(SESSIONS, timeout=5)]
        finally:
            await connection.close(timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return f"the server did not answer: {error}"
    return "\n".join([f"load {os.getloadavg()}", *lines])
