"""What the ledger knows of quarantined rows: which are kept aside and why, and which were loaded later on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from pgferry.errors import LossError, Permanent
from pgferry.keys import decode_key, encode_key
from pgferry.model import Chunk, Key, LoadedChunk, QuarantinedRow, StorageClass
from pgferry.postgres.handle import Connection, require_transaction
from pgferry.postgres.ledger import Run, clean_reason, read_run
from pgferry.postgres.load import Copied
from pgferry.postgres.statements import statements
from pgferry.report import Report

SQL = statements("quarantine")
LEDGER = statements("ledger")

HEAD_BYTES = 200
"""Bytes of a value that are read to show it."""

PAGE_ROWS = 1000
"""Rows whose sizes are read at once."""

PORTION_BYTES = 16 * 1024 * 1024
"""Bytes of values that are held at once (one value may be larger)."""


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """How many rows of a table are kept aside for reasons that differ only in the values that they name."""

    table: str
    column: str
    storage_class: StorageClass
    reason: str
    """The reason with an ellipsis for each value."""
    example: str
    rows: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A row that is kept aside; `head` is the first HEAD_BYTES of a value of `size` bytes."""

    id: int
    table: str
    key: str
    """As `pgferry.keys` writes it."""
    column: str
    storage_class: StorageClass
    head: bytes
    size: int
    reason: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class OpenRow:
    """A row that is kept aside, as a replay needs it."""

    id: int
    key: Key
    column: str
    storage_class: StorageClass
    reason: str


@dataclass(frozen=True, slots=True)
class Account:
    """Where the rows of a source table are by now: those of its chunks and those that were replayed."""

    table: str
    source_rows: int
    columns: int
    chunk_loaded: int
    chunk_quarantined: int
    chunk_bytes: int
    replayed: int
    replayed_bytes: int

    @property
    def loaded(self) -> int:
        """Rows in the target."""
        return self.chunk_loaded + self.replayed

    @property
    def quarantined(self) -> int:
        """Rows that are still kept aside."""
        return self.chunk_quarantined - self.replayed


# ---------------------------------------------------------------- reading


async def ledger_is_there(conn: Connection) -> bool:
    """Say whether a move was ever begun in this database."""
    return bool(await conn.fetchval(SQL["ledger_is_there"]))


async def open_runs(conn: Connection) -> tuple[Run, ...]:
    """Return the runs that were not restarted, newest first."""
    return tuple([await read_run(conn, row["id"]) for row in await conn.fetch(SQL["open_runs"])])


async def reasons(conn: Connection, run_id: int, tables: Sequence[str] = ()) -> tuple[ReasonCount, ...]:
    """Return what is kept aside by table, column and reason; of all tables when none is named."""
    rows = await conn.fetch(SQL["reasons"], run_id, list(tables))
    return tuple(
        ReasonCount(
            row["source_table"],
            row["column_name"],
            StorageClass(row["storage_class"]),
            row["pattern"],
            row["example"],
            row["rows"],
        )
        for row in rows
    )


async def entries(conn: Connection, run_id: int, tables: Sequence[str] = (), limit: int = 20) -> tuple[Entry, ...]:
    """Return the first rows that are kept aside, table by table."""
    rows = await conn.fetch(SQL["entries"], run_id, list(tables), HEAD_BYTES, limit)
    return tuple(
        Entry(
            row["id"],
            row["source_table"],
            row["key"],
            row["column_name"],
            StorageClass(row["storage_class"]),
            row["head"],
            row["size"],
            row["reason"],
            row["created_at"],
        )
        for row in rows
    )


async def portions(
    conn: Connection, run_id: int, tables: Sequence[str] = (), *, replayed: bool = False
) -> AsyncIterator[list[asyncpg.Record]]:
    """Yield the rows whole, with their values, in portions bounded in bytes; with `replayed`, loaded ones too."""
    after = 0
    while sizes := await conn.fetch(SQL["sizes"], run_id, list(tables), after, replayed, PAGE_ROWS):
        portion: list[int] = []
        held = 0
        for row in sizes:
            portion.append(row["id"])
            held += row["size"]
            if held >= PORTION_BYTES:
                break
        yield await conn.fetch(SQL["whole_rows"], portion)
        after = portion[-1]


async def open_rows(
    conn: Connection, run_id: int, table: str, *, after: int = 0, limit: int = PAGE_ROWS, reason: str = ""
) -> tuple[OpenRow, ...]:
    """Return a page of the rows of a table that are kept aside, behind row number `after`.

    With `reason`, only those whose reason begins so.
    """
    rows = await conn.fetch(SQL["open_rows"], run_id, table, after, reason, limit)
    return tuple(
        OpenRow(
            row["id"], decode_key(row["key"]), row["column_name"], StorageClass(row["storage_class"]), row["reason"]
        )
        for row in rows
    )


