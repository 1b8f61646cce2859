"""Mends rows that a validation found to differ: by key, from the side in front, and as they are now."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pgferry.convert.wire import decode_rows
from pgferry.live import phases
from pgferry.live.compare import DifferingRow
from pgferry.live.forms import from_json
from pgferry.live.forward import key_of, sync_once
from pgferry.live.keyed import compare_keys, named_keys
from pgferry.live.model import HIDDEN, Live, LiveTable, Phase
from pgferry.live.reverse import carry_keys, sync_back
from pgferry.live.rows import WireKey
from pgferry.marks import canonical_row
from pgferry.model import CellDifference, Key
from pgferry.postgres.capture import key_names, outbox
from pgferry.postgres.catalog import rows_of
from pgferry.postgres.connection import Connection
from pgferry.postgres.journal import read_forms, read_position, sync_lock, touched_batches
from pgferry.postgres.validations import record_repair
from pgferry.quoting import quote
from pgferry.sqlite.connect import open_read_only
from pgferry.sqlite.outbox import last_id, touched
from pgferry.verify import read_binary

_PASS = "SET LOCAL pgferry.pass = on"

Keys = Mapping[str, Sequence[Key]]
"""Source table -> keys of the target, as SQLite has them."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did."""

    rows: int
    """Rows that were brought to what the side in front holds."""
    tables: Mapping[str, int]
    left: tuple[CellDifference, ...]
    """What still differs among them."""


async def repair(connection: Connection, live: Live, validation_id: int, differing: Sequence[DifferingRow]) -> Repaired:
    """Bring rows to what the side in front holds now, record each, and compare them once more.

    SQLite in front: the rows are carried by one cycle of the sync, in its one transaction. PostgreSQL in front: they
    are written to SQLite as the sync back writes them, and recorded right after. Idempotent: a row that is equal by now
    stays what it is. Rows that are written meanwhile are not judged; the sync carries them. Raises UsageError when the
    phase allows no validation, and whatever stops the sync.
    """
    keys = _by_table(differing)
    async with sync_lock(connection):
        record = await phases.current(connection, live.run_id)
        phases.require(record, "validate")
        if record.phase is Phase.DUAL_WRITE:
            counts, left = await _mend_target(connection, live, validation_id, keys, _unnumbered(live, differing))
        else:
            counts, left = await _mend_source(connection, live, validation_id, keys)
    return Repaired(sum(counts.values()), counts, left)


# ---------------------------------------------------------------- SQLite in front


async def _mend_target(
    connection: Connection, live: Live, validation_id: int, keys: Keys, unnumbered: Sequence[str]
) -> tuple[dict[str, int], tuple[CellDifference, ...]]:
    counts = {table: len(rows) for table, rows in keys.items()}
    also = {name: await _with_other_forms(connection, live, name, rows) for name, rows in keys.items()}
    async with connection.transaction():
        await sync_once(connection, live, also=also)
        for name in unnumbered:
            counts[name] = counts.get(name, 0) + await _drop_unnumbered(connection, live.table(name))
        await _record(connection, validation_id, keys, "carried from SQLite")
    with closing(open_read_only(Path(live.source))) as source:
        source.execute("BEGIN")
        return counts, await _still_different(connection, live, source, also)


async def _with_other_forms(connection: Connection, live: Live, name: str, keys: Sequence[Key]) -> list[Key]:
    """Add the forms in which the keys were written since: a uuid's letters may be large here and small there."""
    table = live.table(name)
    found = list(keys)
    if not table.by_rowid:
        wanted = _wire(table, keys)
        async for _, batch in touched_batches(connection, live.run_id, name):
            found += [key for key, wire in named_keys(table, batch) if wire in wanted]
    return list(dict.fromkeys(found))


async def _drop_unnumbered(connection: Connection, table: LiveTable) -> int:
    """Delete the rows that pgferry did not write: no row of SQLite is theirs."""
    await connection.execute(_PASS)
    done = await connection.execute(f"DELETE FROM {rows_of(table.pair.target)} WHERE {quote(HIDDEN)} IS NULL")
    return int(done.rpartition(" ")[2])


async def _still_different(
    connection: Connection, live: Live, source: sqlite3.Connection, keys: Keys
) -> tuple[CellDifference, ...]:
    position = await read_position(connection, live.run_id)
    after = 0 if position is None else position.outbox_id
    upto = last_id(source)
    found: list[CellDifference] = []
    for name, rows in keys.items():
        table = live.table(name)
        written = [key_of(table, item) for item in touched(source, table.captured, after, upto)]
        found += await compare_keys(
            connection, source, table, _settled(table, rows, _wire(table, written)), live.run_id
        )
    return tuple(found)


# ---------------------------------------------------------------- PostgreSQL in front


async def _mend_source(
    connection: Connection, live: Live, validation_id: int, keys: Keys
) -> tuple[dict[str, int], tuple[CellDifference, ...]]:
    forms = from_json(await read_forms(connection, live.run_id))
    await sync_back(connection, live, forms)
    await carry_keys(connection, live, forms, keys)
    async with connection.transaction():
        await _record(connection, validation_id, keys, "carried from PostgreSQL")
    found: list[CellDifference] = []
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        with closing(open_read_only(Path(live.source))) as source:
            for name, rows in keys.items():
                table = live.table(name)
                written = await _written_in_target(connection, table)
                if written is not None:
                    found += await compare_keys(connection, source, table, _settled(table, rows, written), live.run_id)
    return {table: len(rows) for table, rows in keys.items()}, tuple(found)


async def _written_in_target(connection: Connection, table: LiveTable) -> set[WireKey] | None:
    """Return the keys that wait to be carried; None after a TRUNCATE, when that is all of them."""
    if await connection.fetchval(f"SELECT EXISTS (SELECT 1 FROM {outbox(table)} WHERE whole)"):
        return None
    parts: list[bytes] = []
    await read_binary(connection, f"SELECT {', '.join(key_names(table))} FROM {outbox(table)}", parts.append)
    types = [pair.target.type for pair in table.key]
    return {canonical_row(types, row) for row in decode_rows(parts)}


# ---------------------------------------------------------------- both


def _by_table(differing: Sequence[DifferingRow]) -> dict[str, list[Key]]:
    found: dict[str, list[Key]] = {}
    for row in differing:
        if row.key is not None:
            found.setdefault(row.table, []).append(row.key)
    return found


def _unnumbered(live: Live, differing: Sequence[DifferingRow]) -> tuple[str, ...]:
    names = dict.fromkeys(row.table for row in differing if row.key is None)
    return tuple(name for name in names if live.table(name).hidden)


def _settled(table: LiveTable, keys: Sequence[Key], written: set[WireKey]) -> list[Key]:
    """Return the keys of rows that nobody has written since: only these must be equal now."""
    return [key for key, wire in named_keys(table, keys) if wire not in written]


def _wire(table: LiveTable, keys: Sequence[Key]) -> set[WireKey]:
    return {wire for _, wire in named_keys(table, keys)}


async def _record(connection: Connection, validation_id: int, keys: Keys, action: str) -> None:
    for table, rows in keys.items():
        await record_repair(connection, validation_id, table, rows, action)
