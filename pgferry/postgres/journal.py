"""The ledger of a move without downtime: who carries changes, how far they are, and which rows were touched.

It goes on where `ledger` ends, in the same schema and by the same rules: each function is atomic by itself; those that
record work join the caller's transaction, and say so. What validations find is kept by `validations`, whose functions
are offered here too.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import uuid4

import asyncpg

from pgferry.errors import Permanent, Transient, UsageError
from pgferry.keys import decode_key, encode_key, key_digests
from pgferry.live.model import Capture, CapturedTable, Phase, PhaseRecord, Position
from pgferry.model import Key
from pgferry.postgres.handle import Connection, require_read_committed, require_transaction
from pgferry.postgres.ledger import VERSION, Run, install, read_run
from pgferry.postgres.lock import SYNC_LOCK, describe_holder, end_holder, lock_holder, wait_for_lock
from pgferry.postgres.statements import statements
from pgferry.postgres.validations import (
    open_uncarried,
    record_repair,
    record_uncarried,
    record_validation,
    refresh_quarantine,
    repairs,
    settle_uncarried,
    uncarried_count,
    validations,
)

__all__ = [
    "advance",
    "begin_position",
    "forget_live",
    "forget_touched",
    "live_run",
    "lock_sync",
    "lock_sync_for_transaction",
    "mark_touched",
    "open_uncarried",
    "other_live",
    "read_forms",
    "read_position",
    "read_recorded_capture",
    "record_capture",
    "record_forms",
    "record_repair",
    "record_uncarried",
    "record_validation",
    "refresh_quarantine",
    "repairs",
    "reserve_token",
    "server_time",
    "set_position",
    "settle_uncarried",
    "sync_lock",
    "touched_batches",
    "touched_count",
    "touched_counts",
    "touched_since",
    "uncarried_count",
    "unlock_sync",
    "validations",
]

SQL = statements("journal")
LOCK = statements("lock")
LEDGER = statements("ledger")

LIVE_SINCE = 3
"""The version of the ledger that knows live moves first."""

PATIENCE = 60.0
"""Seconds to wait for whoever holds the sync lock: a cycle of the sync, or a validation that takes its snapshot."""

PAGE_KEYS = 5_000
"""Touched keys that are read at once."""


# ---------------------------------------------------------------- the sync lock


async def lock_sync(conn: Connection, patience: float = PATIENCE) -> None:
    """Hold the sync lock with this session, until `unlock_sync` or the end of the session.

    Only its holder carries changes or says of which moment both sides are. Raises Transient, naming the holder, when
    it is not got within `patience` seconds. A session that takes it twice must release it twice. Take it before a
    REPEATABLE READ transaction, never inside: RuntimeError.
    """
    await require_read_committed(conn, "lock_sync")
    await _wait(conn, "try_lock", patience)


async def unlock_sync(conn: Connection) -> None:
    """Release what `lock_sync` took. A session that does not answer is ended, which releases it too; never raises."""
    try:
        await conn.execute(LOCK["unlock"], SYNC_LOCK)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        conn.terminate()


@asynccontextmanager
async def sync_lock(conn: Connection, patience: float = PATIENCE) -> AsyncIterator[None]:
    """Hold the sync lock in the block; raises as `lock_sync`."""
    await lock_sync(conn, patience)
    try:
        yield
    finally:
        await unlock_sync(conn)


async def lock_sync_for_transaction(conn: Connection, patience: float = PATIENCE) -> None:
    """Hold the sync lock until the caller's transaction ends; raises as `lock_sync`."""
    require_transaction(conn, "lock_sync_for_transaction")
    await require_read_committed(conn, "lock_sync_for_transaction")
    await _wait(conn, "try_lock_for_transaction", patience)


async def _wait(conn: Connection, statement: str, patience: float) -> None:
    if await wait_for_lock(conn, LOCK[statement], SYNC_LOCK, patience):
        return
    holder = await lock_holder(conn, SYNC_LOCK)
    if holder is None:
        raise Transient("Another process held the sync lock of this target a moment ago.", "Try again.")
    raise Transient(
        f"Another process carries changes or compares at the moment: {describe_holder(holder)}.",
        end_holder(holder),
        **dict(holder),
    )


