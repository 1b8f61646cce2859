"""What the acceptance tests share: one Prefect server in the background, and databases of their own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy.engine import URL

from flows.prefect_server import ensure_server, stop_server
from pgferry.quoting import quote
from tests.acceptance.moving import ask
from tests.acceptance.victim import Place, make_place


@pytest.fixture(scope="session")
def prefect_home() -> Iterator[Path]:
    """The home of the Prefect server of `prefect_server`."""
    # Not below pytest's folders: their names are long, and the server's process outlives a killed test run.
    home = Path(tempfile.mkdtemp(prefix="pgferry-prefect-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        try:
            yield home
        finally:
            stop_server(home)
            shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def prefect_server(prefect_home: Path) -> str:
    """The API's address of a Prefect server for the processes that tests start: 20 seconds once, not for each."""
    return ensure_server(prefect_home).url


@pytest.fixture(scope="module")
def new_database(server_url: URL) -> Iterator[Callable[[], URL]]:
    """A factory of empty databases that live as long as the module's tests."""
    with databases(server_url) as make:
        yield make


@pytest.fixture(scope="session")
def place(request: pytest.FixtureRequest, server_url: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A source, and what an undisturbed move makes of it: what a disturbed one must make of it, too."""

    def server() -> str:
        return str(request.getfixturevalue("prefect_server"))

    with databases(server_url) as make:
        yield make_place(tmp_path_factory.mktemp("source"), server, make, lambda: tmp_path_factory.mktemp("home"))


@contextmanager
def databases(server_url: URL) -> Iterator[Callable[[], URL]]:
    """Give a factory of empty databases; they are dropped after the block."""
    made: list[str] = []

    def make() -> URL:
        made.append(f"pgferry_test_{uuid4().hex[:12]}")
        ask(server_url, f"CREATE DATABASE {quote(made[-1])} TEMPLATE template0 ENCODING 'UTF8'")
        return server_url.set(database=made[-1])

    try:
        yield make
    finally:
        for name in made:
            ask(server_url, f"DROP DATABASE IF EXISTS {quote(name)} WITH (FORCE)")
