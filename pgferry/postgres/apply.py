"""Brings the touched rows of one table to what SQLite holds: deleted by key, and copied in again where they exist."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import asyncpg
import pyarrow as pa

from pgferry.convert.wire import encode
from pgferry.errors import Permanent
from pgferry.live.model import LiveTable
from pgferry.live.spool import Spool
from pgferry.model import ColumnPair, Key, QuarantinedRow
from pgferry.postgres.catalog import rows_of
from pgferry.postgres.connection import Connection
from pgferry.postgres.handle import require_transaction
from pgferry.postgres.journal import mark_touched
from pgferry.postgres.load import sent_bytes
from pgferry.postgres.refusals import Refusal, find_unfit, is_of_one_row
from pgferry.postgres.validations import refresh_quarantine
from pgferry.quoting import quote

MANY = 5_000
"""Keys from which on the planner is told how many there are."""


@dataclass(frozen=True, slots=True)
class TableWork:
    """The touched rows of one table at one moment of SQLite."""

    table: LiveTable
    rows: Spool
    """Those that exist, converted, in the order of the pair's columns."""
    keys: Spool
    """The target keys of all of them, converted, maybe more than once."""
    rejected: tuple[QuarantinedRow, ...]
    addresses: tuple[Key, ...]
    """How the quarantine knows the touched rows."""
    names: tuple[Key, ...]
    """The same keys as SQLite has them."""
    whole: bool = False
    """Whether `rows` are all rows of the table, which is copied anew."""


async def apply_table(connection: Connection, run_id: int, work: TableWork) -> None:
    """Delete the touched rows in the target and copy those that exist; joins the caller's transaction.

    All deletes come before the first insert, so a unique value may have moved between touched rows. Raises Permanent
    naming the table when the target refuses rows that collide; errors about what one row holds (`is_of_one_row`) and of
    the connection pass through.
    """
    require_transaction(connection, "apply_table")
    try:
        await _clear(connection, work)
        await _copy(connection, work.table, work.rows)
    except asyncpg.IntegrityConstraintViolationError as error:
        if is_of_one_row(error):
            raise
        raise refused([work.table.name], error) from error
    addresses = None if work.whole else work.addresses
    await refresh_quarantine(connection, run_id, work.table.pair.source.name, addresses, work.rejected)
    await mark_touched(connection, run_id, work.table.pair.source.name, work.names)


async def find_unfit_rows(connection: Connection, work: TableWork) -> dict[int, Refusal]:
    """Return why the target refuses rows for what they hold, by their place in `work.rows`; applies nothing.

    Joins the caller's transaction, which must be rolled back.
    """
    require_transaction(connection, "find_unfit_rows")
    await _clear(connection, work)
    return await find_unfit(connection, work.table.pair, work.rows.batches()) if work.rows.count else {}


async def _clear(connection: Connection, work: TableWork) -> None:
    if work.whole:
        await connection.execute(f"TRUNCATE {rows_of(work.table.pair.target)}")
    else:
        await _delete(connection, work)


async def _delete(connection: Connection, work: TableWork) -> None:
    if not work.keys.count:
        return
    name = await _key_table(connection, work.table)
    await _send(connection, name, work.table.key, work.keys.batches())
    if work.keys.count > MANY:
        await connection.execute(f"ANALYZE {quote(name)}")
    match = " AND ".join(f"t.{quote(c.target.name)} = k.{quote(c.target.name)}" for c in work.table.key)
    await connection.execute(f"DELETE FROM {rows_of(work.table.pair.target)} t USING {quote(name)} k WHERE {match}")


async def _key_table(connection: Connection, table: LiveTable) -> str:
    """Return the name of the session's temporary table for keys of this table, empty."""
    name = f"pgferry_keys_{table.pair.target.oid}"
    # pg_temp is named: without it a table of the application could be meant.
    if await connection.fetchval("SELECT to_regclass($1)", f"pg_temp.{quote(name)}") is None:
        columns = ", ".join(quote(column.target.name) for column in table.key)
        # WITH NO DATA takes types and collations over, and no constraint.
        await connection.execute(
            f"CREATE TEMP TABLE {quote(name)} AS SELECT {columns} FROM {rows_of(table.pair.target)} WITH NO DATA"
        )
    else:
        await connection.execute(f"TRUNCATE pg_temp.{quote(name)}")
    return name


async def _copy(connection: Connection, table: LiveTable, rows: Spool) -> None:
    if not rows.count:
        return
    status = await connection.copy_to_table(
        table.pair.target.name,
        schema_name=table.pair.target.schema,
        columns=[column.target.name for column in table.pair.columns],
        source=_stream(sent_bytes(table.pair, rows.batches())),
        format="binary",
    )
    if status != f"COPY {rows.count}":
        raise Permanent(
            f"The server answered {status!r} to {rows.count} rows of table {table.pair.target.name!r}.",
            "Look for a trigger or rule on that table that swallows rows.",
        )


async def _send(
    connection: Connection, name: str, columns: Iterable[ColumnPair], batches: Iterable[pa.RecordBatch]
) -> None:
    pairs = list(columns)
    await connection.copy_to_table(
        name,
        schema_name="pg_temp",
        columns=[pair.target.name for pair in pairs],
        source=_stream(encode(batches, [pair.target.type for pair in pairs])),
        format="binary",
    )


async def _stream(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        if part:
            yield part


def refused(tables: Iterable[str], error: asyncpg.PostgresError) -> Permanent:
    """Return the error for rows of these tables that the target refuses and that are not kept aside."""
    detail = f" ({error.detail})" if getattr(error, "detail", None) else ""
    said = str(error).partition("\n")[0]
    return Permanent(
        f"PostgreSQL refuses rows of table {' or '.join(map(repr, tables))} that SQLite holds: {said}{detail}.",
        "Nothing was applied, and nothing is lost: it waits in the outbox. Correct the row in the application, or the "
        "constraint in PostgreSQL; the next sync carries it.",
    )
