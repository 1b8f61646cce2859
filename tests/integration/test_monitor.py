"""The monitor: what is wrong with a server is measured, judged, kept and drawn; what cannot be measured is said."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.operate.monitor import keep_look, look, watch
from pgferry.operate.monitor_page import DRAWN, SPAN, charts, page
from pgferry.operate.watched import Look, without_literals
from pgferry.postgres import ledger
from pgferry.postgres.connection import connect, connection
from pgferry.postgres.embedded import EmbeddedServer, create_database
from pgferry.postgres.metrics import read_before, read_series
from pgferry.settings import Settings, load_settings
from tests.live import LiveMove
from tests.servers import own_server

Conn = asyncpg.Connection


async def kept(conn: Conn, **settings: float) -> Look:
    found = await look(conn, load_settings(**settings), "here:1")
    assert await keep_look(conn, found, load_settings(**settings)) == ""
    return found


def breached(found: Look) -> dict[str, str]:
    return {breach.name: breach.sentence for breach in found.breaches}


def rows(found: Look, key: str) -> list[dict[str, object]]:
    return next((listing.records() for listing in found.listings if listing.key == key), [])


@asynccontextmanager
async def several(url: URL, count: int) -> AsyncIterator[list[Conn]]:
    opened = [await connect(url, application_name=f"app {n}") for n in range(count)]
    try:
        yield opened
    finally:
        for each in opened:
            each.terminate()


async def until(conn: Conn, condition: str) -> None:
    for _ in range(200):
        await conn.execute("SELECT pg_stat_clear_snapshot()")
        if await conn.fetchval(condition):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(condition)


# ---------------------------------------------------------------- a fresh database


async def test_a_database_without_a_move_is_watched_and_the_numbers_are_kept(connection: Conn) -> None:
    found = await kept(connection)
    assert found.breaches == ()
    assert await connection.fetchval("SELECT count(*) FROM pgferry.metric") == len(found.metrics) > 10
    assert (found.value("connections_used"), found.value("lag_rows")) != (None, 0)
    assert found.value("connections_limit") == int(await connection.fetchval("SHOW max_connections"))
    assert json.loads(json.dumps(found.to_json()))["tables"].keys() == {"connections"}
    assert await ledger.history(connection) == ()


async def test_a_role_that_may_not_make_the_ledger_is_told_and_sees_what_it_may(
    connection: Conn, database_url: URL
) -> None:
    role = f"pgferry_test_{uuid4().hex[:8]}"
    await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    try:
        async with several(database_url, 1), several(database_url.set(username=role, password="x"), 1) as (limited,):
            found = await look(limited, load_settings(), "here:1")
            assert re.search("not kept: The role .* GRANT CREATE", await keep_look(limited, found, load_settings()))
            assert any("GRANT pg_monitor" in note for note in found.notes)
            assert {row["state"] for row in rows(found, "connections")} >= {"not shown", "active"}
            assert (await read_before(limited, found.at)).at is None
            assert not await connection.fetchval("SELECT to_regnamespace('pgferry')")
    finally:
        await connection.execute(f"DROP ROLE {role}")


async def test_a_server_that_takes_no_writes_and_a_newer_ledger_are_told(connection: Conn) -> None:
    found = await kept(connection)
    await connection.execute("SET default_transaction_read_only = on")
    assert "read-only transaction" in await keep_look(connection, found, load_settings())
    await connection.execute("SET default_transaction_read_only = off")
    await connection.execute("INSERT INTO pgferry.schema_version VALUES (99)")
    assert "is of version 99" in await keep_look(connection, found, load_settings())


# ---------------------------------------------------------------- what is wrong


async def test_who_waits_for_whom_is_shown_and_the_monitor_does_not_wait(connection: Conn, database_url: URL) -> None:
    await connection.execute('CREATE TABLE "My Table" (secret text); CREATE INDEX ON "My Table" (secret)')
    async with several(database_url, 2) as (holder, waiter):
        await holder.execute("BEGIN; LOCK TABLE \"My Table\"; SELECT 'hunter2'")
        waits = asyncio.ensure_future(waiter.execute("INSERT INTO \"My Table\" VALUES ('hunter2')"))
        await until(connection, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        found = await look(connection, load_settings(monitor_lock_seconds=0.001, monitor_query_seconds=0.001), "s")
        await holder.execute("COMMIT")
        await waits
    (row,) = rows(found, "locks")
    assert re.fullmatch(r"pid \d+, \w+ \(app 1\)", str(row["session"]))
    assert re.fullmatch(r"pid \d+, \w+ \(app 0\): idle in transaction", str(row["waits for"]))
    assert row["lock"] == 'RowExclusiveLock on "My Table"'
    assert row["query"] == "INSERT INTO \"My Table\" VALUES ('…')"
    assert "hunter2" not in json.dumps(found.to_json())
    assert breached(found).keys() == {"lock-wait"}
    assert "wait for another one's lock: 1, the longest" in breached(found)["lock-wait"]
    (active,) = rows(found, "active")
    assert active["waits for"] == "Lock: relation"
    assert [note for note in found.notes if "sizes of tables could not be measured" in note and "lock timeout" in note]


async def test_a_long_query_is_a_breach_unless_it_is_our_own(connection: Conn, database_url: URL) -> None:
    async with several(database_url, 1) as (application,):
        own = await connect(database_url)
        asleep = [asyncio.ensure_future(each.execute("SELECT pg_sleep(9)")) for each in (application, own)]
        await until(connection, "SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        found = await look(connection, load_settings(monitor_query_seconds=0.001), "s")
        application.terminate()
        own.terminate()
        await asyncio.gather(*asleep, return_exceptions=True)
    assert "active for long: 1, the longest for 0 s; allowed are 0.001 s" in breached(found)["long-query"]
    assert len(rows(found, "active")) == found.value("long_queries") == 2


async def test_too_many_connections_are_a_breach(connection: Conn, database_url: URL) -> None:
    async with several(database_url, 3):
        found = await look(connection, load_settings(monitor_connections_percent=0.1), "s")
    assert re.match(r"\d+ of \d+ connections are in use \(\d+ %\); allowed are 0.1 %", breached(found)["connections"])
    assert {row["state"] for row in rows(found, "connections")} >= {"idle", "active"}


async def test_dead_rows_unused_and_missing_indexes_are_found(connection: Conn) -> None:
    await connection.execute("""
        CREATE TABLE big (id int PRIMARY KEY, owner int, note text) WITH (autovacuum_enabled = off);
        CREATE INDEX big_note ON big (note);
        CREATE UNIQUE INDEX big_owner ON big (owner, id);
        INSERT INTO big SELECT n, n % 7, 'note ' || n FROM generate_series(1, 20000) AS n;
        DELETE FROM big WHERE id % 2 = 0;
        ANALYZE big;
        SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off""")
    for _ in range(50):
        await connection.fetch("SELECT id FROM big WHERE owner = 3")
    await connection.execute("SELECT pg_stat_force_next_flush()" if await has_flush(connection) else "SELECT 1")
    await until(connection, "SELECT seq_scan >= 50 AND n_dead_tup = 10000 FROM pg_stat_user_tables")
    found = await look(connection, load_settings(), "s")
    assert "dead rows: 1, the worst public.big with 50 % (10,000)" in breached(found)["dead-rows"]
    assert [row["index"] for row in rows(found, "unused-indexes")] == ["public.big_note"]
    (missing,) = rows(found, "missing-indexes")
    assert (missing["table"], missing["rows"], missing["scans of all of it"]) >= ("public.big", 10_000, 50)
    (table,) = rows(found, "tables")
    assert (table["table"], table["dead rows"], table["vacuumed"]) == ("public.big", 10_000, "never")
    assert (found.value("table_bytes", "public.big") or 0) > 500_000
    assert (found.value("index_bytes", "public.big") or 0) > 500_000


async def has_flush(conn: Conn) -> bool:
    """Say whether a session can be told to report its numbers at once; before 15 they come by themselves."""
    return bool(await conn.fetchval("SELECT to_regproc('pg_stat_force_next_flush') IS NOT NULL"))


async def test_the_share_of_the_cache_is_that_since_the_look_before(connection: Conn) -> None:
    assert ((await kept(connection)).value("blocks_hit") or 0) > 0
    # As if since then 20,000 blocks had been read, and 10,000 of them, and a few, from the cache.
    await connection.execute("UPDATE pgferry.metric SET value = value - 10000 WHERE name LIKE 'blocks%'")
    found = await look(connection, load_settings(), "s")
    assert 50 <= (found.value("cache_hit_percent") or 0) < 60
    assert re.match(r"5\d\.\d % of 2\d,\d{3} block reads were answered", breached(found)["cache-hit"])
    # A counter that began anew is counted from zero.
    await connection.execute("UPDATE pgferry.metric SET value = 1e12 WHERE name LIKE 'blocks%'")
    assert (await look(connection, load_settings(), "s")).value("cache_hit_percent") == pytest.approx(99, abs=1)


async def test_a_breach_is_news_once(connection: Conn) -> None:
    strict = {"monitor_connections_percent": 0.1}
    assert [breach.again for breach in (await kept(connection, **strict)).breaches] == [False]
    assert [breach.again for breach in (await kept(connection, **strict)).breaches] == [True]
    assert (await kept(connection)).breaches == ()
    assert [breach.again for breach in (await kept(connection, **strict)).breaches] == [False]


# ---------------------------------------------------------------- over time


async def test_old_numbers_are_forgotten_and_the_others_are_drawn(connection: Conn) -> None:
    found = await kept(connection)
    await connection.execute("UPDATE pgferry.metric SET at = at - interval '31 days'")
    for days in range(3):
        await kept(connection)
        shift = f"UPDATE pgferry.metric SET at = at - interval '1 day' WHERE at > now() - interval '{days}.5 days'"
        await connection.execute(shift)
    assert not await connection.fetchval("SELECT 1 FROM pgferry.metric WHERE at < now() - interval '30 days' LIMIT 1")
    series = await read_series(connection, DRAWN, found.at - SPAN, found.at)
    assert [len(series[name, ""]) for name in ("connections_used", "database_bytes")] == [3, 3]
    first, *_, last = series["connections_used", ""]
    assert timedelta(days=1.9) < last[0] - first[0] < timedelta(days=2.1)
    assert not await read_series(connection, DRAWN, found.at + SPAN, found.at + 2 * SPAN)


async def test_the_page_holds_charts_and_tables_and_escapes_what_others_have_named(connection: Conn) -> None:
    await connection.execute('CREATE TABLE "<b>|`x`" (id int)')
    found = await kept(connection, monitor_connections_percent=0.1)
    text = page(found, await read_series(connection, DRAWN, found.at - SPAN, found.at), load_settings())
    assert text.startswith(f"## {found.database}: connections\n")
    assert "allowed are 0.1 %.**" in text
    assert "&lt;b&gt;\\|`x`" in text
    assert "<b>" not in text
    pictures = [base64.b64decode(found).decode() for found in re.findall(r"base64,([\w+/=]+)\)", text)]
    assert [re.findall("<title>(.*)</title>", picture) for picture in pictures] == [
        ["Connections"], ["Block reads that the cache answered"], ["Size"],
    ]  # fmt: skip
    assert "&lt;b&gt;|`x`" in pictures[2]


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("ALTER ROLE a PASSWORD 'it''s'  ", "ALTER ROLE a PASSWORD '…'"),
        (r"SELECT E'a\'b' || 'c' || $$d'$$ || $x$ $$ $x$", "SELECT '…' || '…' || '…' || '…'"),
        ("SELECT $1, \"it's\", 'cut off", "SELECT $1, \"it's\", '…'"),
        ("SELECT 1 -- it's\n , /* it's */ 'x'", "SELECT 1 , '…'"),
        ("SELECT $body$ cut", "SELECT '…'"),
        ("x" * 400, "x" * 299 + "…"),
    ],
)
def test_no_string_of_a_statement_is_shown(statement: str, shown: str) -> None:
    assert without_literals(statement) == shown


# ---------------------------------------------------------------- pg_stat_statements


@pytest.fixture(scope="module")
def counting_server() -> Iterator[EmbeddedServer]:
    """A server of the system that counts statements."""
    with own_server({"shared_preload_libraries": "pg_stat_statements", "fsync": "off"}, of_the_system=True) as server:
        yield server


@pytest.mark.parametrize("version", ["1.7", "1.10"])
async def test_the_top_queries_are_known_by_either_name_of_the_columns(
    counting_server: EmbeddedServer, version: str
) -> None:
    url = await create_database(counting_server, f"v{version}")
    async with connection(url) as opened:
        await opened.execute(
            f"CREATE SCHEMA \"e'x\"; CREATE EXTENSION pg_stat_statements SCHEMA \"e'x\" VERSION '{version}'"
        )
        for n in range(3):
            await opened.fetchval(f"SELECT pg_sleep(0.01), 'secret{n}'")
        found = await look(opened, load_settings(), "s")
        (row,) = [row for row in rows(found, "statements") if "pg_sleep" in str(row["query"])]
        assert (row["calls"], row["rows"]) == (3, 3)
        assert row["seconds in all"] >= 0.03
        assert row["ms a call"] >= 10
        assert row["query"] == "SELECT pg_sleep($1), $2"
        assert {metric.name for metric in found.metrics if metric.label} >= {"statement_seconds", "statement_calls"}


async def test_where_statements_are_not_counted_it_is_said(connection: Conn, server: EmbeddedServer) -> None:
    found = await look(connection, load_settings(), "s")
    assert [note for note in found.notes if "CREATE EXTENSION pg_stat_statements" in note]
    assert rows(found, "statements") == []


async def test_an_extension_that_the_server_has_not_loaded_is_said() -> None:
    with own_server({"fsync": "off"}, of_the_system=True) as server:
        async with connection(server.url()) as opened:
            await opened.execute("CREATE EXTENSION pg_stat_statements")
            found = await look(opened, Settings(), "s")
            assert [note for note in found.notes if "top queries could not be measured" in note and "loaded" in note]


# ---------------------------------------------------------------- the lag


async def test_the_lag_of_a_live_move_is_measured_and_a_quiet_hour_is_none(database_url: URL, tmp_path: Path) -> None:
    source = tmp_path / "app.db"
    move = LiveMove(database_url, source, tmp_path / "home")
    with closing(sqlite3.connect(source, isolation_level=None)) as application:
        application.executescript("CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT); INSERT INTO t VALUES (1, 'a')")
        async with connection(database_url) as opened:
            await opened.execute("CREATE TABLE t (id bigint PRIMARY KEY, note text)")
            await move.dual_write()
            settings = load_settings(home=move.home, monitor_lag_seconds=60.0)
            found, _ = await watch(opened, settings, "s", kept=True)
            assert (found.value("lag_rows", str(source)), found.value("lag_seconds", str(source))) == (0, 0)

            # Nothing was carried for an hour, because there was nothing; at the look before nothing waited.
            await opened.execute("UPDATE pgferry.position SET moment = moment - interval '1 hour'")
            application.execute("INSERT INTO t VALUES (2, 'b')")
            found, series = await watch(opened, settings, "s", kept=True)
            assert found.value("lag_rows", str(source)) == 1
            assert (found.value("lag_seconds", str(source)) or 99) < 60
            assert found.breaches == ()
            (row,) = rows(found, "lag")
            assert (row["phase"], row["changes waiting"]) == ("dual-write", 1)

            # It waited at the look before, too.
            found, series = await watch(opened, settings, "s", kept=True)
            assert (found.value("lag_seconds", str(source)) or 0) > 3600
            assert "wait to be carried: 1; the side behind is behind by 3,6" in breached(found)["lag"]
            assert "Lag of the sync in time" in [chart.title for chart in charts(series, settings)]

            # A file that cannot be read is said, and the rest is measured.
            source.rename(tmp_path / "elsewhere.db")
            found, _ = await watch(opened, settings, "s", kept=True)
            assert [note for note in found.notes if str(source) in note]
            assert found.value("lag_rows", str(source)) is None
            assert found.value("connections_used") is not None
