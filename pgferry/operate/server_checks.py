"""What a preflight looks at in the PostgreSQL server."""

from __future__ import annotations

import asyncpg
from sqlalchemy.engine import URL

from pgferry.operate.check import Check, failed_check, passed, warned
from pgferry.postgres.connection import Connection
from pgferry.postgres.encryption import CURE as CURE_OF_PLAIN
from pgferry.postgres.encryption import way_of
from pgferry.postgres.pooling import CURE, is_shared, server_process
from pgferry.postgres.statements import statements
from pgferry.quoting import quote
from pgferry.settings import Settings

SQL = statements("preflight")

BESIDES = 3
"""Connections of pgferry besides those of its parallel work: the run's lock, a holder of a snapshot, the monitor."""

WAL_MEGABYTES = 2048
"""max_wal_size from which on a load is not slowed down by checkpoints (its default, 1 GB, is)."""

CHECKPOINT_SECONDS = 300
"""PostgreSQL's own default of checkpoint_timeout."""

PROBES = 5
"""Transactions in which a pooler is given the chance to hand out another server connection."""

POOLER = (
    f"{CURE} For the application behind PgBouncer: pool_mode = session; or max_prepared_statements > 0 (PgBouncer"
    " 1.21); or prepared_statement_cache_size=0 in its URL (statement_cache_size=0 for asyncpg itself)."
)
"""What to do about a pooler, for the move and for the application."""


async def check_server(connection: Connection) -> Check:
    """Look at the version, and whether the server takes writes."""
    row = await _row(connection, "server")
    measured = f"PostgreSQL {row['version']}, database {row['database']}, role {row['role']}"
    if row["standby"]:
        return failed_check("server", f"{measured}: a standby, read-only", "Name the primary server in PGFERRY_TARGET.")
    if row["read_only"]:
        return failed_check(
            "server",
            f"{measured}: read-only",
            f"ALTER ROLE {quote(row['role'])} SET default_transaction_read_only = off; or see the database's setting.",
        )
    return passed("server", measured)


async def check_encryption(connection: Connection) -> Check:
    """Look at whether the way to the server is encrypted, as it was negotiated."""
    name, way = "encryption", way_of(connection)
    if way.exposed:
        return warned(name, f"none on the way to {way.address}: rows can be read and changed there", CURE_OF_PLAIN)
    if not way.protocol:
        return passed(name, "none, and none needed: the server is on this machine")
    checked = "certificate and host name are checked"
    return passed(name, f"{way.protocol}; {checked if way.verified else f'sslmode=verify-full sees that {checked}'}")


async def check_encoding(connection: Connection) -> Check:
    """Look at the database's encoding: only UTF8 holds every text that SQLite holds."""
    encoding = (await _row(connection, "server"))["encoding"]
    if encoding == "UTF8":
        return passed("encoding", "UTF8")
    return failed_check(
        "encoding",
        encoding,
        "It cannot be changed: CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8', or `python -m flows provision`.",
    )


async def check_connections(connection: Connection, settings: Settings) -> Check:
    """Hold the places of the server against what the application's pool and pgferry need together."""
    row = await _row(connection, "connections")
    limits = [row["places"], *(row[name] for name in ("database_limit", "role_limit") if row[name] >= 0)]
    places, ours = min(limits), 2 * settings.parallelism + BESIDES
    needed = settings.pool_size + settings.pool_overflow + ours
    measured = (
        f"{needed} needed (pool {settings.pool_size} + {settings.pool_overflow}, pgferry {ours}),"
        f" {places} places, {row['in_use']} in use now"
    )
    advice = (
        f"Raise max_connections (or the limit of the role or database) to {needed + row['in_use']} or more, or lower"
        " PGFERRY_POOL_SIZE, PGFERRY_POOL_OVERFLOW (and the application's pool with them) or PGFERRY_PARALLELISM."
    )
    if needed > places:
        return failed_check("connections", measured, advice)
    if needed > places - row["in_use"]:
        return warned("connections", measured, advice)
    return passed("connections", measured)


