"""Indexes and constraints wait until the rows are in: dropped before a first load, built again afterwards.

Their definitions are stored in the ledger by the transaction that drops them, and marked as rebuilt by the one that
builds them, so a crash at any point leaves every object either in the catalog or in the ledger. CHECK and NOT NULL
constraints stay: they cost little and refuse what must not come in.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import asyncpg

from pgferry.errors import FerryError, Permanent, UsageError, is_transient
from pgferry.model import TargetTable
from pgferry.postgres.definitions import (
    CONTYPES,
    FOREIGN_KEY_KINDS,
    Definition,
    Kind,
    Stage,
    foreign_key,
    index,
)
from pgferry.postgres.handle import Connection, require_transaction
from pgferry.postgres.orphans import find_orphans
from pgferry.postgres.patience import patiently
from pgferry.postgres.statements import statements
from pgferry.quoting import qualified, quote

SQL = statements("deferred")

_Family = tuple[str, str, str, bool]
"""Schema, table and name of an object, and whether it is a foreign key."""

_NO_RESOURCES = "53"
"""The class of SQLSTATEs of a server whose disk, memory or connections do not suffice."""

_MAKE_ROOM = "Make room on the server and run the same command again; the definition waits in pgferry.deferred."

# Not "in the target": the same command would read back other rows than it had sent, and end with a difference.
_MEND_SOURCE = (
    "Correct these rows in the source and begin anew with --restart; until then the definition waits in "
    "pgferry.deferred."
)

_IN_USE = (asyncpg.DependentObjectsStillExistError, asyncpg.InsufficientPrivilegeError)


class OrphansLeft(Permanent):
    """A foreign key cannot be validated: rows of its table point at nothing. `details["orphans"]` counts them."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """One step on the way back to an index or a constraint, as the ledger has it."""

    id: int
    run_id: int
    schema: str
    table: str
    kind: Kind
    name: str
    definition: str
    stage: Stage
    comment: str | None = None
    tablespace: str = ""
    also: tuple[str, ...] = ()
    kept: str | None = None
    """Why the object stayed in place during the load; then there is nothing to build."""
    dropped_at: datetime | None = None
    rebuilt_at: datetime | None = None
    error: str | None = None
    """Why the last attempt to build it failed."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name} of {self.schema}.{self.table}"


# ---------------------------------------------------------------- dropping


async def defer(
    conn: Connection, run_id: int, tables: Sequence[TargetTable], *, in_place: Set[int] = frozenset()
) -> tuple[Deferred, ...]:
    """Drop the tables' indexes and constraints and return all that the run has recorded, also what was kept in place.

    Covered are secondary indexes, primary keys, unique and exclusion constraints, and foreign keys of the tables and
    to them. What cannot be dropped, because a view depends on it, a table is partitioned or the role does not own it,
    stays in place, with the reason in `kept`. So do, unrecorded, the indexes of the tables whose oids `in_place` has:
    those are to be loaded with them. One transaction per table and step, each holding ACCESS EXCLUSIVE;
    foreign keys go first. What the run has dropped once is never dropped again, so a resumed run just calls it again.
    """
    done = {_family(step) for step in await recorded(conn, run_id) if step.dropped_at is not None}
    await _defer_all_foreign_keys(conn, run_id, tables, done)
    for table in tables:
        if table.oid not in in_place:
            await _defer_indexes(conn, run_id, table, done)
    return await recorded(conn, run_id)


async def defer_foreign_keys(conn: Connection, run_id: int, tables: Sequence[TargetTable]) -> None:
    """Drop the foreign keys of the tables and to them, as `defer` does, and leave indexes alone; idempotent."""
    done = {_family(step) for step in await recorded(conn, run_id) if step.dropped_at is not None}
    await _defer_all_foreign_keys(conn, run_id, tables, done)


async def put_aside(conn: Connection, run_id: int, definition: Definition) -> None:
    """Drop one object and record how it is built again. Joins the caller's transaction."""
    require_transaction(conn, "put_aside")
    await _drop(conn, run_id, definition)


async def recorded(conn: Connection, run_id: int) -> tuple[Deferred, ...]:
    """Return every step that the run has recorded, whatever became of it, in build order."""
    return tuple(_deferred(row) for row in await conn.fetch(SQL["recorded"], run_id))


async def _defer_all_foreign_keys(
    conn: Connection, run_id: int, tables: Sequence[TargetTable], done: Set[_Family]
) -> None:
    # Asked once for all: most of a thousand tables have none.
    rows = await conn.fetch(SQL["in_foreign_keys"], [table.oid for table in tables])
    concerned = {row["oid"] for row in rows}
    for table in tables:
        if table.oid in concerned:
            await _defer_foreign_keys(conn, run_id, table, done)


async def _defer_foreign_keys(conn: Connection, run_id: int, table: TargetTable, done: Set[_Family]) -> None:
    async with conn.transaction():
        async with _qualified_names(conn):
            rows = await conn.fetch(SQL["foreign_keys"], qualified(table.schema, table.name))
        await _drop_all(conn, run_id, [foreign_key(dict(row)) for row in rows], done)


