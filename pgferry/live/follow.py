"""The sync that stays: it carries each change within moments of its commit, in whichever direction the phase says.

It wakes by SQLite's `data_version`, which a commit of any other connection changes, and which costs a look at shared
memory instead of a scan (https://www.sqlite.org/pragma.html#pragma_data_version). While PostgreSQL is in front it
looks at the outbox tables there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

from pgferry.live.forward import OutOfPhase, sync_once
from pgferry.live.model import Live, Phase, Synced
from pgferry.live.phases import current
from pgferry.postgres.connection import Connection
from pgferry.sqlite.connect import open_read_only
from pgferry.sqlite.outbox import prune_before

LOOK_SECONDS = 0.02
"""How often `data_version` is read."""

PRUNE_SECONDS = 5.0
"""How often entries of SQLite's outbox that are applied are removed: each time is a short write transaction."""

PHASE_SECONDS = 1.0
"""How often the phase is read while there is nothing to carry."""

Told = Callable[[Synced], None]
"""Is told of cycles: by `follow` of each that carried something, by a levelling of all."""

Back = Callable[[Connection], Awaitable[Synced]]
"""One cycle of the sync back, while PostgreSQL is in front."""


LEVEL_SECONDS = 6.0
"""How often it is recorded, while there is nothing to carry, that both sides are level."""


class Watch:
    """Tells whether SQLite was committed to since the last look; holds one read-only connection."""

    def __init__(self, path: Path) -> None:
        self._connection = open_read_only(path)
        self._version = -1

    def changed(self) -> bool:
        """Return whether another connection has committed since the last call; True at the first."""
        version = int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        changed, self._version = version != self._version, version
        return changed

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


async def follow(connection: Connection, live: Live, back: Back, told: Told, stop: asyncio.Event) -> None:
    """Carry changes until `stop` is set, in the direction of the phase; returns between two cycles, never within one.

    In a phase between the two fronts it waits. Raises what `sync_once` and `back` raise; a caller that goes on after a
    Transient error calls it again with a new connection.
    """
    while not stop.is_set():
        phase = (await current(connection, live.run_id)).phase
        if phase is Phase.DUAL_WRITE:
            await _forward(connection, live, told, stop)
        elif phase is Phase.SWITCHED:
            await _backward(connection, live, back, told, stop)
        else:
            await _pause(stop, PHASE_SECONDS)


async def _forward(connection: Connection, live: Live, told: Told, stop: asyncio.Event) -> None:
    pruned = looked = noted = time.monotonic()
    with closing(Watch(Path(live.source))) as watch:
        while not stop.is_set():
            if await asyncio.to_thread(watch.changed):
                try:
                    synced = await sync_once(connection, live)
                except OutOfPhase:
                    return
                if not synced.idle:
                    told(synced)
                if time.monotonic() - pruned > PRUNE_SECONDS:
                    await asyncio.to_thread(prune_before, Path(live.source), synced.position)
                    pruned = time.monotonic()
            elif time.monotonic() - looked > PHASE_SECONDS:
                looked = time.monotonic()
                if (await current(connection, live.run_id)).phase is not Phase.DUAL_WRITE:
                    return
                if looked - noted > LEVEL_SECONDS:
                    noted = looked
                    await sync_once(connection, live)
            await _pause(stop, LOOK_SECONDS)


async def _backward(connection: Connection, live: Live, back: Back, told: Told, stop: asyncio.Event) -> None:
    while not stop.is_set():
        synced = await back(connection)
        if not synced.idle:
            told(synced)
        elif (await current(connection, live.run_id)).phase is not Phase.SWITCHED:
            return
        await _pause(stop, LOOK_SECONDS * 5)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
