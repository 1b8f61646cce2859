"""Runs the application's revisions on the target, also while a live move keeps it level."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy.engine import URL

from pgferry.errors import UsageError
from pgferry.live.model import Phase
from pgferry.live.phases import current
from pgferry.postgres import schema
from pgferry.postgres.connection import STALL_SECONDS, Connection, connection
from pgferry.postgres.fence import is_fenced
from pgferry.postgres.journal import sync_lock
from pgferry.postgres.ledger import Run, read_run
from pgferry.postgres.schema import SchemaState
from pgferry.postgres.standing_keys import foreign_keys_in_place
from pgferry.postgres.statements import statements

_HAS_PHASES = "SELECT to_regclass('pgferry.phase') IS NOT NULL"


async def change(
    url: URL,
    config: Path,
    revision: str,
    *,
    down: bool = False,
    lock_timeout: float = 0.0,
    stall_timeout: float = STALL_SECONDS,
) -> SchemaState:
    """Run the revisions up or down to `revision`; raises as `schema.upgrade`.

    While a live move keeps the target level nothing is carried meanwhile. With SQLite in front, the foreign keys that
    are put aside are in place for the revisions, and those that are there afterwards are put aside, new ones too: the
    sync carries rows in no order that they allow.
    """
    limits = {"lock_timeout": lock_timeout, "stall_timeout": stall_timeout}
    async with connection(url, stall_timeout=stall_timeout) as holder, _nothing_carried(holder):
        if down:
            return await schema.downgrade(url, config, revision, **limits)
        return await schema.upgrade(url, config, revision=revision, **limits)


async def live_move(connection: Connection) -> tuple[Run | None, Phase]:
    """Return the live move of this database, if there is one, and its phase; raises UsageError for several."""
    if not await connection.fetchval(_HAS_PHASES):
        return None, Phase.NONE
    runs = [row["id"] for row in await connection.fetch(statements("journal")["live_runs"])]
    if len(runs) > 1:
        raise UsageError(
            f"{len(runs)} moves without downtime are under way in this database.", "End all but one of them first."
        )
    if not runs:
        return None, Phase.NONE
    return await read_run(connection, runs[0]), (await current(connection, runs[0])).phase


@asynccontextmanager
async def _nothing_carried(holder: Connection) -> AsyncIterator[None]:
    move, phase = await live_move(holder)
    if move is None or (phase is not Phase.SWITCHED and not await is_fenced(holder)):
        yield  # No move, or its first copy is being made: nothing is kept level yet.
        return
    async with sync_lock(holder):
        if phase is Phase.SWITCHED:
            yield
        else:
            async with foreign_keys_in_place(holder, move.id):
                yield