async def open_among(conn: Connection, run_id: int, table: str, keys: Sequence[Key]) -> frozenset[str]:
    """Return those of the keys, as `pgferry.keys` writes them, whose rows are kept aside."""
    rows = await conn.fetch(SQL["open_among"], run_id, table, [encode_key(key) for key in keys])
    return frozenset(row["key"] for row in rows)


async def replays(conn: Connection, run_id: int) -> dict[str, tuple[LoadedChunk, ...]]:
    """Return the replayed batches of a run by source table, each in the form of a chunk whose rows were all in others.

    Their counts complete those of the chunks: `rows` were loaded, and `-rows` more are in quarantine. So whoever adds
    up or reads back a table's chunks adds these to them.
    """
    found: dict[str, tuple[LoadedChunk, ...]] = {}
    for row in await conn.fetch(SQL["replays"], run_id):
        table, rows = row["source_table"], row["rows"]
        batch = LoadedChunk(
            Chunk(table, row["id"], 0),
            rows,
            -rows,
            row["payload_bytes"],
            row["digest"],
            row["xid"],
            row["first_block"],
            row["last_block"],
        )
        found[table] = (*found.get(table, ()), batch)
    return found


async def accounts(conn: Connection, run_id: int) -> dict[str, Account]:
    """Return where the rows of each table of a run are, by source table."""
    rows = await conn.fetch(SQL["accounts"], run_id)
    return {row["source_table"]: Account(*row.values()) for row in rows}


# ---------------------------------------------------------------- replaying


async def lock_finished_run(conn: Connection, run_id: int) -> Run:
    """Hold the run to the end of the transaction, so that replays take turns, and return it.

    Raises Permanent when the run is not finished: what it still has to load or to build comes first.
    """
    require_transaction(conn, "lock_finished_run")
    await conn.fetchrow(LEDGER["lock_run"], run_id)
    run = await read_run(conn, run_id)
    refuse_unfinished(run)
    return run


def refuse_unfinished(run: Run) -> None:
    """Raise Permanent for a run that is not finished, or was restarted."""
    if run.status != "finished" or run.report is None:
        raise Permanent(
            f"Run {run.id} of {run.source} is {run.status}: rows are replayed into a finished move only.",
            "Finish it first: python -m flows migrate.",
        )


async def still_open(conn: Connection, rows: Collection[int]) -> frozenset[int]:
    """Return those of the rows that nobody has replayed meanwhile."""
    return frozenset(row["id"] for row in await conn.fetch(SQL["still_open"], list(rows)))


async def record_replay(
    conn: Connection, run_id: int, table: str, rows: Sequence[int], copied: Copied, rules: str
) -> None:
    """Record quarantined rows, by their numbers, as loaded. Joins the caller's transaction: the one of their COPY.

    Raises LossError when one of them was replayed already.
    """
    require_transaction(conn, "record_replay")
    replay_id = await conn.fetchval(
        SQL["record_replay"],
        run_id,
        table,
        len(rows),
        copied.payload_bytes,
        copied.digest,
        copied.xid,
        copied.first_block,
        copied.last_block,
        rules,
    )
    done = await conn.execute(SQL["mark_replayed"], list(rows), replay_id)
    if done != f"UPDATE {len(rows)}":
        raise LossError(
            f"Of {len(rows)} rows of table {table} that were loaded, not all were in quarantine ({done}).",
            "Nothing was kept. This is a defect of pgferry: please report it.",
        )


async def keep(conn: Connection, rows: Mapping[int, QuarantinedRow | str]) -> None:
    """Keep rows in quarantine with the reason of now.

    A reason alone, where every value fits and the target refuses the row, leaves the recorded value as it is.
    """
    values = {number: row for number, row in rows.items() if isinstance(row, QuarantinedRow)}
    await conn.executemany(
        SQL["keep_value"],
        [
            (number, row.column, str(row.storage_class), row.value, clean_reason(row.reason))
            for number, row in values.items()
        ],
    )
    words = [(number, clean_reason(reason)) for number, reason in rows.items() if isinstance(reason, str)]
    await conn.executemany(SQL["keep_reason"], words)


def refuse_loss(account: Account, aside: int) -> None:
    """Raise LossError when a table's rows are not all accounted for; `aside` is what its quarantine holds."""
    if account.quarantined != aside or account.source_rows != account.loaded + account.quarantined:
        raise LossError(
            f"Table {account.table!r} has {account.source_rows} rows; {account.loaded} are recorded as loaded and "
            f"{account.quarantined} as quarantined, and its quarantine holds {aside}.",
            "Keep the source in front. Look for hands that changed the schema pgferry; else report this defect.",
        )


async def write_report(conn: Connection, report: Report) -> None:
    """Replace the report of a finished run. Joins the caller's transaction."""
    await conn.execute(SQL["write_report"], report.run_id, json.dumps(report.to_json()))
