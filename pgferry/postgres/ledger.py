"""The ledger: what a move has planned, done and verified, kept in the target's schema `pgferry`.

It has versioned migrations of its own (`sql/migration_*.sql`), apart from the application's Alembic history. Each
function is atomic by itself; those that record work join the caller's transaction, so that the work and the record
of it commit together, and say so. Errors of the driver pass through; `pgferry.errors.is_transient` judges them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from pgferry.errors import LossError, Permanent
from pgferry.foreseen import Renamed
from pgferry.keys import decode_key, encode_key
from pgferry.model import Chunk, Key, LoadedChunk, QuarantinedRow, Snapshot, TablePair
from pgferry.postgres.handle import Connection, require_transaction
from pgferry.postgres.restart import restart as restart  # noqa: PLC0414  part of the ledger's interface
from pgferry.postgres.statements import script, statements
from pgferry.quoting import quote

VERSION = 5
"""The version of the schema `pgferry` that this code reads and writes."""

SQL = statements("ledger")


class AlreadyLoaded(Permanent):
    """The chunk is in the target already: roll this COPY back and go on with the next one."""


@dataclass(frozen=True, slots=True)
class Run:
    """One move of one source. `status` is `running`, `finished` or `restarted`."""

    id: int
    source: str
    fingerprint: str
    status: str
    started_at: datetime
    finished_at: datetime | None = None
    snapshot: Snapshot | None = None
    report: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class PlannedTable:
    """A source table of a run and where its rows go; `columns` are pairs of source and target names."""

    source_table: str
    target_schema: str
    target_table: str
    source_rows: int
    columns: tuple[tuple[str, str], ...]
    excluded_rows: int = 0
    fingerprint: str = ""


def planned(pair: TablePair, source_rows: int, *, excluded_rows: int = 0, fingerprint: str = "") -> PlannedTable:
    """Return the plan's entry for a pair of tables."""
    names = tuple((column.source.name, column.target.name) for column in pair.columns)
    return PlannedTable(
        source_table=pair.source.name,
        target_schema=pair.target.schema,
        target_table=pair.target.name,
        source_rows=source_rows,
        columns=names,
        excluded_rows=excluded_rows,
        fingerprint=fingerprint,
    )


# ---------------------------------------------------------------- the schema


async def install(conn: Connection) -> None:
    """Bring the schema `pgferry` to this code's version; does nothing when it is there.

    One transaction, under a lock that makes concurrent installs take turns. Raises Permanent when the role may not
    create the schema, and when a newer pgferry has been here.
    """
    async with conn.transaction():
        await conn.execute(SQL["lock_install"])
        await _create_schema(conn)
        version = await conn.fetchval(SQL["read_version"])
        if version > VERSION:
            raise Permanent(
                f"The schema pgferry in the target is of version {version}; this pgferry knows {VERSION}.",
                "Run the newer pgferry that was used on this database before.",
            )
        for number in range(version + 1, VERSION + 1):
            await conn.execute(script(f"migration_{number:03}"))
            await conn.execute(SQL["write_version"], number)


async def _create_schema(conn: Connection) -> None:
    try:
        async with conn.transaction():
            # CREATE SCHEMA IF NOT EXISTS asks for the privilege even when the schema is there, so look first.
            if not await conn.fetchval(SQL["schema_exists"]):
                await conn.execute(SQL["create_schema"])
            if not await conn.fetchval(SQL["version_table_exists"]):
                await conn.execute(SQL["create_version_table"])
    except asyncpg.InsufficientPrivilegeError as error:
        who = await conn.fetchrow(SQL["who"])
        role, database = (who["role"], who["database"]) if who else ("", "")
        raise Permanent(
            f"The role {role} may not create or use the schema pgferry in the database {database}.",
            f"Let the database's owner run: GRANT CREATE ON DATABASE {quote(database)} TO {quote(role)};",
        ) from error


# ---------------------------------------------------------------- runs


