"""One PostgreSQL server a session, one empty database a test."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import settings as hypothesis_settings
from sqlalchemy.engine import URL

from pgferry.postgres import embedded
from pgferry.postgres.connection import connect
from pgferry.postgres.embedded import EmbeddedServer
from pgferry.quoting import quote
from pgferry.settings import parse_target
from tests.server_activity import activity
from tests.stack import deployed_run, stack
from tests.stores import store

# How long an example takes says more about the machine than about the code.
hypothesis_settings.register_profile("project", deadline=None)
hypothesis_settings.load_profile("project")

__all__ = ["deployed_run", "stack", "store"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say with a test that ran out of time what the server was doing."""
    report = yield
    url = getattr(item, "funcargs", {}).get("server_url")
    if report.failed and url is not None and "from pytest-timeout" in str(report.longrepr):
        report.sections.append(("PostgreSQL's sessions", activity(url)))
    return report


MakeDatabase = Callable[[], Awaitable[URL]]

MEMORY = Path("/dev/shm")
ROOM = 6 * 2**30
"""Bytes that must be free there for the files of a test run's server: a folder in memory makes databases in a third of
the time."""

QUICK = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": "200"}
"""Settings of a server whose data nobody needs after a crash."""


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """The embedded server of the test run; skips when PGFERRY_TEST_TARGET names another."""
    if os.environ.get("PGFERRY_TEST_TARGET"):
        pytest.skip("PGFERRY_TEST_TARGET names another server")
    # Not below pytest's own folder (mode 700): the server may run under another account.
    has_room = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM
    home = Path(tempfile.mkdtemp(prefix="pgferry-test-", dir=MEMORY if has_room else None))
    home.chmod(0o755)
    try:
        yield embedded.start(home, QUICK)
    finally:
        embedded.stop(home)
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def server_url(request: pytest.FixtureRequest) -> URL:
    """The administrator's URL of the server that the tests use."""
    named = os.environ.get("PGFERRY_TEST_TARGET")
    return parse_target(named) if named else request.getfixturevalue("server").url()


@pytest.fixture
async def make_database(server_url: URL) -> AsyncIterator[MakeDatabase]:
    """A factory of empty databases; they are dropped at the end of the test."""
    made: list[str] = []
    admin = await connect(server_url)

    async def make() -> URL:
        name = f"pgferry_test_{uuid4().hex[:12]}"
        await admin.execute(f"CREATE DATABASE {quote(name)} TEMPLATE template0 ENCODING 'UTF8'")
        made.append(name)
        return server_url.set(database=name)

    try:
        yield make
    finally:
        for name in made:
            await admin.execute(f"DROP DATABASE IF EXISTS {quote(name)} WITH (FORCE)")
        await admin.close()


@pytest.fixture
async def database_url(make_database: MakeDatabase) -> URL:
    """The URL of an empty database of the test's own."""
    return await make_database()


@pytest.fixture
async def connection(database_url: URL) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection to the test's database (`database_url`)."""
    opened = await connect(database_url)
    try:
        yield opened
    finally:
        await opened.close(timeout=5)


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what is there before the first test, and look for more less often.

    Prefect, hypothesis and the tests themselves are many objects: a twentieth of the time went into them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Pass over the long variants unless marks are chosen."""
    if not config.getoption("-m"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="takes long; `pytest -m slow` runs it"))
