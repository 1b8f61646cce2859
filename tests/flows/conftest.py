"""One Prefect server for the tests that run flows in this process, and empty databases for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from sqlalchemy.engine import URL

from pgferry.postgres.connection import connect
from pgferry.quoting import quote

SERVER_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # At its end it complains at length of what it had no time for.
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
}
"""By environment, which the server's process inherits."""


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API's address of a Prefect server that records the flows which are called in this process."""
    # Imported here: it takes seconds, for which a run of other tests need not wait.
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_LOGGING_LEVEL,
        PREFECT_RESULTS_LOCAL_STORAGE_PATH,
        temporary_settings,
    )
    from prefect.testing.utilities import prefect_test_harness

    updates = {
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,  # Its thread costs every flow run a second.
        PREFECT_RESULTS_LOCAL_STORAGE_PATH: tmp_path_factory.mktemp("results"),
        PREFECT_LOGGING_LEVEL: "INFO",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SERVER_SETTINGS.items():
            patch.setenv(name, value)
        with temporary_settings(updates), prefect_test_harness(server_startup_timeout=300):
            yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="module")
def new_database(server_url: URL) -> Iterator[Callable[[], URL]]:
    """A factory of empty databases that live as long as the module's tests."""
    made: list[str] = []

    def make() -> URL:
        made.append(f"pgferry_flow_{uuid4().hex[:12]}")
        asyncio.run(_execute(server_url, [f"CREATE DATABASE {quote(made[-1])} TEMPLATE template0 ENCODING 'UTF8'"]))
        return server_url.set(database=made[-1])

    yield make
    asyncio.run(_execute(server_url, [f"DROP DATABASE IF EXISTS {quote(name)} WITH (FORCE)" for name in made]))


async def _execute(url: URL, statements: list[str]) -> None:
    connection = await connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
