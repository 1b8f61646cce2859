"""The ways back to SQLite: after a switch that failed, by a rollback, in an emergency, and by the next command.

All of them are safe to repeat, and to be killed at any moment: what decides which side is in front is one note in
the SQLite file, which only the one who has drained the other side changes; and an emergency, which says what it left.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pgferry.errors import UsageError
from pgferry.live import phases
from pgferry.live.begin import DUAL_WRITE_FENCE
from pgferry.live.env_file import read_variable
from pgferry.live.environment import point_back
from pgferry.live.forward import key_of
from pgferry.live.model import Live, LiveTable, Phase
from pgferry.live.reverse import Forms, carry_keys, sync_back, uncarried_keys
from pgferry.live.switch import compare_touched
from pgferry.live.write_back import CARRIED_AT, FRONT
from pgferry.model import Key
from pgferry.postgres import capture as target_capture
from pgferry.postgres import fence as target_fence
from pgferry.postgres.connection import Connection
from pgferry.postgres.deferred import put_foreign_keys_away
from pgferry.postgres.journal import forget_touched, server_time, set_position, sync_lock
from pgferry.postgres.validations import record_uncarried, settle_uncarried
from pgferry.settings import Settings, sqlite_path
from pgferry.sqlite import fence as source_fence
from pgferry.sqlite.capture import forget_note, notes, set_note
from pgferry.sqlite.connect import open_read_only
from pgferry.sqlite.fence import writing
from pgferry.sqlite.outbox import last_id, touched

ROLLING_BACK = "this database is being left for SQLite; writes are refused. python -m flows status"
"""What the application is told when it writes to PostgreSQL during a rollback."""


EMERGENCY = "emergency"
"""The note in the SQLite file of an emergency rollback that is not settled: its moment, and the outbox's last entry."""


@dataclass(frozen=True, slots=True)
class Emergency:
    """What an emergency rollback knows without PostgreSQL."""

    carried_until: str | None
    """The moment up to which PostgreSQL's writes are in SQLite (ISO); None when none was ever carried."""
    turned: bool
    """Whether the environment file was changed: then the application must be restarted."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What the settling of an emergency rollback carried and gave up, in rows."""

    carried: int
    given_up: int


@dataclass(frozen=True, slots=True)
class Returned:
    """What a way back did. `seconds` is how long nobody could write anywhere."""

    carried: int
    compared: int
    turned: bool
    """Whether the environment file was changed: then the application must be restarted."""
    seconds: float


async def turn_back(
    connection: Connection, live: Live, settings: Settings, forms: Forms, reason: str, *, compare: bool = False
) -> Returned:
    """Put SQLite in front again, with every write that PostgreSQL has taken meanwhile; the phase becomes dual-write.

    The target stays fenced afterwards: only the sync writes to it. `compare` compares the rows that were carried since
    the last comparison before anything is decided, and raises Permanent when they differ.
    """
    path = Path(live.source)
    began = time.monotonic()
    lower_fence(settings, path)
    await target_fence.fence(connection, live, ROLLING_BACK)
    carried = compared = 0
    if await target_capture.installed(connection) and _front(path) == "postgres":
        carried = await _drain_back(connection, live, forms)
        compared = await _compare(connection, live) if compare else 0
    with writing(path) as source:
        set_note(source, FRONT, "sqlite")
    turned = point_back(settings, path)
    source_fence.unfence(path)
    seconds = time.monotonic() - began
    await target_capture.remove(connection, live)
    await put_foreign_keys_away(connection, live.run_id)
    await target_fence.fence(connection, live, DUAL_WRITE_FENCE)
    await forget_touched(connection, live.run_id, await server_time(connection))
    await phases.enter(connection, live.run_id, Phase.DUAL_WRITE, reason, {"seconds": seconds, "carried": carried})
    return Returned(carried, compared, turned, seconds)


async def roll_back(connection: Connection, live: Live, settings: Settings, forms: Forms) -> Returned:
    """Put SQLite in front again by a person's wish; when that fails before it is decided, PostgreSQL stays in front."""
    await phases.enter(connection, live.run_id, Phase.ROLLING_BACK, "the rollback begins", {})
    try:
        return await turn_back(connection, live, settings, forms, "rolled back", compare=True)
    except BaseException:
        if _front(Path(live.source)) == "postgres":
            await stay(connection, live, "the rollback failed")
        raise


def lower_fence(settings: Settings, path: Path) -> bool:
    """Take SQLite's fence down where the application was never turned away from it; needs no PostgreSQL.

    Returns whether SQLite can be written to again. Where the application was turned, only a way back that carries
    PostgreSQL's writes may do it, or an emergency.
    """
    value = read_variable(settings.application_env, settings.application_variable)
    if _front(path) == "postgres":
        if value is None or sqlite_path(value) is None:
            return False
        with writing(path) as source:
            set_note(source, FRONT, "sqlite")
    source_fence.unfence(path)
    return True


def emergency(settings: Settings, path: Path) -> Emergency:
    """Put SQLite in front at once, without PostgreSQL: what it holds that was not carried stays there, to be carried.

    Idempotent. Raises UsageError when SQLite is in front anyway.
    """
    with writing(path) as source:
        known = notes(source)
        if known.get(FRONT, "sqlite") == "sqlite" and EMERGENCY not in known:
            raise UsageError(f"SQLite is in front already: {path}.", "Look at `python -m flows status`.")
        if EMERGENCY not in known:
            set_note(source, EMERGENCY, json.dumps({"at": datetime.now(UTC).isoformat(), "outbox_id": last_id(source)}))
        set_note(source, FRONT, "sqlite")
    turned = point_back(settings, path)
    source_fence.unfence(path)
    return Emergency(known.get(CARRIED_AT), turned)


