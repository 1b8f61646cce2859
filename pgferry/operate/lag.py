"""How far the side behind is behind, in each move without downtime of this database."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pgferry.live import phases
from pgferry.live.changes import said
from pgferry.live.gates import Lag
from pgferry.live.status import measure_lag, source_state
from pgferry.operate.watched import LAG, Breach, Part, listing, together
from pgferry.postgres.connection import Connection
from pgferry.postgres.journal import read_position, read_recorded_capture
from pgferry.postgres.ledger import read_run
from pgferry.postgres.metrics import Before, Metric
from pgferry.postgres.statements import statements
from pgferry.replay import replay_rules
from pgferry.settings import Settings

SQL = statements("monitor")


async def lag(connection: Connection, settings: Settings, before: Before, at: datetime) -> Part:
    """Measure the lag of every live move, and judge it; nothing where no move is under way. Changes nothing."""
    if not await connection.fetchval(SQL["ledger_is_readable"]):
        return Part()
    runs = [row["id"] for row in await connection.fetch(SQL["live_runs"])]
    return together([await _of_run(connection, run_id, settings, before, at) for run_id in runs])


async def _of_run(connection: Connection, run_id: int, settings: Settings, before: Before, at: datetime) -> Part:
    run = await read_run(connection, run_id)
    phase = (await phases.current(connection, run_id)).phase
    position = await read_position(connection, run_id)
    state = source_state(Path(run.source), await read_recorded_capture(connection, run_id), position)
    rules = replay_rules(settings, Path(run.source))
    found = await measure_lag(connection, run, rules, phase, state, position)
    problems = [said(change) for change in state.changes] + ([state.problem] if state.problem else [])
    notes = tuple(f"{run.source}: {problem}" for problem in problems)
    if found is None:
        return Part(notes=(*notes, f"The lag of {run.source} is not measured in phase {phase}."))
    seconds = _at_most(found, run.source, before, at)
    return Part(
        metrics=(Metric("lag_rows", run.source, found.rows, "rows"), Metric("lag_seconds", run.source, seconds, "s")),
        listings=(
            listing(
                "lag",
                f"The sync of {run.source}",
                ("phase", "changes waiting", "behind by, in seconds", "level at"),
                [
                    (
                        str(phase),
                        found.rows,
                        round(seconds, 1),
                        f"{position.moment:%Y-%m-%d %H:%M:%S}" if position else "",
                    )
                ],
            ),
        ),
        breaches=_judged(run.source, found.rows, seconds, settings.monitor_lag_seconds),
        notes=notes,
    )


def _at_most(found: Lag, source: str, before: Before, at: datetime) -> float:
    """Return the seconds behind; since the look before at the most, if nothing waited then.

    A sync that finds nothing writes nothing down: after a quiet hour the first change would seem to wait for an hour.
    """
    if before.at is not None and before.values.get(("lag_rows", source)) == 0:
        return max(0.0, min(found.seconds, (at - before.at).total_seconds()))
    return found.seconds


def _judged(source: str, rows: int, seconds: float, allowed: float) -> tuple[Breach, ...]:
    if seconds <= allowed:
        return ()
    return (
        Breach(
            LAG,
            source,
            f"Changes that wait to be carried: {rows:,}; the side behind is behind by {seconds:,.0f} s",
            f"{allowed:g} s",
            "monitor_lag_seconds",
            "See whether the deployment `sync` runs and what its last run says: python -m flows sync",
            seconds,
        ),
    )
