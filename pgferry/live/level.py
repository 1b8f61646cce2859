"""Carries again and again until one side is nearly level with the other, while the application writes on.

Each cycle carries what was written during the one before it. So cycles grow shorter until their length is that of one
which carries its own time's writes, or for ever longer, where the application writes faster than it is followed.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from pathlib import Path

from pgferry.errors import Transient
from pgferry.live.follow import Told
from pgferry.live.forward import sync_once
from pgferry.live.model import Live, Synced
from pgferry.postgres.connection import Connection
from pgferry.postgres.journal import sync_lock
from pgferry.sqlite.outbox import prune_before

NEAR = 500
"""Rows that a cycle may carry and still count as level."""

SOON = 2.0
"""Seconds that a cycle may take and still count as level, whatever it carried: as much is left to do after it."""

NO_SHORTER = 20
"""Cycles in a row, none shorter than the shortest before them, after which no more are tried."""


async def level(
    connection: Connection,
    live: Live,
    told: Told = lambda synced: None,
    *,
    near: int = NEAR,
    soon: float = SOON,
) -> Synced:
    """Sync until PostgreSQL is nearly level with SQLite; returns the last cycle, and prunes the outbox up to it.

    Each cycle reads under the sync lock, so that none is wasted on what a follower carries meanwhile. Raises as
    `until_level` and `sync_once` do.
    """

    async def cycle() -> Synced:
        async with sync_lock(connection):
            return await sync_once(connection, live)

    synced = await until_level(cycle, live.source, told, near=near, soon=soon)
    prune_before(Path(live.source), synced.position)
    return synced


async def until_level(
    cycle: Callable[[], Awaitable[Synced]], source: str, told: Told, *, near: int = NEAR, soon: float = SOON
) -> Synced:
    """Carry until a cycle has carried at most `near` rows, or taken at most `soon` seconds; returns that cycle.

    Where the application writes all along no cycle finds nothing: what a short one carries is how far behind it is.
    Raises Transient when the cycles do not grow shorter.
    """
    shortest, no_shorter = math.inf, 0
    while True:
        synced = await cycle()
        told(synced)
        rows = sum(synced.tables.values())
        if rows <= near or synced.seconds <= soon:
            return synced
        no_shorter = 0 if synced.seconds < shortest else no_shorter + 1
        shortest = min(shortest, synced.seconds)
        if no_shorter == NO_SHORTER:
            raise Transient(
                f"The changes of {source} come as fast as they are carried: of {NO_SHORTER} cycles of the sync none "
                f"was shorter than {shortest:.1f} s, and the last carried {rows} rows in {synced.seconds:.1f} s.",
                "Look at the load of this machine and of the server, then run the same command again, at a quieter "
                "time.",
            )
