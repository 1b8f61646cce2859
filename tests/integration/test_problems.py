"""Every row of the table of problems, provoked at a real server or pooler."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.errors import FerryError
from pgferry.postgres import connection as connections
from pgferry.postgres.connection import connect, connection
from pgferry.postgres.embedded import EmbeddedServer
from pgferry.postgres.problems import PROBLEMS, explain
from tests.certificates import give_to_server, make_authority, switch_on
from tests.pooler import pgbouncer
from tests.servers import own_server

PASSWORD = "not the right one"
RULES = """hostssl all {owner} 127.0.0.1/32 scram-sha-256
hostssl all certified 127.0.0.1/32 cert
"""


@dataclass(frozen=True)
class Scene:
    """Where things go wrong: an empty database, and a role without any rights."""

    url: URL
    role: str
    folder: Path

    @property
    def role_url(self) -> URL:
        return self.url.set(username=self.role, password=PASSWORD)

    def asking(self, **query: str) -> URL:
        """Return the database's URL with options."""
        return self.url.set(query=query)

    async def run(self, *statements: str) -> None:
        """Run statements as the administrator."""
        async with connection(self.url) as opened:
            for statement in statements:
                await opened.execute(statement)


Provoke = Callable[[Scene], Awaitable[object]]


@pytest.fixture
async def scene(database_url: URL, tmp_path: Path):
    role = f"pgferry_test_{uuid4().hex[:8]}"
    made = Scene(database_url, role, tmp_path)
    await made.run(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    yield made
    async with connection(database_url, database="postgres") as admin:
        await admin.execute(f"DROP ROLE {role}")


@pytest.fixture(scope="module")
def own() -> Iterator[EmbeddedServer]:
    """A server that may be shut to roles, be without memory, and end."""
    with own_server({"fsync": "off", "max_connections": "20"}) as server:
        yield server


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server of the system with TLS 1.2 and a certificate that nobody knows; it lets nobody in without TLS."""
    with own_server({"fsync": "off"}, of_the_system=True) as server:
        give_to_server(make_authority(tmp_path_factory.mktemp("certificates"), "server"), server.data)
        (server.data / "pg_hba.conf").write_text(RULES.format(owner=server.user))
        asyncio.run(_speak_tls(server.url()))
        yield server


async def _speak_tls(url: URL) -> None:
    async with connection(url) as admin:
        await admin.execute("ALTER SYSTEM SET ssl_max_protocol_version = 'TLSv1.2'")
        await admin.execute("ALTER SYSTEM SET ssl_ca_file = 'server.crt'")
    await switch_on(url)


async def refused(provoke: Callable[[], Awaitable[object]], url: URL) -> FerryError:
    """Return what a person is told of what is raised."""
    with pytest.raises(Exception) as raised:
        await provoke()
    return explain(raised.value, url)


# ---------------------------------------------------------------- what goes wrong at any server


async def run_twice(scene: Scene, first: str, second: str) -> None:
    """Let one session hold something, and another one want it."""
    async with connection(scene.url) as holder, connection(scene.url) as other:
        await holder.execute(first)
        await other.execute(second)


async def serialization(scene: Scene) -> None:
    await scene.run("CREATE TABLE t (n int)", "INSERT INTO t VALUES (1)")
    async with connection(scene.url) as one, connection(scene.url) as other:
        await one.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM t")
        await other.execute("UPDATE t SET n = 2")
        await one.execute("UPDATE t SET n = 3")


async def lost(scene: Scene) -> None:
    async with connection(scene.url) as opened, connection(scene.url) as other:
        await other.execute("SELECT pg_terminate_backend($1, 5000)", opened.get_server_pid())
        await opened.execute("SELECT 1")


async def silent(_: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        await connect(URL.create("postgresql", "me", "x", "127.0.0.1", server.getsockname()[1], "app"), timeout=0.2)


async def closed_port(_: Scene) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    await connect(URL.create("postgresql", "me", "x", "127.0.0.1", port, "app"))


async def limited(scene: Scene) -> None:
    await scene.run(f"ALTER ROLE {scene.role} CONNECTION LIMIT 0")
    await connect(scene.role_url)


async def without_login(scene: Scene) -> None:
    await scene.run(f"ALTER ROLE {scene.role} NOLOGIN")
    await connect(scene.role_url)


async def closed_database(scene: Scene) -> None:
    async with connection(scene.url, database="postgres") as admin:
        await admin.execute(f'ALTER DATABASE "{scene.url.database}" ALLOW_CONNECTIONS false')
    await connect(scene.url)


async def by_role(scene: Scene, statement: str) -> None:
    async with connection(scene.role_url) as opened:
        await opened.execute(statement)


async def too_old(scene: Scene) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "OLDEST_SERVER", 999)
        await connect(scene.url)


async def full_disk_here(_: Scene) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")


async def unreachable(_: Scene) -> None:
    # Of all addresses no stream leads to the broadcast one, whatever routes a machine has.
    await connect(URL.create("postgresql", "me", "x", "255.255.255.255", 5432, "app"))


async def refused_by_pooler(scene: Scene) -> None:
    with pgbouncer(scene.url, "session") as url:
        await connect(url.set(password=PASSWORD))


async def without_transactions(scene: Scene) -> None:
    with pgbouncer(scene.url, "statement") as url:
        async with connection(url) as opened, opened.transaction():
            await opened.execute("SELECT 1")


ANYWHERE: dict[str, Provoke] = {
    "The host is unknown": lambda _: connect(URL.create("postgresql", "me", "x", "no-such-host.invalid", 5432, "app")),
    "Nothing listens there": closed_port,
    "There is no such socket": lambda scene: connect(
        URL.create("postgresql", "me", "x", database="app", query={"host": str(scene.folder)})
    ),
    "The network does not reach the server": unreachable,
    "The server does not answer in time": silent,
    "The pooler refuses the connection": refused_by_pooler,
    "The pooler takes no transactions": without_transactions,
    "The password is wrong or missing": lambda scene: connect(scene.role_url.set(password="another")),
    "The role does not exist or may not log in": without_login,
    "The database does not exist": lambda scene: connect(scene.url.set(database="no such one")),
    "The database takes no connections": closed_database,
    "Too many connections": limited,
    "The server is too old": too_old,
    "An option in the URL is unknown": lambda scene: connect(scene.asking(no_such_option="1")),
    "An option in the URL is wrong": lambda scene: connect(scene.asking(sslmode="sometimes")),
    "The pooler mixes up prepared statements": lambda scene: scene.run("EXECUTE of_another_session"),
    "A permission is missing": lambda scene: by_role(scene, "SELECT * FROM pg_authid"),
    "A schema may not be written to": lambda scene: by_role(scene, "CREATE TABLE public.t (n int)"),
    "The server is read-only": lambda scene: scene.run("BEGIN READ ONLY; CREATE TABLE t (n int)"),
    "The server's disk is full": lambda scene: scene.run("COPY (SELECT repeat('x', 1000000)) TO '/dev/full'"),
    "This machine's disk is full": full_disk_here,
    "The server cannot read or write a file": lambda scene: scene.run("COPY pg_class TO '/no/such/folder/file'"),
    "A statement took too long": lambda scene: scene.run("SET statement_timeout = 50; SELECT pg_sleep(9)"),
    "A lock was not to be had": lambda scene: run_twice(
        scene, "BEGIN; LOCK pg_inherits", "BEGIN; LOCK pg_inherits NOWAIT"
    ),
    "Two sessions were in each other's way": serialization,
    "The connection was lost": lost,
}

# ---------------------------------------------------------------- what goes wrong at a server of its own


async def not_in_hba(server: EmbeddedServer) -> None:
    file = server.data / "pg_hba.conf"
    kept = file.read_text()
    file.write_text("hostssl all nobody 127.0.0.1/32 scram-sha-256\n")
    try:
        async with connection(server.url()) as admin:
            await admin.execute("SELECT pg_reload_conf()")
            await asyncio.sleep(0.2)
            await connect(server.url())
    finally:
        file.write_text(kept)
        os.kill(server.pid, signal.SIGHUP)
        await asyncio.sleep(0.2)


async def without_tls(server: EmbeddedServer) -> None:
    await connect(server.url().set(query={"sslmode": "require"}))


async def out_of_memory(server: EmbeddedServer) -> None:
    async with connection(server.url()) as opened:
        await opened.execute("SELECT pg_advisory_lock(n) FROM generate_series(1, 200000) AS n")


async def shutting_down(server: EmbeddedServer) -> None:
    async with connection(server.url()):
        os.kill(server.pid, signal.SIGTERM)  # It waits for this client, and takes no other.
        await asyncio.sleep(0.2)
        await connect(server.url())


AT_ITS_OWN = {
    "The server does not allow this connection without TLS": not_in_hba,
    "The server does not speak TLS": without_tls,
    "The server is out of memory": out_of_memory,
    "The server is starting up or shutting down": shutting_down,  # the last: it ends
}


def _asking(server: EmbeddedServer, **options: str) -> URL:
    return server.url().set(query=options)


def by_a_strangers_certificate(server: EmbeddedServer, stranger: Path) -> URL:
    return _asking(server, sslmode="require", sslcert=str(stranger), sslkey=str(stranger.with_suffix(".key")))


WITH_TLS: dict[str, Callable[[EmbeddedServer, Path], URL]] = {
    "The server does not allow this connection without TLS": lambda server, _: _asking(server, sslmode="disable"),
    "The server's certificate is not trusted": lambda server, stranger: _asking(
        server, sslmode="verify-full", sslrootcert=str(stranger)
    ),
    "The server refuses the client's certificate": by_a_strangers_certificate,
    "The server wants a client's certificate": lambda server, _: _asking(server, sslmode="require").set(
        username="certified"
    ),
    "TLS failed": lambda server, _: _asking(server, sslmode="require", ssl_min_protocol_version="TLSv1.3"),
    "The server does not allow this connection": lambda server, _: _asking(server, sslmode="require").set(
        username="another"
    ),
}


@pytest.mark.parametrize("title", ANYWHERE)
async def test_it_is_told_with_its_cure(scene: Scene, title: str) -> None:
    error = await refused(lambda: ANYWHERE[title](scene), scene.url)
    assert error.details["title"] == title, error
    assert PASSWORD not in str(error)
    assert error.action


@pytest.mark.parametrize("title", AT_ITS_OWN)
async def test_it_is_told_of_a_server_in_trouble(own: EmbeddedServer, title: str) -> None:
    error = await refused(lambda: AT_ITS_OWN[title](own), own.url())
    assert error.details["title"] == title, error
    assert own.password not in str(error)


@pytest.mark.parametrize("title", WITH_TLS)
async def test_what_goes_wrong_with_tls_is_told(secure: EmbeddedServer, tmp_path: Path, title: str) -> None:
    url = WITH_TLS[title](secure, make_authority(tmp_path, "stranger"))
    error = await refused(lambda: connect(url), url)
    assert error.details["title"] == title, error


def test_every_row_is_provoked() -> None:
    assert {problem.title for problem in PROBLEMS} == ANYWHERE.keys() | AT_ITS_OWN.keys() | WITH_TLS.keys()


def test_the_drivers_errors_are_those_of_the_table() -> None:
    assert asyncpg.InvalidSQLStatementNameError.sqlstate == "26000"
    assert asyncpg.DuplicatePreparedStatementError.sqlstate == "42P05"
