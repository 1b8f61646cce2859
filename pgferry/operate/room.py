"""What a preflight says of room and time, by what was measured."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import asyncpg

from pgferry.operate.check import Check, failed_check, megabytes, passed, warned
from pgferry.operate.estimate import Estimate
from pgferry.operate.source_checks import FileFacts
from pgferry.postgres import embedded
from pgferry.postgres.connection import Connection
from pgferry.postgres.statements import statements
from pgferry.settings import Settings

SQL = statements("preflight")

ASSUMED_RATIO = 2.5
"""Bytes in PostgreSQL for a byte of the file, where nothing could be tried."""

SPARE = 1.5
"""Room that is wanted for each byte that is needed: an index build sorts on disk, and the application writes on."""

CRAWL_SECONDS = 6 * 3600
"""A copy that takes longer is told as something to weigh."""


def check_home(settings: Settings, facts: FileFacts) -> Check:
    """Hold the room of pgferry's own folder against a backup of the file and its rows in Parquet."""
    name, folder = "disk here", _existing(settings.home.absolute())
    free, needed = shutil.disk_usage(folder).free, home_bytes(facts)
    measured = f"{megabytes(needed)} needed for backup and Parquet, {megabytes(free)} free in {settings.home}"
    advice = "Make room, or set PGFERRY_HOME (and PGFERRY_STAGING) to a larger disk."
    return _judge(name, measured, needed, free, advice)


def home_bytes(facts: FileFacts) -> float:
    """Return what the folder takes: the backup, and the rows once more; Parquet is smaller, seldom as large."""
    return facts.bytes + facts.used_bytes


def check_estimate(facts: FileFacts, estimate: Estimate | None, why: str) -> Check:
    """Tell how large the target becomes; `why` says why nothing could be tried."""
    name = "size in PostgreSQL"
    used = megabytes(facts.used_bytes)
    if estimate is None:
        return warned(
            name,
            f"about {megabytes(facts.used_bytes * ASSUMED_RATIO)}, assumed: {used} in SQLite without free pages; {why}",
            "Reckon with that, or correct what stood against it and run this again.",
        )
    types = "by the classes of its values, for the target has no tables of these yet" if estimate.by_class else ""
    return passed(
        name,
        f"about {megabytes(estimate.target_bytes)} with indexes: {used} in SQLite without free pages,"
        f" {estimate.ratio:.2f} bytes for each byte of values in a sample of {estimate.sampled_rows:,} rows"
        f"{f' ({types})' if types else ''}",
    )


def check_duration(estimate: Estimate | None, snapshot_seconds: float, settings: Settings, why: str) -> Check:
    """Tell how long the move takes, about."""
    name = "duration"
    if estimate is None:
        return warned(name, f"not measured: {why}", "Correct what stood against it, and run this again.")
    lanes = min(settings.parallelism, os.cpu_count() or 1)
    copying = estimate.seconds / lanes
    # Indexes are built and every row is read back while others load; together that takes about as long again.
    total = snapshot_seconds + 2 * copying
    speed = estimate.rows / max(copying, 0.001)
    measured = (
        f"about {_words(total)} for {estimate.rows:,} rows: backup {snapshot_seconds:.1f} s, copy {_words(copying)}"
        f" ({speed:,.0f} rows/s in {lanes} lanes), indexes and comparison about as long again"
    )
    if total < CRAWL_SECONDS:
        return passed(name, measured)
    return warned(name, measured, "Raise PGFERRY_PARALLELISM where there are processors, or choose dual-write.")


async def check_target_room(
    connection: Connection, settings: Settings, facts: FileFacts, estimate: Estimate | None, *, named: bool
) -> Check:
    """Hold the server's room against the estimate and its WAL, where that can be measured; `named` is not embedded."""
    name = "disk of the server"
    size = estimate.target_bytes if estimate else facts.used_bytes * ASSUMED_RATIO
    wal = int(await connection.fetchval("SELECT setting FROM pg_settings WHERE name = 'max_wal_size'")) * 2**20
    needed, data = size + wal, None if named else _embedded_data(settings)
    if data is None:
        return warned(
            name,
            f"about {megabytes(needed)} needed (WAL included); free room cannot be asked from here"
            f"{await _tablespace(connection)}",
            "Look at the server (df), or at the provider's console.",
        )
    if _same_disk(data, settings.home):
        needed += home_bytes(facts)
    free = shutil.disk_usage(data).free
    measured = f"about {megabytes(needed)} needed (WAL included), {megabytes(free)} free in {data}"
    return _judge(name, measured, needed, free, "Make room, or set PGFERRY_HOME to a larger disk.")


async def _tablespace(connection: Connection) -> str:
    try:
        return f"; its tablespace holds {megabytes(await connection.fetchval(SQL['tablespace']))} now"
    except asyncpg.InsufficientPrivilegeError:
        return ""


def _embedded_data(settings: Settings) -> Path | None:
    server = embedded.running(settings.home)
    return None if server is None else server.data


def _judge(name: str, measured: str, needed: float, free: float, advice: str) -> Check:
    if free < needed:
        return failed_check(name, measured, advice)
    if free < needed * SPARE:
        return warned(name, measured, advice)
    return passed(name, measured)


def _same_disk(one: Path, other: Path) -> bool:
    return _existing(one).stat().st_dev == _existing(other.absolute()).stat().st_dev


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
