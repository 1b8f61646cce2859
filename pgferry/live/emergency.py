"""An emergency: SQLite in front without a word to PostgreSQL, and the settling of what stayed there.

What the file notes decides (`front`); the ledger is told when PostgreSQL can be reached. Everything here may be killed
at any moment, and is gone on with by the same command.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pgferry.errors import Permanent, Transient, UsageError
from pgferry.live import phases
from pgferry.live.begin import DUAL_WRITE_FENCE
from pgferry.live.forward import key_of
from pgferry.live.front import (
    EMERGENCY,
    FREED,
    EmergencyNote,
    free,
    keep_emergency,
    note_emergency,
    noted,
    now,
    read_noted,
)
from pgferry.live.keyed import named_keys
from pgferry.live.model import Live, LiveTable, Phase
from pgferry.live.reverse import Forms, carry_keys, uncarried_keys
from pgferry.live.rows import WireKey
from pgferry.live.write_back import CARRIED_AT
from pgferry.model import Key
from pgferry.postgres import capture as target_capture
from pgferry.postgres import fence as target_fence
from pgferry.postgres.connection import Connection
from pgferry.postgres.deferred import put_foreign_keys_away
from pgferry.postgres.journal import set_position, sync_lock
from pgferry.postgres.validations import record_uncarried, settle_uncarried
from pgferry.settings import Settings
from pgferry.sqlite.capture import forget_note, notes, set_note
from pgferry.sqlite.connect import open_read_only
from pgferry.sqlite.fence import is_fenced, writing
from pgferry.sqlite.outbox import last_id, touched

ROLLING_BACK = "this database is being left for SQLite; writes are refused. python -m flows status"
"""What the application is told when it writes to PostgreSQL during a rollback, or after an emergency."""

TRIES = 20
"""How often conflicts are looked for anew because the application wrote to one of the rows meanwhile."""

Keys = Mapping[str, Sequence[Key]]
"""Source table -> keys of the target, as SQLite has them."""

Named = Mapping[str, Mapping[Key, WireKey]]
"""Source table -> keys, and what each is found by in whatever form it is written."""


@dataclass(frozen=True, slots=True)
class Emergency:
    """What an emergency rollback knows without PostgreSQL."""

    carried_until: str | None
    """The moment up to which PostgreSQL's writes are in SQLite (ISO); None when none was ever carried."""
    turned: bool
    """Whether the application must be restarted, since its environment file was changed."""
    left_behind: bool
    """Whether PostgreSQL may hold writes that are not in SQLite; not so where the switch had not been decided."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What the settling of an emergency rollback carried and gave up, in rows."""

    carried: int
    given_up: int


class _Overtaken(Transient):
    """The application has written to a row since conflicts were looked for."""


def emergency(settings: Settings, path: Path) -> Emergency:
    """Put SQLite in front at once, without PostgreSQL: what it holds that was not carried stays there, to be carried.

    Where SQLite is in front and still fenced, since a switch or a way back was cut off, the fence falls. Idempotent.
    Raises UsageError when SQLite is in front and can be written to.
    """
    with writing(path) as source:
        known, texts = noted(source), notes(source)
        if known.front == "postgres":
            note_emergency(source)
        elif known.emergency is None and not known.restart_due and FREED not in texts:
            if not is_fenced(source):
                raise UsageError(f"SQLite is in front already: {path}.", "Look at `python -m flows status`.")
            set_note(source, FREED, now())
    turned = free(settings, path)
    return Emergency(texts.get(CARRIED_AT), turned, read_noted(path).emergency is not None)


async def declare_emergency(connection: Connection, live: Live) -> Keys:
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


