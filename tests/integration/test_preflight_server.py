"""The checks of the server and of the role's rights are provoked: to pass, to warn, to fail."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from sqlalchemy.engine import URL

from pgferry.operate import server_checks, target_checks
from pgferry.operate.check import Check, Verdict
from pgferry.postgres.connection import Connection
from pgferry.postgres.embedded import EmbeddedServer
from pgferry.quoting import quote
from pgferry.settings import Settings, load_settings
from tests.integration.checklist import (
    FAIL,
    PASS,
    RULES,
    WARN,
    durable,
    reached,
    role,
    settings,
    source,
    target,
    verdict,
)
from tests.pooler import pooler

__all__ = ["durable", "settings", "source", "target"]


# ---------------------------------------------------------------- the server


async def test_a_server_that_takes_writes_passes_and_a_read_only_one_fails(
    connection: Connection, database_url: URL
) -> None:
    found = await server_checks.check_server(connection)
    assert verdict(found) is PASS
    assert f"database {database_url.database}" in found.measured
    await connection.execute(f"ALTER DATABASE {database_url.database} SET default_transaction_read_only = on")
    async with reached(database_url) as second:
        assert verdict(await server_checks.check_server(second)) is FAIL


async def test_only_utf8_holds_every_text(connection: Connection, server_url: URL) -> None:
    assert verdict(await server_checks.check_encoding(connection)) is PASS
    name = f"pgferry_test_{uuid4().hex[:12]}"
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    try:
        async with reached(server_url.set(database=name)) as other:
            found = await server_checks.check_encoding(other)
        assert (verdict(found), found.measured) == (FAIL, "SQL_ASCII")
    finally:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_connections_are_held_against_the_pools(
    connection: Connection, database_url: URL, settings: Settings
) -> None:
    row = await connection.fetchrow(server_checks.SQL["connections"])
    assert row is not None
    ours = 2 * settings.parallelism + server_checks.BESIDES

    async def judged(size: int) -> Verdict:
        given = settings.model_copy(update={"pool_size": size, "pool_overflow": 0})
        return verdict(await server_checks.check_connections(connection, given))

    assert await judged(1) is PASS
    async with reached(database_url):
        assert await judged(row["places"] - ours) is WARN
    assert await judged(row["places"] - ours + 1) is FAIL
    await connection.execute(f"ALTER DATABASE {database_url.database} CONNECTION LIMIT {ours}")
    assert await judged(1) is FAIL


async def test_a_pooler_is_told_by_the_process_that_answers(
    connection: Connection, database_url: URL, settings: Settings
) -> None:
    assert verdict(await server_checks.check_pooler(connection, settings)) is PASS
    async with pooler(database_url, resets=False) as url, reached(url) as pooled:
        found = await server_checks.check_pooler(pooled, settings)
    assert verdict(found) is WARN
    assert "max_prepared_statements" in found.advice


async def test_a_pooler_that_forgets_prepared_statements_fails(database_url: URL, settings: Settings) -> None:
    async with pooler(database_url, resets=True) as url:
        async with reached(url) as pooled:
            found = await server_checks.check_pooler(pooled, settings)
        assert verdict(found) is FAIL
        assert "prepared statements fail" in found.measured
        async with reached(url.update_query_dict({"statement_cache_size": "0"})) as plain:
            assert verdict(await server_checks.check_pooler(plain, settings)) is WARN


async def test_checkpoints_and_durability(connection: Connection, durable: EmbeddedServer) -> None:
    if await connection.fetchval("SHOW max_wal_size") == "4GB":
        assert verdict(await server_checks.check_checkpoints(connection)) is PASS
    if await connection.fetchval("SHOW fsync") == "off":
        found = await server_checks.check_durability(connection)
        assert verdict(found) is WARN
        assert "fsync" in found.advice
    async with reached(durable.url()) as other:
        assert verdict(await server_checks.check_checkpoints(other)) is WARN
        assert verdict(await server_checks.check_durability(other)) is PASS
        await other.execute("SET synchronous_commit = off")
        assert verdict(await server_checks.check_durability(other)) is WARN


async def test_backups_are_archived_or_declared(
    connection: Connection, durable: EmbeddedServer, settings: Settings
) -> None:
    if await connection.fetchval("SHOW archive_mode") == "off":
        assert verdict(await server_checks.check_backups(connection, settings)) is WARN
    declared = settings.model_copy(update={"backup_tool": "pgBackRest to a bucket"})
    assert verdict(await server_checks.check_backups(connection, declared)) is PASS
    async with reached(durable.url()) as other:
        assert verdict(await server_checks.check_backups(other, settings)) is PASS


async def test_pg_stat_statements(connection: Connection) -> None:
    found = await server_checks.check_statistics(connection)
    assert (verdict(found), found.measured) == (WARN, "not installed in this database")
    if await connection.fetchval("SELECT 1 FROM pg_available_extensions WHERE name = 'pg_stat_statements'"):
        await connection.execute("CREATE SCHEMA s; CREATE EXTENSION pg_stat_statements SCHEMA s")
        loaded = "pg_stat_statements" in await connection.fetchval("SHOW shared_preload_libraries")
        assert verdict(await server_checks.check_statistics(connection)) is (PASS if loaded else WARN)


# ---------------------------------------------------------------- rights


async def test_rights_to_make_schema_pgferry_and_tables(connection: Connection) -> None:
    assert verdict(await target_checks.check_ledger_right(connection)) is PASS
    assert verdict(await target_checks.check_schema_right(connection, RULES)) is PASS
    async with role(connection) as name:
        found = await target_checks.check_ledger_right(connection)
        assert verdict(found) is FAIL
        assert found.advice.endswith(f'TO "{name}";')
        if connection.get_server_version().major >= 15:
            assert verdict(await target_checks.check_schema_right(connection, RULES)) is FAIL
        await connection.execute(
            "RESET ROLE;"
            f" GRANT CREATE ON DATABASE {await connection.fetchval('SELECT current_database()')} TO {name};"
            f" GRANT CREATE ON SCHEMA public TO {name}; SET ROLE {name}; CREATE SCHEMA pgferry"
        )
        assert verdict(await target_checks.check_ledger_right(connection)) is PASS
        assert verdict(await target_checks.check_schema_right(connection, RULES)) is PASS


async def test_rights_to_alter_tables_need_the_owner(target: Connection, source: Path) -> None:
    paired = await target_checks.pair(target, source, RULES)
    assert verdict(await target_checks.check_table_rights(target, paired)) is PASS
    async with role(target):
        found = await target_checks.check_table_rights(target, paired)
    assert verdict(found) is FAIL
    assert "public.children (of " in found.measured


async def test_the_applications_url_must_lead_to_the_target(
    target: Connection, database_url: URL, source: Path, settings: Settings
) -> None:
    paired = await target_checks.pair(target, source, RULES)

    async def judged(url: URL | None) -> Check:
        text = None if url is None else url.render_as_string(hide_password=False)
        given = load_settings(home=settings.home, application_url=text)
        return await target_checks.check_application_url(target, paired, given)

    assert verdict(await judged(None)) is PASS
    assert verdict(await judged(database_url)) is PASS
    other = await judged(database_url.set(database="postgres"))
    assert (verdict(other), "is another database" in other.measured) == (FAIL, True)
    async with role(target, "LOGIN PASSWORD 'zx81secret'") as name:
        poor = database_url.set(username=name, password="zx81secret")
        found = await judged(poor)
        assert (verdict(found), found.measured) == (
            FAIL,
            f"{name} may not read and write public.children, public.parents",
        )
        await target.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {quote(name)}")
        found = await judged(poor)
        assert (verdict(found), "zx81secret" in str(found)) == (PASS, False)
        wrong = await judged(poor.set(password="wrong81"))
        assert (verdict(wrong), "wrong81" in str(wrong)) == (FAIL, False)
