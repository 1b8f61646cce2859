"""After a change of the source's schema: capture for the tables of now, and only the tables concerned copied again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from pgferry.live import phases
from pgferry.live.begin import DUAL_WRITE_FENCE
from pgferry.live.changes import refuse_replaced
from pgferry.live.forward import sync_once
from pgferry.live.model import Capture, CapturedTable, Change, ChangeKind, Phase, Synced
from pgferry.live.pairs import add_hidden_columns, prepare_live
from pgferry.model import Snapshot
from pgferry.postgres import fence as target_fence
from pgferry.postgres.connection import Connection
from pgferry.postgres.deferred import defer_foreign_keys
from pgferry.postgres.journal import read_position, read_recorded_capture, record_capture, sync_lock
from pgferry.postgres.ledger import Run
from pgferry.settings import Rules
from pgferry.sqlite import capture as captures
from pgferry.sqlite.connect import open_read_only

CHANGED = "changed"
"""The fingerprint of a table that must be copied again: no table has it, so it counts as altered until that is done."""

_LOADING = frozenset({Phase.LOADING})


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a change of the schema made necessary."""

    copied: tuple[str, ...]
    """Tables that were copied anew."""
    forgotten: tuple[str, ...]
    """Tables that are gone; their rows in PostgreSQL were left as they are."""
    synced: Synced | None


async def note_changes(connection: Connection, run: Run) -> Capture:
    """Install capture for the tables of now, and record which of them must be copied again: all, after lost writes.

    Safe to repeat: the record is made before the triggers are. Raises SchemaChanged for another file in this one's
    place, which no copy of a table mends.
    """
    record = await phases.current(connection, run.id)
    phases.require(record, "dual-write --resume")
    if record.phase is Phase.DUAL_WRITE:
        await phases.enter(connection, run.id, Phase.LOADING, "the source's schema has changed", {})
    known = await read_recorded_capture(connection, run.id)
    assert known is not None
    position = await read_position(connection, run.id)
    after, mark = (position.outbox_id, position.mark) if position else (0, None)
    with closing(open_read_only(Path(run.source))) as source:
        source.execute("BEGIN")
        found = captures.changes(source, known, after, mark)
    refuse_replaced(run.source, found)
    await record_capture(connection, run.id, _marked(known, found, known))
    installed = captures.install(Path(run.source), known.token)
    await record_capture(connection, run.id, _marked(installed, found, await read_recorded_capture(connection, run.id)))
    return installed


async def copy_changed(connection: Connection, run: Run, rules: Rules, target: str, snapshot: Snapshot) -> Resumed:
    """Copy the noted tables from a snapshot that was taken after `note_changes`, beside all that was touched since.

    One transaction in PostgreSQL holds the tables and the new position.
    """
    recorded = await read_recorded_capture(connection, run.id)
    assert recorded is not None
    with closing(open_read_only(Path(snapshot.path), immutable=True)) as source:
        now = captures.read_capture(source)
    assert now is not None
    changed = frozenset(table.name for table in recorded.tables if table.fingerprint == CHANGED)
    live = await prepare_live(connection, run, rules, target, capture=now)
    await add_hidden_columns(connection, live.tables)
    await defer_foreign_keys(connection, run.id, [table.pair.target for table in live.tables])
    await target_fence.fence(connection, live, DUAL_WRITE_FENCE)
    whole = changed & {table.name for table in live.tables}
    async with sync_lock(connection):
        synced = await sync_once(
            connection, live, path=Path(snapshot.path), taken_at=snapshot.taken_at, whole=whole, phases=_LOADING
        )
    await record_capture(connection, run.id, now)
    await phases.enter(connection, run.id, Phase.DUAL_WRITE, "resumed after a change of the schema", {})
    gone = tuple(sorted({table.name for table in recorded.tables} - {table.name for table in now.tables}))
    return Resumed(tuple(sorted(whole)), gone, synced)


def _marked(capture: Capture, found: Sequence[Change], before: Capture | None = None) -> Capture:
    """Return the capture with the tables that must be copied again marked, besides those that were `before`.

    Tables of `before` that are gone stay in it. Without a schema version, so that the marks are always looked at.
    """
    names = {change.table for change in found if change.kind is not ChangeKind.DROPPED}
    if any(change.lost for change in found):
        names |= {table.name for table in capture.tables}
    gone: list[CapturedTable] = []
    if before is not None:
        names |= {table.name for table in before.tables if table.fingerprint == CHANGED}
        gone = [table for table in before.tables if table.name not in {known.name for known in capture.tables}]
    marked = (replace(table, fingerprint=CHANGED) if table.name in names else table for table in capture.tables)
    return replace(capture, tables=(*marked, *gone), schema_version=0)