async def refuse_emergency(connection: Connection, live: Live) -> None:
    """Raise UsageError when the file notes an emergency that is not settled; PostgreSQL is told of it first.

    To be called before anything is dropped in PostgreSQL: what was not carried is known by its outboxes alone. An
    emergency in doubt that left nothing behind was none, and its note is forgotten.
    """
    path = Path(live.source)
    note = read_noted(path).emergency
    if note is None:
        return
    if note.in_doubt and await _nothing_written(connection, live):
        _forget(path)
        return
    count = sum(map(len, (await declare_emergency(connection, live)).values()))
    raise UsageError(
        f"An emergency rollback put SQLite in front ({note.at}), and PostgreSQL was left with {count} rows that were "
        "not carried.",
        "Run `python -m flows rollback --carry`.",
        left=count,
    )


async def _nothing_written(connection: Connection, live: Live) -> bool:
    """Say whether PostgreSQL has taken no write in a switch that was not made; it is fenced then."""
    if (await phases.current(connection, live.run_id)).phase is not Phase.SWITCHING:
        return False
    await target_fence.fence(connection, live, ROLLING_BACK)
    return not await target_capture.pending(connection, live)


# ---------------------------------------------------------------- settling


async def carry(connection: Connection, live: Live, settings: Settings, forms: Forms, prefer: str = "") -> Carried:
    """Carry what an emergency rollback left behind, and go back to dual-write.

    A key that was written in SQLite since as well, in whatever form, is in conflict: it is carried when `prefer` is
    `postgres`, given up when it is `sqlite`, and else everything waits: raises UsageError naming the first ones.
    Repeated after a kill it goes on: rows that are carried are not carried again over what was written since.
    """
    path = Path(live.source)
    if (await phases.current(connection, live.run_id)).phase is Phase.DUAL_WRITE:
        await finish_carry(connection, live)
        return Carried(0, 0)
    left = _named(live, await declare_emergency(connection, live))
    async with sync_lock(connection):
        note = _carried_note(path) or await _carry_left(connection, live, forms, left, prefer)
    given_up = _conflicts(live, left, note) if note.prefer == "sqlite" else {}
    wanted = _without(left, given_up)
    # Before the phase: the sync, which goes on then, knows no order among tables.
    await put_foreign_keys_away(connection, live.run_id)
    await _settle(connection, live, note, wanted, given_up)
    await finish_carry(connection, live)
    return Carried(_count(wanted), _count(given_up))


async def finish_carry(connection: Connection, live: Live) -> None:
    """Remove the capture from PostgreSQL after the phase became dual-write, and forget the emergency. Idempotent.

    Nothing is done without a note. Raises Permanent when the note says that nothing was carried, which cannot be
    in this phase: then the outboxes stay. Transient when a table stays locked: the next call goes on.
    """
    path = Path(live.source)
    note = read_noted(path).emergency
    if note is None:
        return
    if note.carried_upto is None and await target_capture.pending(connection, live):
        raise Permanent(
            f"{path} notes an emergency ({note.at}) whose rows were not carried; the ledger is in phase dual-write.",
            "Was either side restored from a backup? Compare with `python -m flows validate` before anything else.",
        )
    await target_capture.remove(connection, live)
    await target_fence.fence(connection, live, DUAL_WRITE_FENCE)
    _forget(path)


async def _carry_left(connection: Connection, live: Live, forms: Forms, left: Named, prefer: str) -> EmergencyNote:
    """Carry what is wanted in one transaction of SQLite that notes it, too; returns that note.

    Conflicts are looked for before, while the application writes on; what it writes to these rows after that is found
    within the transaction, and everything begins anew.
    """
    path = Path(live.source)
    for _ in range(TRIES):
        note = _looked_at(path, prefer)
        conflicts = _conflicts(live, left, note)
        if conflicts and not prefer:
            raise UsageError(_conflict(conflicts), "Say which side is right: --prefer postgres or --prefer sqlite.")
        wanted = _without(left, conflicts) if prefer == "sqlite" else left

        def begin(target: sqlite3.Connection, note: EmergencyNote = note, wanted: Named = wanted) -> None:
            if note.prefer != "postgres":
                _refuse_overtaken(target, live, wanted, note)
            keep_emergency(target, note)

        try:
            await carry_keys(connection, live, forms, _keys(wanted), begin=begin)
        except _Overtaken:
            continue
        return note
    raise Transient(f"{path} is written to again and again in the rows that are to be carried.", "Run this again.")