async def begin_run(conn: Connection, source: str, fingerprint: str) -> Run:
    """Record a new run of this source. Raises Permanent when it has one that was not restarted."""
    row = await conn.fetchrow(SQL["insert_run"], source, fingerprint)
    if row is None:
        raise Permanent(
            f"The source {source} has a run in this database already.",
            "Run the same command again to go on with it, or give --restart to start anew.",
        )
    return _run(row)


async def find_run(conn: Connection, source: str) -> Run | None:
    """Return the source's run that was not restarted, running or finished; None when there is none."""
    row = await conn.fetchrow(SQL["find_run"], source)
    return None if row is None else _run(row)


async def read_run(conn: Connection, run_id: int) -> Run:
    """Return a run by its number. Raises Permanent when there is none."""
    row = await conn.fetchrow(SQL["read_run"], run_id)
    if row is None:
        raise no_run(run_id)
    return _run(row)


async def history(conn: Connection, limit: int = 20) -> tuple[Run, ...]:
    """Return the latest runs, whatever their status, newest first."""
    return tuple(_run(row) for row in await conn.fetch(SQL["history"], limit))


async def record_snapshot(conn: Connection, run_id: int, snapshot: Snapshot) -> None:
    """Record the snapshot that the run reads; a later call replaces it."""
    done = await conn.execute(
        SQL["record_snapshot"],
        run_id,
        snapshot.path,
        snapshot.sha256,
        snapshot.bytes,
        snapshot.source,
        snapshot.taken_at,
        snapshot.foreign_key_violations,
    )
    if done == "UPDATE 0":
        raise no_run(run_id)


async def adopt_rules(conn: Connection, run_id: int, fingerprint: str) -> None:
    """Let a run that has no plan yet go on by other rules. Raises Permanent when it has one, or does not exist."""
    if await conn.fetchval(SQL["adopt_rules"], run_id, fingerprint) is None:
        raise Permanent(f"Run {run_id} has a plan already, or does not exist.", "Give --restart to start anew.")


async def finish_run(conn: Connection, run_id: int, report: Mapping[str, Any]) -> None:
    """Mark the run as finished and keep its report, which must be JSON. Raises Permanent for a restarted run."""
    if await conn.fetchval(SQL["finish_run"], run_id, json.dumps(report, default=str)) is None:
        raise Permanent(f"Run {run_id} cannot be finished: it does not exist or was restarted.", "Look at the history.")


def no_run(run_id: int) -> Permanent:
    """Return the error for a run number that the ledger does not have."""
    return Permanent(f"The target's ledger has no run {run_id}.", "Look at the history of runs.")


# ---------------------------------------------------------------- the plan


async def plan_tables(conn: Connection, run_id: int, tables: Sequence[PlannedTable], chunks: Sequence[Chunk]) -> None:
    """Record what the run will move, all of it or nothing. The same plan again does nothing.

    Raises Permanent, and changes nothing, when the run has another plan: a resumed run must do what was begun.
    """
    wanted = {table.source_table: table for table in tables}
    ranges = {(chunk.table, chunk.number): chunk for chunk in chunks}
    async with conn.transaction():
        if await conn.fetchrow(SQL["lock_run"], run_id) is None:
            raise no_run(run_id)
        known = {table.source_table: table for table in await planned_tables(conn, run_id)}
        if known:
            _refuse_difference(run_id, known, wanted)
            before = {(chunk.table, chunk.number): chunk for chunk in await planned_chunks(conn, run_id)}
            _refuse_difference(run_id, before, ranges)
            return
        await _insert_plan(conn, run_id, tables, chunks)


async def planned_tables(conn: Connection, run_id: int) -> tuple[PlannedTable, ...]:
    """Return the run's tables, by name."""
    rows = await conn.fetch(SQL["read_tables"], run_id)
    return tuple(
        PlannedTable(
            source_table=row["source_table"],
            target_schema=row["target_schema"],
            target_table=row["target_table"],
            source_rows=row["source_rows"],
            columns=tuple((source, target) for source, target in json.loads(row["columns"])),
            excluded_rows=row["excluded_rows"],
            fingerprint=row["fingerprint"],
        )
        for row in rows
    )


