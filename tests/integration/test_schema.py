"""The target's schema is made by Alembic: this project's own revisions, and applications' in their usual forms."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from textwrap import dedent

import pytest
from sqlalchemy.engine import URL

from pgferry.errors import Permanent, Transient, UsageError
from pgferry.postgres import schema
from pgferry.postgres.connection import connect
from pgferry.postgres.environment import read_config
from pgferry.postgres.schema import SchemaState, current, head, upgrade
from tests.integration.alembic_runs import (
    OURS,
    PROJECT,
    Connected,
    MakeDatabase,
    objects,
)

# ---------------------------------------------------------------- applications' own environments

SYNC = """
from logging.config import fileConfig
from alembic import context
from sqlalchemy import engine_from_config, pool

config = context.config
if config.config_file_name is not None:
    fileConfig(config.config_file_name)
engine = engine_from_config(config.get_section(config.config_ini_section, {}), "sqlalchemy.", poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=None)
    with context.begin_transaction():
        context.run_migrations()
"""

ASYNC = """
import asyncio
from logging.config import fileConfig
from alembic import context
from sqlalchemy import pool
from sqlalchemy.ext.asyncio import async_engine_from_config

config = context.config
fileConfig(config.config_file_name)

def do_run_migrations(connection):
    context.configure(connection=connection, target_metadata=None)
    with context.begin_transaction():
        context.run_migrations()

async def run_async_migrations():
    options = config.get_section(config.config_ini_section, {})
    engine = async_engine_from_config(options, prefix="sqlalchemy.", poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(do_run_migrations)
    await engine.dispose()

asyncio.run(run_async_migrations())
"""

HANDED = """
from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=None)
with context.begin_transaction():
    context.run_migrations()
"""

# The application still runs on SQLite, and its env.py follows the application's settings.
OWN_SETTINGS = ASYNC.replace("options = ", 'config.set_main_option("sqlalchemy.url", "{live}")\n    options = ')
OWN_SETTINGS_SYNC = SYNC.replace("engine = ", 'config.set_main_option("sqlalchemy.url", "{live}")\nengine = ')

FIRST = """
revision = "a1"
down_revision = None

def upgrade():
    op.create_table("notes", sa.Column("id", sa.Integer(), primary_key=True), sa.Column("text", sa.Text()))

def downgrade():
    op.drop_table("notes")
