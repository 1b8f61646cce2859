"""Through PgBouncer itself: what works in session mode, and what a person is told in the other modes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.errors import FerryError, Permanent, Transient
from pgferry.operate import server_checks, target_checks
from pgferry.operate.check import Verdict
from pgferry.postgres.connection import connect, connection
from pgferry.postgres.lock import RunLock, Taken
from pgferry.postgres.pooling import SharedSession, is_shared, refuse_shared_session
from pgferry.settings import Settings, load_settings
from tests.live import LiveMove
from tests.pooler import pgbouncer

PASS, WARN, FAIL = Verdict.PASS, Verdict.WARN, Verdict.FAIL
PASSWORD = "not the right one"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home")


# ---------------------------------------------------------------- the check of the preflight


@pytest.mark.parametrize(
    ("pool_mode", "cache", "verdict", "measured"),
    [
        ("session", "100", WARN, "session and prepared statements were kept"),
        ("session", "0", WARN, "session and prepared statements were kept"),
        ("transaction", "100", FAIL, "gives each transaction another session"),
        ("transaction", "0", FAIL, "gives each transaction another session"),
        ("statement", "0", FAIL, "gives each transaction another session"),
    ],
)
async def test_each_mode_is_told(
    database_url: URL, settings: Settings, pool_mode: str, cache: str, verdict: Verdict, measured: str
) -> None:
    with pgbouncer(database_url, pool_mode) as pooled:
        url = pooled.set(query={"statement_cache_size": cache})
        async with connection(url) as opened:
            found = await server_checks.check_pooler(opened, settings, url)
    assert found.verdict is verdict, found
    assert measured in found.measured
    assert "PGFERRY_TARGET name PostgreSQL itself" in found.advice
    assert "prepared_statement_cache_size=0" in found.advice


async def test_a_busy_pooler_is_told_without_a_second_client(database_url: URL, settings: Settings) -> None:
    """Others take our session between two transactions: a prepared statement is then unknown."""
    with pgbouncer(database_url, "transaction") as url:
        async with connection(url) as opened, connection(url) as other:
            await server_checks.check_pooler(opened, settings)
            async with other.transaction():
                await other.fetchval("SELECT 1")
                found = await server_checks.check_pooler(opened, settings)
    assert found.verdict is FAIL
    assert "prepared statement" in found.measured


async def test_a_pool_of_one_place_is_no_session_of_ones_own(
    database_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgferry.postgres.pooling.ANSWER_SECONDS", 0.5)
    with pgbouncer(database_url, "transaction", default_pool_size=1) as url:
        async with connection(url) as opened:
            assert await is_shared(opened, url, 15)
    with pgbouncer(database_url, "session", default_pool_size=1, query_wait_timeout=1) as url:
        async with connection(url) as opened:
            with pytest.raises(Transient, match=r"The pooler .* query_wait_timeout.*default_pool_size"):
                await is_shared(opened, url, 60)


# ---------------------------------------------------------------- what begins, and what does not


@pytest.mark.parametrize("pool_mode", ["transaction", "statement"])
async def test_nothing_begins_behind_a_pooler_that_shares_sessions(database_url: URL, pool_mode: str) -> None:
    def hold(url: URL) -> None:
        with RunLock(url, "app.db"):
            raise AssertionError("a lock that belongs to nobody")

    with pgbouncer(database_url, pool_mode) as url:
        with pytest.raises(SharedSession, match=r"another session \(pool_mode") as refused:
            await asyncio.to_thread(hold, url)
        async with connection(url) as opened:
            with pytest.raises(SharedSession):
                await refuse_shared_session(opened, url, 15)
    assert isinstance(refused.value, Permanent)
    assert "PGFERRY_TARGET name PostgreSQL itself" in refused.value.action
    assert str(database_url.password) not in str(refused.value)
    async with connection(database_url) as direct:
        assert not await direct.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")


async def test_a_session_of_ones_own_is_let_pass(database_url: URL) -> None:
    with pgbouncer(database_url, "session") as url:
        async with connection(url) as pooled, connection(database_url) as direct:
            await refuse_shared_session(pooled, url, 15)
            await refuse_shared_session(direct, database_url, 15)

        def hold_twice() -> None:
            with RunLock(url, "app.db"), RunLock(database_url, "app.db", patience=0):
                raise AssertionError("two have one lock")

        with pytest.raises(Taken, match="Another run works on this target"):
            await asyncio.to_thread(hold_twice)


async def test_a_whole_move_runs_in_session_mode(database_url: URL, tmp_path: Path) -> None:
    source = tmp_path / "app.db"
    with closing(sqlite3.connect(source)) as application:
        application.execute("PRAGMA journal_mode = wal")
        application.executescript("CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT); INSERT INTO t VALUES (1, 'a')")
        with pgbouncer(database_url, "session") as url:
            async with connection(url) as opened:
                await opened.execute("CREATE TABLE t (id bigint PRIMARY KEY, note text)")
            move = LiveMove(url, source, tmp_path / "home")
            await move.dual_write()
            application.execute("INSERT INTO t VALUES (2, 'b')")
            application.commit()
            assert (await move.sync()).rows >= 0
            assert (await move.validate()).passed
            await move.switch()
            async with connection(url) as opened:
                assert [tuple(row) for row in await opened.fetch("TABLE t")] == [(1, "a"), (2, "b")]
                await opened.execute("UPDATE t SET note = 'c' WHERE id = 2")
            assert await move.sync_back() == 1
            await move.roll_back()
        assert application.execute("SELECT * FROM t").fetchall() == [(1, "a"), (2, "c")]


async def test_the_application_may_stay_behind_a_pooler(database_url: URL, tmp_path: Path) -> None:
    with pgbouncer(database_url, "transaction") as url:
        pooled = url.set(query={"prepared_statement_cache_size": "0"}).render_as_string(hide_password=False)
        settings = load_settings(home=tmp_path, application_url=pooled)
        async with connection(database_url) as direct:
            found = await target_checks.check_application_url(direct, target_checks.Paired(), settings)
    assert (found.verdict, "may read and write" in found.measured) == (PASS, True), found


# ---------------------------------------------------------------- what PgBouncer says

REFUSED: dict[str, Callable[[URL], URL]] = {
    "authentication failed": lambda url: url.set(password=PASSWORD),
    "no such user": lambda url: url.set(username="nobody_of_that_name"),
    "does not exist": lambda url: url.set(database="no such one"),
}


@pytest.mark.parametrize("said", REFUSED)
async def test_whom_the_pooler_does_not_let_in_is_told_and_not_tried_again(database_url: URL, said: str) -> None:
    with pgbouncer(database_url, "session") as url:
        refused = await refusal(REFUSED[said](url))
    assert refused.details["title"] == "The pooler refuses the connection", refused
    assert isinstance(refused, Permanent)
    assert "auth_file" in refused.action
    assert PASSWORD not in str(refused)


async def test_a_full_pooler_is_tried_again(database_url: URL) -> None:
    with pgbouncer(database_url, "session", max_client_conn=1) as url:
        async with connection(url):
            refused = await refusal(url)
    assert refused.details["title"] == "The pooler refuses the connection", refused
    assert isinstance(refused, Transient)


async def test_a_pooler_whose_server_is_gone_is_tried_again(database_url: URL) -> None:
    with pgbouncer(database_url.set(port=1), "session", query_wait_timeout=1) as url:
        refused = await refusal(url)
    assert refused.details["title"] == "The pooler refuses the connection", refused
    assert isinstance(refused, Transient)


async def refusal(url: URL) -> FerryError:
    with pytest.raises(FerryError) as refused:
        await connect(url)
    assert isinstance(refused.value.__cause__, asyncpg.PostgresError)
    return refused.value
