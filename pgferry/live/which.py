"""Which run, and which file, a command is about where the settings may no longer tell."""

from __future__ import annotations

from pathlib import Path

from pgferry.errors import UsageError
from pgferry.live.env_file import read_variable
from pgferry.live.environment import kept_file
from pgferry.live.model import Phase
from pgferry.live.phases import current
from pgferry.postgres.handle import Connection
from pgferry.postgres.journal import live_run
from pgferry.postgres.ledger import Run, find_run, history
from pgferry.settings import Settings, named_source, sqlite_path

_HAS_PHASES = "SELECT to_regclass('pgferry.phase') IS NOT NULL"


async def known_run(conn: Connection, source: Path | None) -> Run:
    """Return the run in a live phase, as `live_run` does, else the run of that source, else the latest cleaned one.

    Raises what `live_run` raises when there is none of them.
    """
    try:
        return await live_run(conn, None if source is None else str(source))
    except UsageError as error:
        if error.details.get("sources") or not await conn.fetchval(_HAS_PHASES):
            raise
        found = await _ended_run(conn, source)
        if found is None:
            raise
        return found


async def _ended_run(conn: Connection, source: Path | None) -> Run | None:
    if source is not None:
        return await find_run(conn, str(source))
    for run in await history(conn):
        if (await current(conn, run.id)).phase is Phase.CLEANED:
            return run
    return None


def emergency_source(settings: Settings) -> Path:
    """Return the SQLite file to go back to, without PostgreSQL: as the settings name it, or .env of before the switch.

    Raises UsageError when neither does.
    """
    named = named_source(settings)
    if named is not None:
        return named
    kept = kept_file(settings)
    value = read_variable(kept, settings.application_variable) if kept.exists() else None
    file = sqlite_path(value) if value else None
    if file is None:
        raise UsageError("Which SQLite file is to be in front is not known.", "Give --source FILE.")
    return file.resolve()
