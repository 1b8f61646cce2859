"""The sync while SQLite is in front: PostgreSQL moves from one consistent moment of SQLite to the next.

The touched rows are read in one read transaction of SQLite, which ends before PostgreSQL is spoken to: in
rollback-journal mode a reader keeps writers from committing. One transaction of PostgreSQL then holds the rows and
the new position, so each change is applied exactly once, wherever a process dies.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType

import asyncpg
import pyarrow as pa

from pgferry.errors import Permanent
from pgferry.export import convert_rows, fitting_rows, semantic_schema
from pgferry.live.changes import SchemaChanged, refuse_changes
from pgferry.live.keyed import converted_keys, raw_rows
from pgferry.live.model import Direction, Live, LiveTable, Phase, Position, Synced, Touched
from pgferry.live.pairs import bare_read
from pgferry.live.phases import current
from pgferry.live.spool import Spool
from pgferry.model import Key, QuarantinedRow, RawRow
from pgferry.postgres.apply import TableWork, apply_table, find_unfit_rows, refused
from pgferry.postgres.connection import Connection
from pgferry.postgres.journal import advance, lock_sync_for_transaction, read_position, sync_lock
from pgferry.postgres.refusals import is_of_one_row
from pgferry.refused import Refused, refused_rows, sort_out
from pgferry.sqlite.connect import explain, flush_log, open_read_only
from pgferry.sqlite.guard import TableRead, raw_select
from pgferry.sqlite.outbox import last_id, mark_of, pending, touched, touched_rows

ROWS = 4096
"""Rows that are converted at once."""

# SQLite's outbox is pruned up to the position: what the position says must have reached the disk, whatever the
# server's own setting. And the fence around the target lets the sync pass.
_SESSION = "SET LOCAL synchronous_commit = on; SET LOCAL pgferry.pass = on"

KEYS = 50_000
"""Entries of the outbox whose keys are read at once."""

LEVEL_NOTED = timedelta(seconds=5)
"""How often an idle sync records that both sides are level."""

NO_KEYS: Mapping[str, Sequence[Key]] = MappingProxyType({})

NONE_REFUSED: Mapping[str, Refused] = MappingProxyType({})


class OutOfPhase(Permanent):
    """The sync may not carry this way now: another command has moved the phase on."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What was touched in SQLite between two positions, and the rows as they are at the second one."""

    after: int
    upto: int
    mark: str | None
    """What the entry `upto` is."""
    moment: datetime
    tables: tuple[TableWork, ...]

    def close(self) -> None:
        """Let go of the files that large changes are kept in."""
        for work in self.tables:
            work.rows.close()
            work.keys.close()


async def sync_once(
    connection: Connection,
    live: Live,
    *,
    path: Path | None = None,
    taken_at: datetime | None = None,
    phases: frozenset[Phase] = frozenset({Phase.DUAL_WRITE}),
    whole: frozenset[str] = frozenset(),
    also: Mapping[str, Sequence[Key]] = NO_KEYS,
) -> Synced:
    """Carry everything that is in the outbox to PostgreSQL, in one transaction there; exactly once.

    `path` is a snapshot of the moment `taken_at` to read instead of the live file; the tables in `whole` are copied
    anew. Rows of the keys in `also` are carried, touched or not: by source table, the target's keys as SQLite has them.
    Raises SchemaChanged, with nothing applied, when tables were altered, rebuilt, made or dropped; OutOfPhase when the
    phase is none of `phases`; Permanent, with nothing applied, when rows collide in the target. What the target refuses
    for what it holds goes to quarantine, as what does not convert. Another sync that was quicker is no error: this one
    then reads anew, under the sync lock; Transient when that is not got.
    """
    began = time.monotonic()
    source = path or Path(live.source)
    refused: dict[str, Refused] = {}
    async with AsyncExitStack() as turn:
        while True:
            position = await read_position(connection, live.run_id)
            if position is None:
                raise Permanent(
                    f"Run {live.run_id} has no position yet.", "Run `python -m flows dual-write` to its end."
                )
            try:
                changes = await asyncio.to_thread(read_changes, source, live, position, whole, also, refused)
            except SchemaChanged:
                # Another sync may have carried the next entries meanwhile, and removed the one that was looked for.
                if await read_position(connection, live.run_id) != position:
                    await turn.enter_async_context(sync_lock(connection))
                    continue
                raise
            if taken_at is not None:
                changes = replace(changes, moment=taken_at)
            if not changes.tables and changes.upto == changes.after:
                await _still_level(connection, live, position, changes)
                return _idle(changes, began)
            try:
                # What PostgreSQL gets SQLite may lose no more, nor the entry at the new position.
                await asyncio.to_thread(flush_log, Path(live.source))
                if await _apply(connection, live, changes, phases):
                    return _synced(changes, began)
            except asyncpg.PostgresError as error:
                if not is_of_one_row(error):
                    raise
                await _note_refused(connection, changes, refused, error)
                continue
            finally:
                changes.close()
            # Another sync was quicker. One that follows a busy application is so again and again: this one reads anew
            # when nobody can be.
            await turn.enter_async_context(sync_lock(connection))


