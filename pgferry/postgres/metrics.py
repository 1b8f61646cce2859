"""What the monitor has measured: kept in the ledger's table `pgferry.metric`, read back for charts.

Errors of the driver pass through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import TypeAlias

from pgferry.postgres.handle import Connection
from pgferry.postgres.ledger import install
from pgferry.postgres.statements import statements

SQL = statements("metric")

POINTS = 120
"""Points of a line in a chart, at the most: more cannot be told apart in it."""

Name: TypeAlias = tuple[str, str]
"""A metric's name and label."""

Series: TypeAlias = Mapping[Name, Sequence[tuple[datetime, float]]]
"""Points by metric, in the order of time."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number; `label` says of what, and is empty where the name says all."""

    name: str
    label: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Before:
    """What the look before has measured; `at` is None when there was none."""

    at: datetime | None = None
    values: Mapping[Name, float] = field(default_factory=lambda: MappingProxyType({}))


async def keep(conn: Connection, at: datetime, metrics: Sequence[Metric], days: float) -> int:
    """Keep the numbers of one look, and forget those that are older than `days`; returns how many were forgotten.

    One transaction. Installs the ledger, or brings it to this version, and raises what `ledger.install` does.
    """
    async with conn.transaction():
        await install(conn)
        columns = [[getattr(metric, name) for metric in metrics] for name in ("name", "label", "value", "unit")]
        await conn.execute(SQL["insert"], at, *columns)
        forgotten = await conn.execute(SQL["forget"], at, days)
    return int(forgotten.rpartition(" ")[2])


async def read_before(conn: Connection, at: datetime) -> Before:
    """Return what the latest look before this moment has kept; nothing where nothing is kept."""
    if not await conn.fetchval(SQL["is_kept"]):
        return Before()
    rows = await conn.fetch(SQL["latest"], at)
    return Before(rows[0]["at"], {(row["name"], row["label"]): row["value"] for row in rows}) if rows else Before()


async def read_series(conn: Connection, names: Sequence[str], since: datetime, until: datetime) -> Series:
    """Return these metrics over a time, or as much of it as there is, as means of at the most POINTS spans."""
    found: dict[Name, list[tuple[datetime, float]]] = {}
    first = await conn.fetchval(SQL["first"], since) if await conn.fetchval(SQL["is_kept"]) else None
    if first is not None:
        span = max((until - first).total_seconds() / POINTS, 1.0)
        for row in await conn.fetch(SQL["series"], names, first, until, span):
            found.setdefault((row["name"], row["label"]), []).append((row["at"], row["value"]))
    return found
