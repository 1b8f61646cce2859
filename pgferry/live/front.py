"""Which side is in front, as the SQLite file itself notes it, and what is still to be done about that.

The file can be read and written when PostgreSQL is away, so where the two disagree it knows better than the ledger.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pgferry.errors import FerryError
from pgferry.live import phases
from pgferry.live.environment import point_back, points_away
from pgferry.live.model import Phase, PhaseRecord
from pgferry.live.write_back import FRONT
from pgferry.settings import Settings
from pgferry.sqlite import fence as source_fence
from pgferry.sqlite.capture import forget_note, notes, set_note
from pgferry.sqlite.connect import explain, open_read_only
from pgferry.sqlite.fence import writing
from pgferry.sqlite.outbox import last_id

EMERGENCY = "emergency"
"""The note of an emergency that is not settled, as JSON (`EmergencyNote`)."""

RESTART_DUE = "restart_due"
"""The note that the environment file was turned to SQLite and the application was not restarted since: its moment."""

FREED = "freed"
"""The note that an emergency took the fence of a switch down that was not decided: its moment."""

_AHEAD = frozenset({Phase.SWITCHING, Phase.SWITCHED, Phase.ROLLING_BACK})
"""Phases of the ledger in which an emergency that the file notes is news."""


@dataclass(frozen=True, slots=True)
class EmergencyNote:
    """What the file notes of an emergency: since when SQLite is in front, and how far its settling has come."""

    at: str
    outbox_id: int
    """The last entry of SQLite's outbox at that moment: what comes after was written since."""
    in_doubt: bool = False
    """Whether pgferry did it by itself: a switch failed, and the application had not been turned as far as it saw."""
    carried_upto: int | None = None
    """The entry of SQLite's outbox up to which conflicts were looked for when the rest was carried; None until then."""
    prefer: str = ""
    """Which side was preferred then."""


@dataclass(frozen=True, slots=True)
class Noted:
    """The notes of a file; a file that is not captured has SQLite in front."""

    front: str
    emergency: EmergencyNote | None
    restart_due: bool


def read_noted(path: Path) -> Noted:
    """Return what the file notes. Raises the driver's errors explained."""
    try:
        with closing(open_read_only(path)) as source:
            return noted(source)
    except sqlite3.Error as error:
        raise explain(error, path) from error


def noted(source: sqlite3.Connection) -> Noted:
    """Return what the file notes, as this connection sees it."""
    found = notes(source)
    emergency = EmergencyNote(**json.loads(found[EMERGENCY])) if EMERGENCY in found else None
    return Noted(found.get(FRONT, "sqlite"), emergency, RESTART_DUE in found)


def note_emergency(source: sqlite3.Connection, *, in_doubt: bool = False) -> None:
    """Put SQLite in front without PostgreSQL's word; joins the caller's transaction."""
    keep_emergency(source, EmergencyNote(now(), last_id(source), in_doubt))
    set_note(source, FRONT, "sqlite")


def keep_emergency(source: sqlite3.Connection, note: EmergencyNote) -> None:
    """Note how the emergency stands; joins the caller's transaction."""
    fields = {name: getattr(note, name) for name in EmergencyNote.__slots__}
    set_note(source, EMERGENCY, json.dumps(fields))


def free(settings: Settings, path: Path) -> bool:
    """Point the application back and take SQLite's fence down; SQLite must be in front by now. Idempotent.

    Returns whether the application must be restarted, which the file notes until `restarted`: whoever repeats a
    command that was killed in between must do it, too. Raises as `point_back`, with the fence up.
    """
    if points_away(settings):
        with writing(path) as source:
            set_note(source, RESTART_DUE, now())
    point_back(settings, path)
    source_fence.unfence(path)
    return read_noted(path).restart_due


def restarted(path: Path) -> None:
    """Note that the application was restarted since it was pointed back. Idempotent."""
    if read_noted(path).restart_due:
        with writing(path) as source:
            forget_note(source, RESTART_DUE)


def lower_fence(settings: Settings, path: Path) -> bool:
    """Take SQLite's fence down where the application was never turned away from it; needs no PostgreSQL.

    Returns whether SQLite can be written to again. Where the application was turned, only a way back that carries
    PostgreSQL's writes may do it, or an emergency. The environment file that this process sees may be another one than
    the application's: where nothing else says that SQLite is in front, an emergency in doubt is noted, and the way back
    looks for PostgreSQL's writes before anything is dropped there.
    """
    if read_noted(path).front == "postgres":
        if points_away(settings) is not False:
            return False
        with writing(path) as source:
            note_emergency(source, in_doubt=True)
    source_fence.unfence(path)
    return True


def require(record: PhaseRecord, path: Path, command: str) -> None:
    """Do as `phases.require`, and heed what the file says that the ledger does not know yet. Raises OutOfOrder.

    After an emergency that PostgreSQL was not told of, the ways out of it are open. A rollback that is made but for the
    restart of the application may be repeated.
    """
    try:
        known = read_noted(path)
    except FerryError:
        phases.require(record, command)
        return
    if known.emergency is not None and record.phase in _AHEAD and command.startswith("rollback --"):
        record = replace(record, phase=Phase.EMERGENCY)
    if known.restart_due and record.phase is Phase.DUAL_WRITE and command == "rollback":
        return
    phases.require(record, command)


def now() -> str:
    """Return this machine's clock, as notes have it."""
    return datetime.now(UTC).isoformat()
