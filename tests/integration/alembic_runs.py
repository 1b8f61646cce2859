"""Alembic as tests run it: as a library, and as a command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

PROJECT = Path(__file__).resolve().parents[2]
OURS = PROJECT / "alembic.ini"

MakeDatabase = Callable[[], Awaitable[URL]]
Connected = asyncpg.Connection

OBJECTS = """
SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S', 'i')
UNION ALL SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype = 'e'
ORDER BY 1
"""


async def objects(connection: Connected) -> list[str]:
    return [row[0] for row in await connection.fetch(OBJECTS)]


async def alembic(url: URL, work: Callable[[Config], object], config: Path = OURS) -> None:
    """Run an Alembic command on a connection that is handed in."""
    engine = create_async_engine(url, poolclass=NullPool)

    def run(connection: Connection) -> None:
        settings = Config(config)
        settings.attributes["connection"] = connection
        work(settings)

    async with engine.connect() as connection:
        await connection.run_sync(run)


def run_alembic(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PGFERRY_")} | settings
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