# ---------------------------------------------------------------- the run


async def live_run(conn: Connection, source: str | None) -> Run:
    """Return the run that is in a live phase: of this source, or the only one when `source` is None.

    Raises UsageError when there is none, or several to choose from.
    """
    await _require_ledger(conn)
    runs = {row["source"]: row["id"] for row in await conn.fetch(SQL["live_runs"])}
    if not runs:
        raise _not_begun("No move without downtime is under way in this database.")
    if source is None and len(runs) > 1:
        raise UsageError(
            f"{len(runs)} moves without downtime are under way in this database.",
            f"Give --source: {' or '.join(runs)}.",
            sources=tuple(runs),
        )
    chosen = next(iter(runs)) if source is None else source
    if chosen not in runs:
        raise _not_begun(f"{chosen} is in no move without downtime here, but {' and '.join(runs)}.")
    return await read_run(conn, runs[chosen])


async def other_live(conn: Connection, run_id: int) -> tuple[str, PhaseRecord] | None:
    """Return the source and the phase of another live move into this database; None when there is none.

    A cleanup that was cut off counts: what it has yet to remove is found by names that say nothing of the source.
    """
    row = await conn.fetchrow(SQL["other_live"], run_id)
    return None if row is None else (row["source"], PhaseRecord(Phase(row["phase"]), row["since"], row["reason"]))


async def _require_ledger(conn: Connection) -> None:
    if not await conn.fetchval(SQL["ledger_is_there"]):
        raise _not_begun("No move was ever begun in this database.")
    version = await conn.fetchval(LEDGER["read_version"])
    if version > VERSION:
        raise Permanent(
            f"The schema pgferry in the target is of version {version}; this pgferry knows {VERSION}.",
            "Run the newer pgferry that was used on this database before.",
        )
    if version < LIVE_SINCE:
        raise _not_begun(f"The schema pgferry in the target is of version {version}, without live moves.")
    if version < VERSION:
        await install(conn)  # a move that an earlier pgferry has begun goes on with this one


def _not_begun(what: str) -> UsageError:
    return UsageError(what, "Run `python -m flows dual-write` first.")


# ---------------------------------------------------------------- the position


async def read_position(conn: Connection, run_id: int) -> Position | None:
    """Return how far PostgreSQL is level with SQLite; None before the first copy is begun."""
    row = await conn.fetchrow(SQL["read_position"], run_id)
    return None if row is None else Position(row["run_id"], row["outbox_id"], row["moment"], row["mark"])


async def begin_position(
    conn: Connection, run_id: int, outbox_id: int, moment: datetime, mark: str | None = None
) -> None:
    """Record where the sync begins; a position that is there stays. `mark` is that of the entry (`outbox.mark_of`)."""
    await conn.execute(SQL["begin_position"], run_id, outbox_id, moment, mark)


async def set_position(
    conn: Connection, run_id: int, outbox_id: int, moment: datetime, mark: str | None = None
) -> None:
    """Record the position, whatever it was. Joins the caller's transaction: the one that makes it true."""
    require_transaction(conn, "set_position")
    await conn.execute(SQL["set_position"], run_id, outbox_id, moment, mark)


async def advance(
    conn: Connection, run_id: int, *, before: int, to: int, moment: datetime, rows: int, mark: str | None = None
) -> bool:
    """Move the position on from `before`, and count the rows carried. Joins the transaction that carries them.

    Returns False, and changes nothing, when the position is no longer `before`: roll back and read again.
    """
    require_transaction(conn, "advance")
    return await conn.fetchval(SQL["advance"], run_id, before, to, moment, rows, mark) is not None


async def server_time(conn: Connection) -> datetime:
    """Return the server's clock, the one of which `forget_touched` speaks."""
    now: datetime = await conn.fetchval(SQL["server_time"])
    return now


# ---------------------------------------------------------------- the capture


async def reserve_token(conn: Connection, run_id: int) -> str:
    """Return the token of the run's capture: the recorded one, or a new one that is recorded by this call."""
    token: str = await conn.fetchval(SQL["reserve_token"], run_id, uuid4().hex)
    return token


