"""The fence: every write to a SQLite file raises a clear error, reads work, and pgferry alone passes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgferry.errors import Permanent
from pgferry.quoting import literal, quote
from pgferry.sqlite.capture import (
    FENCE,
    captured_sources,
    has_table,
    put_triggers_back,
    take_triggers_off,
    token_of,
)
from pgferry.sqlite.connect import write_transaction

_EVENTS = ("INSERT", "UPDATE", "DELETE")
# The row of this table is 1 only within a transaction that has not committed, so no other connection ever sees it.
_OPEN = f"UPDATE {quote(FENCE)} SET open = 1"
_CLOSE = f"UPDATE {quote(FENCE)} SET open = 0"
_TRIGGERS = "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name GLOB ?"


def fence(path: Path, message: str) -> None:
    """Make every write to every table but Alembic's fail with `pgferry: message`; atomic.

    It waits for the transaction of another writer. OR IGNORE, OR REPLACE and ON CONFLICT do not get past it. Repeated,
    it takes the new message, and tables made since. Raises Permanent when the file is not captured, Transient when it
    stays locked.
    """
    with write_transaction(path) as connection:
        if token_of(connection) is None:
            raise Permanent(f"{path} is not captured, so it is not fenced.", "Run `python -m flows dual-write` first.")
        _take_down(connection)
        connection.execute(f"CREATE TABLE {quote(FENCE)} (open INTEGER NOT NULL)")
        connection.execute(f"INSERT INTO {quote(FENCE)} VALUES (0)")
        for number, name in enumerate(captured_sources(connection)):
            for event in _EVENTS:
                connection.execute(_trigger(number, name, event, message))


def unfence(path: Path) -> None:
    """Let the application write again; atomic, and does no harm where there is no fence."""
    with write_transaction(path) as connection:
        _take_down(connection)


def is_fenced(connection: sqlite3.Connection) -> bool:
    """Say whether the file is fenced."""
    return has_table(connection, FENCE)


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """Hold one write transaction that passes the fence; committed at the end, rolled back on any exception.

    No other connection can write meanwhile, nor after: the fence is open in this transaction only. Foreign keys are
    not enforced, their actions do not fire, and neither do the application's triggers on captured tables: the rows
    come from where their effects are already in other rows. Raises Transient when the file stays locked for 30 s.
    """
    with write_transaction(path) as connection:
        fenced = is_fenced(connection)
        captured = token_of(connection) is not None
        taken = take_triggers_off(connection) if captured else []
        if fenced:
            connection.execute(_OPEN)
        yield connection
        if fenced:
            connection.execute(_CLOSE)
        put_triggers_back(connection, taken)


def _trigger(number: int, table: str, event: str, message: str) -> str:
    name = quote(f"{FENCE}_{number}_{event.lower()}")
    closed = f"(SELECT open FROM {quote(FENCE)}) IS NOT 1"
    told = literal(f"pgferry: {message}")
    return (
        f"CREATE TRIGGER {name} BEFORE {event} ON {quote(table)} WHEN {closed}\nBEGIN SELECT RAISE(ABORT, {told}); END"
    )


def _take_down(connection: sqlite3.Connection) -> None:
    for (name,) in connection.execute(_TRIGGERS, (f"{FENCE}_*",)).fetchall():
        connection.execute(f"DROP TRIGGER {quote(name)}")
    connection.execute(f"DROP TABLE IF EXISTS {quote(FENCE)}")
