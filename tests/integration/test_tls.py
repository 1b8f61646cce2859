"""TLS as libpq's modes name it: what is negotiated, what is refused, and what is said of a way without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from pgferry.errors import Permanent, UsageError
from pgferry.operate.check import Verdict
from pgferry.operate.dump import find_programs, take_dump
from pgferry.operate.server_checks import check_encryption
from pgferry.postgres.connection import connect, connection
from pgferry.postgres.embedded import EmbeddedServer
from pgferry.postgres.encryption import way_of
from pgferry.postgres.schema import upgrade
from pgferry.report import markdown
from tests.acceptance.moving import Mover, alembic_project
from tests.acceptance.workload import equal
from tests.acceptance.workload_schema import POSTGRES, create_sqlite
from tests.certificates import make_authority, own_address, sign_server, switch_on
from tests.servers import own_server


@dataclass(frozen=True)
class Secure:
    """A server with TLS, whose certificate an authority of the test's own has signed; plain text is allowed, too."""

    server: EmbeddedServer
    authority: Path
    stranger: Path

    def url(self, **options: str) -> URL:
        """Return the administrator's URL with options."""
        return self.server.url().set(query=options)

    @property
    def full(self) -> dict[str, str]:
        """The options of a connection that is sure of its server."""
        return {"sslmode": "verify-full", "sslrootcert": str(self.authority)}


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("certificates")
    with own_server({"fsync": "off", "max_connections": "60"}, of_the_system=True) as server:
        made = Secure(server, make_authority(folder, "authority"), make_authority(folder, "stranger"))
        sign_server(folder / "authority.crt", server.data)
        asyncio.run(switch_on(made.url()))
        yield made


@asynccontextmanager
async def from_outside(url: URL) -> AsyncIterator[URL]:
    """Lead to the server by an address of this machine that is no loopback address; skips where it has none."""
    address = own_address()
    if not address:
        pytest.skip("this machine has no address but those of loopback")

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", url.port)
        await asyncio.gather(pass_on(reader, back), pass_on(there, writer))

    listener = await asyncio.start_server(serve, address, 0)
    try:
        yield url.set(host=address, port=listener.sockets[0].getsockname()[1])
    finally:
        listener.close()
        await listener.wait_closed()


async def moved(url: URL, folder: Path) -> Mover:
    """Return a small move by its own connection, with its schema made by migrations."""
    create_sqlite(folder / "app.db")
    await upgrade(url, alembic_project(folder / "project", *POSTGRES))
    return Mover(await connect(url), url, folder / "app.db", folder / "home")


@pytest.fixture
async def database(secure: Secure) -> AsyncIterator[str]:
    """An empty database of the server with TLS."""
    async with connection(secure.url()) as admin:
        await admin.execute("CREATE DATABASE moved TEMPLATE template0 ENCODING 'UTF8'")
    yield "moved"
    async with connection(secure.url()) as admin:
        await admin.execute("DROP DATABASE moved WITH (FORCE)")


# ---------------------------------------------------------------- what is negotiated


@pytest.mark.parametrize(
    ("mode", "encrypted", "verified"),
    [
        ("disable", False, False),
        ("prefer", True, False),
        ("require", True, False),
        ("verify-ca", True, False),
        ("verify-full", True, True),
    ],
)
async def test_every_mode_gives_what_it_names(secure: Secure, mode: str, encrypted: bool, verified: bool) -> None:
    files = {"sslrootcert": str(secure.authority)} if mode.startswith("verify") else {}
    async with connection(secure.url(sslmode=mode, **files)) as opened:
        way = way_of(opened)
        told = await opened.fetchval("SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        check = await check_encryption(opened)
    assert way.protocol == (told or "")
    assert (bool(way.protocol), way.verified) == (encrypted, verified)
    assert way.here and not way.exposed and check.verdict is Verdict.PASS


async def test_a_whole_move_with_an_authority_of_ones_own(secure: Secure, database: str, tmp_path: Path) -> None:
    url = secure.url(**secure.full).set(database=database)
    mover = await moved(url, tmp_path)
    try:
        report = await mover.run()
        without = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE datname = $1 AND NOT ssl"
        assert await mover.connection.fetchval(without, database) == 0
        programs = find_programs(mover.connection.get_server_version().major)
    finally:
        await mover.connection.close()
    assert report.verified
    assert not [note for note in report.notes if "not encrypted" in note]
    assert equal(tmp_path / "app.db", secure.server.url().set(database=database)) == []
    assert not isinstance(programs, str), programs
    assert take_dump(url, programs, tmp_path / "dumps", "app", schema_only=True).entries > 10


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_an_authority_that_nobody_named_is_refused(secure: Secure, mode: str) -> None:
    with pytest.raises(Permanent, match=r"The TLS certificate of .* was refused") as caught:
        await connect(secure.url(sslmode=mode, sslrootcert=str(secure.stranger)))
    assert "sslrootcert=FILE" in caught.value.action


async def test_another_host_name_than_the_certificates_is_refused(secure: Secure) -> None:
    with pytest.raises(Permanent, match=r"was refused: .*localhost") as caught:
        await connect(secure.url(**secure.full).set(host="localhost"))
    assert "use the host name in the certificate" in caught.value.action


async def test_a_server_that_cannot_be_checked_is_told(
    secure: Secure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # libpq's place of root.crt
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    with pytest.raises(UsageError, match=r"cannot be checked, as sslmode=verify-full asks: there is no") as caught:
        await connect(secure.url(sslmode="verify-full"))
    assert "sslrootcert=FILE" in caught.value.action
    with pytest.raises(Permanent, match=r"The TLS certificate of .* was refused"):
        await connect(secure.url(sslrootcert="system"))


# ---------------------------------------------------------------- plain text


async def test_plain_text_off_loopback_is_told_in_preflight_and_report(
    secure: Secure, database: str, tmp_path: Path
) -> None:
    async with from_outside(secure.url(sslmode="disable").set(database=database)) as url:
        mover = await moved(url, tmp_path)
        try:
            way, check = way_of(mover.connection), await check_encryption(mover.connection)
            report = await mover.run()
        finally:
            await mover.connection.close()
    assert way.exposed and way.address == url.host
    assert check.verdict is Verdict.WARN
    assert "none on the way to" in check.measured and "sslmode=verify-full" in check.advice
    assert [note for note in report.notes if "not encrypted" in note] == [way.warning]
    assert markdown(report).count(way.warning) == 1


async def test_tls_off_loopback_is_not_warned_of(secure: Secure) -> None:
    async with from_outside(secure.url(**secure.full)) as url, connection(url) as opened:
        way, check = way_of(opened), await check_encryption(opened)
    assert (way.here, way.exposed, way.verified, way.warning) == (False, False, True, "")
    assert check.verdict is Verdict.PASS


async def test_a_mode_that_only_prefers_tls_is_judged_by_what_came_of_it(server: EmbeddedServer) -> None:
    """The embedded server speaks no TLS: `prefer` goes on without it."""
    async with from_outside(server.url().set(query={"sslmode": "prefer"})) as url, connection(url) as opened:
        assert way_of(opened).exposed


async def test_a_unix_socket_needs_none(server: EmbeddedServer) -> None:
    folder = server.data
    if not list(folder.glob(".s.PGSQL.*")):
        pytest.skip("the server has no Unix socket here")
    given = server.url()
    url = URL.create(given.drivername, given.username, given.password, None, given.port, given.database)
    async with connection(url.set(query={"host": str(folder)})) as opened:
        way = way_of(opened)
    assert (way.address, way.here, way.exposed) == ("", True, False)
