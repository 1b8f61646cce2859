"""The gates before the switch and before the cleanup: what was measured, judged one by one.

Judging is pure: `switch_gates` and `cleanup_gates` look at facts that `measure_switch` and `measure_cleanup` read from
the ledger, joined with those that only the two databases can tell (lag, schema, preflight).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pgferry.live.model import Change, Phase, PhaseRecord, ValidationRecord
from pgferry.live.phases import current, history, meaning, next_action
from pgferry.postgres.handle import Connection
from pgferry.postgres.journal import server_time, uncarried_count, validations
from pgferry.postgres.ledger import quarantine_counts
from pgferry.settings import Settings

VALIDATE = "Run `python -m flows validate`."
SYNC = "Run `python -m flows sync`, and see that it runs on its schedule."
NAMED = 5
"""How many of the things in the way a gate names."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition: what was measured and what is needed, in words, and what to do while it is closed."""

    name: str
    passed: bool
    measured: str
    needed: str
    action: str


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the side behind is behind: changes not yet carried, and seconds since both were equal."""

    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SwitchFacts:
    """What the gates of the switch look at."""

    phase: PhaseRecord
    now: datetime
    """The server's clock."""
    validations: tuple[ValidationRecord, ...]
    """Those of every cell since the first copy, or since an emergency; newest first."""
    lag: Lag | None
    """None when it cannot be told."""
    changes: tuple[Change, ...] = ()
    """What happened to the captured file besides writes to its rows."""
    quarantined: Mapping[str, int] | None = None
    """Source table -> rows kept aside and not replayed."""
    accepted: frozenset[str] = frozenset()
    """Tables whose quarantined rows are accepted by configuration."""
    uncarried: int = 0
    """Rows that an emergency rollback left behind."""
    failed_checks: tuple[str, ...] = ()
    """The preflight's failed checks, in words."""


@dataclass(frozen=True, slots=True)
class CleanupFacts:
    """What the gates of the cleanup look at."""

    phase: PhaseRecord
    now: datetime
    validations: tuple[ValidationRecord, ...]
    """Those of every cell since the switch; newest first."""
    lag: Lag | None
    uncarried: int = 0


def closed(gates: Iterable[Gate]) -> tuple[Gate, ...]:
    """Return the gates that are not passed."""
    return tuple(gate for gate in gates if not gate.passed)


# ---------------------------------------------------------------- judging


def switch_gates(facts: SwitchFacts, settings: Settings) -> tuple[Gate, ...]:
    """Judge whether PostgreSQL may go in front."""
    return (
        _phase(facts.phase, Phase.DUAL_WRITE),
        _validations_in_a_row(facts.validations, settings.validations_needed),
        _validation_age(facts, settings.validation_max_age_hours),
        *_lag(facts.lag, settings),
        _schema(facts.changes),
        _quarantine(facts.quarantined or {}, facts.accepted),
        _uncarried(facts.uncarried),
        _preflight(facts.failed_checks),
    )


def cleanup_gates(facts: CleanupFacts, settings: Settings) -> tuple[Gate, ...]:
    """Judge whether the way back to SQLite may be removed."""
    return (
        _phase(facts.phase, Phase.SWITCHED),
        _days(facts, settings.cleanup_days),
        _validated_since(facts.validations),
        *_lag(facts.lag, settings),
        _uncarried(facts.uncarried),
    )


def _phase(record: PhaseRecord, needed: Phase) -> Gate:
    measured = f"{record.phase} since {record.since:%Y-%m-%d %H:%M:%S %Z}: {meaning(record.phase)}"
    return Gate("phase", record.phase is needed, measured, f"{needed}", next_action(record.phase))


def _validations_in_a_row(records: Sequence[ValidationRecord], needed: int) -> Gate:
    row = 0
    for record in records:
        if not record.passed:
            break
        row += 1
    measured = f"{row} in a row"
    if row < len(records):
        measured += f"; {_told(records[row])}"
    action = "Look at its report, then run `python -m flows validate --repair`." if records and not row else VALIDATE
    return Gate("validations passed", row >= needed, measured, f"{needed} in a row, of every cell", action)


def _validation_age(facts: SwitchFacts, hours: float) -> Gate:
    needed = f"at most {hours:g} hours old"
    if not facts.validations:
        return Gate("age of the latest validation", False, "there is none of every cell", needed, VALIDATE)
    age = max(timedelta(0), facts.now - facts.validations[0].moment)
    return Gate(
        "age of the latest validation", age <= timedelta(hours=hours), f"{_duration(age)} old", needed, VALIDATE
    )


def _lag(lag: Lag | None, settings: Settings) -> tuple[Gate, Gate]:
    limits = settings.max_lag_rows, settings.max_lag_seconds
    rows, seconds = (_count(lag.rows, "row"), f"{lag.seconds:.1f} s") if lag else ("unknown", "unknown")
    return (
        Gate("lag in rows", lag is not None and lag.rows <= limits[0], rows, f"at most {limits[0]:,}", SYNC),
        Gate("lag in time", lag is not None and lag.seconds <= limits[1], seconds, f"at most {limits[1]:g} s", SYNC),
    )