async def planned_chunks(conn: Connection, run_id: int) -> tuple[Chunk, ...]:
    """Return the run's chunks, by table and number."""
    return tuple(_chunk(row) for row in await conn.fetch(SQL["read_chunks"], run_id))


async def _insert_plan(conn: Connection, run_id: int, tables: Iterable[PlannedTable], chunks: Iterable[Chunk]) -> None:
    await conn.executemany(
        SQL["insert_table"],
        [
            (
                run_id,
                table.source_table,
                table.target_schema,
                table.target_table,
                table.source_rows,
                table.excluded_rows,
                json.dumps(table.columns),
                table.fingerprint,
            )
            for table in tables
        ],
    )
    await conn.copy_records_to_table(
        "chunk",
        schema_name="pgferry",
        columns=("run_id", "source_table", "number", "low", "high", "rows"),
        records=[(run_id, c.table, c.number, _bound(c.low), _bound(c.high), c.rows) for c in chunks],
    )


def _refuse_difference(run_id: int, known: Mapping[Any, object], wanted: Mapping[Any, object]) -> None:
    for name in [*wanted, *known]:
        if known.get(name) != wanted.get(name):
            what = f"table {name}" if isinstance(name, str) else f"chunk {name[1]} of table {name[0]}"
            raise Permanent(
                f"Run {run_id} was planned otherwise: {what} was {known.get(name)}, now it is {wanted.get(name)}.",
                "Run with the snapshot, schema and configuration it was begun with, or give --restart.",
            )


# ---------------------------------------------------------------- chunks


async def record_chunk(conn: Connection, run_id: int, loaded: LoadedChunk) -> None:
    """Record a chunk as loaded. Joins the caller's transaction: the one that holds its COPY.

    Raises AlreadyLoaded when the ledger has it as loaded: the caller rolls its COPY back and goes on. A concurrent
    writer of the same chunk is waited for. Raises LossError when loaded and quarantined rows are not the chunk's
    rows, Permanent when the chunk was never planned, RuntimeError outside a transaction.
    """
    require_transaction(conn, "record_chunk")
    chunk = loaded.chunk
    rows = await conn.fetchval(
        SQL["record_chunk"],
        run_id,
        chunk.table,
        chunk.number,
        loaded.rows,
        loaded.quarantined,
        loaded.payload_bytes,
        loaded.digest,
        loaded.xid,
        loaded.first_block,
        loaded.last_block,
    )
    if rows is None:
        raise await _not_recorded(conn, run_id, chunk)
    if rows != loaded.rows + loaded.quarantined:
        raise LossError(
            f"Chunk {chunk.number} of table {chunk.table} has {rows} rows in the snapshot, but {loaded.rows} were "
            f"loaded and {loaded.quarantined} quarantined.",
            "Nothing of the chunk was kept. This is a defect of pgferry: please report it.",
        )


async def _not_recorded(conn: Connection, run_id: int, chunk: Chunk) -> Permanent:
    name = f"Chunk {chunk.number} of table {chunk.table} in run {run_id}"
    if await conn.fetchval(SQL["chunk_is_planned"], run_id, chunk.table, chunk.number):
        return AlreadyLoaded(f"{name} is loaded already.", "Roll this copy of it back and go on.")
    return Permanent(f"{name} was never planned.", "Plan the run's tables before loading them.")


async def loaded_chunks(
    conn: Connection, run_id: int, tables: Iterable[str] | None = None
) -> dict[tuple[str, int], LoadedChunk]:
    """Return the chunks whose rows are in the target, by source table and number: of these tables, or of all."""
    rows = await conn.fetch(SQL["loaded_chunks"], run_id, None if tables is None else sorted(set(tables)))
    return {(row["source_table"], row["number"]): _loaded(row) for row in rows}


async def load_times(conn: Connection, run_id: int) -> list[tuple[datetime, int]]:
    """Return when each loaded chunk was committed and how many rows it had, in the order of time."""
    return [(row["loaded_at"], row["rows"]) for row in await conn.fetch(SQL["load_times"], run_id)]


