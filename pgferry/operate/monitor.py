"""The monitor: one look at the server and the database, judged by the thresholds of the settings.

A part that cannot be measured (a missing extension, a privilege, a lock) leaves a note, and the others go on.
"""

from __future__ import annotations

from dataclasses import replace

import asyncpg

from pgferry.errors import FerryError, is_transient
from pgferry.operate.measures import MEASURES, Measure, Scene
from pgferry.operate.monitor_page import DRAWN, SPAN
from pgferry.operate.watched import Breach, Look, Part, together
from pgferry.postgres.connection import Connection
from pgferry.postgres.metrics import Before, Metric, Series, keep, read_before, read_series
from pgferry.postgres.statements import statements
from pgferry.settings import Settings

SQL = statements("monitor")

BREACH = "breach"
"""The metric that keeps which thresholds were crossed, by label: the next look knows which are news."""


async def watch(connection: Connection, settings: Settings, server: str, *, kept: bool) -> tuple[Look, Series]:
    """Look, keep the numbers if they are to be `kept`, and read those of the last days; returns both.

    That they are not kept, and why, is one of the look's notes.
    """
    found = await look(connection, settings, server)
    problem = await keep_look(connection, found, settings) if kept else "The numbers are not kept, as was asked."
    if problem:
        found = replace(found, notes=(*found.notes, problem))
    return found, await read_series(connection, DRAWN, found.at - SPAN, found.at)


async def look(connection: Connection, settings: Settings, server: str) -> Look:
    """Look at the server and the database of this connection; writes nothing. `server` is how the server is named.

    The session gets short time-outs for locks and statements. Errors that end the connection pass through.
    """
    await connection.execute(SQL["patience"])
    row = await connection.fetchrow(SQL["server"])
    assert row is not None
    scene = Scene(settings, row["at"], row["max_connections"], await read_before(connection, row["at"]))
    found = together([await _guarded(name, read, connection, scene) for name, read in MEASURES])
    notes = () if row["sees_all"] else (_NOT_ALL,)
    breaches = tuple(_known(breach, scene.before) for breach in found.breaches)
    return Look(
        at=row["at"],
        server=server,
        database=row["database"],
        version=row["version"],
        metrics=(*found.metrics, *(Metric(BREACH, _key(breach), 1.0, "") for breach in breaches)),
        listings=found.listings,
        breaches=breaches,
        notes=(*notes, *found.notes),
    )


async def keep_look(connection: Connection, found: Look, settings: Settings) -> str:
    """Keep the numbers in the target's ledger, which is installed where it is missing and the role may do so.

    Returns why they are not kept, or an empty string. Errors that end the connection pass through.
    """
    try:
        await keep(connection, found.at, found.metrics, settings.metric_days)
    except FerryError as error:
        return f"The numbers are not kept: {error}"
    except asyncpg.PostgresError as error:
        if _ends_the_connection(error):
            raise
        return f"The numbers are not kept: {_first_line(error)}."
    return ""


_NOT_ALL = (
    "Other roles' sessions and statements are shown in part only: GRANT pg_monitor to this role to see all of them."
)


async def _guarded(name: str, read: Measure, connection: Connection, scene: Scene) -> Part:
    try:
        return await read(connection, scene)
    except asyncpg.PostgresError as error:
        if _ends_the_connection(error):
            raise
        return Part(notes=(f"{name} could not be measured: {_first_line(error)}.",))
    except FerryError as error:
        return Part(notes=(f"{name} could not be measured: {error}",))


def _ends_the_connection(error: asyncpg.PostgresError) -> bool:
    return is_transient(error) and not isinstance(error, asyncpg.LockNotAvailableError)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__


def _key(breach: Breach) -> str:
    return f"{breach.name} {breach.subject}".strip()


def _known(breach: Breach, before: Before) -> Breach:
    return replace(breach, again=(BREACH, _key(breach)) in before.values)
