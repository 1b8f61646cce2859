"""Where the contest takes place: one server for all ways, and for each file the databases that ways begin with."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from sqlalchemy.engine import URL

from benchmarks.floor import Floor, make_bare, read_builds, write_files
from benchmarks.shapes import BENCH_INDEX, Source
from pgferry.plan.files import write_plan
from pgferry.plan.plan import make_plan
from pgferry.plan.trial import tried
from pgferry.postgres.connection import connection
from pgferry.postgres.embedded import EmbeddedServer
from pgferry.postgres.schema import upgrade
from pgferry.quoting import quote
from pgferry.settings import Rules

ROOT = Path(__file__).parent.parent


class Ground(Enum):
    """The database that a way begins with; made before the clock."""

    EMPTY = ""
    SCHEMA = "contest_schema"
    """Tables, keys, indexes and foreign keys, as migrations or a plan make them."""
    BARE = "contest_bare"
    """The same tables without any of these."""


@dataclass(frozen=True, slots=True)
class Place:
    """The server, a folder for files, and the environment that leads a process to the Prefect server."""

    server: EmbeddedServer
    folder: Path
    prefect: Mapping[str, str]

    def create(self, name: str, template: str = "") -> URL:
        """Make a database, empty or as a copy of another, in place of one of that name."""
        self.drop(name)
        self.admin(f"CREATE DATABASE {quote(name)} TEMPLATE {quote(template or 'template0')}")
        return self.server.url(name)

    def drop(self, name: str) -> None:
        """Drop a database if it is there."""
        self.admin(f"DROP DATABASE IF EXISTS {quote(name)} WITH (FORCE)")

    def settle(self) -> None:
        """Let the server and the system write what waits, so that no way pays for the one before."""
        self.admin("CHECKPOINT")
        os.sync()

    def version(self) -> str:
        """Return the server's version: `18.1`."""
        return str(self.admin("SHOW server_version")).split()[0]

    def admin(self, statement: str) -> object:
        """Run a statement in the administrator's database; returns its first value."""

        async def run() -> object:
            async with connection(self.server.url()) as server:
                return await server.fetchval(statement)

        return asyncio.run(run())


@dataclass(frozen=True, slots=True)
class Prepared:
    """A file that is ready for all ways."""

    source: Source
    alembic_config: Path
    rules: Path | None
    """The rules that a plan has written; None for the sample, which has none."""
    floor: Floor = field(default_factory=Floor)

    @property
    def environment(self) -> dict[str, str]:
        """The settings that make this schema."""
        rules = {"PGFERRY_CONFIG": str(self.rules)} if self.rules else {}
        return {"PGFERRY_ALEMBIC_CONFIG": str(self.alembic_config), **rules}


@contextmanager
def prepared(place: Place, source: Source) -> Iterator[Prepared]:
    """Make the databases that ways begin with; they are dropped after the block."""
    folder = place.folder / "ready"
    folder.mkdir()
    try:
        ready = _with_schema(place, source, folder)
        tables = list(source.rows)
        builds = asyncio.run(read_builds(place.server.url(Ground.SCHEMA.value), tables))
        asyncio.run(make_bare(place.create(Ground.BARE.value, Ground.SCHEMA.value), tables))
        yield replace(ready, floor=Floor(builds=builds))
    finally:
        for ground in (Ground.SCHEMA, Ground.BARE):
            place.drop(ground.value)
        shutil.rmtree(folder)


def with_files(place: Place, ready: Prepared, psql: Path, moved: URL) -> Prepared:
    """Return it with the floor's files, written from a finished move of the same source."""
    files = write_files(psql, moved, ready.source.rows, place.folder / "ready")
    return replace(ready, floor=replace(ready.floor, files=files))


def missing_rows(url: URL, rows: Mapping[str, int]) -> str:
    """Say which tables of a database have not as many rows as they should; empty when all have."""

    async def count() -> dict[str, int]:
        async with connection(url) as server:
            return {table: await server.fetchval(f"SELECT count(*) FROM {quote(table)}") for table in rows}

    found = asyncio.run(count())
    return ", ".join(
        f"{table}: {found[table]:,} of {rows[table]:,} rows" for table in rows if found[table] != rows[table]
    )


def _with_schema(place: Place, source: Source, folder: Path) -> Prepared:
    url = place.create(Ground.SCHEMA.value)
    if source.planned:
        ready = asyncio.run(_plan(source, url, folder / "plan"))
    else:
        ready = Prepared(source, ROOT / "alembic.ini", None)
    asyncio.run(_make(url, ready))
    return ready


async def _plan(source: Source, url: URL, folder: Path) -> Prepared:
    async with connection(url) as server:
        plan = await tried(make_plan(source.path, Rules()), server)
    written = write_plan(plan, folder)
    return Prepared(source, written.alembic_config, written.rules)


async def _make(url: URL, ready: Prepared) -> None:
    await upgrade(url, ready.alembic_config)
    if not ready.source.planned:
        async with connection(url) as server:
            await server.execute(BENCH_INDEX)