async def declare_emergency(connection: Connection, live: Live) -> Mapping[str, Sequence[Key]]:
    """Tell PostgreSQL of an emergency rollback, when it can be reached, and return the keys it was left with.

    It is fenced from now on, and the keys are kept in the ledger until they are carried or given up. Idempotent.
    """
    record = await phases.current(connection, live.run_id)
    if record.phase is not Phase.EMERGENCY:
        await phases.enter(connection, live.run_id, Phase.EMERGENCY, "an emergency rollback left PostgreSQL behind", {})
    await target_fence.fence(connection, live, ROLLING_BACK)
    left = await uncarried_keys(connection, live)
    for table, keys in left.items():
        await record_uncarried(connection, live.run_id, table, keys, "not carried before the emergency rollback")
    return left


async def carry(connection: Connection, live: Live, settings: Settings, forms: Forms, prefer: str = "") -> Carried:
    """Carry what an emergency rollback left behind, and go back to dual-write.

    A key that was written in SQLite since as well is in conflict: it is carried when `prefer` is `postgres`, given up
    when it is `sqlite`, and else everything waits: raises UsageError naming the first ones. Idempotent.
    """
    path = Path(live.source)
    left = await declare_emergency(connection, live)
    with closing(open_read_only(path)) as source:
        since = int(json.loads(notes(source)[EMERGENCY])["outbox_id"])
        written = {table: _written_since(source, live.table(table), since) for table in left}
    conflicts = {table: [key for key in keys if key in written[table]] for table, keys in left.items()}
    if any(conflicts.values()) and not prefer:
        raise UsageError(_conflict(conflicts), "Say which side is right: --prefer postgres or --prefer sqlite.")
    given_up = conflicts if prefer == "sqlite" else {}
    wanted = {table: [key for key in keys if key not in given_up.get(table, ())] for table, keys in left.items()}
    async with sync_lock(connection):
        await carry_keys(connection, live, forms, wanted)
    for table, keys in wanted.items():
        await settle_uncarried(connection, live.run_id, table, keys, "carried")
    for table, keys in given_up.items():
        await settle_uncarried(connection, live.run_id, table, keys, "given up: SQLite's row was preferred")
    await target_capture.remove(connection, live)
    await put_foreign_keys_away(connection, live.run_id)
    await target_fence.fence(connection, live, DUAL_WRITE_FENCE)
    async with connection.transaction():
        # What was given up is overwritten by SQLite's row, which the outbox has since the emergency.
        await set_position(connection, live.run_id, since, datetime.now(UTC))
    await phases.enter(connection, live.run_id, Phase.DUAL_WRITE, "the emergency rollback is settled", {})
    with writing(path) as source:
        forget_note(source, EMERGENCY)
    return Carried(sum(map(len, wanted.values())), sum(map(len, given_up.values())))


def _written_since(source: sqlite3.Connection, table: LiveTable, since: int) -> set[Key]:
    return {key_of(table, item) for item in touched(source, table.captured, since, last_id(source))}


def _conflict(conflicts: Mapping[str, Sequence[Key]]) -> str:
    count = sum(map(len, conflicts.values()))
    first = [f"{table} {key}" for table, keys in conflicts.items() for key in keys][:10]
    return f"{count} rows were written in PostgreSQL before the emergency and in SQLite since: {', '.join(first)}."


async def stay(connection: Connection, live: Live, reason: str) -> None:
    """Leave a rollback that is not decided: PostgreSQL stays in front, its fence is taken down. Idempotent."""
    await target_fence.unfence(connection, live)
    await phases.enter(connection, live.run_id, Phase.SWITCHED, reason, {})


async def recover(connection: Connection, live: Live, settings: Settings, forms: Forms) -> Returned | None:
    """Undo what a killed command has left half-way; None when there was nothing.

    To be called under the run lock: without it the command may be alive. A switch is turned back; a rollback that was
    decided is finished, another one is given up.
    """
    phase = (await phases.current(connection, live.run_id)).phase
    if phase in (Phase.LOADING, Phase.DUAL_WRITE):
        lower_fence(settings, Path(live.source))
    if phase is Phase.SWITCHING:
        return await turn_back(connection, live, settings, forms, "a switch that was cut off is undone")
    if phase is Phase.ROLLING_BACK:
        if _front(Path(live.source)) == "sqlite":
            return await turn_back(connection, live, settings, forms, "a rollback that was cut off is finished")
        await stay(connection, live, "a rollback that was cut off is given up")
    return None


async def _compare(connection: Connection, live: Live) -> int:
    with closing(open_read_only(Path(live.source))) as source:
        return await compare_touched(connection, live, source)


async def _drain_back(connection: Connection, live: Live, forms: Forms) -> int:
    rows = 0
    async with sync_lock(connection):
        while not (synced := await sync_back(connection, live, forms)).idle:
            rows += sum(synced.tables.values())
    return rows


def _front(path: Path) -> str:
    with closing(open_read_only(path)) as source:
        return notes(source).get(FRONT, "sqlite")
