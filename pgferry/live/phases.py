"""Where a move without downtime stands: what leads where, and which command may run when.

The phases are kept in `pgferry.phase`, as a history; the last row of a run is where it stands, and a run without rows
is in phase `none`. TRANSITIONS and COMMANDS are the whole of the rules.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import asyncpg

from pgferry.errors import Permanent, UsageError
from pgferry.live.model import Phase, PhaseRecord
from pgferry.postgres.handle import Connection, require_read_committed
from pgferry.postgres.ledger import clean_reason, no_run
from pgferry.postgres.statements import statements
from pgferry.postgres.validations import to_jsonb

SQL = statements("phases")

TRANSITIONS: Mapping[Phase, frozenset[Phase]] = MappingProxyType(
    {
        Phase.NONE: frozenset({Phase.LOADING}),
        # To SWITCHING by `migrate --cut-over`, which has no dual-write in between.
        Phase.LOADING: frozenset({Phase.DUAL_WRITE, Phase.SWITCHING, Phase.NONE}),
        # Back to LOADING while tables are copied again after a change of the schema.
        Phase.DUAL_WRITE: frozenset({Phase.SWITCHING, Phase.LOADING, Phase.NONE}),
        # Back to where it came from when it failed.
        Phase.SWITCHING: frozenset({Phase.SWITCHED, Phase.DUAL_WRITE, Phase.LOADING, Phase.EMERGENCY}),
        Phase.SWITCHED: frozenset({Phase.ROLLING_BACK, Phase.EMERGENCY, Phase.CLEANED}),
        Phase.ROLLING_BACK: frozenset({Phase.DUAL_WRITE, Phase.SWITCHED, Phase.EMERGENCY}),
        Phase.EMERGENCY: frozenset({Phase.DUAL_WRITE}),
        Phase.CLEANED: frozenset({Phase.NONE}),
    }
)
"""Phase -> the phases that may follow it."""


class OutOfOrder(UsageError):
    """The phase is not one in which the command may run, or not one that the next phase follows."""


@dataclass(frozen=True, slots=True)
class Command:
    """When a command may run; `reason` completes the sentence "The command …"."""

    phases: frozenset[Phase]
    reason: str
    instead: Mapping[Phase, str] = field(default_factory=dict)
    """What to run where it may not, if that is not simply the phase's next action."""


_MEANINGS: Mapping[Phase, str] = MappingProxyType(
    {
        Phase.NONE: "no move without downtime is under way",
        Phase.LOADING: "the first copy is being made",
        Phase.DUAL_WRITE: "SQLite is in front and PostgreSQL is kept level",
        Phase.SWITCHING: "a switch is under way, or was interrupted",
        Phase.SWITCHED: "PostgreSQL is in front and SQLite is kept level",
        Phase.ROLLING_BACK: "a rollback is under way, or was interrupted",
        Phase.EMERGENCY: "SQLite is in front, and PostgreSQL may hold writes that were not carried back",
        Phase.CLEANED: "PostgreSQL is in front for good",
    }
)

_NEXT: Mapping[Phase, str] = MappingProxyType(
    {
        Phase.NONE: "Run `python -m flows dual-write` first.",
        Phase.LOADING: "Run `python -m flows dual-write` first; it goes on where it stopped.",
        Phase.DUAL_WRITE: "Run `python -m flows validate`, and `python -m flows switch` when its gates are open.",
        Phase.SWITCHING: "Wait until the switch ends; if its program is gone, run `python -m flows rollback`, which "
        "takes it back.",
        Phase.SWITCHED: "Run `python -m flows cleanup` when its gates are open, or `python -m flows rollback`.",
        Phase.ROLLING_BACK: "Wait until the rollback ends; if its program is gone, run `python -m flows rollback` "
        "again.",
        Phase.EMERGENCY: "Run `python -m flows rollback --carry` when PostgreSQL can be reached.",
        Phase.CLEANED: "Nothing is left to do.",
    }
)

