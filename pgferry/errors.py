"""Every error of pgferry, and the one place that says which are worth a retry.

A message names the object, the values and the next action, and holds no password.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import sqlite3

import asyncpg


class FerryError(Exception):
    """The root of pgferry's errors.

    `message` says what happened, `action` what to do next; both are sentences for the person who runs the move.
    `exit_code` is what the command line ends with.
    """

    exit_code = 1

    def __init__(self, message: str, action: str = "", **details: object) -> None:
        self.message = message
        self.action = action
        self.details = details
        super().__init__(f"{message} {action}".strip())


class Transient(FerryError):
    """It may go away by itself: the same work, tried again later, can succeed."""


class Permanent(FerryError):
    """It will fail again until a person changes something."""


class UsageError(Permanent):
    """The command, the settings or pgferry.toml ask for something that cannot be done."""

    exit_code = 2


class LossError(Permanent):
    """The loss ledger does not close: source rows != loaded + quarantined + excluded."""

    exit_code = 1


# Server-side conditions that pass by themselves, by SQLSTATE class or code
# (https://www.postgresql.org/docs/current/errcodes-appendix.html).
_TRANSIENT_STATES = (
    "08",  # connection exceptions
    "40",  # serialization failure, deadlock
    "53300",  # too many connections
    "55P03",  # lock not available
    "57P01",  # admin shutdown
    "57P02",  # crash shutdown
    "57P03",  # cannot connect now
    "58030",  # I/O error of the server
)

_POOLER_PASSES = (
    "no more connections allowed",
    "query_wait_timeout",
    "server login has been failing",
    "server_login_retry",
    "shutting down",
)
"""What PgBouncer says of what passes; it says everything by one SQLSTATE, also that a password is wrong."""

_PROTOCOL_VIOLATION = "08P01"

_TRANSIENT_NUMBERS = (
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ETIMEDOUT,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.ENETDOWN,
)


def is_transient(error: BaseException) -> bool:
    """Say whether the same work may succeed when it is tried again.

    pgferry's own classes answer for themselves; drivers' errors are judged by SQLSTATE, SQLite's busy/locked codes
    and the kind of network error. Everything unknown is permanent: a retry must never hide a defect.
    """
    if isinstance(error, FerryError):
        return isinstance(error, Transient)
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        if state == _PROTOCOL_VIOLATION:
            return any(word in str(error) for word in _POOLER_PASSES)
        return state.startswith(_TRANSIENT_STATES)
    if isinstance(error, asyncpg.InterfaceError):
        return "closed" in str(error) or "connection" in str(error)
    if isinstance(error, sqlite3.OperationalError):
        return (error.sqlite_errorcode & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return isinstance(error, OSError) and _passes_by_itself(error)


def _passes_by_itself(error: OSError) -> bool:
    if isinstance(error, ConnectionError | TimeoutError | asyncio.TimeoutError):
        return "rejected SSL upgrade" not in str(error)  # asyncpg's word for a server without TLS
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    # A host with several addresses fails as one OSError without a number of its own:
    # "Multiple exceptions: [Errno 111] Connect call failed …, [Errno 111] …".
    numbers = re.findall(r"\[Errno (\d+)\]", str(error)) if error.errno is None else [error.errno]
    return any(int(number) in _TRANSIENT_NUMBERS for number in numbers)