def read_changes(
    path: Path,
    live: Live,
    position: Position,
    whole: frozenset[str] = frozenset(),
    also: Mapping[str, Sequence[Key]] = NO_KEYS,
    refused: Mapping[str, Refused] = NONE_REFUSED,
) -> Changes:
    """Read what was touched since the position, at one moment of the file; writes nothing.

    Of the tables in `whole` every row is read; of those in `also` the rows of these keys as well. Rows that are in
    `refused`, by source table, count as rejected. A file that has lost
    writes that were carried is read only where all tables are in `whole`. Raises SchemaChanged, Transient when the file
    is locked.
    """
    try:
        with closing(open_read_only(path)) as source:
            source.execute("BEGIN")
            after, mark = position.outbox_id, position.mark
            if whole >= {table.name for table in live.tables}:
                refuse_changes(source, live.source, live.capture, live.excluded)
            else:
                refuse_changes(source, live.source, live.capture, live.excluded, after, mark)
            upto = last_id(source)
            moment = datetime.now(UTC)
            numbers = pending(source, after, upto) if upto > after else {}
            named = [table for table in live.tables if table.captured.number in numbers or also.get(table.name)]
            work = [
                _read_touched(source, table, after, upto, also.get(table.name, ()), refused.get(table.name, {}))
                for table in named
                if table.name not in whole
            ]
            work += [
                _read_whole(source, table, refused.get(table.name, {})) for table in live.tables if table.name in whole
            ]
            return Changes(after, upto, mark_of(source, upto), moment, tuple(work))
    except sqlite3.Error as error:
        raise explain(error, path) from error


# ---------------------------------------------------------------- reading


def _read_whole(source: sqlite3.Connection, table: LiveTable, refused: Refused) -> TableWork:
    read = bare_read(table.pair)
    rows, rejected = Spool(semantic_schema(read)), []
    for part in _parts(source.execute(raw_select(read))):
        batch, bad = convert_rows(read, part, rows.schema)
        left, more = _sorted_out(read, part, batch, refused)
        rows.add(left)
        rejected += bad + more
    return TableWork(table, rows, Spool(_key_schema(table)), tuple(rejected), (), (), whole=True)


def _read_touched(
    source: sqlite3.Connection, table: LiveTable, after: int, upto: int, also: Sequence[Key], refused: Refused
) -> TableWork:
    read = bare_read(table.pair)
    schema = semantic_schema(read)
    rows, keys = Spool(schema), Spool(_key_schema(table))
    rejected: list[QuarantinedRow] = []
    width = len(table.pair.source.address)
    more = {row[:width]: row for row in raw_rows(source, table, also)}
    others = touched_rows(source, read, table.captured, after, upto)
    for part in _parts(chain(more.values(), (row for row in others if row[:width] not in more))):
        batch, bad = convert_rows(read, part, schema)
        left, unfit = _sorted_out(read, part, batch, refused)
        rows.add(left)
        # A row that is read is also deleted first, whatever the outbox calls it: VACUUM may have moved rowids.
        members = [batch.column(column.target.name) for column in table.key]
        keys.add(pa.RecordBatch.from_arrays(members, schema=keys.schema))
        rejected += bad + unfit
    addresses: list[Key] = list(more)
    names: list[Key] = list(also)
    if names:
        keys.add(converted_keys(table, names))
    for first in range(after, upto, KEYS):
        found = touched(source, table.captured, first, min(first + KEYS, upto))
        addresses += [_address(item) for item in found]
        names += [key_of(table, item) for item in found]
        keys.add(converted_keys(table, names[len(names) - len(found) :]))
    return TableWork(table, rows, keys, tuple(rejected), tuple(addresses), tuple(names))