async def record_capture(conn: Connection, run_id: int, capture: Capture) -> None:
    """Record the capture as it is installed; replaces what was recorded.

    Raises Permanent when the run's capture has another token: it is that of another file, or of an earlier move.
    """
    tables = json.dumps([asdict(table) for table in capture.tables])
    if await conn.fetchval(SQL["record_capture"], run_id, capture.token, capture.schema_version, tables) is None:
        raise Permanent(
            f"The capture with the token {capture.token} is not that of run {run_id}.",
            "Run `python -m flows dual-write --undo`, then `python -m flows dual-write` again.",
        )


async def read_recorded_capture(conn: Connection, run_id: int) -> Capture | None:
    """Return the capture as recorded; None when there is none, or no more than its token."""
    row = await conn.fetchrow(SQL["read_capture"], run_id)
    if row is None:
        return None
    tables = tuple(_captured_table(table) for table in json.loads(row["tables"]))
    return Capture(row["token"], tables, row["schema_version"])


def _captured_table(fields: dict[str, Any]) -> CapturedTable:
    return CapturedTable(**{**fields, "key": tuple(fields["key"])})


async def record_forms(conn: Connection, run_id: int, forms: Mapping[str, object]) -> None:
    """Record, as JSON, in which forms values go back to SQLite. Raises Permanent without a capture to go with."""
    if await conn.fetchval(SQL["record_forms"], run_id, json.dumps(forms)) is None:
        raise Permanent(f"Run {run_id} has no capture.", "Run `python -m flows dual-write` first.")


async def read_forms(conn: Connection, run_id: int) -> dict[str, Any]:
    """Return the recorded forms; empty when there are none."""
    text = await conn.fetchval(SQL["read_forms"], run_id)
    return {} if text is None else dict(json.loads(text))


async def forget_live(conn: Connection, run_id: int) -> None:
    """Forget capture, position and touched rows, so that the run can be made live anew. Joins the transaction.

    Phases, validations, repairs and uncarried rows stay: they are history.
    """
    require_transaction(conn, "forget_live")
    for statement in ("forget_position", "forget_capture", "forget_all_touched"):
        await conn.execute(SQL[statement], run_id)


# ---------------------------------------------------------------- touched rows


async def mark_touched(conn: Connection, run_id: int, table: str, keys: Sequence[Key]) -> None:
    """Record rows, by the target's keys, as carried just now. Joins the transaction that carries them."""
    require_transaction(conn, "mark_touched")
    if keys:
        texts = list(dict.fromkeys(map(encode_key, keys)))
        await conn.execute(SQL["mark_touched"], run_id, table, key_digests(texts), texts)


async def touched_since(conn: Connection, run_id: int) -> dict[str, list[Key]]:
    """Return all touched rows by source table; for many of them, `touched_batches` needs less memory."""
    found: dict[str, list[Key]] = {}
    async for table, keys in touched_batches(conn, run_id):
        found.setdefault(table, []).extend(keys)
    return found


async def touched_batches(
    conn: Connection, run_id: int, table: str | None = None, size: int = PAGE_KEYS
) -> AsyncIterator[tuple[str, list[Key]]]:
    """Yield the touched rows of a table, or of all of them table by table, at most `size` at a time."""
    for name in [table] if table is not None else list(await touched_counts(conn, run_id)):
        after = b""
        while rows := await conn.fetch(SQL["touched_page"], run_id, name, after, size):
            yield name, [decode_key(row["key"]) for row in rows]
            after = rows[-1]["digest"]


async def touched_counts(conn: Connection, run_id: int) -> dict[str, int]:
    """Return how many rows of each source table are touched; tables without any are left out."""
    return {row["source_table"]: row["rows"] for row in await conn.fetch(SQL["touched_counts"], run_id)}


async def touched_count(conn: Connection, run_id: int) -> int:
    """Return how many rows are touched."""
    return sum((await touched_counts(conn, run_id)).values())


async def forget_touched(conn: Connection, run_id: int, upto: datetime) -> None:
    """Forget the rows that were carried up to then, since a comparison of every cell found them equal.

    `upto` is the `server_time` that was read under the sync lock, at the moment that was compared.
    """
    await conn.execute(SQL["forget_touched"], run_id, upto)
