"""What the ledger knows of validations: their results, what was mended, and the rows that one side still lacks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from pgferry.keys import decode_key, encode_key, key_digests
from pgferry.live.model import Direction, ValidationRecord
from pgferry.model import Key, QuarantinedRow
from pgferry.postgres.handle import Connection, require_transaction
from pgferry.postgres.ledger import clean_reason, record_quarantine
from pgferry.postgres.statements import statements

SQL = statements("validations")


@dataclass(frozen=True, slots=True)
class Repair:
    """A row that a validation found to differ and that was mended."""

    table: str
    key: Key
    action: str
    repaired_at: datetime


async def record_validation(conn: Connection, run_id: int, record: ValidationRecord) -> int:
    """Record a validation and return its number. In `detail`, what JSON of PostgreSQL cannot hold is written out."""
    number: int = await conn.fetchval(
        SQL["record_validation"],
        run_id,
        str(record.direction),
        record.level,
        record.sample_percent,
        record.started_at,
        record.finished_at,
        record.moment,
        record.passed,
        record.tables,
        record.rows,
        record.cells,
        record.differences,
        record.orphans,
        record.quarantined,
        record.seconds,
        to_jsonb(record.detail),
    )
    return number


async def validations(
    conn: Connection, run_id: int, limit: int = 30, *, level: str = ""
) -> tuple[ValidationRecord, ...]:
    """Return the latest validations, newest first; with `level`, only those of it."""
    return tuple(_validation(row) for row in await conn.fetch(SQL["validations"], run_id, level, limit))


def _validation(row: asyncpg.Record) -> ValidationRecord:
    fields = dict(row)
    return ValidationRecord(
        **{**fields, "direction": Direction(fields["direction"]), "detail": json.loads(fields["detail"])}
    )


def to_jsonb(value: Mapping[str, object]) -> str:
    """Return JSON that a jsonb column takes whatever the values hold; what JSON does not know is written as text."""
    return json.dumps(_storable(value), default=str)


def _storable(value: object) -> object:
    # A difference quotes values as they are, and jsonb takes neither a NUL character nor half a surrogate pair.
    if isinstance(value, str):
        return clean_reason(value)
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, Mapping):
        return {clean_reason(str(name)): _storable(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(member) for member in value]
    return value


async def record_repair(conn: Connection, validation_id: int, table: str, keys: Sequence[Key], action: str) -> None:
    """Record rows as mended, by the target's keys; `action` says how. Joins the transaction that mends them."""
    require_transaction(conn, "record_repair")
    await conn.execute(SQL["record_repair"], validation_id, table, [encode_key(key) for key in keys], action)


async def repairs(conn: Connection, validation_id: int) -> tuple[Repair, ...]:
    """Return what was mended after a validation, in the order of the work."""
    rows = await conn.fetch(SQL["repairs"], validation_id)
    return tuple(Repair(row["source_table"], decode_key(row["key"]), row["action"], row["repaired_at"]) for row in rows)


# ---------------------------------------------------------------- rows that do not fit


async def refresh_quarantine(
    conn: Connection, run_id: int, table: str, addresses: Sequence[Key] | None, rows: Sequence[QuarantinedRow]
) -> None:
    """Replace the quarantine of these addresses, or of the whole table when they are None, by `rows`.

    Entries that were replayed stay as they are. Joins the transaction that carries the other rows.
    """
    require_transaction(conn, "refresh_quarantine")
    if addresses is None:
        await conn.execute(SQL["drop_open_entries"], run_id, table)
    elif addresses:
        await conn.execute(SQL["drop_open_entries_of"], run_id, table, [encode_key(key) for key in addresses])
    if rows:
        await record_quarantine(conn, run_id, rows)


# ---------------------------------------------------------------- rows left behind


async def record_uncarried(conn: Connection, run_id: int, table: str, keys: Sequence[Key], reason: str) -> None:
    """Record rows of PostgreSQL, by its keys, as left behind by an emergency rollback; those known stay as they are."""
    texts = list(dict.fromkeys(map(encode_key, keys)))
    await conn.execute(SQL["record_uncarried"], run_id, table, key_digests(texts), texts, clean_reason(reason))


async def open_uncarried(conn: Connection, run_id: int) -> dict[str, list[Key]]:
    """Return the rows that are left behind and not settled, by source table, in the order in which they were found."""
    found: dict[str, list[Key]] = {}
    for row in await conn.fetch(SQL["open_uncarried"], run_id):
        found.setdefault(row["source_table"], []).append(decode_key(row["key"]))
    return found


async def uncarried_count(conn: Connection, run_id: int) -> int:
    """Return how many rows are left behind and not settled."""
    count: int = await conn.fetchval(SQL["uncarried_count"], run_id)
    return count


async def settle_uncarried(conn: Connection, run_id: int, table: str, keys: Sequence[Key], how: str) -> int:
    """Record rows as carried after all, or given up (`how`); returns how many were open."""
    digests = key_digests(map(encode_key, keys))
    done = await conn.execute(SQL["settle_uncarried"], run_id, table, digests, how)
    return int(done.rpartition(" ")[2])