def _sorted_out(
    read: TableRead, part: Sequence[RawRow], batch: pa.RecordBatch, refused: Refused
) -> tuple[pa.RecordBatch, list[QuarantinedRow]]:
    """Return a converted part without the rows that are known to be refused, and these."""
    return sort_out(read, fitting_rows(read, part, batch.schema)[1], batch, refused) if refused else (batch, [])


def _address(item: Touched) -> Key:
    return item.key if item.rowid is None else (item.rowid,)


def key_of(table: LiveTable, item: Touched) -> Key:
    """Return the values by which a touched row is found in the target, as SQLite has them."""
    if table.by_rowid:
        return (item.rowid,)
    by_name = dict(zip(table.captured.key, item.key, strict=True))
    return tuple(by_name[column.source.name] for column in table.key)


def _key_schema(table: LiveTable) -> pa.Schema:
    return converted_keys(table, ()).schema


def _parts(rows: Iterable[RawRow]) -> Iterator[list[RawRow]]:
    source = iter(rows)
    while part := list(islice(source, ROWS)):
        yield part


# ---------------------------------------------------------------- applying


async def _apply(connection: Connection, live: Live, changes: Changes, phases: frozenset[Phase]) -> bool:
    """Apply the changes in one transaction; False, with nothing changed, when the position has moved meanwhile."""
    async with connection.transaction():
        await connection.execute(_SESSION)
        await lock_sync_for_transaction(connection)
        await refuse_phase(connection, live, phases)
        rows = sum(work.rows.count for work in changes.tables)
        before, to, mark = changes.after, changes.upto, changes.mark
        moment = changes.moment
        if not await advance(connection, live.run_id, before=before, to=to, moment=moment, rows=rows, mark=mark):
            return False
        for work in changes.tables:
            await apply_table(connection, live.run_id, work)
    return True


async def _note_refused(
    connection: Connection, changes: Changes, known: dict[str, Refused], error: asyncpg.PostgresError
) -> None:
    """Add the rows that the target refuses for what they hold to `known`; raises Permanent when it finds no more."""
    found = 0
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(_SESSION)
        for work in changes.tables:
            places = await find_unfit_rows(connection, work)
            if places:
                read, found = bare_read(work.table.pair), found + len(places)
                more = refused_rows(read, work.rows.batches(), places)
                known[work.table.name] = {**known.get(work.table.name, {}), **more}
    finally:
        await transaction.rollback()
    if not found:
        raise refused([work.table.name for work in changes.tables], error) from error


async def _still_level(connection: Connection, live: Live, position: Position, changes: Changes) -> None:
    """Record, now and then, that nothing was to be carried: else a quiet hour would look like an hour of lag."""
    moment, at = changes.moment, position.outbox_id
    if abs(moment - position.moment) > LEVEL_NOTED:  # A clock may have been set back.
        async with connection.transaction():
            await advance(connection, live.run_id, before=at, to=at, moment=moment, rows=0, mark=changes.mark)


async def refuse_phase(connection: Connection, live: Live, phases: frozenset[Phase]) -> None:
    """Raise OutOfPhase when the run is in none of these phases."""
    record = await current(connection, live.run_id)
    if record.phase not in phases:
        raise OutOfPhase(
            f"The move of {live.source} is in phase {record.phase} since {record.since:%Y-%m-%d %H:%M:%S} UTC: "
            "changes are not carried this way.",
            "Look at `python -m flows status`.",
        )


def _idle(changes: Changes, began: float) -> Synced:
    return Synced(Direction.FORWARD, 0, 0, 0, changes.upto, changes.moment, time.monotonic() - began, {})


def _synced(changes: Changes, began: float) -> Synced:
    return Synced(
        direction=Direction.FORWARD,
        rows=sum(work.rows.count for work in changes.tables),
        deleted=sum(max(0, len(set(work.names)) - work.rows.count) for work in changes.tables),
        quarantined=sum(len(work.rejected) for work in changes.tables),
        position=changes.upto,
        moment=changes.moment,
        seconds=time.monotonic() - began,
        tables={work.table.name: max(work.rows.count, len(work.names)) for work in changes.tables},
    )
