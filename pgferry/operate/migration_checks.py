"""What a preflight looks at in the application's Alembic migrations."""

from __future__ import annotations

import asyncio
from pathlib import Path

from alembic.script import ScriptDirectory
from alembic.util import CommandError

from pgferry.errors import FerryError
from pgferry.operate.check import Check, failed_check, listed, passed, warned
from pgferry.postgres.connection import Connection
from pgferry.postgres.environment import read_config, read_scripts
from pgferry.postgres.statements import statements
from pgferry.settings import Settings

SQL = statements("preflight")


async def check_migrations(settings: Settings) -> Check:
    """Look whether the Alembic migrations can be read, and lead to one head."""
    name, config = "Alembic head", settings.alembic_config
    if not config.is_file():
        return warned(
            name,
            f"there is no {config}",
            "Set PGFERRY_ALEMBIC_CONFIG; without migrations, `python -m flows migrate --plan` makes the schema.",
        )
    try:
        heads = (await asyncio.to_thread(_scripts, config)).get_heads()
    except FerryError as error:
        return failed_check(name, error.message, error.action)
    if len(heads) == 1:
        return passed(name, heads[0])
    measured = f"{len(heads)} heads: {listed(sorted(heads))}" if heads else "no revision"
    advice = "Join them: alembic merge heads." if heads else "Make one: alembic revision --autogenerate."
    return failed_check(name, measured, advice)


async def check_revision(conn: Connection, settings: Settings) -> Check:
    """Look at which revision the target is, and whether the migrations know it."""
    name = "target's revision"
    if not await conn.fetchval(SQL["revision_table"]):
        return passed(name, "none yet; `migrate` and `dual-write` run the migrations")
    revisions = [row["version_num"] for row in await conn.fetch(SQL["revisions"])]
    if not settings.alembic_config.is_file():
        return warned(name, listed(revisions) or "none", "Set PGFERRY_ALEMBIC_CONFIG to the migrations that made it.")
    try:
        scripts = await asyncio.to_thread(_scripts, settings.alembic_config)
    except FerryError as error:
        return failed_check(name, f"{listed(revisions)}; the migrations cannot be read", error.action)
    unknown = [revision for revision in revisions if not _knows(scripts, revision)]
    if unknown:
        advice = "Use the Alembic configuration that made this schema, or an empty database."
        return failed_check(name, f"{listed(unknown)}, which {settings.alembic_config} does not know", advice)
    if set(revisions) == set(scripts.get_heads()):
        return passed(name, f"{listed(revisions)}: the head")
    return warned(
        name,
        f"{listed(revisions) or 'none'}; the head is {listed(scripts.get_heads())}",
        "`python -m flows migrate` and `dual-write` upgrade it.",
    )


def _scripts(config: Path) -> ScriptDirectory:
    return read_scripts(read_config(config))


def _knows(scripts: ScriptDirectory, revision: str) -> bool:
    try:
        return bool(scripts.get_revisions(revision))
    except CommandError:
        return False