_GO_BACK = "Run `python -m flows rollback` first."
_NOTHING_SWITCHED = {
    Phase.NONE: "There is nothing to roll back.",
    Phase.LOADING: "To give the move up, run `python -m flows dual-write --undo`.",
    Phase.DUAL_WRITE: "To give the move up, run `python -m flows dual-write --undo`.",
    Phase.CLEANED: "The way back ended with the cleanup; the archived SQLite file is what is left of it.",
}
_LEAVE = "The application lives in PostgreSQL; leave this database alone."

COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        # In dual-write it only carries what is left until both are level, so that it can be run again after a crash.
        "dual-write": Command(
            frozenset({Phase.NONE, Phase.LOADING, Phase.DUAL_WRITE}),
            "copies SQLite over what PostgreSQL holds",
            {Phase.SWITCHED: _GO_BACK, Phase.CLEANED: _LEAVE},
        ),
        "dual-write --undo": Command(
            frozenset({Phase.NONE, Phase.LOADING, Phase.DUAL_WRITE}),
            "ends a move in which SQLite is in front and nothing is left to carry back",
            {Phase.SWITCHED: _GO_BACK, Phase.CLEANED: "Nothing is left to undo."},
        ),
        "dual-write --resume": Command(
            frozenset({Phase.LOADING, Phase.DUAL_WRITE}),
            "copies changed tables again from SQLite, while that is in front",
            {Phase.SWITCHED: _GO_BACK},
        ),
        "sync": Command(
            frozenset({Phase.DUAL_WRITE, Phase.SWITCHED}), "carries changes between two sides that were level before"
        ),
        "validate": Command(frozenset({Phase.DUAL_WRITE, Phase.SWITCHED}), "compares two sides that are kept level"),
        "switch": Command(
            frozenset({Phase.DUAL_WRITE, Phase.SWITCHING}),
            "needs SQLite in front and PostgreSQL level with it",
            {Phase.SWITCHED: "The switch is made; `python -m flows status` shows where it stands."},
        ),
        "rollback": Command(
            frozenset({Phase.SWITCHING, Phase.SWITCHED, Phase.ROLLING_BACK}),
            "takes back a switch, and none is made",
            _NOTHING_SWITCHED,
        ),
        "rollback --emergency": Command(
            frozenset({Phase.SWITCHING, Phase.SWITCHED, Phase.ROLLING_BACK, Phase.EMERGENCY}),
            "takes back a switch, and none is made",
            _NOTHING_SWITCHED,
        ),
        # In dual-write too: what one call could not carry is tried again by the next.
        "rollback --carry": Command(
            frozenset({Phase.EMERGENCY, Phase.DUAL_WRITE}),
            "carries the writes that an emergency rollback left behind, and there was none",
            dict.fromkeys((Phase.NONE, Phase.LOADING, Phase.CLEANED), "There is nothing to carry.")
            | {Phase.SWITCHED: "`python -m flows sync` carries the writes of PostgreSQL."},
        ),
        # In cleaned too: one that was cut off is finished by the same command.
        "cleanup": Command(
            frozenset({Phase.SWITCHED, Phase.CLEANED}),
            "removes the way back to SQLite",
            {Phase.DUAL_WRITE: "Run `python -m flows switch` first."},
        ),
        "migrate": Command(
            frozenset({Phase.NONE}),
            "is the move of a database that nobody writes to, and a live one is under way or done",
            {
                Phase.LOADING: "Run `python -m flows dual-write` to go on, or `python -m flows dual-write --undo`.",
                Phase.DUAL_WRITE: "Run `python -m flows switch` to go on, or `python -m flows dual-write --undo`.",
                Phase.CLEANED: _LEAVE,
            },
        ),
        "quarantine replay": Command(
            frozenset({Phase.NONE}),
            "loads rows of a snapshot, and a live move has newer ones",
            {
                Phase.DUAL_WRITE: "Write these rows once more in SQLite, by any UPDATE: the sync then carries them "
                "by the rules of now.",
                Phase.CLEANED: _LEAVE,
            },
        ),
        "migrate --cut-over": Command(
            frozenset({Phase.NONE, Phase.LOADING, Phase.SWITCHING}),
            "copies SQLite over what PostgreSQL holds and ends with the switch",
            {
                Phase.DUAL_WRITE: "Run `python -m flows switch`: PostgreSQL is level already.",
                Phase.CLEANED: _LEAVE,
            },
        ),
    }
)
"""Command -> the phases in which it may run, why in no other, and what to run there instead."""