async def mark_verified(conn: Connection, run_id: int, places: Collection[tuple[str, int]], differences: int) -> None:
    """Record that loaded chunks, by source table and number, were compared, and how many cells differ: all or none.

    Raises Permanent when one is not loaded.
    """
    tables, numbers = [table for table, _ in places], [number for _, number in places]
    async with conn.transaction():
        rows = await conn.fetch(SQL["mark_verified"], run_id, tables, numbers, differences)
        marked = {(row["source_table"], row["number"]) for row in rows}
        for table, number in places:
            if (table, number) not in marked:
                name = f"Chunk {number} of table {table} in run {run_id}"
                raise Permanent(f"{name} is not loaded.", "Load it before verifying.")


async def verified_chunks(conn: Connection, run_id: int) -> dict[tuple[str, int], int]:
    """Return how many cells differ in each chunk that was compared, by source table and number."""
    rows = await conn.fetch(SQL["verified_chunks"], run_id)
    return {(row["source_table"], row["number"]): row["differences"] for row in rows}


# ---------------------------------------------------------------- quarantine


async def record_quarantine(conn: Connection, run_id: int, rows: Sequence[QuarantinedRow]) -> None:
    """Keep rows aside, by COPY. Joins the caller's transaction: the one that records their chunk."""
    require_transaction(conn, "record_quarantine")
    await conn.copy_records_to_table(
        "quarantine",
        schema_name="pgferry",
        columns=("run_id", "source_table", "key", "column_name", "storage_class", "value", "reason"),
        records=(
            (
                run_id,
                row.table,
                encode_key(row.key),
                row.column,
                str(row.storage_class),
                row.value,
                clean_reason(row.reason),
            )
            for row in rows
        ),
    )


async def record_renames(conn: Connection, run_id: int, names: Sequence[Renamed]) -> None:
    """Keep the names that are not the same on both sides; replaces what the run had. Atomic."""
    async with conn.transaction():
        await conn.execute(SQL["forget_renames"], run_id)
        await conn.executemany(
            SQL["insert_rename"], [(run_id, name.table, name.column, name.source, name.target) for name in names]
        )


async def quarantine_counts(conn: Connection, run_id: int) -> dict[str, int]:
    """Return how many rows of each source table are quarantined and not replayed; tables without any are left out."""
    rows = await conn.fetch(SQL["quarantine_counts"], run_id)
    return {row["source_table"]: row["rows"] for row in rows}


def clean_reason(reason: str) -> str:
    """Return a reason as any text column takes it."""
    # A reason may quote the value that did not fit, and that may be what PostgreSQL's text cannot hold either.
    return reason.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


# ---------------------------------------------------------------- rows to values


def _run(row: asyncpg.Record) -> Run:
    snapshot = None
    if row["snapshot_path"] is not None:
        snapshot = Snapshot(
            path=row["snapshot_path"],
            sha256=row["snapshot_sha256"],
            bytes=row["snapshot_bytes"],
            source=row["snapshot_source"],
            taken_at=row["taken_at"],
            foreign_key_violations=row["foreign_key_violations"],
        )
    return Run(
        id=row["id"],
        source=row["source"],
        fingerprint=row["fingerprint"],
        status=row["status"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        snapshot=snapshot,
        report=None if row["report_text"] is None else json.loads(row["report_text"]),
    )


def _chunk(row: asyncpg.Record) -> Chunk:
    return Chunk(
        table=row["source_table"],
        number=row["number"],
        rows=row["rows"],
        low=_key(row["low"]),
        high=_key(row["high"]),
    )


def _loaded(row: asyncpg.Record) -> LoadedChunk:
    return LoadedChunk(
        chunk=_chunk(row),
        rows=row["loaded_rows"],
        quarantined=row["quarantined"],
        payload_bytes=row["payload_bytes"],
        digest=row["digest"],
        xid=row["xid"],
        first_block=row["first_block"],
        last_block=row["last_block"],
    )


def _bound(key: Key | None) -> str | None:
    return None if key is None else encode_key(key)


def _key(text: str | None) -> Key | None:
    return None if text is None else decode_key(text)
