"""The ways back to SQLite: after a switch that failed, by a rollback, and by the next command.

All of them are safe to repeat, and to be killed at any moment: what decides which side is in front is one note in
the SQLite file, which only the one who has drained the other side changes; and an emergency (`emergency`), which says
what it left.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pgferry.errors import UsageError
from pgferry.live import phases
from pgferry.live.begin import DUAL_WRITE_FENCE
from pgferry.live.emergency import ROLLING_BACK, finish_carry, refuse_emergency
from pgferry.live.front import EMERGENCY, FREED, free, read_noted
from pgferry.live.model import Live, Phase
from pgferry.live.reverse import Forms, sync_back
from pgferry.live.switch import compare_touched
from pgferry.live.write_back import FRONT
from pgferry.postgres import capture as target_capture
from pgferry.postgres import fence as target_fence
from pgferry.postgres.connection import Connection
from pgferry.postgres.deferred import put_foreign_keys_away
from pgferry.postgres.journal import forget_touched, server_time, sync_lock
from pgferry.settings import Settings
from pgferry.sqlite import fence as source_fence
from pgferry.sqlite.capture import forget_note, notes, set_note
from pgferry.sqlite.connect import open_read_only
from pgferry.sqlite.fence import writing


@dataclass(frozen=True, slots=True)
class Returned:
    """What a way back did. `seconds` is how long nobody could write anywhere."""

    carried: int
    compared: int
    turned: bool
    """Whether the application must be restarted, since its environment file was changed; `front.restarted` notes it."""
    seconds: float


async def turn_back(
    connection: Connection, live: Live, settings: Settings, forms: Forms, reason: str, *, compare: bool = False
) -> Returned:
    """Put SQLite in front again, with every write that PostgreSQL has taken meanwhile; the phase becomes dual-write.

    The target stays fenced afterwards: only the sync writes to it. `compare` compares the rows that were carried since
    the last comparison before anything is decided, and raises Permanent when they differ. Raises UsageError, with
    nothing dropped in PostgreSQL, after an emergency (`refuse_emergency`).
    """
    path = Path(live.source)
    began = time.monotonic()
    await refuse_emergency(connection, live)
    _free_when_in_front(path)
    await target_fence.fence(connection, live, ROLLING_BACK)
    carried = compared = 0
    # By the file's note alone: which database an environment file names says nothing about where writes went.
    if await target_capture.installed(connection) and read_noted(path).front == "postgres":
        carried = await _drain_back(connection, live, forms)
        compared = await _compare(connection, live) if compare else 0
    _decide(path)
    turned = free(settings, path)
    seconds = time.monotonic() - began
    await target_capture.remove(connection, live)
    await put_foreign_keys_away(connection, live.run_id)
    await target_fence.fence(connection, live, DUAL_WRITE_FENCE)
    await forget_touched(connection, live.run_id, await server_time(connection))
    await phases.enter(connection, live.run_id, Phase.DUAL_WRITE, reason, {"seconds": seconds, "carried": carried})
    return Returned(carried, compared, turned, seconds)


async def roll_back(connection: Connection, live: Live, settings: Settings, forms: Forms) -> Returned:
    """Put SQLite in front again by a person's wish; when that fails before it is decided, PostgreSQL stays in front."""
    await refuse_emergency(connection, live)
    await phases.enter(connection, live.run_id, Phase.ROLLING_BACK, "the rollback begins", {})
    try:
        return await turn_back(connection, live, settings, forms, "rolled back", compare=True)
    except BaseException:
        if read_noted(Path(live.source)).front == "postgres":
            await stay(connection, live, "the rollback failed")
        raise


async def stay(connection: Connection, live: Live, reason: str) -> None:
    """Leave a rollback that is not decided: PostgreSQL stays in front, its fence is taken down. Idempotent."""
    await target_fence.lift(connection)
    await phases.enter(connection, live.run_id, Phase.SWITCHED, reason, {})
    await target_fence.unfence(connection, live)


async def recover(connection: Connection, live: Live, settings: Settings, forms: Forms) -> Returned | None:
    """Undo what a killed command has left half-way; None when there was nothing.

    To be called under the run lock: without it the command may be alive. A switch is turned back; a rollback that was
    decided is finished, another one is given up; so is the settling of an emergency, and a restart that is due is told.
    Raises UsageError after an emergency whose rows were not carried (`refuse_emergency`).
    """
    path = Path(live.source)
    phase = (await phases.current(connection, live.run_id)).phase
    if phase in (Phase.LOADING, Phase.DUAL_WRITE):
        return await _recover_in_front(connection, live, path)
    await refuse_emergency(connection, live)
    if phase is Phase.SWITCHING:
        return await turn_back(connection, live, settings, forms, "a switch that was cut off is undone")
    if phase is Phase.ROLLING_BACK:
        if read_noted(path).front == "sqlite":
            return await turn_back(connection, live, settings, forms, "a rollback that was cut off is finished")
        await stay(connection, live, "a rollback that was cut off is given up")
    return None


async def _recover_in_front(connection: Connection, live: Live, path: Path) -> Returned | None:
    _free_when_in_front(path)
    await finish_carry(connection, live)
    return Returned(0, 0, True, 0.0) if read_noted(path).restart_due else None


def _free_when_in_front(path: Path) -> None:
    if read_noted(path).front == "sqlite":
        source_fence.unfence(path)


def _decide(path: Path) -> None:
    """Note that SQLite is in front; PostgreSQL is fenced and drained. Raises UsageError when an emergency was first."""
    with writing(path) as source:
        if EMERGENCY in notes(source):
            raise UsageError(
                f"{path}: an emergency rollback came in between.", "Run `python -m flows rollback --carry`."
            )
        set_note(source, FRONT, "sqlite")
        forget_note(source, FREED)


async def _compare(connection: Connection, live: Live) -> int:
    with closing(open_read_only(Path(live.source))) as source:
        return await compare_touched(connection, live, source)


async def _drain_back(connection: Connection, live: Live, forms: Forms) -> int:
    rows = 0
    async with sync_lock(connection):
        while not (synced := await sync_back(connection, live, forms)).idle:
            rows += sum(synced.tables.values())
    return rows
