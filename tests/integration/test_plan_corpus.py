"""Every real file of the corpus gets a schema that PostgreSQL takes and that holds its rows."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine

from pgferry.convert.rules import Rejected, convert
from pgferry.model import ColumnRule
from pgferry.plan.files import WrittenPlan, write_plan
from pgferry.plan.model import SchemaPlan
from pgferry.plan.plan import make_plan
from pgferry.plan.trial import tried
from pgferry.quoting import quote
from pgferry.settings import read_rules
from pgferry.sqlite.connect import open_read_only

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
FILES = sorted(CORPUS.iterdir()) if CORPUS.is_dir() else []

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(not FILES, reason="the corpus of real files is not on this machine"),
]


@pytest.fixture
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy: SQLite leaves -wal and -shm files beside a file in WAL mode that is read."""
    return Path(shutil.copy(request.param, tmp_path / request.param.name))


@pytest.mark.parametrize("source", FILES, indirect=True, ids=lambda path: path.name)
async def test_schema_of_every_file_goes_up_and_down(
    source: Path, tmp_path: Path, database_url: URL, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    plan = await tried(make_plan(source), connection)
    written = write_plan(plan, tmp_path / "plan")
    read_rules(written.rules)

    await _alembic(database_url, written, "upgrade", "head")
    assert await _tables(connection) == {table.name: len(table.columns) for table in plan.tables}
    assert await _counts(connection) == _planned(plan)
    await _alembic(database_url, written, "downgrade", "base")
    assert await _tables(connection) == {}


@pytest.mark.parametrize("source", FILES, indirect=True, ids=lambda path: path.name)
def test_types_of_every_file_hold_every_value(source: Path) -> None:
    refused = []
    with closing(open_read_only(source)) as reader:
        for table in make_plan(source).tables:
            for column in table.columns:
                query = f"SELECT DISTINCT {quote(column.source.name)} FROM {quote(table.source)}"
                for (value,) in reader.execute(query):
                    converted = convert(value, column.type, ColumnRule())
                    if isinstance(converted, Rejected):
                        refused.append((table.source, column.name, converted.reason))
                    elif converted is None:
                        assert not column.not_null, (table.source, column.name)
    assert refused == []


async def _alembic(url: URL, written: WrittenPlan, name: str, revision: str) -> None:
    def run(connection: Connection) -> None:
        config = Config(written.alembic_config)
        config.attributes["connection"] = connection
        getattr(command, name)(config, revision)

    engine = create_async_engine(url)
    async with engine.connect() as opened:
        await opened.run_sync(run)
        await opened.commit()
    await engine.dispose()


async def _tables(connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, int]:
    rows = await connection.fetch(
        """SELECT relname, relnatts FROM pg_class WHERE relnamespace = 'public'::regnamespace
           AND relkind = 'r' AND relname <> 'alembic_version'"""
    )
    return {row["relname"]: row["relnatts"] for row in rows}


async def _counts(connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, int]:
    constraints = await connection.fetch(
        """SELECT contype::text AS kind, count(*) AS n FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
           WHERE relnamespace = 'public'::regnamespace AND relname <> 'alembic_version' AND contype <> 'n' GROUP BY 1"""
    )
    plain = await connection.fetchval(
        """SELECT count(*) FROM pg_index i JOIN pg_class ON pg_class.oid = indrelid
           WHERE relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'
           AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid AND contype IN ('p', 'u'))"""
    )
    views = await connection.fetchval("SELECT count(*) FROM pg_views WHERE schemaname = 'public'")
    found = {row["kind"]: row["n"] for row in constraints} | {"index": plain, "view": views}
    return {kind: count for kind, count in found.items() if count}


def _planned(plan: SchemaPlan) -> dict[str, int]:
    tables = plan.tables
    counts = {
        "p": sum(table.key is not None for table in tables),
        "u": sum(len(table.uniques) for table in tables),
        "c": sum(len(table.checks) for table in tables),
        "f": sum(len(table.foreign_keys) for table in tables),
        "index": sum(len(table.indexes) for table in tables),
        "view": len(plan.views),
    }
    return {kind: count for kind, count in counts.items() if count}
