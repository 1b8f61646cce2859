"""Where a live move stands: its phase, how far the side behind is behind, the last validations, what is next."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pgferry.errors import FerryError
from pgferry.live import phases
from pgferry.live.changes import said
from pgferry.live.environment import check_environment
from pgferry.live.front import noted
from pgferry.live.gates import Gate, Lag, cleanup_gates, measure_cleanup, measure_switch, switch_gates
from pgferry.live.model import Capture, Change, Phase, PhaseRecord, Position, ValidationRecord
from pgferry.live.pairs import prepare_live
from pgferry.operate.check import failed
from pgferry.operate.standing import standing_checks
from pgferry.postgres import capture as target_capture
from pgferry.postgres.connection import Connection
from pgferry.postgres.journal import read_position, read_recorded_capture, validations
from pgferry.postgres.ledger import Run
from pgferry.report import markdown_cell, markdown_table
from pgferry.settings import Rules, Settings
from pgferry.sqlite import capture as captures
from pgferry.sqlite.connect import open_read_only
from pgferry.sqlite.fence import is_fenced
from pgferry.sqlite.outbox import last_id, pending

SHOWN_VALIDATIONS = 5

_EMERGENCY = "an emergency rollback put SQLite in front; PostgreSQL may hold writes that were not carried"

_RESTART = (
    "the application was pointed back to SQLite, and not restarted since: run the same rollback again, which does it"
)
_RESTART_IT = "Run `python -m flows rollback` again: it restarts the application."


@dataclass(frozen=True, slots=True)
class SourceState:
    """What the SQLite file itself tells."""

    changes: tuple[Change, ...] = ()
    waiting: int = 0
    """Entries of its outbox that were not applied."""
    fenced: bool = False
    problem: str = ""
    """Why it cannot be read; empty when it can."""
    emergency: bool = False
    """Whether it notes an emergency rollback that is not settled."""
    restart_due: bool = False
    """Whether it notes that the application was pointed back to it and not restarted since."""


@dataclass(frozen=True, slots=True)
class Status:
    """Where a live move stands."""

    source: str
    phase: PhaseRecord
    lag: Lag | None
    """None where nothing is carried, or where it cannot be told."""
    moment: datetime | None
    """The moment of which both sides were equal last."""
    validations: tuple[ValidationRecord, ...]
    gates: tuple[Gate, ...]
    """Those of the next step: of the switch, or of the cleanup."""
    fenced: bool
    problems: tuple[str, ...]
    next_action: str

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {
            "source": self.source,
            "phase": str(self.phase.phase),
            "meaning": phases.meaning(self.phase.phase),
            "since": self.phase.since.isoformat(),
            "reason": self.phase.reason,
            "lag_rows": self.lag.rows if self.lag else None,
            "lag_seconds": self.lag.seconds if self.lag else None,
            "level_at": self.moment.isoformat() if self.moment else None,
            "fenced": self.fenced,
            "validations": [_validation_json(record) for record in self.validations],
            "gates": [asdict(gate) for gate in self.gates],
            "problems": list(self.problems),
            "next": self.next_action,
        }


async def read_status(connection: Connection, run: Run, settings: Settings, rules: Rules) -> Status:
    """Read where the run's move stands; changes nothing, and answers also when SQLite cannot be read."""
    record = await phases.current(connection, run.id)
    capture = await read_recorded_capture(connection, run.id)
    position, state = await _source(connection, run, capture)
    lag = await measure_lag(connection, run, rules, record.phase, state, position)
    # PostgreSQL could not be told of an emergency while it was away: the file knows better.
    stands = Phase.EMERGENCY if state.emergency else record.phase
    problems = ([_EMERGENCY] if state.emergency else []) + ([_RESTART] if state.restart_due else [])
    problems += [said(change) for change in state.changes] + ([state.problem] if state.problem else [])
    return Status(
        source=run.source,
        phase=record,
        lag=lag,
        moment=position.moment if position else None,
        validations=await validations(connection, run.id, SHOWN_VALIDATIONS),
        gates=await _gates(connection, run, settings, rules, record.phase, lag, state),
        fenced=state.fenced,
        problems=tuple(problems),
        next_action=_RESTART_IT if state.restart_due and not state.emergency else phases.next_action(stands),
    )


async def _source(connection: Connection, run: Run, capture: Capture | None) -> tuple[Position | None, SourceState]:
    position = await read_position(connection, run.id)
    while True:
        state = source_state(Path(run.source), capture, position)
        again = await read_position(connection, run.id)
        # A sync that moves the position on removes the entry that was looked for.
        if again == position or not any(change.lost for change in state.changes):
            return position, state
        position = again