def _looked_at(path: Path, prefer: str) -> EmergencyNote:
    """Return the note as it will be when what is there up to now was looked at for conflicts."""
    with closing(open_read_only(path)) as source:
        note = noted(source).emergency
        if note is None:
            raise Permanent(
                f"{path} notes no emergency, but the ledger does.",
                "Was the file restored from a backup? Put back the one that was in use.",
            )
        return replace(note, carried_upto=last_id(source), prefer=prefer)


def _carried_note(path: Path) -> EmergencyNote | None:
    """Return the note of an emergency whose rows are carried; None while they are not."""
    note = read_noted(path).emergency
    return note if note is not None and note.carried_upto is not None else None


def _refuse_overtaken(target: sqlite3.Connection, live: Live, wanted: Named, note: EmergencyNote) -> None:
    assert note.carried_upto is not None
    if _touched_among(target, live, wanted, note.carried_upto, last_id(target)):
        raise _Overtaken("A row that is to be carried was written in SQLite meanwhile.", "Run this again.")


async def _settle(connection: Connection, live: Live, note: EmergencyNote, wanted: Named, given_up: Keys) -> None:
    """Close the ledger's entries and enter dual-write, in one transaction."""
    async with connection.transaction():
        for table, keys in wanted.items():
            await settle_uncarried(connection, live.run_id, table, list(keys), "carried")
        for table, refused in given_up.items():
            await settle_uncarried(connection, live.run_id, table, refused, "given up: SQLite's row was preferred")
        # What was given up is overwritten by SQLite's row, which the outbox has since the emergency.
        await set_position(connection, live.run_id, note.outbox_id, datetime.now(UTC))
        await phases.enter(connection, live.run_id, Phase.DUAL_WRITE, "the emergency rollback is settled", {})


def _forget(path: Path) -> None:
    with writing(path) as source:
        forget_note(source, EMERGENCY)


# ---------------------------------------------------------------- conflicts


def _conflicts(live: Live, left: Named, note: EmergencyNote) -> dict[str, list[Key]]:
    """Return the keys that were written in SQLite as well, from the emergency to where the note has looked."""
    assert note.carried_upto is not None
    with closing(open_read_only(Path(live.source))) as source:
        return _touched_among(source, live, left, note.outbox_id, note.carried_upto)


def _touched_among(source: sqlite3.Connection, live: Live, keys: Named, after: int, upto: int) -> dict[str, list[Key]]:
    found = {}
    for name, wires in keys.items():
        written = _written(source, live.table(name), after, upto)
        if both := [key for key, wire in wires.items() if wire in written]:
            found[name] = both
    return found


def _written(source: sqlite3.Connection, table: LiveTable, after: int, upto: int) -> set[WireKey]:
    # By what they mean: a uuid's letters may be large on one side and small on the other.
    keys = [key_of(table, item) for item in touched(source, table.captured, after, upto)]
    return {wire for _, wire in named_keys(table, keys)}


def _named(live: Live, keys: Keys) -> Named:
    return {name: dict(named_keys(live.table(name), rows)) for name, rows in keys.items()}


def _without(keys: Named, others: Keys) -> Named:
    found = {}
    for name, wires in keys.items():
        refused = set(others.get(name, ()))
        found[name] = {key: wire for key, wire in wires.items() if key not in refused}
    return found


def _keys(named: Named) -> dict[str, list[Key]]:
    return {name: list(wires) for name, wires in named.items()}


def _count(keys: Named | Keys) -> int:
    return sum(map(len, keys.values()))


def _conflict(conflicts: Keys) -> str:
    first = [f"{table} {key}" for table, keys in conflicts.items() for key in keys][:10]
    return (
        f"{_count(conflicts)} rows were written in PostgreSQL before the emergency and in SQLite since: "
        f"{', '.join(first)}."
    )