async def check_pooler(connection: Connection, settings: Settings, url: URL | None = None) -> Check:
    """Tell a pooler (PgBouncer) between here and the server, and whether sessions and prepared statements survive it.

    The server's own process id differs from the one that was told when the connection was made: a pooler made that up.
    Whether it shares sessions is tried with a second client by `url`, which an idle pooler does not show otherwise.
    """
    name = "connection pooler"
    try:
        pids = {await server_process(connection) for _ in range(PROBES)}
        if pids == {connection.get_server_pid()}:
            return passed(name, "none: a session of the server's own")
        shared = len(pids) > 1 or (url is not None and await is_shared(connection, url, settings.connect_timeout))
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return failed_check(name, f"there is one, and prepared statements fail: {_first_line(error)}", POOLER)
    if shared:
        return failed_check(name, "there is one, and it gives each transaction another session", POOLER)
    return warned(name, "there is one; session and prepared statements were kept while this was tried", POOLER)


async def check_checkpoints(connection: Connection) -> Check:
    """Look at how much may be written between two checkpoints: a load that is over it writes whole pages twice."""
    found = await _settings(connection, "max_wal_size", "checkpoint_timeout", "wal_compression")
    size, seconds = int(found["max_wal_size"]), int(found["checkpoint_timeout"])
    measured = f"max_wal_size {size:,} MB, checkpoint_timeout {seconds} s, wal_compression {found['wal_compression']}"
    if size >= WAL_MEGABYTES and seconds >= CHECKPOINT_SECONDS:
        return passed("checkpoints", measured)
    return warned(
        "checkpoints",
        measured,
        f"For the load: ALTER SYSTEM SET max_wal_size = '{WAL_MEGABYTES * 2} MB'; ALTER SYSTEM SET checkpoint_timeout ="
        " '15 min'; SELECT pg_reload_conf();",
    )


async def check_durability(connection: Connection) -> Check:
    """Look at the settings by which a commit survives a crash."""
    found = await _settings(connection, "fsync", "full_page_writes", "synchronous_commit", "wal_level")
    measured = ", ".join(f"{name} {value}" for name, value in found.items())
    off = [name for name in ("fsync", "full_page_writes", "synchronous_commit") if found.get(name) == "off"]
    if off:
        return warned(
            "durability", measured, f"Set {', '.join(off)} to on: a crash would take back what the application was told"
            " is written."
        )  # fmt: skip
    if found.get("wal_level") == "minimal":
        return warned(
            "durability", measured, "Set wal_level = replica (and restart): minimal allows no backups by WAL."
        )
    return passed("durability", measured)


async def check_backups(connection: Connection, settings: Settings) -> Check:
    """Look whether PostgreSQL's data is backed up once it is in front: by WAL archiving, or a tool that is declared."""
    if settings.backup_tool:
        return passed("backups", f"declared: {settings.backup_tool}")
    found = await _settings(connection, "archive_mode", "archive_command", "archive_library")
    mode, does = found.get("archive_mode", "unknown"), found.get("archive_command") or found.get("archive_library")
    if mode in ("on", "always") and does:
        return passed("backups", f"archive_mode {mode}")
    return warned(
        "backups",
        f"archive_mode {mode}{'' if does or mode == 'off' else ', without an archive command'}; no tool is declared",
        "Set up pgBackRest, Barman, pg_dump by cron or the provider's backups, try a restore, and say so in"
        " PGFERRY_BACKUP_TOOL.",
    )


async def check_statistics(connection: Connection) -> Check:
    """Look for pg_stat_statements, from which the monitor tells the slowest queries."""
    name = "pg_stat_statements"
    view = await connection.fetchval(SQL["statements_extension"])
    preload = "shared_preload_libraries = 'pg_stat_statements' and a restart"
    if view is None:
        return warned(
            name, "not installed in this database", f"CREATE EXTENSION pg_stat_statements; it needs {preload}."
        )
    try:
        await connection.fetch(f"SELECT 1 FROM {view} LIMIT 1")
    except asyncpg.ObjectNotInPrerequisiteStateError:
        return warned(name, "installed, but not loaded", f"It needs {preload}.")
    return passed(name, "installed and loaded")


async def _row(connection: Connection, statement: str) -> asyncpg.Record:
    row = await connection.fetchrow(SQL[statement])
    assert row is not None
    return row


async def _settings(connection: Connection, *names: str) -> dict[str, str]:
    """Return those of the server's settings that this role may see, in the order asked for."""
    found = {row["name"]: row["setting"] for row in await connection.fetch(SQL["settings"], list(names))}
    return {name: found[name] for name in names if name in found}


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")
