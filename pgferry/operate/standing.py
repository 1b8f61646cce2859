"""The quick checks, of what can change from one hour to the next: a part of the preflight, and of the gates."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable
from pathlib import Path

import asyncpg
from sqlalchemy.engine import URL

from pgferry.errors import FerryError
from pgferry.operate import plan_checks, server_checks, source_checks, target_checks
from pgferry.operate.check import Check, failed_check
from pgferry.operate.source_checks import FileFacts
from pgferry.operate.target_checks import Paired
from pgferry.postgres.connection import Connection
from pgferry.settings import Rules, Settings

UNEXPECTED = (FerryError, asyncpg.PostgresError, asyncpg.InterfaceError, sqlite3.Error, OSError)
"""What a check may raise that is then told as a failed one."""


async def standing_checks(
    connection: Connection, settings: Settings, rules: Rules, source: Path, url: URL | None = None
) -> tuple[Check, ...]:
    """Look at the file's header, the server, the rights, the tables and the application's URL; changes nothing.

    Never raises for what it finds. Reads no table whole. By `url` a pooler's second client is made, if there is one.
    """
    facts, checks = look_at_source(source)
    return (*checks, *(await look_at_target(connection, settings, rules, source if facts else None, url))[1])


def look_at_source(path: Path) -> tuple[FileFacts | None, list[Check]]:
    """Check the SQLite file by its header; no facts when it cannot be read."""
    try:
        facts = source_checks.read_facts(path)
    except UNEXPECTED as error:
        return None, [broken("SQLite file", error)]
    return facts, [
        source_checks.check_file(facts),
        source_checks.check_journal(facts),
        source_checks.check_free_pages(facts),
    ]


async def look_at_target(
    connection: Connection, settings: Settings, rules: Rules, source: Path | None, url: URL | None = None
) -> tuple[Paired, list[Check]]:
    """Check the server and the database; without a source, what is to be held against it is left out."""
    checks = [
        await guarded("server", server_checks.check_server(connection)),
        await guarded("encryption", server_checks.check_encryption(connection)),
        await guarded("encoding", server_checks.check_encoding(connection)),
        await guarded("connection pooler", server_checks.check_pooler(connection, settings, url)),
        await guarded("connections", server_checks.check_connections(connection, settings)),
        await guarded("checkpoints", server_checks.check_checkpoints(connection)),
        await guarded("durability", server_checks.check_durability(connection)),
        await guarded("backups", server_checks.check_backups(connection, settings)),
        await guarded("pg_stat_statements", server_checks.check_statistics(connection)),
        await guarded("monitoring", plan_checks.check_monitoring(connection)),
        await guarded("right to schema pgferry", target_checks.check_ledger_right(connection)),
        await guarded("right to make tables", target_checks.check_schema_right(connection, rules)),
    ]
    if source is None:
        return Paired(), checks
    paired, found = await _look_at_tables(connection, rules, source)
    checks += found
    checks.append(
        await guarded("the application's URL", target_checks.check_application_url(connection, paired, settings))
    )
    return paired, checks


async def _look_at_tables(connection: Connection, rules: Rules, source: Path) -> tuple[Paired, list[Check]]:
    try:
        paired = await target_checks.pair(connection, source, rules)
    except UNEXPECTED as error:
        return Paired(), [broken("tables", error)]
    checks = [target_checks.check_pairs(paired)]
    if paired.pairs:
        checks += [
            target_checks.check_keys(paired),
            target_checks.check_collations(paired),
            await guarded("right to alter tables", target_checks.check_table_rights(connection, paired)),
            await guarded("rows in the target", target_checks.check_rows(connection, paired, source)),
            await guarded("triggers in the target", target_checks.check_triggers(connection, paired)),
        ]
    return paired, checks


async def guarded(name: str, check: Awaitable[Check]) -> Check:
    """Return what a check finds; a check that cannot be made is a failed one."""
    try:
        return await check
    except UNEXPECTED as error:
        return broken(name, error)


def broken(name: str, error: BaseException) -> Check:
    """Return the failed check for an error."""
    if isinstance(error, FerryError):
        return failed_check(name, error.message, error.action)
    return failed_check(name, f"it cannot be looked at: {str(error).partition(chr(10))[0]}", "See the server's log.")
