"""Which rows of a batch the target refuses, and why: a key that exists, a parent that does not, a check."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
import pyarrow as pa

from pgferry.model import TablePair
from pgferry.postgres.connection import Connection
from pgferry.postgres.load import copy_rows

REFUSED = "the target refuses the row: "

WAITING = "the target refuses the row by a foreign key: "
"""How the reason of a row begins whose parent is not there (yet)."""

_STATES = (
    "22",  # a value that a domain or an expression index cannot take
    "23",  # unique, foreign key, check, exclusion, NOT NULL
    "54000",  # a value that is too long for an index
    "P0001",  # a trigger of the user's own raises
)


# Without the release, what follows would still be of the savepoint, and its rows would bear another transaction's id:
# asyncpg's own nested transactions leave it at that.
_SAVE = "SAVEPOINT pgferry_trial"
_RELEASE = "RELEASE SAVEPOINT pgferry_trial"
_UNDO = "ROLLBACK TO SAVEPOINT pgferry_trial; RELEASE SAVEPOINT pgferry_trial"


def is_refusal(error: asyncpg.PostgresError) -> bool:
    """Say whether the server's error is about a row, and not about the connection, a permission or the disk."""
    return (error.sqlstate or "").startswith(_STATES)


def refusal(error: asyncpg.PostgresError) -> str:
    """Return the reason for which a row stays in quarantine, in the server's words."""
    # asyncpg adds the detail to the message's text.
    said = str(error).partition("\n")[0].rstrip(".")
    detail = getattr(error, "detail", None)
    words = f"{said}: {detail}" if detail else said
    return (WAITING if isinstance(error, asyncpg.ForeignKeyViolationError) else REFUSED) + words.rstrip(".")


async def find_refused(connection: Connection, pair: TablePair, batch: pa.RecordBatch) -> dict[int, str]:
    """Return why the target refuses rows of a batch, by their place in it; all others can be loaded together.

    Tries under a savepoint, which it rolls back: the caller's transaction is as before. A batch is halved until single
    rows are left, so a few refused rows cost a few dozen attempts. Rows whose parents are in the same batch are tried
    again as long as others go in. Errors that are not about a row pass through.
    """
    await connection.execute(_SAVE)
    refused: dict[int, str] = {}
    waiting: Sequence[int] = range(batch.num_rows)
    while waiting:
        found: dict[int, str] = {}
        await _sift(connection, pair, batch, waiting, found)
        refused = {place: reason for place, reason in refused.items() if place not in waiting} | found
        orphans = sorted(place for place, reason in found.items() if reason.startswith(WAITING))
        waiting = orphans if len(found) < len(waiting) else ()
    await connection.execute(_UNDO)
    return refused


async def _sift(
    connection: Connection, pair: TablePair, batch: pa.RecordBatch, places: Sequence[int], refused: dict[int, str]
) -> None:
    part = batch.take(pa.array(places, pa.int64()))
    await connection.execute(_SAVE)
    try:
        await copy_rows(connection, pair, [part], part.num_rows)
        await connection.execute(_RELEASE)
    except asyncpg.PostgresError as error:
        if not is_refusal(error):
            raise
        await connection.execute(_UNDO)
        if len(places) == 1:
            refused[places[0]] = refusal(error)
            return
        half = len(places) // 2
        await _sift(connection, pair, batch, places[:half], refused)
        await _sift(connection, pair, batch, places[half:], refused)