def _schema(changes: Sequence[Change]) -> Gate:
    words = [f"{change.table or 'the file'} {change.kind}" for change in changes]
    action = "Run `python -m flows dual-write --resume`."
    return Gate("schema of the source", not changes, _listed(words) or "unchanged", "unchanged", action)


def _quarantine(quarantined: Mapping[str, int], accepted: frozenset[str]) -> Gate:
    rows = {table: count for table, count in sorted(quarantined.items()) if count and table not in accepted}
    words = [f"{_count(count, 'row')} of {table}" for table, count in rows.items()]
    action = (
        "Look at `python -m flows quarantine list`; correct the values, or set accept_quarantined in pgferry.toml for "
        "tables whose rows may stay behind."
    )
    return Gate("quarantine", not rows, _listed(words) or "no rows", "no rows except in accepted tables", action)


def _uncarried(count: int) -> Gate:
    measured = _count(count, "row") if count else "none"
    return Gate("writes left behind", not count, measured, "none", "Run `python -m flows rollback --carry`.")


def _preflight(failed: Sequence[str]) -> Gate:
    action = "Correct these; `python -m flows preflight` says how."
    return Gate("preflight", not failed, _listed(failed) or "all checks passed", "all checks passed", action)


def _days(facts: CleanupFacts, days: float) -> Gate:
    name, needed = "time since the switch", f"at least {days:g} days"
    action = "Wait; PGFERRY_CLEANUP_DAYS says how long."
    if facts.phase.phase is not Phase.SWITCHED:
        return Gate(name, False, "PostgreSQL is not in front", needed, action)
    age = facts.now - facts.phase.since
    return Gate(name, age >= timedelta(days=days), _duration(age), needed, action)


def _validated_since(records: Sequence[ValidationRecord]) -> Gate:
    name, needed = "validation since the switch", "the latest one of every cell passed"
    if not records:
        return Gate(name, False, "there is none of every cell", needed, VALIDATE)
    return Gate(name, records[0].passed, _told(records[0]), needed, VALIDATE)


def _told(record: ValidationRecord) -> str:
    which = f"the one of {record.moment:%Y-%m-%d %H:%M}"
    if record.passed:
        return f"{which} passed"
    wrong = record.detail.get("wrong_queries")
    queries = (
        f"; {len(wrong)} of the application's queries answer differently" if isinstance(wrong, list) and wrong else ""
    )
    found = f"{_count(record.differences, 'difference')} and {_count(record.orphans, 'orphan')}"
    return f"{which} failed with {found}{queries}"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _listed(words: Sequence[str]) -> str:
    more = f", and {len(words) - NAMED} more" if len(words) > NAMED else ""
    return ", ".join(words[:NAMED]) + more


def _duration(age: timedelta) -> str:
    hours = age.total_seconds() / 3600
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} hours"


# ---------------------------------------------------------------- measuring


async def measure_switch(
    conn: Connection,
    run_id: int,
    *,
    lag: Lag | None,
    changes: Sequence[Change] = (),
    accepted: frozenset[str] = frozenset(),
    failed_checks: Sequence[str] = (),
    limit: int = 100,
) -> SwitchFacts:
    """Read from the ledger what the gates of the switch need besides what is given; reads only."""
    since = _latest(await history(conn, run_id), Phase.LOADING, Phase.EMERGENCY)
    return SwitchFacts(
        phase=await current(conn, run_id),
        now=await server_time(conn),
        validations=_after(since, await validations(conn, run_id, limit, level="cells")),
        lag=lag,
        changes=tuple(changes),
        quarantined=await quarantine_counts(conn, run_id),
        accepted=accepted,
        uncarried=await uncarried_count(conn, run_id),
        failed_checks=tuple(failed_checks),
    )


async def measure_cleanup(conn: Connection, run_id: int, *, lag: Lag | None) -> CleanupFacts:
    """Read from the ledger what the gates of the cleanup need besides what is given; reads only."""
    record = await current(conn, run_id)
    since = record.since if record.phase is Phase.SWITCHED else None
    return CleanupFacts(
        phase=record,
        now=await server_time(conn),
        validations=_after(since, await validations(conn, run_id, 1, level="cells")),
        lag=lag,
        uncarried=await uncarried_count(conn, run_id),
    )


def _latest(phases: Sequence[PhaseRecord], *kinds: Phase) -> datetime | None:
    """Return when one of these phases was entered last: what was compared before is another copy."""
    return max((record.since for record in phases if record.phase in kinds), default=None)


def _after(since: datetime | None, records: Sequence[ValidationRecord]) -> tuple[ValidationRecord, ...]:
    return tuple(record for record in records if since is not None and record.moment >= since)
