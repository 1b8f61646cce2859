"""Database, roles and grants are made once, with no more rights than are needed; and a whole move runs with them."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from dotenv import dotenv_values
from sqlalchemy.engine import URL, make_url

from pgferry.errors import Permanent, UsageError
from pgferry.operate.passwords import keep
from pgferry.operate.provision import Provisioned, provision
from pgferry.postgres.connection import Connection, connect, connection
from pgferry.postgres.schema import upgrade
from pgferry.quoting import literal, quote
from pgferry.settings import Settings, load_settings
from tests.acceptance.moving import Mover, alembic_project
from tests.acceptance.workload import equal
from tests.acceptance.workload_schema import POSTGRES, create_sqlite
from tests.live import LiveMove


@dataclass
class Site:
    """An administrator, and names that nobody else uses."""

    admin: URL
    folder: Path
    mark: str = field(default_factory=lambda: uuid4().hex[:10])

    def settings(self, **given: Any) -> Settings:
        names = {
            "admin_url": self.admin.render_as_string(hide_password=False),
            "provision_database": f"made_{self.mark}",
            "application_role": f'App "{self.mark}"',
            "ferry_role": f"ferry_{self.mark}",
        }
        return load_settings(home=self.folder, **{**names, **given})

    @property
    def env_file(self) -> Path:
        return self.folder / "provision.env"

    async def provision(self, **given: Any) -> Provisioned:
        return await provision(self.settings(**given), self.env_file)

    def url(self, name: str) -> URL:
        return make_url(dotenv_values(self.env_file)[name] or "")

    @property
    def target(self) -> URL:
        return self.url("PGFERRY_TARGET")

    @property
    def application(self) -> URL:
        return self.url("PGFERRY_APPLICATION_URL")


@pytest.fixture
async def site(server_url: URL, tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(server_url, tmp_path)
    yield made
    settings = made.settings()
    async with connection(server_url) as admin:
        await admin.execute(f"DROP DATABASE IF EXISTS {quote(settings.provision_database)} WITH (FORCE)")
        for role in (settings.ferry_role, settings.application_role, f"dba_{made.mark}"):
            if await admin.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
                await admin.execute(f"DROP OWNED BY {quote(role)}")
                await admin.execute(f"DROP ROLE {quote(role)}")


async def refused(conn: Connection, statement: str) -> bool:
    try:
        await conn.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return True
    return False


# ---------------------------------------------------------------- once, and again


async def test_what_is_missing_is_made_and_again_nothing_is(site: Site) -> None:
    made = await site.provision()
    assert len(made.done) == 9, made.done
    assert made.notes == ()
    kept = site.env_file.read_bytes()
    again = await site.provision()
    assert (again.done, again.notes) == ((), ())
    assert site.env_file.read_bytes() == kept
    assert (again.target, again.application) == (made.target, made.application)


async def test_the_database_is_utf8_and_both_roles_log_in_with_the_passwords_of_the_file(site: Site) -> None:
    await site.provision()
    for url in (site.target, site.application):
        async with connection(url) as conn:
            assert await conn.fetchval("SHOW server_encoding") == "UTF8"
            assert await conn.fetchval("SELECT current_user") == url.username
            assert not await conn.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")


async def test_passwords_are_in_the_file_alone(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    made = await site.provision()
    secrets = [str(site.target.password), str(site.application.password), str(site.admin.password)]
    assert all(len(secret) > 8 for secret in secrets[:2]) and secrets[0] != secrets[1]
    assert stat.S_IMODE(site.env_file.stat().st_mode) == 0o600
    told = f"{made} {made.to_json()} {caplog.text} {site.settings()}"
    assert not [secret for secret in secrets if secret in told]
    async with connection(site.admin) as admin:
        kept = await admin.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", site.target.username)
    assert kept.startswith("SCRAM-SHA-256$4096:")


async def test_the_application_owns_its_schema_and_nothing_else(site: Site) -> None:
    await site.provision()
    async with connection(site.application) as conn:
        await conn.execute("CREATE TABLE things (id integer PRIMARY KEY)")
        assert await refused(conn, "CREATE SCHEMA other")
        assert await refused(conn, "CREATE ROLE other")
        assert await refused(conn, "CREATE DATABASE other")
        assert await refused(conn, f"SET ROLE {quote(str(site.target.username))}")
    async with connection(site.target) as conn:
        await conn.execute("CREATE SCHEMA pgferry")
        await conn.execute("CREATE TABLE pgferry.secret (id integer)")
        await conn.execute("ALTER TABLE things ADD COLUMN more text")
        await conn.execute("TRUNCATE things")
        assert await refused(conn, "CREATE ROLE other")
        assert await refused(conn, "CREATE DATABASE other")
    async with connection(site.application) as conn:
        assert await refused(conn, "SELECT * FROM pgferry.secret")
    async with connection(site.admin, database=str(site.target.database)) as conn:
        await conn.execute(f"CREATE ROLE dba_{site.mark}")
        await conn.execute(f"SET ROLE dba_{site.mark}")
        assert await refused(conn, "CREATE TABLE public.intruder (id integer)")


async def test_given_passwords_are_used_and_a_new_one_takes_the_place_of_the_old(site: Site) -> None:
    await site.provision(ferry_password="first one#$@/", application_password="other")
    assert (site.target.password, site.application.password) == ("first one#$@/", "other")
    assert (await site.provision(ferry_password="first one#$@/", application_password="other")).done == ()
    changed = await site.provision(ferry_password="second")
    assert changed.done == (
        f"wrote {site.env_file}",
        f"set the password of {site.target.username} to the given one",
    )
    async with connection(site.target) as conn:
        assert await conn.fetchval("SELECT 1") == 1
    assert site.application.password == "other"


async def test_a_role_whose_password_nobody_knows_keeps_it(site: Site) -> None:
    await site.provision()
    before = site.target
    site.env_file.unlink()
    again = await site.provision()
    assert again.done == (f"wrote {site.env_file}",)
    assert [("PGFERRY_FERRY_PASSWORD" in note, "PGFERRY_APPLICATION_PASSWORD" in note) for note in again.notes] == [
        (False, True),
        (True, False),
    ]
    assert site.target.password is None
    async with connection(before) as conn:
        assert await conn.fetchval("SELECT 1") == 1


@pytest.mark.parametrize("left", [1, 4, 6])
async def test_what_an_interrupted_call_has_left_out_is_made_up_for(
    site: Site, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks at the n-th change: what was made is kept, the next call makes the rest."""
    changes = 0
    execute = asyncpg.Connection.execute

    async def breaking(self: Connection, query: str, *args: object, **kwargs: Any) -> str:
        nonlocal changes
        if query.startswith(("CREATE", "GRANT", "ALTER")):
            changes += 1
            if changes == left:
                raise ConnectionResetError("the network is gone")
        return await execute(self, query, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(asyncpg.Connection, "execute", breaking)
        with pytest.raises(Exception, match="the network is gone"):
            await site.provision()
    kept = site.env_file.read_text()
    finished = await site.provision()
    assert len(finished.done) == 9 - left
    assert site.env_file.read_text() == kept
    assert (await site.provision()).done == ()


async def test_two_at_once_take_turns(site: Site) -> None:
    both = await asyncio.gather(site.provision(), site.provision())
    assert sorted(len(made.done) for made in both) == [0, 9]


# ---------------------------------------------------------------- an administrator with few rights


async def test_an_administrator_needs_not_be_a_superuser(site: Site) -> None:
    dba = f"dba_{site.mark}"
    async with connection(site.admin) as admin:
        if admin.get_server_version().major < 15:
            pytest.skip("before PostgreSQL 15 schema public is the bootstrap superuser's")
        await admin.execute(f"CREATE ROLE {dba} LOGIN CREATEDB CREATEROLE PASSWORD 'x-{site.mark}'")
    admin_url = site.admin.set(username=dba, password=f"x-{site.mark}").render_as_string(hide_password=False)
    assert len((await site.provision(admin_url=admin_url)).done) == 9
    assert (await site.provision(admin_url=admin_url)).done == ()
    async with connection(site.application) as conn:
        await conn.execute("CREATE TABLE things (id integer PRIMARY KEY)")
    async with connection(site.admin) as admin:
        member = "SELECT pg_has_role($1::name, $2::name, 'USAGE')"
        assert not await admin.fetchval(member, dba, site.settings().application_role)


async def test_an_administrator_who_may_not_make_roles_is_told(site: Site) -> None:
    dba = f"dba_{site.mark}"
    async with connection(site.admin) as admin:
        await admin.execute(f"CREATE ROLE {dba} LOGIN CREATEDB PASSWORD 'x-{site.mark}'")
    admin_url = site.admin.set(username=dba, password=f"x-{site.mark}").render_as_string(hide_password=False)
    with pytest.raises(Permanent, match="may not make databases and roles") as caught:
        await site.provision(admin_url=admin_url)
    assert "CREATEDB CREATEROLE" in caught.value.action
    assert not site.env_file.exists()


# ---------------------------------------------------------------- what belongs to others


async def test_a_superuser_is_no_role_for_an_application(site: Site) -> None:
    async with connection(site.admin) as admin:
        await admin.execute(f"CREATE ROLE dba_{site.mark} SUPERUSER LOGIN")
    with pytest.raises(Permanent, match="is a superuser"):
        await site.provision(application_role=f"dba_{site.mark}")


async def test_a_database_of_another_encoding_or_application_is_refused(site: Site) -> None:
    name, dba = site.settings().provision_database, f"dba_{site.mark}"
    async with connection(site.admin) as admin:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
        with pytest.raises(Permanent, match="has encoding SQL_ASCII, not UTF8"):
            await site.provision()
        await admin.execute(f"DROP DATABASE {name}")
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        await admin.execute(f"CREATE ROLE {dba} LOGIN")
    async with connection(site.admin, database=name) as inside:
        await inside.execute(f"ALTER SCHEMA public OWNER TO {dba}")
    with pytest.raises(Permanent, match=f"belongs to the role {dba}: another application's"):
        await site.provision()


@pytest.mark.parametrize(
    "names",
    [
        {"application_role": "same", "ferry_role": "same"},
        {"application_role": "pg_mine"},
        {"ferry_role": "x" * 64},
        {"provision_database": "template1"},
        {"provision_database": ""},
    ],
)
async def test_names_that_cannot_be_are_refused_before_anything_is_made(site: Site, names: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="PGFERRY_APPLICATION_ROLE"):
        await site.provision(**names)
    assert not site.env_file.exists()


async def test_without_an_administrator_nothing_is_tried(site: Site) -> None:
    settings = site.settings().model_copy(update={"admin_url": None})
    with pytest.raises(UsageError, match="PGFERRY_ADMIN_URL"):
        await provision(settings, site.env_file)


async def test_a_file_with_other_lines_is_left_alone(site: Site) -> None:
    site.env_file.write_text("DATABASE_URL=sqlite:///app.db\n")
    with pytest.raises(UsageError, match="holds other lines"):
        await site.provision()
    assert site.env_file.read_text() == "DATABASE_URL=sqlite:///app.db\n"


@pytest.mark.parametrize("password", ["grün", "", "two\nlines"])
async def test_a_password_that_cannot_be_sent_as_it_is_is_refused(site: Site, password: str) -> None:
    with pytest.raises(UsageError, match="printable ASCII") as caught:
        await site.provision(ferry_password=password)
    assert not password or password not in str(caught.value)


def test_a_file_that_others_may_read_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "provision.env"
    urls = {"A": make_url("postgresql://u:p@h/d")}
    assert keep(path, urls)
    path.chmod(0o644)
    assert keep(path, urls)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not keep(path, urls)


# ---------------------------------------------------------------- a move with these roles


async def migrated(site: Site, *statements: str) -> None:
    """Let pgferry's role run the application's migrations, as `migrate` does."""
    await site.provision()
    await upgrade(site.target, alembic_project(site.folder / f"project-{len(statements)}", *statements))


async def test_what_pgferrys_migrations_make_is_the_applications(site: Site) -> None:
    await migrated(site, *POSTGRES, "CREATE VIEW held AS SELECT id FROM accounts", "CREATE SEQUENCE numbers")
    async with connection(site.application) as conn:
        foreign = await conn.fetchval(
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relowner <> $1::regrole",
            quote(str(site.application.username)),
        )
        assert foreign == 0
        await conn.execute("ALTER TYPE account_tier ADD VALUE 'MORE'")
        await conn.execute("ALTER TABLE accounts ADD COLUMN more text")
        assert await conn.fetchval("SELECT count(*) FROM alembic_version") == 1


async def test_a_whole_move_runs_by_the_provisioned_role(site: Site) -> None:
    create_sqlite(site.folder / "app.db")
    await migrated(site, *POSTGRES)
    conn = await connect(site.target)
    try:
        mover = Mover(conn, site.target, site.folder / "app.db", site.folder / "home")
        report = await mover.run()
    finally:
        await conn.close()
    assert report.verified
    assert equal(site.folder / "app.db", site.application) == []


@dataclass
class ProvisionedMove(LiveMove):
    """A live move whose application gets a URL of its own at the switch."""

    application: str = ""

    @property
    def settings(self) -> Settings:
        return load_settings(
            home=self.home,
            application_env=self.env_file,
            application_url=self.application,
            chunk_rows=self.chunk_rows,
        )


async def test_a_live_move_runs_by_the_provisioned_role_and_the_application_writes_by_its_own(site: Site) -> None:
    source = site.folder / "app.db"
    create_sqlite(source)
    await migrated(site, *POSTGRES)
    application = site.application.render_as_string(hide_password=False)
    move = ProvisionedMove(site.target, source, site.folder / "home", application=application)
    await move.dual_write()
    async with connection(site.application) as conn:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError, match="SQLite is in front"):
            await conn.execute("INSERT INTO clubs VALUES ('early', '')")
    await move.switch()
    assert make_url(str(dotenv_values(move.env_file)["DATABASE_URL"])).username == site.application.username
    async with connection(site.application) as conn:
        await conn.execute("INSERT INTO clubs VALUES ('late', 'by the application')")
        await conn.execute("INSERT INTO nodes (title) VALUES ('a node')")
        await conn.execute("DELETE FROM memberships WHERE club = (SELECT min(club) FROM memberships)")
        assert await refused(conn, "DELETE FROM pgferry.outbox_1")
    assert await move.sync_back() > 0
    assert (await move.validate()).passed
    assert equal(source, site.target) == []
    await move.roll_back()
    assert (await move.validate()).passed
    await move.switch()
    async with connection(site.application) as conn:
        await conn.execute("TRUNCATE memberships")
    await move.sync_back()
    assert equal(source, site.target) == []
    await move.clean_up()
    async with connection(site.application) as conn:
        await conn.execute("INSERT INTO clubs VALUES ('after', 'cleanup')")


async def test_nothing_is_handed_over_where_nobody_meant_that(site: Site, connection: Connection) -> None:
    """A superuser's own tables stay the superuser's, in whoever's schema they are."""
    role = f"dba_{site.mark}"
    database = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD {literal(site.mark)}")
    try:
        await connection.execute(f"ALTER SCHEMA public OWNER TO {role}")
        await upgrade(
            site.admin.set(database=database), alembic_project(site.folder / "p", "CREATE TABLE mine (id integer)")
        )
        owner = "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'mine'"
        assert await connection.fetchval(owner) == await connection.fetchval("SELECT current_user")
    finally:
        await connection.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
