"""Connections, and what is said when there is none: each problem is provoked at a real server where it can be."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import traceback
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError

from pgferry.errors import FerryError, Permanent, Transient, UsageError
from pgferry.postgres.connection import close, connect, connection, engine
from pgferry.postgres.embedded import EmbeddedServer
from pgferry.postgres.problems import PROBLEMS, UNKNOWN, ServerTooOld, explain, find_problem, server_of
from pgferry.quoting import literal, quote
from pgferry.settings import load_settings

PASSWORD = "s3cr:t@/p%w d"
"""With every character that a URL escapes."""


def told(error: BaseException) -> str:
    """Return all that could ever be shown of an error: text, repr and traceback, down its chain."""
    parts = traceback.format_exception(error)
    link: BaseException | None = error
    while link is not None:
        parts += [str(link), repr(link), repr(link.args), repr(getattr(link, "details", ""))]
        link = link.__cause__ or link.__context__
    return "\n".join(parts)


async def refusal(url: URL, **options: float) -> FerryError:
    """Return what connect raises, having checked that no form of it holds the password."""
    with pytest.raises(FerryError) as raised:
        await connect(url, **options)
    shown = told(raised.value)
    for secret in (PASSWORD, str(url.password or PASSWORD)):
        assert secret not in shown
    assert raised.value.action
    return raised.value


@pytest.fixture
async def role(connection: asyncpg.Connection) -> AsyncIterator[str]:
    """A login role with PASSWORD and no rights of its own."""
    name = "pgferry_test_role"
    await connection.execute(f"DROP ROLE IF EXISTS {name}; CREATE ROLE {name} LOGIN PASSWORD {literal(PASSWORD)}")
    yield name
    await connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.fixture
def role_url(database_url: URL, role: str) -> URL:
    return database_url.set(username=role, password=PASSWORD)


# ---------------------------------------------------------------- a connection


async def test_a_connection_has_the_settings_that_statements_rely_on(database_url: URL) -> None:
    async with connection(database_url, statement_timeout=1.5, application_name="a test") as opened:
        query = "SELECT current_setting(name) FROM unnest($1::text[]) AS name"
        names = [
            "TimeZone",
            "DateStyle",
            "statement_timeout",
            "idle_in_transaction_session_timeout",
            "application_name",
        ]
        assert [row[0] for row in await opened.fetch(query, names)] == ["UTC", "ISO, MDY", "1500ms", "0", "a test"]
        assert await opened.fetchval("SHOW search_path") == '"$user", public'
    assert opened.is_closed()


async def test_the_roles_own_settings_do_not_shift_time(role_url: URL, connection: asyncpg.Connection) -> None:
    await connection.execute(f"ALTER ROLE {role_url.username} SET timezone = 'Asia/Tokyo'")
    await connection.execute(f"ALTER ROLE {role_url.username} SET statement_timeout = '1ms'")
    await connection.execute(f"ALTER ROLE {role_url.username} SET search_path = elsewhere")
    opened = await connect(role_url)
    assert await opened.fetchval("SHOW timezone") == "UTC"
    assert await opened.fetchval("SHOW statement_timeout") == "0"
    assert await opened.fetchval("SHOW search_path") == "elsewhere"
    await close(opened)


async def test_a_password_may_hold_any_character(role_url: URL) -> None:
    parsed = make_url(role_url.render_as_string(hide_password=False))
    async with connection(parsed) as opened:
        assert await opened.fetchval("SELECT current_user") == role_url.username


async def test_another_database_of_the_server_can_be_named(server_url: URL, database_url: URL) -> None:
    async with connection(server_url, database=database_url.database) as opened:
        assert await opened.fetchval("SELECT current_database()") == database_url.database


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=disable",
        "ssl=prefer",
        "ssl=false",
        "sslmode=prefer&channel_binding=prefer&gssencmode=disable&connect_timeout=9&keepalives=1",
        "statement_cache_size=0&prepared_statement_cache_size=0",
        "application_name=theirs&options=",
        "target_session_attrs=primary",
    ],
)
async def test_options_of_other_drivers_are_understood(database_url: URL, query: str) -> None:
    url = make_url(f"{database_url.render_as_string(hide_password=False)}?{query}")
    async with connection(url) as opened:
        assert await opened.fetchval("SHOW application_name") == ("theirs" if "theirs" in query else "pgferry")


async def test_several_hosts_are_tried_in_turn(database_url: URL) -> None:
    hosts = (f"127.0.0.1:{unused_port()}", f"{database_url.host}:{database_url.port or 5432}")
    several = URL.create(
        "postgresql+asyncpg",
        database_url.username,
        database_url.password,
        database=database_url.database,
        query={"host": hosts},
    )
    async with connection(several) as opened:
        assert await opened.fetchval("SELECT current_database()") == database_url.database


async def test_a_connection_closes_even_when_the_server_has_cut_it(database_url: URL, server_url: URL) -> None:
    async with connection(server_url) as admin, connection(database_url) as opened:
        await admin.execute("SELECT pg_terminate_backend($1, 5000)", opened.get_server_pid())
    assert opened.is_closed()


async def test_what_the_body_raises_passes_as_it_is(database_url: URL) -> None:
    with pytest.raises(asyncpg.UndefinedTableError):
        async with connection(database_url) as opened:
            await opened.execute("SELECT * FROM no_such_table")
    assert opened.is_closed()


async def test_an_engine_pools_connections_made_the_same_way(database_url: URL) -> None:
    settings = load_settings(pool_size=3, pool_overflow=1, pool_recycle=60, statement_timeout=2.0)
    pooled = engine(database_url, settings)
    assert (pooled.pool.size(), pooled.pool._max_overflow, pooled.pool._recycle) == (3, 1, 60)
    try:
        async with pooled.connect() as opened:
            assert (await opened.execute(text("SHOW statement_timeout"))).scalar_one() == "2s"
            assert (await opened.execute(text("SHOW timezone"))).scalar_one() == "UTC"
        async with pooled.connect() as opened:
            with pytest.raises(DBAPIError) as raised:
                await opened.execute(text("SELECT pg_sleep(9)"))
        assert "A statement in database" in explain(raised.value, database_url).message
    finally:
        await pooled.dispose()


async def test_an_engine_refuses_as_connect_does(database_url: URL) -> None:
    pooled = engine(database_url.set(password=PASSWORD, username="nobody_here"), load_settings())
    with pytest.raises(Permanent, match="does not accept the password of user nobody_here") as raised:
        async with pooled.connect():
            pass
    assert PASSWORD not in told(raised.value)
    await pooled.dispose()


# ---------------------------------------------------------------- no connection


async def test_a_wrong_password_is_told(database_url: URL) -> None:
    error = await refusal(database_url.set(password=PASSWORD))
    where = f"{database_url.host}:{database_url.port or 5432}"
    assert isinstance(error, Permanent)
    assert error.message.startswith(
        f"PostgreSQL at {where} does not accept the password of user {database_url.username}, or has no such user:"
    )
    assert (error.details["server"], error.details["sqlstate"]) == (where, "28P01")
    assert isinstance(error.__cause__, asyncpg.InvalidPasswordError)


async def test_a_missing_password_is_told(database_url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSFILE", "/nonexistent")
    monkeypatch.delenv("PGPASSWORD", raising=False)
    url = URL.create(
        "postgresql+asyncpg", database_url.username, None, database_url.host, database_url.port, "postgres"
    )
    error = await refusal(url)
    assert isinstance(error, Permanent)
    assert "does not accept the password" in error.message
    assert "PGPASSWORD or ~/.pgpass" in error.action


async def test_a_missing_database_is_told(database_url: URL) -> None:
    error = await refusal(database_url.set(database="no such one"))
    assert isinstance(error, Permanent)
    assert error.message.endswith("has no database no such one.")
    assert "createdb no such one" in error.action


async def test_a_database_without_connections_is_told(database_url: URL, server_url: URL) -> None:
    async with connection(server_url) as admin:
        await admin.execute(f"ALTER DATABASE {quote(str(database_url.database))} ALLOW_CONNECTIONS false")
    assert "takes no connections" in (await refusal(database_url)).message


async def test_a_closed_port_is_told_and_may_open_later() -> None:
    for host in ("127.0.0.1", "localhost"):
        error = await refusal(URL.create("postgresql+asyncpg", "me", PASSWORD, host, unused_port(), "app"))
        assert isinstance(error, Transient)
        assert error.message.startswith(f"Nothing accepts connections at {host}:")


async def test_an_unknown_host_is_told() -> None:
    error = await refusal(URL.create("postgresql+asyncpg", "me", PASSWORD, "no-such-host.invalid", 5433, "app"))
    assert error.message.startswith("The host of no-such-host.invalid:5433 is unknown")


async def test_a_missing_socket_is_told(tmp_path: Path) -> None:
    url = URL.create("postgresql+asyncpg", "me", PASSWORD, database="app", query={"host": str(tmp_path)})
    error = await refusal(url)
    assert isinstance(error, Permanent)
    assert f"no PostgreSQL socket at {tmp_path}" in error.message


async def test_a_silent_server_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = URL.create("postgresql+asyncpg", "me", PASSWORD, "127.0.0.1", silent.getsockname()[1], "app")
        error = await refusal(url, timeout=0.2)
    assert isinstance(error, Transient)
    assert "did not answer in time" in error.message
    assert "PGFERRY_CONNECT_TIMEOUT" in error.action


async def test_something_that_is_no_postgresql_is_told() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as web:
        port = web.sockets[0].getsockname()[1]
        error = await refusal(URL.create("postgresql+asyncpg", "me", PASSWORD, "127.0.0.1", port, "app"))
    assert f"127.0.0.1:{port}" in error.message


async def test_a_server_without_tls_is_told(server: EmbeddedServer) -> None:
    error = await refusal(server.url().set(query={"sslmode": "require"}))
    assert isinstance(error, Permanent)
    assert "offers no TLS" in error.message


async def test_a_role_that_may_not_log_in_is_told(role_url: URL, connection: asyncpg.Connection) -> None:
    await connection.execute(f"ALTER ROLE {role_url.username} NOLOGIN")
    error = await refusal(role_url)
    assert isinstance(error, Permanent)
    assert f"no login for user {role_url.username}" in error.message


async def test_too_many_connections_are_told_and_pass(role_url: URL, connection: asyncpg.Connection) -> None:
    await connection.execute(f"ALTER ROLE {role_url.username} CONNECTION LIMIT 0")
    error = await refusal(role_url)
    assert isinstance(error, Transient)
    assert f"no connection left for user {role_url.username}" in error.message


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("no_such_option=1", "does not know an option of the URL: .*no_such_option"),
        ("sslmode=sometimes", "cannot be used: `sslmode` parameter must be one of"),
        ("sslrootcert=/no/such/file", "The option sslrootcert .* there is no file /no/such/file"),
        ("connect_timeout=soon", "The option connect_timeout .* 'soon' is no whole number"),
        ("channel_binding=require", "The option channel_binding .* cannot bind channels"),
        ("target_session_attrs=best", "cannot be used: target_session_attrs is expected"),
        ("TimeZone=Nowhere", "Nowhere"),
    ],
)
async def test_a_wrong_option_in_the_url_is_told(database_url: URL, query: str, message: str) -> None:
    url = make_url(f"{database_url.render_as_string(hide_password=False)}?{query}")
    error = await refusal(url)
    assert isinstance(error, Permanent)
    with pytest.raises(type(error), match=message):
        raise error


async def test_a_port_beyond_all_ports_is_told(database_url: URL) -> None:
    assert isinstance(await refusal(database_url.set(port=99999)), Permanent)


@pytest.mark.parametrize("password", [f"{PASSWORD}\ud800", f"{PASSWORD}\x00"])
async def test_a_password_that_cannot_be_sent_is_not_shown(database_url: URL, password: str) -> None:
    error = await refusal(database_url.set(password=password))
    assert isinstance(error, UsageError)
    assert error.__cause__ is None


# ---------------------------------------------------------------- while it works


async def test_a_missing_permission_is_told(role_url: URL) -> None:
    async with connection(role_url) as opened:
        for statement in ("CREATE SCHEMA pgferry", "SELECT * FROM pg_authid"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError) as raised:
                await opened.execute(statement)
            error = explain(raised.value, role_url)
            assert isinstance(error, Permanent)
            assert f"User {role_url.username} lacks a permission in database {role_url.database}" in error.message
            assert "permission denied for" in error.message


async def test_a_read_only_server_is_told(database_url: URL) -> None:
    async with connection(database_url) as opened:
        await opened.execute("SET default_transaction_read_only = on")
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError) as raised:
            await opened.execute("CREATE TABLE t (id int)")
    assert "is read-only: cannot execute CREATE TABLE" in explain(raised.value, database_url).message


async def test_a_slow_statement_is_told(database_url: URL) -> None:
    async with connection(database_url, statement_timeout=0.05) as opened:
        with pytest.raises(asyncpg.QueryCanceledError) as raised:
            await opened.execute("SELECT pg_sleep(9)")
    error = explain(raised.value, database_url)
    assert isinstance(error, Permanent)
    assert "PGFERRY_STATEMENT_TIMEOUT" in error.action


async def test_a_lost_connection_is_told_and_may_come_back(database_url: URL, server_url: URL) -> None:
    async with connection(server_url) as admin, connection(database_url) as opened:
        sleeping = asyncio.ensure_future(opened.execute("SELECT pg_sleep(9)"))
        await asyncio.sleep(0.1)
        await admin.execute("SELECT pg_terminate_backend($1, 5000)", opened.get_server_pid())
        with pytest.raises(asyncpg.PostgresError) as first:
            await sleeping
        with pytest.raises(asyncpg.InterfaceError) as second:
            await opened.execute("SELECT 1")
    for raised in (first, second):
        error = explain(raised.value, database_url)
        assert isinstance(error, Transient)
        assert error.message.startswith(f"The connection to {server_of(database_url)} was lost")


@pytest.mark.parametrize(
    ("state", "kind", "title"),
    [
        ("53100", Permanent, "The server's disk is full"),
        ("53200", Permanent, "The server is out of memory"),
        ("57P03", Transient, "The server is starting up or shutting down"),
        ("40001", Transient, "Two sessions were in each other's way"),
        ("40P01", Transient, "Two sessions were in each other's way"),
        ("55P03", Transient, "A lock was not to be had"),
        ("57P01", Transient, "The connection was lost"),
        ("08006", Transient, "The connection was lost"),
        ("XX001", Permanent, "Another error"),
    ],
)
async def test_a_condition_of_the_server_is_told(
    database_url: URL, connection: asyncpg.Connection, state: str, kind: type[FerryError], title: str
) -> None:
    raising = f"DO $$ BEGIN RAISE EXCEPTION 'it happened' USING ERRCODE = '{state}'; END $$"
    with pytest.raises(asyncpg.PostgresError) as raised:
        await connection.execute(raising)
    error = explain(raised.value, database_url)
    assert type(error) is kind
    assert error.details["title"] == title
    assert "it happened" in error.message


@pytest.mark.parametrize(
    ("error", "kind", "title"),
    [
        (ServerTooOld("it is version 13.4"), Permanent, "The server is too old"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), Transient, "The network does not reach the server"),
        (
            OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 99] x"),
            Transient,
            "Nothing listens there",
        ),
        (ConnectionResetError(errno.ECONNRESET, "reset"), Transient, "The connection was lost"),
        (ssl.SSLCertVerificationError(1, "self-signed"), Permanent, "The server's certificate is not trusted"),
        (ssl.SSLError(1, "wrong version number"), Permanent, "TLS failed"),
        (socket.gaierror(socket.EAI_AGAIN, "try again"), Transient, "The host is unknown"),
        (RuntimeError("something new"), Permanent, UNKNOWN.title),
    ],
)
def test_what_no_test_server_can_do_is_told_too(error: Exception, kind: type[FerryError], title: str) -> None:
    explained = explain(error, make_url("postgresql+asyncpg://me:pw@db.example:5444/app"))
    assert type(explained) is kind
    assert explained.details["title"] == title
    assert "db.example:5444" in explained.message


def test_our_own_errors_are_not_explained_again() -> None:
    error = UsageError("so it is")
    assert explain(error, make_url("postgresql://h/d")) is error


def test_every_row_says_what_and_what_to_do() -> None:
    facts = {"server": "h:1", "database": "d", "user": "u", "detail": "x"}
    for problem in PROBLEMS:
        assert problem.states or problem.classes or problem.numbers
        assert problem.message.format(**facts).endswith(".")
        assert problem.cure.format(**facts).endswith(".")
    assert find_problem(KeyError("x")) is UNKNOWN


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("postgresql://db/app", "db:5432"),
        ("postgresql://[::1]:5433/app", "[::1]:5433"),
        ("postgresql:///app", "localhost:5432"),
        ("postgresql:///app?host=/run/postgresql", "/run/postgresql"),
        ("postgresql:///app?host=a:1&host=b:2", "a:1"),
    ],
)
def test_a_server_is_named_by_host_and_port(url: str, server: str) -> None:
    assert server_of(make_url(url)) == server


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