def source_state(path: Path, capture: Capture | None, position: Position | None) -> SourceState:
    """Look at the captured file: what happened to it, and what waits in its outbox. Never raises."""
    try:
        with closing(open_read_only(path)) as source:
            source.execute("BEGIN")
            if capture is None:
                return SourceState(fenced=is_fenced(source))
            after, mark = (position.outbox_id, position.mark) if position else (0, None)
            changes = captures.changes(source, capture, after, mark)
            waiting = sum(pending(source, after, last_id(source)).values()) if position else 0
            known = noted(source)
            return SourceState(
                changes,
                waiting,
                is_fenced(source),
                emergency=known.emergency is not None,
                restart_due=known.restart_due,
            )
    except (FerryError, sqlite3.Error) as error:
        return SourceState(problem=str(error))


async def measure_lag(
    connection: Connection, run: Run, rules: Rules, phase: Phase, state: SourceState, position: Position | None
) -> Lag | None:
    """Return how far the side behind is behind; None where nothing is carried, or where it cannot be told."""
    if position is None or state.problem:
        return None
    if phase in (Phase.DUAL_WRITE, Phase.SWITCHING):
        return _lag(state.waiting, position)
    if phase in (Phase.SWITCHED, Phase.ROLLING_BACK):
        try:
            live = await prepare_live(connection, run, rules, "")
        except FerryError:
            return None
        return _lag(sum((await target_capture.pending(connection, live)).values()), position)
    return None


def _lag(rows: int, position: Position) -> Lag:
    # Nothing waits: then both sides are level now, whenever that was written down last.
    seconds = (datetime.now(UTC) - position.moment).total_seconds() if rows else 0.0
    return Lag(rows, max(0.0, seconds))


async def _gates(
    connection: Connection,
    run: Run,
    settings: Settings,
    rules: Rules,
    phase: Phase,
    lag: Lag | None,
    state: SourceState,
) -> tuple[Gate, ...]:
    if phase is Phase.DUAL_WRITE:
        accepted = frozenset(name for name, rule in rules.tables.items() if rule.accept_quarantined)
        facts = await measure_switch(
            connection,
            run.id,
            lag=lag,
            changes=state.changes,
            accepted=accepted,
            failed_checks=await _failed_checks(connection, settings, rules, Path(run.source)),
        )
        return switch_gates(facts, settings)
    if phase is Phase.SWITCHED:
        return cleanup_gates(await measure_cleanup(connection, run.id, lag=lag), settings)
    return ()


async def _failed_checks(connection: Connection, settings: Settings, rules: Rules, source: Path) -> tuple[str, ...]:
    problem = check_environment(settings, source)
    wrong = failed(await standing_checks(connection, settings, rules, source))
    return (*([problem] if problem else []), *(f"{check.name}: {check.measured}" for check in wrong))


def markdown(status: Status) -> str:
    """Return the status as Markdown."""
    lag = f"{status.lag.rows:,} rows, {status.lag.seconds:.1f} s" if status.lag else "not measured"
    lines = [
        f"## {status.phase.phase}: {phases.meaning(status.phase.phase)}",
        "",
        f"Source: `{status.source}`, since {status.phase.since:%Y-%m-%d %H:%M:%S} UTC ({status.phase.reason}).",
        "",
        f"- Behind by: {lag}.{' SQLite is fenced.' if status.fenced else ''}",
        *(f"- **Problem**: {problem}" for problem in status.problems),
        f"- Next: {status.next_action}",
    ]
    if status.gates:
        rows = [(gate.name, "open" if gate.passed else "CLOSED", gate.measured, gate.needed) for gate in status.gates]
        lines += ["", "### Gates", "", *_table(("gate", "state", "measured", "needed"), rows)]
    if status.validations:
        records = [
            (
                f"{record.moment:%Y-%m-%d %H:%M}",
                record.level,
                "passed" if record.passed else "FAILED",
                f"{record.rows:,}",
                f"{record.differences:,}",
            )
            for record in status.validations
        ]
        lines += [
            "",
            "### Validations",
            "",
            *_table(("moment (UTC)", "level", "result", "rows", "differences"), records),
        ]
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [markdown_table(header, [[markdown_cell(cell) for cell in row] for row in rows])]


def _validation_json(record: ValidationRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "level": record.level,
        "moment": record.moment.isoformat(),
        "passed": record.passed,
        "rows": record.rows,
        "differences": record.differences,
        "seconds": record.seconds,
    }
