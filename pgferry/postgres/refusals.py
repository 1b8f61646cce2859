"""Which rows of a batch the target refuses, and why: a key that exists, a parent that does not, a check."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import asyncpg
import pyarrow as pa

from pgferry.convert.wire import encode
from pgferry.model import PgType, TablePair
from pgferry.postgres.connection import Connection
from pgferry.postgres.handle import require_transaction
from pgferry.postgres.statements import statements
from pgferry.quoting import literal, qualified, quote

SQL = statements("refusals")

REFUSED = "the target refuses the row: "

WAITING = "the target refuses the row by a foreign key: "
"""How the reason of a row begins whose parent is not there (yet)."""

_STATES = (
    "22",  # a value that a domain or an expression index cannot take
    "23",  # unique, foreign key, check, exclusion, NOT NULL
    "54000",  # a value that is too long for an index
    "P0001",  # a trigger of the user's own raises
)

# What a row is refused for whatever other rows there are. Of two rows that collide a person must choose one; and what
# a trigger says may depend on rows that are not loaded yet.
_STATES_OF_ONE_ROW = ("22", "23502", "23514", "54000")

_FOREIGN_KEY = "23503"

# Without the release, what follows would still be of the savepoint, and its rows would bear another transaction's id:
# asyncpg's own nested transactions leave it at that.
_SAVE = "SAVEPOINT pgferry_trial"
_UNDO = "ROLLBACK TO SAVEPOINT pgferry_trial; RELEASE SAVEPOINT pgferry_trial"

_CLEAR = "DROP TABLE pg_temp.pgferry_sieve, pg_temp.pgferry_refused"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the target refuses a row; `column` is the target's, None where the server's words are about no column."""

    reason: str
    column: str | None = None


@dataclass(frozen=True, slots=True)
class _Below:
    """A column of the sieve: the type below the target's own, which takes every value, and the domain above it."""

    name: str
    type: PgType
    plain: str
    domain: str | None


def is_refusal(error: asyncpg.PostgresError) -> bool:
    """Say whether the server's error is about a row, and not about the connection, a permission or the disk."""
    return (error.sqlstate or "").startswith(_STATES)


def is_of_one_row(error: asyncpg.PostgresError) -> bool:
    """Say whether the server's error is about what one row holds, and not about two rows that do not go together."""
    return (error.sqlstate or "").startswith(_STATES_OF_ONE_ROW)


def refusal(error: asyncpg.PostgresError) -> str:
    """Return the reason for which a row stays in quarantine, in the server's words."""
    # asyncpg adds the detail to the message's text.
    return _reason(error.sqlstate or "", str(error).partition("\n")[0], getattr(error, "detail", None))


def _reason(state: str, said: str, detail: str | None) -> str:
    said = said.partition("\n")[0].rstrip(".")
    words = f"{said}: {detail}" if detail else said
    return (WAITING if state == _FOREIGN_KEY else REFUSED) + words.rstrip(".")


async def find_refused(connection: Connection, pair: TablePair, batch: pa.RecordBatch) -> dict[int, str]:
    """Return why the target refuses rows of a batch, by their place in it; all others can be loaded together.

    Tries under a savepoint, which it rolls back: the caller's transaction is as before. Rows whose parents are in the
    same batch are tried again as long as others go in. Errors that are not about a row pass through.
    """
    require_transaction(connection, "find_refused")
    await connection.execute(_SAVE)
    refused: dict[int, str] = {}
    waiting: Sequence[int] = range(batch.num_rows)
    while waiting:
        part = batch.take(pa.array(waiting, pa.int64()))
        found = {waiting[place]: why.reason for place, why in (await _sift(connection, pair, [part], _STATES)).items()}
        refused = {place: reason for place, reason in refused.items() if place not in waiting} | found
        orphans = sorted(place for place, reason in found.items() if reason.startswith(WAITING))
        waiting = orphans if len(found) < len(waiting) else ()
    await connection.execute(_UNDO)
    return refused


async def find_unfit(connection: Connection, pair: TablePair, batches: Iterable[pa.RecordBatch]) -> dict[int, Refusal]:
    """Return why the target refuses rows for what they hold themselves, by their place in all batches together.

    Tries under a savepoint, which it rolls back: the caller's transaction is as before. All other errors pass through,
    those of two rows that collide and those that triggers raise as well.
    """
    require_transaction(connection, "find_unfit")
    await connection.execute(_SAVE)
    refused = await _sift(connection, pair, batches, _STATES_OF_ONE_ROW)
    await connection.execute(_UNDO)
    return refused


async def _sift(
    connection: Connection, pair: TablePair, batches: Iterable[pa.RecordBatch], states: Sequence[str]
) -> dict[int, Refusal]:
    """Insert all rows that the target takes; return why it refuses the others."""
    columns = await _below(connection, pair)
    made = ", ".join(f"{column.name} {column.plain}" for column in columns)
    # COPY numbers the rows as they come.
    await connection.execute(
        f"CREATE TEMP TABLE pgferry_sieve (place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {made})"
    )
    await connection.execute(SQL["make_refused"])
    await connection.copy_to_table(
        "pgferry_sieve",
        schema_name="pg_temp",
        columns=[column.name for column in columns],
        source=_sent(encode(batches, [column.type for column in columns])),
        format="binary",
    )
    await connection.execute(f"DO {literal(_sieve(pair, columns, states))}")
    rows = await connection.fetch(SQL["refused"])
    await connection.execute(_CLEAR)
    return {
        row["place"] - 1: Refusal(_reason(row["state"], row["said"], row["detail"]), row["column_name"]) for row in rows
    }


async def _below(connection: Connection, pair: TablePair) -> list[_Below]:
    rows = {row["name"]: row for row in await connection.fetch(SQL["columns"], pair.target.oid)}
    return [
        _Below(f"c{number}", _with_element(column.target.type, row["element"]), row["plain"], row["domain"])
        for number, column in enumerate(pair.columns)
        for row in [rows[column.target.name]]
    ]


def _with_element(type: PgType, oid: int) -> PgType:
    # An array bears its elements' type, and the server takes no other.
    return type if type.element is None else replace(type, element=replace(type.element, oid=oid))


def _sieve(pair: TablePair, columns: Sequence[_Below], states: Sequence[str]) -> str:
    names = [column.target.name for column in pair.columns]
    insert = (
        f"INSERT INTO {qualified(pair.target.schema, pair.target.name)} ({', '.join(map(quote, names))})"
        f" OVERRIDING SYSTEM VALUE SELECT {', '.join(f't.{column.name}' for column in columns)}"
        " FROM pg_temp.pgferry_sieve t WHERE t.place BETWEEN first AND last;"
    )
    named = zip(names, columns, strict=True)
    domains = [_name_column(name, column) for name, column in named if column.domain is not None]
    return SQL["sieve"].format(insert=insert, states=literal(f"^({'|'.join(states)})"), name_column="\n".join(domains))


def _name_column(name: str, column: _Below) -> str:
    """Return the statements that find out whether it is this column's domain that refuses the value."""
    return (
        "IF of_table = '' AND of_column = '' THEN BEGIN"
        f" PERFORM t.{column.name}::{column.domain} FROM pg_temp.pgferry_sieve t WHERE t.place = first;"
        f" EXCEPTION WHEN OTHERS THEN of_column := {literal(name)}; END; END IF;"
    )


async def _sent(stream: Iterator[bytes]) -> AsyncIterator[bytes]:
    for data in stream:
        if data:
            yield data
