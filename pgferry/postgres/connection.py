"""Connections to PostgreSQL: one way to open them, with the session settings that every statement here relies on."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlencode

import asyncpg
from sqlalchemy.engine import URL

from pgferry.errors import FerryError, UsageError
from pgferry.postgres.problems import OLDEST_SERVER, ServerTooOld, explain, server_of
from pgferry.postgres.watched import WatchedConnection, judge
from pgferry.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

CLOSE_SECONDS = 5.0
"""How long a server may take to say goodbye."""

STALL_SECONDS = 60.0
"""How long a call may wait without a byte before the server is asked on another connection; see `watched`."""

_IGNORED = (
    "channel_binding",  # `require` is refused, see _read_options
    "client_encoding",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "prepared_statement_cache_size",
    "prepared_statement_name_func",
    "sslcompression",
    "sslsni",
    "tcp_user_timeout",
)
"""Options of libpq and SQLAlchemy that asyncpg would pass on to the server, which refuses them."""

# The server, too, must find out that this side is gone, killed or cut off: what a session has locked stays locked.
_KEEPALIVES = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
_LOOK_AT_CLIENT = "SET client_connection_check_interval = '2s'"

# A role named pgferry finds the ledger's schema first, by "$user", and its tables would be made in there.
_WITHOUT_OWN_SCHEMA = """
SELECT set_config('search_path', string_agg(quote_ident(name), ', ' ORDER BY place), false)
  FROM unnest(current_schemas(false)) WITH ORDINALITY AS path (name, place)
 WHERE name <> 'pgferry'
