"""Starting anew: what a run has loaded goes, what it had dropped comes back, and nothing else is touched."""

from __future__ import annotations

import asyncpg

from pgferry.errors import Permanent, is_transient
from pgferry.model import TargetTable
from pgferry.postgres.catalog import have_rows, rows_of
from pgferry.postgres.deferred import build_error, is_gone, mark_gone, pending, rebuild_step
from pgferry.postgres.handle import Connection
from pgferry.postgres.statements import statements

SQL = statements("restart")
LEDGER = statements("ledger")


async def restart(conn: Connection, run_id: int) -> None:
    """Undo a run: one transaction that empties its tables, builds their indexes and constraints, and closes the run.

    Emptied are exactly the target tables in which this run has loaded rows, never by CASCADE, together with tables
    that point at them and are empty anyway. The definitions that the run had dropped are all built again, which is
    quick on empty tables; so none is carried from one run to the next. What no longer exists is passed over.
    Raises Permanent, with nothing changed, when another table that has rows points at one of these, or when a
    definition cannot be built. A run that was restarted before is left as it is.
    """
    async with conn.transaction():
        run = await conn.fetchrow(LEDGER["lock_run"], run_id)
        if run is None:
            raise Permanent(f"The target's ledger has no run {run_id}.", "Look at the history of runs.")
        if run["status"] == "restarted":
            return
        tables = await _with_empty_children(conn, await _loaded_tables(conn, run_id))
        if tables:
            await conn.execute(f"TRUNCATE {', '.join(rows_of(table) for table in tables)}")
        await _rebuild_all(conn, run_id)
        await conn.execute(LEDGER["mark_restarted"], run_id)


async def _loaded_tables(conn: Connection, run_id: int) -> list[TargetTable]:
    names = await conn.fetch(LEDGER["loaded_targets"], run_id)
    found = []
    for schema, name in names:
        row = await conn.fetchrow(SQL["table_now"], schema, name)
        if row is not None:
            found.append(TargetTable(schema, name, row["oid"], (), partitioned=row["partitioned"]))
    return found


async def _with_empty_children(conn: Connection, tables: list[TargetTable]) -> list[TargetTable]:
    # TRUNCATE refuses a table that a foreign key points at, even from an empty table, unless that one is named too.
    known = list(tables)
    while rows := await conn.fetch(SQL["pointing_at"], [table.oid for table in known]):
        for row in rows:
            child = TargetTable(row["schema"], row["table"], row["oid"], (), partitioned=row["partitioned"])
            await conn.execute(f"LOCK TABLE {rows_of(child)} IN ACCESS EXCLUSIVE MODE")
            if any(await have_rows(conn, [child])):
                raise _pointed_at(row)
            known.append(child)
    return known


def _pointed_at(row: asyncpg.Record) -> Permanent:
    child = f"{row['schema']}.{row['table']}"
    return Permanent(
        f"Table {row['parent']} cannot be emptied: {child} has rows and points at it by the foreign key {row['name']}.",
        f"Empty {child} or drop that foreign key, then give --restart again. Nothing was changed.",
    )


async def _rebuild_all(conn: Connection, run_id: int) -> None:
    for step in await pending(conn, run_id):
        if await is_gone(conn, step):
            await mark_gone(conn, step)
            continue
        try:
            await rebuild_step(conn, step)
        except asyncpg.PostgresError as error:
            if is_transient(error):
                raise
            raise build_error(step, error) from error