async def _defer_indexes(conn: Connection, run_id: int, table: TargetTable, done: Set[_Family]) -> None:
    async with conn.transaction():
        async with _qualified_names(conn):
            rows = await conn.fetch(SQL["indexes"], qualified(table.schema, table.name))
        await _drop_all(conn, run_id, [index(table.schema, table.name, dict(row)) for row in rows], done)


async def _drop_all(conn: Connection, run_id: int, definitions: Sequence[Definition], done: Set[_Family]) -> None:
    for definition in sorted(definitions, key=lambda definition: definition.drop_order):
        foreign = definition.steps[0].kind in FOREIGN_KEY_KINDS
        if (definition.schema, definition.table, definition.name, foreign) not in done:
            await _drop(conn, run_id, definition)


def _family(step: Deferred) -> _Family:
    # By name, not by kind: while its constraint is not attached yet, a built index looks like a plain one.
    return step.schema, step.table, step.name, step.kind in FOREIGN_KEY_KINDS


async def _drop(conn: Connection, run_id: int, definition: Definition) -> None:
    kept = definition.kept or await _try_to_drop(conn, definition.drop)
    # What is kept is one row, not one for each step of building it.
    steps = definition.steps[-1:] if kept else definition.steps
    await conn.executemany(
        SQL["record_step"],
        [
            (
                run_id,
                definition.schema,
                definition.table,
                step.kind,
                definition.name,
                step.definition,
                definition.drop_order,
                step.stage,
                step.comment,
                step.tablespace,
                step.also,
                definition.columns,
                kept,
            )
            for step in steps
        ],
    )


async def _try_to_drop(conn: Connection, statement: str) -> str | None:
    """Drop an object under a savepoint; return why it must stay when it must."""
    try:
        async with conn.transaction():
            await conn.execute(statement)
    except _IN_USE as error:
        return error.detail.splitlines()[0] if error.detail else str(error)
    return None


# ---------------------------------------------------------------- building


async def pending(conn: Connection, run_id: int) -> tuple[Deferred, ...]:
    """Return what the run still has to build, in build order; a stage needs the stages before it (see `Stage`)."""
    return tuple(_deferred(row) for row in await conn.fetch(SQL["pending"], run_id))


async def rebuild_one(conn: Connection, deferred: Deferred, *, memory: str) -> None:
    """Build one step again, in one transaction with the mark that it is built. A built one is left as it is.

    `memory` is the build's maintenance_work_mem. Raises Permanent when the rows do not allow it: a duplicate key by
    name, or OrphansLeft with a foreign key's first orphan and how many there are; the definition stays in the ledger,
    with the error.
    Transient errors of the driver pass through.
    """
    try:
        async with conn.transaction():
            await _set_memory(conn, memory)
            await rebuild_step(conn, deferred)
    except (asyncpg.PostgresError, Permanent) as error:
        if is_transient(error) or isinstance(error, UsageError):
            raise
        problem = await _explain(conn, deferred, error)
        await conn.execute(SQL["record_error"], deferred.id, str(problem))
        if problem is error:
            raise
        raise problem from error


async def rebuild_step(conn: Connection, deferred: Deferred) -> None:
    """Build one step and mark it. Joins the caller's transaction; errors of the driver pass through."""
    require_transaction(conn, "rebuild_step")
    row = await conn.fetchrow(SQL["lock_step"], deferred.id)
    if row is None:
        raise Permanent(f"The ledger no longer has the {deferred}.", "Look at the run's history.")
    if row["rebuilt_at"] is not None or row["dropped_at"] is None:
        return
    if not await _is_there(conn, deferred):
        await conn.execute(SQL["set_tablespace"], deferred.tablespace)
        await conn.execute(deferred.definition)
    for statement in (deferred.comment, *deferred.also):
        if statement is not None:
            await conn.execute(statement)
    await conn.execute(SQL["mark_rebuilt"], deferred.id, None)


async def put_foreign_keys_away(conn: Connection, run_id: int) -> int:
    """Drop the foreign keys that the run had put aside and built again; their definitions wait in the ledger as before.

    One transaction a key; returns how many were dropped. Those that are put aside already are left as they are. Raises
    Transient when a table stays locked, by a reader, too: the next call goes on.
    """
    keys = await conn.fetch(SQL["built_again"], run_id, sorted(FOREIGN_KEY_KINDS))
    for key in keys:
        await patiently(conn, partial(_put_away, conn, run_id, key), qualified(key["schema"], key["table"]))
    return len(keys)


async def _put_away(conn: Connection, run_id: int, key: asyncpg.Record) -> None:
    named = (key["schema"], key["table"], key["name"])
    await conn.execute(SQL["put_away_again"], run_id, sorted(FOREIGN_KEY_KINDS), *named)
    table = qualified(key["schema"], key["table"])
    await conn.execute(f"ALTER TABLE IF EXISTS {table} DROP CONSTRAINT IF EXISTS {quote(key['name'])}")