def next_action(phase: Phase) -> str:
    """Return what the person who moves the database does next, as a sentence."""
    return _NEXT[phase]


def meaning(phase: Phase) -> str:
    """Return what the phase means, in a few words."""
    return _MEANINGS[phase]


def require(record: PhaseRecord, command: str) -> None:
    """Raise OutOfOrder, with the reason and what to run instead, when the command may not run in this phase."""
    rule = COMMANDS[command]
    if record.phase in rule.phases:
        return
    raise OutOfOrder(
        f"{command}: this database is in phase {record.phase} since {record.since:%Y-%m-%d %H:%M:%S %Z}: "
        f"{meaning(record.phase)}. The command {rule.reason}.",
        rule.instead.get(record.phase, next_action(record.phase)),
        command=command,
        phase=record.phase,
    )


async def current(conn: Connection, run_id: int) -> PhaseRecord:
    """Return where the run stands. Raises Permanent when there is no such run."""
    row = await conn.fetchrow(SQL["current"], run_id)
    if row is None:
        raise no_run(run_id)
    return _record(row)


async def history(conn: Connection, run_id: int) -> tuple[PhaseRecord, ...]:
    """Return the phases of the run, oldest first; empty when it never was in one."""
    return tuple(_record(row) for row in await conn.fetch(SQL["history"], run_id))


async def enter(
    conn: Connection, run_id: int, phase: Phase, reason: str = "", details: Mapping[str, object] | None = None
) -> PhaseRecord:
    """Put the run into a phase and return the record of it; `details`, as JSON, is what the way back must know.

    Atomic; inside a transaction it joins it, and the phase commits with the rest. Others that enter a phase of this
    run wait. Raises OutOfOrder, and changes nothing, when TRANSITIONS does not lead there, Permanent without such a
    run, and RuntimeError inside a REPEATABLE READ transaction.
    """
    async with _changing(conn):
        before = await _locked(conn, run_id)
        if phase not in TRANSITIONS[before.phase]:
            raise OutOfOrder(
                f"This database cannot go from phase {before.phase}, in which it is since "
                f"{before.since:%Y-%m-%d %H:%M:%S %Z}, to phase {phase}: {meaning(before.phase)}.",
                next_action(before.phase),
                phase=before.phase,
            )
        row = await conn.fetchrow(SQL["enter"], run_id, str(phase), clean_reason(reason), to_jsonb(details or {}))
    assert row is not None
    return _record(row)


async def amend(conn: Connection, run_id: int, phase: Phase, details: Mapping[str, object]) -> PhaseRecord:
    """Add to the details of the phase in which the run is, member by member; raises as `enter`.

    Raises OutOfOrder when it is in another phase by now.
    """
    async with _changing(conn):
        before = await _locked(conn, run_id)
        if before.phase is not phase:
            raise OutOfOrder(
                f"This database is in phase {before.phase} by now, not in phase {phase}.", next_action(before.phase)
            )
        row = await conn.fetchrow(SQL["amend"], run_id, to_jsonb(details))
    if row is None:
        raise Permanent(f"Run {run_id} has no phase whose details could be kept.", next_action(phase))
    return _record(row)


def _changing(conn: Connection) -> asyncpg.transaction.Transaction:
    # Whoever waited for the row must see what the other one wrote: READ COMMITTED, whatever the role's default is.
    return conn.transaction(isolation=None if conn.is_in_transaction() else "read_committed")


async def _locked(conn: Connection, run_id: int) -> PhaseRecord:
    await require_read_committed(conn, "the change of a phase")
    if await conn.fetchval(SQL["lock_run"], run_id) is None:
        raise no_run(run_id)
    return await current(conn, run_id)


def _record(row: asyncpg.Record) -> PhaseRecord:
    return PhaseRecord(Phase(row["phase"]), row["since"], row["reason"], json.loads(row["details"]))
