"""The sync while PostgreSQL is in front: SQLite is brought to one consistent moment of PostgreSQL after the other.

One REPEATABLE READ transaction reads the outboxes and the touched rows as they are; one transaction of SQLite writes
them; then just the entries that were seen are removed from the outboxes. A crash in between leaves the entries, and the
next cycle writes the same rows again. The caller holds the sync lock all the while.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

from pgferry.convert.wire import encode
from pgferry.live.forms import Forms as Forms  # noqa: PLC0414  part of this module's interface
from pgferry.live.forms import from_json
from pgferry.live.keyed import converted_keys
from pgferry.live.model import Direction, Live, LiveTable, Synced
from pgferry.live.write_back import (
    Begin,
    Keys,
    Spool,
    TableRows,
    Written,
    new_spool,
    read_ticket,
    require_front,
    write_back,
)
from pgferry.model import ColumnPair, Key, PgKind
from pgferry.postgres import capture
from pgferry.postgres.capture import key_names, outbox
from pgferry.postgres.catalog import rows_of
from pgferry.postgres.connection import Connection
from pgferry.postgres.journal import mark_touched, read_forms, read_position, set_position
from pgferry.quoting import literal, quote
from pgferry.sqlite.connect import explain, open_read_only
from pgferry.sqlite.outbox import prune

_KEYS = 10_000
"""Touched keys that are recorded by one statement."""

_COLLATABLE = (PgKind.TEXT, PgKind.VARCHAR, PgKind.CHAR)

# A policy that hides rows would make them look deleted; with this off, the server raises instead.
_SEE_ALL = "SET LOCAL row_security = off"

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(slots=True)
class _Touched:
    """What one moment of PostgreSQL has for SQLite; `runs` are the ids of the outbox entries seen, first to last."""

    moment: datetime
    tables: list[TableRows] = field(default_factory=list)
    runs: dict[str, list[tuple[int, int]]] = field(default_factory=dict)


async def sync_back(connection: Connection, live: Live, forms: Forms, *, at: str | None = None) -> Synced:
    """Carry everything that is in PostgreSQL's outboxes to SQLite: exactly once in effect, wherever a process dies.

    The caller's session holds the sync lock (`journal.lock_sync`) and has no transaction open. Raises Permanent, with
    nothing changed, when the capture has gaps or the target's schema has changed, when the file says that SQLite is in
    front, and when SQLite cannot hold a row; Transient when the file stays locked.
    With `at`, a snapshot that another session has exported, SQLite is brought to that moment and no further.
    """
    began = time.monotonic()
    await capture.check(connection, live)
    ticket = await asyncio.to_thread(_read_ticket, live.source, True)
    with ExitStack() as held:
        touched = await _read_touched(connection, live, held, at)
        if not touched.tables:
            return await _idle(connection, live, touched.moment, began)
        path = Path(live.source)
        written = await _to_the_end(write_back, path, touched.tables, forms, touched.moment, ticket, held)
        await _settle(connection, live, touched, written)
    await asyncio.to_thread(prune, path, written.outbox_id - 1)  # the position's own entry stays, as in `prune_before`
    return _synced(written, touched.moment, began)


async def carry_keys(
    connection: Connection,
    live: Live,
    forms: Forms,
    keys: Mapping[str, Sequence[Key]],
    *,
    begin: Begin | None = None,
) -> Synced:
    """Carry these rows to SQLite, whichever side is in front: what is gone in PostgreSQL goes there, too.

    `keys` are the target's, as SQLite has them, by source table. Outboxes and position stay as they are. The caller
    holds the sync lock. Idempotent; raises as `sync_back` does. `begin` is called first in SQLite's transaction
    (`write_back`), also when there are no keys.
    """
    began = time.monotonic()
    ticket = await asyncio.to_thread(_read_ticket, live.source, False)
    with ExitStack() as held:
        touched = await _read_keys(connection, live, keys, held)
        path = Path(live.source)
        written = await _to_the_end(
            write_back, path, touched.tables, forms, touched.moment, ticket, held, behind=False, begin=begin
        )
        async with connection.transaction():
            await _mark(connection, live, written)
    return _synced(written, touched.moment, began)


async def uncarried_keys(connection: Connection, live: Live) -> dict[str, list[Key]]:
    """Return, by source table, the keys of the rows that SQLite does not have as PostgreSQL has them; changes nothing.

    They are as SQLite has them. After a TRUNCATE that was not carried these are all keys of both sides.
    """
    forms = from_json(await read_forms(connection, live.run_id))
    found: dict[str, list[Key]] = {}
    with ExitStack() as held:
        touched = await _read_touched(connection, live, held)
        for rows in touched.tables:
            key, members = Keys(rows.table, forms), len(rows.table.key)
            keys = [key.stored(row[:members]) for row in rows.stream.rows()]
            if rows.whole:
                keys += await asyncio.to_thread(_all_keys, live.source, rows.table)
            found[rows.table.name] = list(dict.fromkeys(keys))
    return found


# ---------------------------------------------------------------- reading


async def _read_touched(connection: Connection, live: Live, held: ExitStack, at: str | None = None) -> _Touched:
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        if at is not None:
            await connection.execute(f"SET TRANSACTION SNAPSHOT {literal(at)}")
        await connection.execute(_SEE_ALL)
        touched = _Touched(await connection.fetchval("SELECT now()"))
        for table, entries, whole in await _entries(connection, live.tables):
            keys = f"SELECT {', '.join(key_names(table))} FROM {outbox(table)} WHERE NOT whole LIMIT {entries}"
            query = _all_query(table) if whole else _rows_query(table, keys)
            touched.tables.append(TableRows(table, await _copy(connection, query, held), whole))
            touched.runs[outbox(table)] = await _runs(connection, table)
        return touched


async def _entries(connection: Connection, tables: Sequence[LiveTable]) -> list[tuple[LiveTable, int, bool]]:
    if not tables:
        return []
    counts = " UNION ALL ".join(
        f"SELECT {place} AS place, count(*) AS entries, bool_or(whole) AS whole FROM {outbox(table)}"
        for place, table in enumerate(tables)
    )
    rows = await connection.fetch(f"SELECT * FROM ({counts}) AS counted WHERE entries > 0 ORDER BY place")
    return [(tables[row["place"]], row["entries"], row["whole"]) for row in rows]


async def _runs(connection: Connection, table: LiveTable) -> list[tuple[int, int]]:
    """Return the ids that are visible, as runs without a gap: an entry that commits later lies in none of them."""
    rows = await connection.fetch(
        f"SELECT min(id) AS first, max(id) AS last FROM"
        f" (SELECT id, id - row_number() OVER (ORDER BY id) AS run FROM {outbox(table)}) AS seen GROUP BY run"
    )
    return [(row["first"], row["last"]) for row in rows]


async def _read_keys(
    connection: Connection, live: Live, keys: Mapping[str, Sequence[Key]], held: ExitStack
) -> _Touched:
    async with connection.transaction(isolation="repeatable_read"):
        await connection.execute(_SEE_ALL)
        touched = _Touched(await connection.fetchval("SELECT now()"))
        for number, (name, wanted) in enumerate(keys.items()):
            if wanted:
                table, given = live.table(name), f"pgferry_keys_{number}"
                await _send_keys(connection, table, given, wanted)
                query = _rows_query(table, f"SELECT {', '.join(key_names(table))} FROM pg_temp.{given}")
                touched.tables.append(TableRows(table, await _copy(connection, query, held)))
        return touched


async def _send_keys(connection: Connection, table: LiveTable, given: str, keys: Sequence[Key]) -> None:
    columns = [f"{quote(pair.target.name)} AS {name}" for name, pair in zip(key_names(table), table.key, strict=True)]
    like = f"SELECT {', '.join(columns)} FROM {rows_of(table.pair.target)} WITH NO DATA"
    await connection.execute(f"CREATE TEMP TABLE {given} ON COMMIT DROP AS {like}")
    stream = encode([converted_keys(table, keys)], [pair.target.type for pair in table.key])

    async def source() -> AsyncIterator[bytes]:
        for data in stream:
            yield data

    await connection.copy_to_table(given, schema_name="pg_temp", source=source(), format="binary")


def _rows_query(table: LiveTable, keys: str) -> str:
    """Return the SELECT of touched rows: the key's fields, whether the row exists, and its columns.

    The LIMIT within `keys` tells the planner how few they are, whatever it thinks of an outbox that was never analysed.
    """
    names = key_names(table)
    pairs = list(zip(names, table.key, strict=True))
    each = ", ".join(f"{name}{_exact(pair)}" for name, pair in pairs)
    same = [f"t.{quote(pair.target.name)} = k.{name}" for name, pair in pairs]
    same += [f"t.{quote(pair.target.name)}{_exact(pair)} = k.{name}" for name, pair in pairs if _exact(pair)]
    there = f"t.{quote(table.key[0].target.name)} IS NOT NULL"
    listed = ", ".join([*(f"k.{name}" for name in names), there, _columns(table)])
    distinct = f"SELECT DISTINCT ON ({each}) {', '.join(names)} FROM ({keys}) AS entry"
    return f"SELECT {listed} FROM ({distinct}) AS k LEFT JOIN {rows_of(table.pair.target)} AS t ON {' AND '.join(same)}"


def _all_query(table: LiveTable) -> str:
    key = ", ".join(f"t.{quote(pair.target.name)}" for pair in table.key)
    return f"SELECT {key}, true, {_columns(table)} FROM {rows_of(table.pair.target)} AS t"


def _columns(table: LiveTable) -> str:
    return ", ".join(f"t.{quote(pair.target.name)}" for pair in table.pair.columns)


def _exact(pair: ColumnPair) -> str:
    # By a collation that ignores case 'A' and 'a' are one key; in SQLite they are two.
    return ' COLLATE "C"' if pair.target.type.kind in _COLLATABLE else ""


async def _copy(connection: Connection, query: str, held: ExitStack) -> Spool:
    spool = new_spool(held)

    async def take(data: bytes) -> None:
        spool.write(data)

    await connection.copy_from_query(query, output=take, format="binary")
    return spool


def _read_ticket(path: str, behind: bool) -> int:
    try:
        with closing(open_read_only(Path(path))) as source:
            if behind:
                require_front(source, path)
            return read_ticket(source)
    except sqlite3.Error as error:
        raise explain(error, Path(path)) from error


def _all_keys(path: str, table: LiveTable) -> list[Key]:
    names = ", ".join(quote(pair.source.name) for pair in table.key)
    with closing(open_read_only(Path(path))) as source:
        return [tuple(key) for key in source.execute(f"SELECT {names} FROM {quote(table.name)}")]


# ---------------------------------------------------------------- settling


async def _settle(connection: Connection, live: Live, touched: _Touched, written: Written) -> None:
    async with connection.transaction():
        for name, runs in touched.runs.items():
            firsts, lasts = [first for first, _ in runs], [last for _, last in runs]
            await connection.execute(
                f"DELETE FROM {name} AS entry USING unnest($1::bigint[], $2::bigint[]) AS run (first, last)"
                " WHERE entry.id BETWEEN run.first AND run.last",
                firsts,
                lasts,
            )
        await _mark(connection, live, written)
        await set_position(connection, live.run_id, written.outbox_id, touched.moment, written.mark)


async def _mark(connection: Connection, live: Live, written: Written) -> None:
    for table in written.tables:
        for keys in table.keys.batches(_KEYS):
            await mark_touched(connection, live.run_id, table.table.name, keys)


async def _idle(connection: Connection, live: Live, moment: datetime, began: float) -> Synced:
    position = await read_position(connection, live.run_id)
    outbox_id = 0 if position is None else position.outbox_id
    return Synced(Direction.REVERSE, 0, 0, 0, outbox_id, moment, time.monotonic() - began, {})


def _synced(written: Written, moment: datetime, began: float) -> Synced:
    return Synced(
        direction=Direction.REVERSE,
        rows=sum(table.rows for table in written.tables),
        deleted=sum(table.deleted for table in written.tables),
        quarantined=0,
        position=written.outbox_id,
        moment=moment,
        seconds=time.monotonic() - began,
        tables={table.table.name: table.rows + table.deleted for table in written.tables},
    )


async def _to_the_end(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run a function in a thread and wait for its end, also when cancelled: the lock must not be released before."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                continue
        raise
