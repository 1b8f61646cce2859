"""Foreign keys that a live move has put aside, in place again while the schema is changed.

A revision that drops, alters or renames what they are about then does it as it would without the move: PostgreSQL
follows a renamed column, and a key goes with its table. Afterwards those that are there are put aside.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pgferry.postgres.connection import Connection
from pgferry.postgres.deferred import pending, put_aside
from pgferry.postgres.definitions import FOREIGN_KEY_KINDS, Kind, foreign_key
from pgferry.postgres.fence import TRIGGER
from pgferry.postgres.statements import statements

SQL = statements("standing_keys")


@asynccontextmanager
async def foreign_keys_in_place(connection: Connection, run_id: int) -> AsyncIterator[None]:
    """Hold the run's foreign keys in place, NOT VALID, inside the block; at its end what is there then is put aside.

    Nothing may be carried meanwhile. Each half is one transaction. Killed in between, they stay in place, and the next
    call puts them aside; its first half takes those that it finds for its own.
    """
    valid = await _put_in_place(connection, run_id)
    try:
        yield
    finally:
        await _put_aside(connection, run_id, valid)


async def _put_in_place(connection: Connection, run_id: int) -> frozenset[int]:
    """Add the keys that wait; return the oids of those that were valid before the move."""
    steps = await pending(connection, run_id)
    checked = {(step.schema, step.table, step.name) for step in steps if step.kind is Kind.VALIDATION}
    valid: set[int] = set()
    async with connection.transaction():
        for step in steps:
            if step.kind is not Kind.FOREIGN_KEY:
                continue
            key = (step.schema, step.table, step.name)
            oid = await connection.fetchval(SQL["oid"], *key)
            if oid is None and await connection.fetchval(SQL["table_exists"], step.schema, step.table):
                await connection.execute(step.definition)
                if step.comment is not None:
                    await connection.execute(step.comment)
                oid = await connection.fetchval(SQL["oid"], *key)
            valid |= {oid} if oid is not None and key in checked else set()
    return frozenset(valid)


async def _put_aside(connection: Connection, run_id: int, valid: frozenset[int]) -> None:
    async with connection.transaction():
        await connection.execute(SQL["qualify"])  # Else a definition leaves out the schemas of the search_path.
        rows = [dict(row) for row in await connection.fetch(SQL["foreign_keys"], TRIGGER)]
        await connection.execute(SQL["forget"], run_id, sorted(FOREIGN_KEY_KINDS))
        for row in rows:
            await put_aside(connection, run_id, foreign_key(_as_it_was(row, valid)))


def _as_it_was(row: dict[str, Any], valid: frozenset[int]) -> dict[str, Any]:
    """Return the key as valid when it was so before the move: it is NOT VALID only because it was put in place."""
    if row["oid"] not in valid or row["valid"]:
        return row
    return row | {"valid": True, "definition": row["definition"].removesuffix(" NOT VALID")}