"""


class Application:
    """A folder with an alembic.ini, an env.py and revisions."""

    def __init__(self, folder: Path, env: str) -> None:
        self.folder = folder
        self.versions = folder / "migrations" / "versions"
        self.versions.mkdir(parents=True)
        self.live = folder / "live.db"
        self.ini = folder / "alembic.ini"
        self.write_ini("script_location = migrations\nprepend_sys_path = .\npath_separator = os\n")
        self.env(env)
        self.revision("a1", FIRST)

    def write_ini(self, options: str) -> None:
        log = (PROJECT / "alembic.ini").read_text("utf-8").split("[loggers]")[1]
        self.ini.write_text(f"[alembic]\n{options}\n[loggers]{log}", "utf-8")

    def env(self, source: str) -> None:
        (self.folder / "migrations" / "env.py").write_text(source, "utf-8")

    def revision(self, name: str, body: str) -> None:
        head = f'"""Revision {name}."""\nimport sqlalchemy as sa\nfrom alembic import op\n'
        (self.versions / f"{name}.py").write_text(head + dedent(body), "utf-8")


def follow_up(name: str, after: str, body: str) -> str:
    return (
        f'revision = "{name}"\ndown_revision = "{after}"\n\ndef upgrade():\n    {body}\n\ndef downgrade():\n    pass\n'
    )


@pytest.fixture
def application(tmp_path: Path) -> Application:
    return Application(tmp_path / "app", HANDED)


@pytest.mark.parametrize("env", [SYNC, ASYNC, HANDED], ids=["sync", "async", "handed"])
async def test_usual_environments_work_as_they_are(
    database_url: URL, connection: Connected, tmp_path: Path, env: str
) -> None:
    application = Application(tmp_path / "app", env)
    assert await upgrade(database_url, application.ini) == SchemaState((), ("a1",), application.ini)
    assert await current(database_url, application.ini) == ("a1",)
    assert "notes" in await objects(connection)
    application.revision("a2", follow_up("a2", "a1", 'op.add_column("notes", sa.Column("more", sa.Text()))'))
    assert (await upgrade(database_url, application.ini)).after == ("a2",)


@pytest.mark.parametrize(
    ("env", "driver"),
    [(OWN_SETTINGS, "sqlite+aiosqlite"), (OWN_SETTINGS_SYNC, "sqlite")],
    ids=["async", "sync"],
)
async def test_settings_of_the_application_cannot_lead_the_migrations_to_the_live_file(
    database_url: URL, connection: Connected, tmp_path: Path, env: str, driver: str
) -> None:
    application = Application(tmp_path / "app", "")
    with closing(sqlite3.connect(application.live)) as live:
        live.execute("CREATE TABLE mine (id INTEGER)")
    application.env(env.replace("{live}", f"{driver}:///{application.live}"))
    untouched = application.live.read_bytes()
    assert (await upgrade(database_url, application.ini)).after == ("a1",)
    assert "notes" in await objects(connection)
    assert application.live.read_bytes() == untouched


async def test_a_version_table_of_its_own_is_found(database_url: URL, application: Application) -> None:
    application.env(HANDED.replace("target_metadata=None", 'version_table="revisions"'))
    await upgrade(database_url, application.ini)
    assert await current(database_url, application.ini) == ("a1",)
    assert (await upgrade(database_url, application.ini)).before == ("a1",)


async def test_index_built_concurrently_in_an_autocommit_block(database_url: URL, application: Application) -> None:
    body = (
        "with op.get_context().autocommit_block():\n"
        '        op.create_index("ix", "notes", ["text"], postgresql_concurrently=True)'
    )
    application.revision("a2", follow_up("a2", "a1", body))
    first, second = await asyncio.gather(upgrade(database_url, application.ini), upgrade(database_url, application.ini))
    assert {first.before, second.before} == {(), ("a2",)}
    assert first.after == second.after == ("a2",)


async def test_paths_count_from_the_ini_file(
    database_url: URL, application: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (application.folder / "their_settings_module.py").write_text("TABLE = 'revisions'\n", "utf-8")
    application.env("import their_settings_module\n" + HANDED)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    before = list(sys.path)
    assert (await upgrade(database_url, application.ini)).after == ("a1",)
    assert sys.path == before
    assert head(Path("..") / "app" / "alembic.ini") == "a1"


def test_pyproject_can_be_the_configuration(application: Application) -> None:
    pyproject = application.folder / "pyproject.toml"
    pyproject.write_text('[tool.alembic]\nscript_location = "%(here)s/migrations"\n', "utf-8")
    assert head(pyproject) == "a1"


@pytest.mark.parametrize("env", [SYNC, ASYNC], ids=["sync", "async"])
async def test_logging_of_the_process_stays(database_url: URL, tmp_path: Path, env: str) -> None:
    application = Application(tmp_path / "app", env)
    logger = logging.getLogger("someone.else")
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    await upgrade(database_url, application.ini)
    assert not logger.disabled
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger().level == level
    assert logging.config.fileConfig.__module__ == "logging.config"


async def test_password_with_percent_and_at_signs(make_database: MakeDatabase, tmp_path: Path) -> None:
    url, secret = await make_database(), "p%40 s@/:w%d"
    admin = await connect(url)
    role = f"role_{url.database}"
    await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{secret}'")
    await admin.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    try:
        mine = url.set(username=role, password=secret)
        assert (await upgrade(mine, Application(tmp_path / "app", ASYNC).ini)).after == ("a1",)
        shown = Application(tmp_path / "leaky", HANDED)
        shown.env('from alembic import context\nraise ValueError(context.config.get_main_option("sqlalchemy.url"))')
        with pytest.raises(Permanent) as caught:
            await upgrade(mine, shown.ini)
        assert "ValueError" in str(caught.value)
        assert secret not in str(caught.value)
        assert mine.render_as_string(hide_password=False).split(":", 2)[2].split("@")[0] not in str(caught.value)
    finally:
        await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await admin.close()


async def test_target_with_options_in_its_url(database_url: URL, tmp_path: Path) -> None:
    url = database_url.update_query_dict({"sslmode": "disable", "application_name": "mine"})
    for name, env in (("sync", SYNC), ("async", ASYNC), ("handed", HANDED)):
        assert (await upgrade(url, Application(tmp_path / name, env).ini)).after == ("a1",)


# ---------------------------------------------------------------- what is refused, and what fails


async def test_several_heads_are_refused_by_name(
    database_url: URL, connection: Connected, application: Application
) -> None:
    application.revision("b1", follow_up("b1", "a1", "pass"))
    application.revision("b2", follow_up("b2", "a1", "pass"))
    with pytest.raises(Permanent, match=r"2 heads: b1, b2\. .*alembic merge heads"):
        await upgrade(database_url, application.ini)
    with pytest.raises(Permanent, match="2 heads"):
        head(application.ini)
    assert await objects(connection) == []


async def test_no_revision_at_all_is_refused(database_url: URL, application: Application) -> None:
    (application.versions / "a1.py").unlink()
    with pytest.raises(Permanent, match="hold no revision"):
        await upgrade(database_url, application.ini)


async def test_missing_configuration_is_refused(database_url: URL, application: Application) -> None:
    with pytest.raises(UsageError, match=r"no Alembic configuration .*nowhere\.ini"):
        await upgrade(database_url, application.folder / "nowhere.ini")
    application.write_ini("script_location = nowhere\n")
    with pytest.raises(UsageError, match=r"nowhere, which hold no env\.py"):
        await upgrade(database_url, application.ini)
    application.ini.write_text("no ini at all", "utf-8")
    with pytest.raises(UsageError, match="is no Alembic configuration"):
        await upgrade(database_url, application.ini)
    application.ini.write_text("[other]\n", "utf-8")
    with pytest.raises(UsageError, match="script_location"):
        await upgrade(database_url, application.ini)


async def test_unknown_revision_asked_for(database_url: URL, connection: Connected, application: Application) -> None:
    with pytest.raises(UsageError, match="zz"):
        await upgrade(database_url, application.ini, revision="zz")
    assert await objects(connection) in ([], ["alembic_version", "alembic_version_pkc"])


async def test_database_at_a_foreign_revision(
    database_url: URL, connection: Connected, application: Application
) -> None:
    await upgrade(database_url, OURS)
    before = await objects(connection)
    with pytest.raises(Permanent, match=r"at revision 0002, which the migrations of .* do not know"):
        await upgrade(database_url, application.ini)
    assert await objects(connection) == before
    assert await current(database_url, application.ini) == ("0002",)


@pytest.mark.parametrize("env", [SYNC, ASYNC, HANDED], ids=["sync", "async", "handed"])
async def test_failing_migration_leaves_the_database_as_it_was(
    database_url: URL, connection: Connected, tmp_path: Path, env: str
) -> None:
    application = Application(tmp_path / "app", env)
    await upgrade(database_url, application.ini)
    before = await objects(connection)
    body = 'op.create_table("half", sa.Column("id", sa.Integer()))\n    op.execute("ALTER TABLE nowhere ADD x int")'
    application.revision("a2", follow_up("a2", "a1", body))
    with pytest.raises(Permanent, match=r"Revision a2 \(Revision a2\.\) failed .*\"nowhere\" does not exist") as caught:
        await upgrade(database_url, application.ini)
    assert "The target is at revision a1." in str(caught.value)
    assert await objects(connection) == before
    application.revision("a2", follow_up("a2", "a1", "pass"))
    assert (await upgrade(database_url, application.ini)).after == ("a2",)


async def test_first_error_is_shown_not_the_aborted_transaction(database_url: URL, application: Application) -> None:
    body = (
        'try:\n        op.execute("SELECT missing_function()")\n    except Exception:\n        pass\n'
        '    op.execute("SELECT 1")'
    )
    application.revision("a2", follow_up("a2", "a1", body))
    with pytest.raises(Permanent, match=r"Revision a2 .* function missing_function\(\) does not exist"):
        await upgrade(database_url, application.ini)
    assert await current(database_url, application.ini) == ()


async def test_migration_with_a_python_error_is_named(database_url: URL, application: Application) -> None:
    application.revision("a2", follow_up("a2", "a1", 'raise KeyError("colour")'))
    with pytest.raises(Permanent, match=r"Revision a2 .*KeyError: 'colour'"):
        await upgrade(database_url, application.ini)


async def test_broken_revision_file_is_named(database_url: URL, application: Application) -> None:
    (application.versions / "a2.py").write_text("revision = (", "utf-8")
    with pytest.raises(Permanent, match=r"cannot be read: SyntaxError.*a2\.py"):
        await upgrade(database_url, application.ini)


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ("import no_such_driver", "No module named 'no_such_driver'.*config.attributes"),
        ("raise SystemExit('DATABASE_URL is not set')", "DATABASE_URL is not set"),
        ("", "ended without running any migration"),
        (HANDED.replace("    context.run_migrations()", "    pass"), "ended without running any migration"),
        (HANDED.replace("with context.begin_transaction():", "if True:"), r"is at revision \(none\), not a1"),
    ],
    ids=["import", "exit", "empty", "no-run", "no-transaction"],
)
async def test_environment_that_does_not_do_its_work(
    database_url: URL, connection: Connected, application: Application, env: str, says: str
) -> None:
    application.env(env)
    with pytest.raises(Permanent, match=says):
        await upgrade(database_url, application.ini)
    assert "notes" not in await objects(connection)


async def test_environment_of_several_databases_is_refused(database_url: URL, application: Application) -> None:
    application.env(
        "from alembic import context\nfrom sqlalchemy import create_engine, pool\n"
        "for name in ('one', 'two'):\n"
        f"    engine = create_engine(f'sqlite:///{application.folder}/{{name}}.db', poolclass=pool.NullPool)\n"
        "    with engine.connect() as connection:\n"
        "        context.configure(connection=connection)\n"
        "        with context.begin_transaction():\n"
        "            context.run_migrations()\n"
    )
    with pytest.raises(Permanent, match="more than one database"):
        await upgrade(database_url, application.ini)


async def test_upgrades_wait_for_each_other_and_say_so_in_the_end(
    database_url: URL, connection: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "WAIT_SECONDS", 0.5)
    await connection.execute("SELECT pg_advisory_lock($1, $2)", *schema._LOCK)
    with pytest.raises(Transient, match="Another upgrade"):
        await upgrade(database_url, OURS)
    await connection.execute("SELECT pg_advisory_unlock_all()")
    assert (await upgrade(database_url, OURS)).after == ("0002",)


async def test_upgrades_of_several_databases_and_environments_at_once(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    urls = [await make_database() for _ in range(3)]
    configs = [Application(tmp_path / "one", SYNC).ini, Application(tmp_path / "two", ASYNC).ini, OURS]
    states = await asyncio.gather(*(upgrade(url, config) for url, config in zip(urls, configs, strict=True)))
    assert [state.after for state in states] == [("a1",), ("a1",), ("0002",)]


async def test_server_that_is_not_there(database_url: URL) -> None:
    with pytest.raises(Transient):
        await upgrade(database_url.set(host="127.0.0.1", port=1), OURS)
    with pytest.raises(Transient, match=r"127\.0\.0\.1"):
        await current(database_url.set(host="127.0.0.1", port=1), OURS)
    with pytest.raises(Permanent, match="no_such_database"):
        await upgrade(database_url.set(database="no_such_database"), OURS)


async def test_user_who_may_not_make_tables(make_database: MakeDatabase) -> None:
    url = await make_database()
    admin = await connect(url)
    role = f"role_{url.database}"
    await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'pw'; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    try:
        with pytest.raises(Permanent, match="permission denied for schema public") as caught:
            await upgrade(url.set(username=role, password="pw"), OURS)
        assert role in str(caught.value)
        assert await objects(admin) == []
    finally:
        await admin.execute(f"DROP ROLE {role}")
        await admin.close()


def test_reading_a_configuration_keeps_percent_signs(tmp_path: Path) -> None:
    application = Application(tmp_path / "100%", HANDED)
    config = read_config(application.ini)
    assert config.get_main_option("script_location") == str(application.folder / "migrations")
    assert head(application.ini) == "a1"
