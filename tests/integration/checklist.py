"""A small source, a target that fits it, and what tests of the preflight ask of a check."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy.engine import URL

from pgferry.operate.check import Check, Verdict
from pgferry.postgres import embedded
from pgferry.postgres.connection import Connection, connect
from pgferry.postgres.embedded import EmbeddedServer
from pgferry.settings import Rules, Settings, load_settings

RULES = Rules()
SOURCE = """
CREATE TABLE parents (id INTEGER PRIMARY KEY, name TEXT NOT NULL, score REAL, photo BLOB);
CREATE TABLE children (id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES parents (id), note TEXT);
CREATE INDEX children_parent ON children (parent_id);
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
INSERT INTO parents SELECT i, 'parent ' || i, i / 3.0, randomblob(20) FROM n;
INSERT INTO children SELECT id * 10, id, 'a child of ' || name FROM parents;
"""
TARGET = (
    "CREATE TABLE parents (id bigint PRIMARY KEY, name text NOT NULL, score double precision, photo bytea)",
    "CREATE TABLE children (id bigint PRIMARY KEY, parent_id bigint REFERENCES parents (id), note text)",
    "CREATE INDEX children_parent ON children (parent_id)",
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(
        home=tmp_path / "home", application_env=tmp_path / "app.env", alembic_config=tmp_path / "none.ini"
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return made(tmp_path / "app.db", SOURCE)


@pytest.fixture
async def target(connection: Connection) -> Connection:
    """The test's database, with the tables of the source."""
    for statement in TARGET:
        await connection.execute(statement)
    return connection


@pytest.fixture(scope="module")
def durable() -> Iterator[EmbeddedServer]:
    """A server as one runs it: durable, with WAL archiving, and PostgreSQL's own max_wal_size."""
    home = Path(tempfile.mkdtemp(prefix="pgferry-preflight-"))
    home.chmod(0o755)
    try:
        yield embedded.start(
            home, {"archive_mode": "on", "archive_command": "/bin/true", "max_wal_size": "1GB", "max_connections": "30"}
        )
    finally:
        embedded.stop(home)
        shutil.rmtree(home)


@asynccontextmanager
async def reached(url: URL) -> AsyncIterator[Connection]:
    opened = await connect(url)
    try:
        yield opened
    finally:
        await opened.close()


@asynccontextmanager
async def role(connection: Connection, attributes: str = "") -> AsyncIterator[str]:
    """A role with no rights; the session becomes it, unless it is to log in by itself."""
    name = f"little_{uuid4().hex[:10]}"
    await connection.execute(f"CREATE ROLE {name} {attributes}")
    try:
        if not attributes:
            await connection.execute(f"SET ROLE {name}")
        yield name
    finally:
        await connection.execute(f"RESET ROLE; DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


def made(path: Path, script: str) -> Path:
    with closing(sqlite3.connect(path)) as file:
        file.executescript(script)
    return path


def verdict(check: Check) -> Verdict:
    """Return the verdict; what is not well says what to do."""
    assert check.measured
    assert bool(check.advice) == (check.verdict is not Verdict.PASS), check
    return check.verdict


PASS, WARN, FAIL = Verdict.PASS, Verdict.WARN, Verdict.FAIL