HAVING 'pgferry' = ANY (current_schemas(false))
"""

# Not by get_server_pid(): a pooler gives a number of its own. Of its own sessions a role may see and end all.
_WHO = "SELECT pid, backend_start FROM pg_catalog.pg_stat_activity WHERE pid = pg_backend_pid()"
_SESSION = """
SELECT state, wait_event_type, wait_event FROM pg_catalog.pg_stat_activity WHERE pid = $1 AND backend_start = $2
"""
_END = "SELECT pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE pid = $1 AND backend_start = $2"

_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")


@dataclass(frozen=True, slots=True)
class _Options:
    """The part of a URL after the question mark, sorted by who understands it."""

    libpq: Mapping[str, str] = field(default_factory=dict)
    driver: Mapping[str, Any] = field(default_factory=dict)


async def connect(
    url: URL,
    *,
    timeout: float = 15.0,
    statement_timeout: float = 0.0,
    application_name: str = "pgferry",
    database: str | None = None,
    stall_timeout: float = STALL_SECONDS,
) -> Connection:
    """Open a connection to the URL's database, or to another `database` of the same server.

    Times are in seconds; a statement timeout of 0 is no limit. The session has time zone UTC, ISO dates and no idle
    time-outs; its search_path is the role's own. The URL may carry libpq's options (sslmode, sslrootcert, host, …).
    A call on it that waits while nothing passes is ended with Stalled after about `stall_timeout` and `timeout`
    seconds, see `watched`. Raises Transient or Permanent as `problems.explain` says, and UsageError for an option that
    cannot be.
    """
    target = url if database is None else url.set(database=database)
    options = _read_options(target)
    try:
        opened = await _open(target, options, timeout, application_name)
        await _made_ready(opened, target, timeout, statement_timeout, stall_timeout)
    except FerryError:
        raise
    except Exception as error:
        raise explain(error, target) from error
    return opened


@asynccontextmanager
async def connection(
    url: URL,
    *,
    timeout: float = 15.0,
    statement_timeout: float = 0.0,
    application_name: str = "pgferry",
    database: str | None = None,
    stall_timeout: float = STALL_SECONDS,
) -> AsyncIterator[Connection]:
    """Hold a connection, made as `connect` makes it, and close it at the end.

    What the body raises passes as it is; an open transaction is rolled back by the server.
    """
    opened = await connect(
        url,
        timeout=timeout,
        statement_timeout=statement_timeout,
        application_name=application_name,
        database=database,
        stall_timeout=stall_timeout,
    )
    try:
        yield opened
    finally:
        await close(opened)


async def close(connection: Connection) -> None:
    """Close a connection, whatever state it is in; never raises for a server that is gone or does not answer."""
    try:
        await connection.close(timeout=CLOSE_SECONDS)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()


def engine(url: URL, settings: Settings) -> AsyncEngine:
    """Return a SQLAlchemy engine whose pooled connections are made as `connect` makes them.

    The pool has the size, overflow, pre-ping and recycling of the settings. Opening a connection raises as `connect`.
    """
    # Imported here: with it comes SQLAlchemy's ORM, for which other commands need not wait.
    from sqlalchemy.ext.asyncio import create_async_engine

    async def open_connection() -> Connection:
        return await connect(url, timeout=settings.connect_timeout, statement_timeout=settings.statement_timeout)

    return create_async_engine(
        url.set(drivername="postgresql+asyncpg", query={}),
        async_creator=open_connection,
        pool_size=settings.pool_size,
        max_overflow=settings.pool_overflow,
        pool_pre_ping=settings.pool_pre_ping,
        pool_recycle=settings.pool_recycle,
    )


async def _open(url: URL, options: _Options, timeout: float, application_name: str) -> WatchedConnection:
    session = {"application_name": application_name, "TimeZone": "UTC", "DateStyle": "ISO"}
    opened = await asyncpg.connect(
        # User, password and database go beside the DSN: asyncpg does not undo all of a URL's escapes.
        f"postgresql://?{urlencode(options.libpq)}",
        host=url.host or None,
        port=url.port,
        user=url.username,
        password=_text(url.password),
        database=url.database,
        server_settings={name: value for name, value in session.items() if name not in options.libpq},
        connection_class=WatchedConnection,
        **{"timeout": timeout, **options.driver},
    )
    assert isinstance(opened, WatchedConnection)
    return opened


async def _made_ready(
    opened: WatchedConnection, url: URL, timeout: float, statement_timeout: float, stall_timeout: float
) -> None:
    try:
        await asyncio.wait_for(_prepare(opened, statement_timeout), timeout)
        if stall_timeout > 0:
            session = await asyncio.wait_for(opened.fetchrow(_WHO), timeout)
            assert session is not None
            opened.watch(_Elsewhere(url, session["pid"], session["backend_start"], timeout), stall_timeout)
    except BaseException:
        opened.terminate()
        raise


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """The server by another connection, to look after a session of ours; see `watched.Elsewhere`."""

    url: URL
    process: int
    since: datetime
    timeout: float

    async def ask(self) -> str | None:
        try:
            return judge(await self._fetch(_SESSION), server_of(self.url))
        except FerryError as error:
            # No connection left says nothing of this one.
            return None if error.details.get("sqlstate") == "53300" else error.message.rstrip(".")

    async def end(self) -> None:
        with suppress(FerryError):
            await self._fetch(_END)

    async def _fetch(self, query: str) -> asyncpg.Record | None:
        other = await connect(self.url, timeout=self.timeout, application_name="pgferry looks", stall_timeout=0)
        try:
            return await other.fetchrow(query, self.process, self.since, timeout=self.timeout)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise explain(error, self.url) from error
        finally:
            await close(other)


async def _prepare(opened: Connection, statement_timeout: float) -> None:
    version = opened.get_server_version()
    if version.major < OLDEST_SERVER:
        raise ServerTooOld(f"it is version {version.major}.{version.minor}")
    # Not at the start of the session: PgBouncer refuses start parameters that it does not know.
    limits = {
        "statement_timeout": round(statement_timeout * 1000),
        "idle_in_transaction_session_timeout": 0,
        "idle_session_timeout": 0,
    }
    if version.major >= 17:
        limits["transaction_timeout"] = 0
    settings = {**limits, **_KEEPALIVES}
    await opened.execute(";".join(f"SET {name} = {value}" for name, value in settings.items()))
    with suppress(asyncpg.InvalidParameterValueError):  # Not every system lets the server look.
        await opened.execute(_LOOK_AT_CLIENT)
    await opened.execute(_WITHOUT_OWN_SCHEMA)


def _read_options(url: URL) -> _Options:
    """Sort the URL's options. Raises UsageError for one that cannot be, naming it and never the password."""
    given = {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
    if given.get("channel_binding") == "require":
        raise _wrong_option(url, "channel_binding", "the driver cannot bind channels; sslmode=verify-full protects too")
    libpq = {name: value for name, value in given.items() if value and name not in _IGNORED}
    driver: dict[str, Any] = {}
    if seconds := libpq.pop("connect_timeout", None):
        driver["timeout"] = _number(url, "connect_timeout", seconds)
    if entries := libpq.pop("statement_cache_size", None):
        driver["statement_cache_size"] = int(_number(url, "statement_cache_size", entries))
    if mode := libpq.pop("ssl", None):  # SQLAlchemy's name; other tools write ssl=true.
        libpq.setdefault("sslmode", {"true": "require", "false": "disable"}.get(mode.lower(), mode))
    _name_authority(url, libpq)
    for name in _FILES:
        if name in libpq and not Path(libpq[name]).is_file():
            raise _wrong_option(url, name, f"there is no file {libpq[name]}")
    return _Options(libpq, driver)


def _name_authority(url: URL, libpq: dict[str, str]) -> None:
    """Name the file of what certificates are checked by: `system`, as libpq says since version 16, or the default."""
    if libpq.get("sslrootcert") == "system":
        libpq.setdefault("sslmode", "verify-full")
        libpq["sslrootcert"] = ssl.get_default_verify_paths().cafile or "system"
    default = Path(os.environ.get("PGSSLROOTCERT") or "~/.postgresql/root.crt").expanduser()
    if libpq.get("sslmode") in ("verify-ca", "verify-full") and "sslrootcert" not in libpq and not default.is_file():
        raise UsageError(
            f"The certificate of {server_of(url)} cannot be checked, as sslmode={libpq['sslmode']} asks: there is no"
            f" {default}, and the URL names no other file.",
            "Name the certificate of the server's authority by sslrootcert=FILE in the URL; sslrootcert=system takes"
            " the authorities that this machine trusts.",
        )


def _number(url: URL, name: str, value: str) -> float:
    if not value.isdecimal():
        raise _wrong_option(url, name, f"{value!r} is no whole number")
    return int(value)


def _wrong_option(url: URL, name: str, reason: str) -> UsageError:
    return UsageError(
        f"The option {name} in the URL of {server_of(url)} is wrong: {reason}.",
        "Correct the part of the URL after the question mark.",
    )


def _text(password: object) -> str | None:
    """Return the password. Raises UsageError if it cannot be sent; the driver's own error would show all of it."""
    if password is None:
        return None
    text = str(password)
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise UsageError(
            "The password in the URL holds a character that PostgreSQL cannot take.",
            "Correct it; special characters are percent-encoded in a URL (@ is %40).",
        )
    return text
