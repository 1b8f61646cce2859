"""The maintenance window of `migrate --cut-over`: SQLite is fenced from the beginning, and the switch ends it.

The phase is `switching` all along, so that whoever comes after a killed process finds the fence and takes it down.
"""

from __future__ import annotations

from pathlib import Path

from pgferry.live import phases
from pgferry.live.front import lower_fence
from pgferry.live.model import Phase
from pgferry.live.switch import FENCED
from pgferry.postgres.connection import Connection
from pgferry.postgres.journal import read_position
from pgferry.postgres.ledger import Run
from pgferry.settings import Settings
from pgferry.sqlite import fence as source_fence


async def open_window(connection: Connection, run: Run) -> None:
    """Enter `switching` and fence SQLite, whose capture must be installed; idempotent."""
    if (await phases.current(connection, run.id)).phase is not Phase.SWITCHING:
        await phases.enter(connection, run.id, Phase.SWITCHING, "the maintenance window begins", {})
    source_fence.fence(Path(run.source), FENCED)


def lower(settings: Settings, run: Run) -> bool:
    """Take SQLite's fence down at once, before PostgreSQL is spoken to; returns whether it can be written to again."""
    return lower_fence(settings, Path(run.source))


async def give_window_up(connection: Connection, run: Run, settings: Settings) -> bool:
    """Leave a window whose copy was not finished; returns False, with nothing done, where it was.

    A copy that was finished is turned back as any switch is. The phase becomes `loading`: what is copied is not lost.
    """
    if (await phases.current(connection, run.id)).phase is not Phase.SWITCHING:
        return False
    if await read_position(connection, run.id) is not None:
        return False
    lower(settings, run)
    await phases.enter(connection, run.id, Phase.LOADING, "the maintenance window was given up", {})
    return True
