"""Foreign keys validated when all rows are in; those whose rows point at nothing stay NOT VALID, and are told."""

from __future__ import annotations

from collections.abc import Sequence

from pgferry.model import OrphanedKey
from pgferry.postgres.deferred import Deferred, OrphansLeft, is_gone, mark_gone, pending, rebuild_one
from pgferry.postgres.definitions import Kind
from pgferry.postgres.handle import Connection
from pgferry.postgres.orphans import Orphans
from pgferry.postgres.statements import statements

SQL = statements("deferred")


async def validate_keys(conn: Connection, steps: Sequence[Deferred], *, memory: str) -> tuple[OrphanedKey, ...]:
    """Validate foreign keys, each in a transaction of its own; return those whose rows point at nothing.

    These stay NOT VALID, and their steps wait in the ledger with the reason, to be tried again by `validate_left`.
    Raises whatever else stands against one, as `rebuild_one` does.
    """
    left: list[OrphanedKey] = []
    for step in steps:
        try:
            await rebuild_one(conn, step, memory=memory)
        except OrphansLeft as error:
            left.append(await _orphaned(conn, step, error))
    return tuple(left)


async def validate_left(conn: Connection, run_id: int, *, memory: str) -> tuple[OrphanedKey, ...]:
    """Validate the foreign keys that a run has left NOT VALID; return those whose rows point at nothing still.

    A key that somebody has dropped meanwhile is closed in the ledger, which says so. For runs whose foreign keys are in
    place: where they wait for a switch, it is the switch that validates them.
    """
    steps = []
    for step in await pending(conn, run_id):
        if step.kind is Kind.VALIDATION:
            if await is_gone(conn, step):
                await mark_gone(conn, step)
            else:
                steps.append(step)
    return await validate_keys(conn, steps, memory=memory)


async def _orphaned(conn: Connection, step: Deferred, error: OrphansLeft) -> OrphanedKey:
    orphans = error.details["orphans"]
    assert isinstance(orphans, Orphans)
    source = await conn.fetchval(SQL["source_of"], step.run_id, step.schema, step.table)
    return OrphanedKey(source or f"{step.schema}.{step.table}", step.name, orphans.parent, orphans.count, orphans.shown)
