"""This project's own revisions: up and down, on a server and as SQL."""

from __future__ import annotations

import asyncio

import pytest
from alembic import command
from sqlalchemy.engine import URL

from pgferry.postgres.connection import connect
from pgferry.postgres.embedded import EmbeddedServer
from pgferry.postgres.schema import SchemaState, current, head, upgrade
from tests.integration.alembic_runs import (
    OURS,
    PROJECT,
    Connected,
    MakeDatabase,
    alembic,
    objects,
    run_alembic,
)

# ---------------------------------------------------------------- this project's revisions


async def test_upgrade_makes_the_schema_and_says_so(database_url: URL, connection: Connected) -> None:
    assert await current(database_url, OURS) == ()
    assert await objects(connection) == []
    assert await upgrade(database_url, OURS) == SchemaState((), ("0002",), OURS)
    assert await current(database_url, OURS) == ("0002",)
    assert head(OURS) == "0002"
    made = await objects(connection)
    assert {"items", "trades", "watchlist", "item_category", "trade_kind", "ix_trades_item_id"} <= set(made)
    assert (
        await connection.fetchval('SELECT pg_typeof("limit") FROM items RIGHT JOIN (SELECT 1) one ON true') == "integer"
    )


async def test_second_upgrade_changes_nothing(database_url: URL, connection: Connected) -> None:
    await upgrade(database_url, OURS, revision="0001")
    assert "ix_trades_item_id" not in await objects(connection)
    assert await upgrade(database_url, OURS) == SchemaState(("0001",), ("0002",), OURS)
    before = await objects(connection)
    assert await upgrade(database_url, OURS) == SchemaState(("0002",), ("0002",), OURS)
    assert await objects(connection) == before


async def test_downgrade_leaves_nothing_and_upgrade_works_again(database_url: URL, connection: Connected) -> None:
    await upgrade(database_url, OURS)
    await alembic(database_url, lambda config: command.downgrade(config, "base"))
    assert await objects(connection) == ["alembic_version", "alembic_version_pkc"]
    assert (await upgrade(database_url, OURS)).after == ("0002",)


async def test_models_and_migrations_are_equal(database_url: URL, connection: Connected) -> None:
    await upgrade(database_url, OURS)
    await alembic(database_url, command.check)
    await connection.execute("DROP INDEX ix_items_name")
    with pytest.raises(Exception, match="ix_items_name"):
        await alembic(database_url, command.check)


def test_offline_mode_writes_sql_without_a_server() -> None:
    written = run_alembic("upgrade", "head", "--sql", PGFERRY_TARGET="postgresql://nobody:pw@127.0.0.1:1/none")
    assert written.returncode == 0, written.stderr
    for statement in ("CREATE TYPE trade_kind", "CREATE TABLE trades", '"limit" INTEGER', "CREATE INDEX ix_items_name"):
        assert statement in written.stdout
    back = run_alembic("downgrade", "head:base", "--sql")
    assert "DROP TYPE trade_kind" in back.stdout, back.stderr


async def test_the_sql_makes_the_same_schema(make_database: MakeDatabase) -> None:
    by_sql, by_upgrade = await make_database(), await make_database()
    await upgrade(by_upgrade, OURS)
    written = await asyncio.to_thread(run_alembic, "upgrade", "head", "--sql")
    one, other = await connect(by_sql), await connect(by_upgrade)
    try:
        await one.execute(written.stdout)
        assert await objects(one) == await objects(other)
    finally:
        await one.close()
        await other.close()


async def test_the_command_line_takes_the_target_from_the_settings(database_url: URL) -> None:
    target = database_url.render_as_string(hide_password=False)
    done = await asyncio.to_thread(run_alembic, "upgrade", "head", PGFERRY_TARGET=target)
    assert done.returncode == 0, done.stderr
    assert await current(database_url, OURS) == ("0002",)
    checked = await asyncio.to_thread(run_alembic, "check", PGFERRY_TARGET=target)
    assert checked.returncode == 0, checked.stderr


async def test_without_a_target_the_embedded_server_is_taken(server: EmbeddedServer) -> None:
    home = {"PGFERRY_HOME": str(server.data.parent.parent)}
    done = await asyncio.to_thread(run_alembic, "current", "--verbose", **home)
    assert done.returncode == 0, done.stderr
    assert f"127.0.0.1:{server.port}/pgferry" in done.stdout
    assert server.password not in done.stdout + done.stderr


def test_the_configuration_holds_no_url_and_the_folder_is_no_package() -> None:
    assert "sqlalchemy.url" not in OURS.read_text("utf-8")
    assert not (PROJECT / "alembic" / "__init__.py").exists()
