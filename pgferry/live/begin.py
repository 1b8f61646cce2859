"""The beginning of dual-write: capture before the snapshot, the position after the load, and the way out of it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pgferry.errors import UsageError
from pgferry.live import phases
from pgferry.live.model import Capture, Live, Phase
from pgferry.live.pairs import refuse_own_collations
from pgferry.model import Snapshot
from pgferry.postgres import fence as target_fence
from pgferry.postgres.connection import Connection
from pgferry.postgres.journal import begin_position, other_live, record_capture, reserve_token
from pgferry.postgres.ledger import Run
from pgferry.settings import Rules
from pgferry.sqlite import capture as captures
from pgferry.sqlite import fence as source_fence
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.connect import open_read_only
from pgferry.sqlite.outbox import last_id, mark_of

DUAL_WRITE_FENCE = (
    "SQLite is in front, and this database is kept level with it; writes here would be overwritten. "
    "python -m flows status"
)
"""What whoever writes to PostgreSQL is told while SQLite is in front."""


@dataclass(frozen=True, slots=True)
class Undone:
    """What leaving dual-write removed."""

    removed: tuple[str, ...]
    """Names of the objects that were removed from the SQLite file."""


def refuse_unwritable(path: Path, rules: Rules) -> None:
    """Raise Permanent naming tables of the live file that only the application can write to; those excluded do not
    count. Raises as `open_read_only` does."""
    with closing(open_read_only(path, stand_ins=True)) as source:
        tables = read_catalog(source).tables
    refuse_own_collations(table for table in tables if not rules.table(table.name).exclude)


async def begin_capture(connection: Connection, run: Run) -> Capture:
    """Install the capture in the run's source and record it; from here on every write is in the outbox.

    Idempotent. To be called under the run lock and before the run's snapshot is taken: raises UsageError for a run that
    has one without capture, since nobody knows what was written in between, and while another live move is under way in
    this database, with nothing changed.
    """
    record = await phases.current(connection, run.id)
    if record.phase is Phase.NONE and run.snapshot is not None:
        raise UsageError(
            f"{run.source} was moved by run {run.id} without capture: what was written since is not known.",
            "Begin anew: `python -m flows dual-write --restart`.",
        )
    if record.phase is Phase.NONE:
        await _refuse_second(connection, run)
        await phases.enter(connection, run.id, Phase.LOADING, "dual-write begins", {})
    token = await reserve_token(connection, run.id)
    capture = captures.install(Path(run.source), token)
    await record_capture(connection, run.id, capture)
    return capture


async def _refuse_second(connection: Connection, run: Run) -> None:
    # Fence and capture in PostgreSQL are one a database: the end of one move would take those of the other away.
    found = await other_live(connection, run.id)
    if found is None:
        return
    source, record = found
    raise UsageError(
        f"{run.source} cannot be made live here: the live move of {source} into this database is in phase "
        f"{record.phase} since {record.since:%Y-%m-%d %H:%M:%S} UTC, and there can be one at a time.",
        f"{_ending(record.phase, source)} Or give {run.source} a database of its own.",
        source=source,
        phase=record.phase,
    )


def _ending(phase: Phase, source: str) -> str:
    if phase in (Phase.LOADING, Phase.DUAL_WRITE):
        return (
            f"Bring it to its end first (`python -m flows switch --source {source}`, later `cleanup`), or leave it by "
            f"`python -m flows dual-write --undo --source {source}`."
        )
    if phase in (Phase.SWITCHED, Phase.CLEANED):
        return f"End it first by `python -m flows cleanup --source {source}`."
    return f"{phases.next_action(phase)} (--source {source})"


async def begin_sync(connection: Connection, live: Live, snapshot: Snapshot) -> None:
    """Set the first position, that of the snapshot, and enter dual-write; idempotent.

    The target is fenced from now on: only the sync writes to it.
    """
    with closing(open_read_only(Path(snapshot.path), immutable=True)) as source:
        first = last_id(source)
        mark = mark_of(source, first)
    await begin_position(connection, live.run_id, first, snapshot.taken_at, mark)
    if (await phases.current(connection, live.run_id)).phase is Phase.LOADING:
        await target_fence.fence(connection, live, DUAL_WRITE_FENCE)
        await phases.enter(connection, live.run_id, Phase.DUAL_WRITE, "loaded", {})


async def undo(connection: Connection, run: Run) -> Undone:
    """Leave dual-write: capture and fence are removed, SQLite is as it was; the target keeps its rows.

    Needs no agreement of the schemas: everything is found by its name. Safe to repeat after it was cut off anywhere:
    the phase is the last that changes.
    """
    phases.require(await phases.current(connection, run.id), "dual-write --undo")
    path = Path(run.source)
    source_fence.unfence(path)
    removed = captures.remove(path)
    await target_fence.unfence(connection)
    await phases.enter(connection, run.id, Phase.NONE, "undone", {})
    return Undone(removed)