async def is_gone(conn: Connection, deferred: Deferred) -> bool:
    """Say whether what the step is about is no longer there: its table, or the constraint that it validates."""
    if deferred.kind is Kind.VALIDATION:
        row = await conn.fetchrow(SQL["constraint_now"], deferred.schema, deferred.table, deferred.name)
        return row is None
    return not await conn.fetchval(SQL["table_exists"], deferred.schema, deferred.table)


async def mark_gone(conn: Connection, deferred: Deferred) -> None:
    """Close a step whose table or constraint no longer exists; the ledger keeps the definition and says so."""
    what = f"{deferred.schema}.{deferred.table}"
    what = f"the foreign key {deferred.name} of {what}" if deferred.kind is Kind.VALIDATION else what
    await conn.execute(SQL["mark_rebuilt"], deferred.id, f"not built: {what} is gone")


async def _set_memory(conn: Connection, memory: str) -> None:
    try:
        await conn.execute(SQL["set_memory"], memory)
    except asyncpg.DataError as error:
        raise UsageError(
            f"The server does not take {memory!r} as memory for building indexes: {error}.",
            "Correct PGFERRY_INDEX_MEMORY, for instance 256MB.",
        ) from error


async def _is_there(conn: Connection, deferred: Deferred) -> bool:
    if deferred.kind in (Kind.INDEX, Kind.CONSTRAINT_INDEX):
        return await _index_is_there(conn, deferred)
    if deferred.kind in (Kind.CLUSTER, Kind.REPLICA_IDENTITY):
        return False  # their statements may be repeated
    row = await conn.fetchrow(SQL["constraint_now"], deferred.schema, deferred.table, deferred.name)
    if deferred.kind is Kind.VALIDATION:
        return row is not None and row["valid"]
    if row is not None and row["contype"] != CONTYPES[deferred.kind]:
        raise _other_object(deferred)
    return row is not None


async def _index_is_there(conn: Connection, deferred: Deferred) -> bool:
    async with _qualified_names(conn):
        row = await conn.fetchrow(SQL["index_now"], deferred.schema, deferred.name)
    if row is not None and (row["definition"] != deferred.definition or not row["valid"]):
        raise _other_object(deferred)
    return row is not None


def _other_object(deferred: Deferred) -> Permanent:
    return Permanent(
        f"The {deferred} cannot be built: another object of that name is there, or an invalid index.",
        f"Drop or rename it, then run again. The definition to build is: {deferred.definition}",
    )


# ---------------------------------------------------------------- explaining


async def _explain(conn: Connection, deferred: Deferred, error: Exception) -> FerryError:
    if isinstance(error, FerryError):
        return error
    if isinstance(error, asyncpg.ForeignKeyViolationError):
        return await _orphan_error(conn, deferred, error)
    return build_error(deferred, error)


def build_error(deferred: Deferred, error: Exception) -> Permanent:
    """Return the error for a definition that the server refuses, with the key that stands in its way."""
    detail = getattr(error, "detail", None)
    # Only the first line: asyncpg appends the detail and the hint to the message.
    said = str(error).partition("\n")[0].rstrip(".")
    lacking = (getattr(error, "sqlstate", None) or "").startswith(_NO_RESOURCES)
    return Permanent(
        f"The {deferred} cannot be built: {said}{f' ({detail})' if detail else ''}.",
        _MAKE_ROOM if lacking else _MEND_SOURCE,
        deferred=deferred,
        detail=detail,
    )


async def _orphan_error(conn: Connection, deferred: Deferred, error: Exception) -> Permanent:
    found = await find_orphans(conn, deferred.schema, deferred.table, deferred.name)
    if not found.count:
        # Mended since the server met it.
        return build_error(deferred, error)
    return OrphansLeft(
        f"The {deferred} cannot be validated: {found.count} rows point at rows that {found.parent} does not hold, "
        f"the first of them with {found.shown}.",
        "Until then it stays NOT VALID: new rows are held to it. Correct or remove these rows, and let the target run: "
        f"{deferred.definition};",
        deferred=deferred,
        orphans=found,
    )


# ---------------------------------------------------------------- helpers


@asynccontextmanager
async def _qualified_names(conn: Connection) -> AsyncIterator[None]:
    # pg_get_indexdef and its like leave out the schemas that the search_path shows; a rebuild may have another path.
    before = await conn.fetchval(SQL["search_path"])
    await conn.execute(SQL["set_search_path"], "")
    yield
    await conn.execute(SQL["set_search_path"], before)


def _deferred(row: asyncpg.Record) -> Deferred:
    return Deferred(
        id=row["id"],
        run_id=row["run_id"],
        schema=row["target_schema"],
        table=row["target_table"],
        kind=Kind(row["kind"]),
        name=row["name"],
        definition=row["definition"],
        stage=Stage(row["build_order"]),
        comment=row["comment"],
        tablespace=row["tablespace"],
        also=tuple(row["also"]),
        kept=row["kept"],
        dropped_at=row["dropped_at"],
        rebuilt_at=row["rebuilt_at"],
        error=row["error"],
    )
