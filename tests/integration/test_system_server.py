"""What a team needs around the move, on a PostgreSQL of the system: with OpenSSL, contrib modules and its own defaults.

The other tests use the embedded server, or all of them the one that PGFERRY_TEST_TARGET names.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from dotenv import dotenv_values
from sqlalchemy.engine import URL, make_url

from pgferry.errors import Permanent
from pgferry.operate.check import Verdict, failed
from pgferry.operate.monitor import watch
from pgferry.operate.preflight import run_checks
from pgferry.operate.provision import provision
from pgferry.operate.run_revisions import change
from pgferry.postgres.connection import connect, connection
from pgferry.postgres.embedded import EmbeddedServer
from pgferry.settings import Rules, Settings, load_settings
from tests.acceptance.moving import alembic_project
from tests.live import LiveMove
from tests.servers import own_server

COUNTING = {"shared_preload_libraries": "pg_stat_statements", "fsync": "off", "max_connections": "60"}
TABLES = (
    "CREATE TABLE parents (id bigint PRIMARY KEY, name text NOT NULL)",
    "CREATE TABLE children (id bigint PRIMARY KEY, parent_id bigint REFERENCES parents (id))",
)
DOWNGRADE = """
def downgrade() -> None:
    op.execute("DROP TABLE children, parents")
"""
SOURCE = """
PRAGMA journal_mode = wal;
CREATE TABLE parents (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE children (id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES parents (id));
INSERT INTO parents VALUES (1, 'one'), (2, 'two');
INSERT INTO children VALUES (1, 1), (2, 2), (3, NULL);
"""


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    """A server of the system that counts statements."""
    with own_server(COUNTING, of_the_system=True) as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("system")
    with closing(sqlite3.connect(found / "app.db")) as source:
        source.executescript(SOURCE)
    return found


@pytest.fixture(scope="module")
def settings(server: EmbeddedServer, folder: Path) -> Settings:
    config = alembic_project(folder / "alembic", *TABLES)
    with (config.parent / "migrations" / "versions" / "0001_all.py").open("a") as revision:
        revision.write(DOWNGRADE)
    return load_settings(
        home=folder / "home",
        admin_url=server.url().render_as_string(hide_password=False),
        alembic_config=config,
        application_env=folder / "home" / "application.env",
        pool_size=10,
        backup_tool="none is needed here",
    )


@pytest.fixture
async def provisioned(settings: Settings, folder: Path) -> dict[str, URL]:
    """The URLs of the provisioned roles; the first test makes them, and the others find all done."""
    await provision(settings, folder / "provision.env")
    found = dotenv_values(folder / "provision.env")
    return {name: make_url(found[name] or "") for name in ("PGFERRY_TARGET", "PGFERRY_APPLICATION_URL")}


async def test_provision_gives_rights_on_schema_public_to_the_application_alone(
    settings: Settings, provisioned: dict[str, URL], folder: Path, server: EmbeddedServer
) -> None:
    assert (await provision(settings, folder / "provision.env")).done == ()
    async with connection(server.url(), database=settings.provision_database) as admin:
        assert not await admin.fetchval("SELECT has_schema_privilege('public', 'public', 'CREATE')")
        owner = "SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = 'public'"
        assert await admin.fetchval(owner) == settings.application_role
    async with connection(provisioned["PGFERRY_APPLICATION_URL"]) as application:
        await application.execute("CREATE TABLE of_the_application (n int); DROP TABLE of_the_application")


async def test_a_role_without_rights_is_told_of_schema_public(server: EmbeddedServer, settings: Settings) -> None:
    async with connection(server.url()) as admin:
        await admin.execute("CREATE ROLE stranger LOGIN PASSWORD 'x'")
        if await admin.fetchval("SELECT current_setting('server_version_num')::int < 150000"):
            await admin.execute("REVOKE CREATE ON SCHEMA public FROM public")
    url = server.url().set(username="stranger", password="x")
    async with connection(url) as stranger:
        checks = await run_checks(stranger, settings, Rules(), Path("/no/such/file"), url=url)
    assert {"right to make tables", "right to schema pgferry"} <= {check.name for check in failed(checks)}


async def test_a_schema_goes_up_and_down_and_a_move_is_made_and_watched(
    provisioned: dict[str, URL], settings: Settings, folder: Path, server: EmbeddedServer
) -> None:
    url = provisioned["PGFERRY_TARGET"]
    for revision, down in (("head", False), ("base", True), ("head", False)):
        await change(url, settings.alembic_config, revision, down=down)
    async with connection(server.url(), database=settings.provision_database) as admin:
        await admin.execute("CREATE EXTENSION pg_stat_statements")

    move = LiveMove(url, folder / "app.db", folder / "home")
    move.write_environment()
    async with connection(url) as ferry:
        checks = await run_checks(ferry, settings, Rules(), folder / "app.db", url=url)
    assert failed(checks) == ()
    named = {check.name: check for check in checks}
    assert named["pg_stat_statements"].verdict is Verdict.PASS
    assert named["right to make tables"].verdict is Verdict.PASS

    await move.dual_write()
    assert (await move.validate()).passed
    await move.switch()
    async with connection(provisioned["PGFERRY_APPLICATION_URL"]) as application:
        await application.execute("INSERT INTO parents VALUES (3, 'three')")
    assert await move.sync_back() == 1
    async with connection(url) as ferry:
        found, _ = await watch(ferry, settings, "here", kept=True)
    listings = {listing.key: listing.records() for listing in found.listings}
    assert {"connections", "statements", "tables"} <= listings.keys()
    assert {"public.parents", "public.children"} <= {row["table"] for row in listings["tables"]}
    await move.roll_back()
    with closing(sqlite3.connect(folder / "app.db")) as source:
        assert source.execute("SELECT name FROM parents WHERE id = 3").fetchall() == [("three",)]


async def test_what_goes_wrong_there_is_told(server: EmbeddedServer) -> None:
    for url, title in (
        (server.url().set(password="wrong"), "The password is wrong or missing"),
        (server.url().set(database="none"), "The database does not exist"),
    ):
        with pytest.raises(Permanent) as refused:
            await connect(url)
        assert refused.value.details["title"] == title
