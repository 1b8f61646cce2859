"""A server that lets a role in by its certificate: the move, what the server refuses, and lists of revoked ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from pgferry.errors import FerryError, Permanent, UsageError
from pgferry.operate.dump import find_programs, take_dump
from pgferry.postgres.connection import connect, connection
from pgferry.postgres.embedded import EmbeddedServer
from pgferry.postgres.schema import upgrade
from tests.acceptance.moving import Mover, alembic_project
from tests.acceptance.workload import equal
from tests.acceptance.workload_schema import POSTGRES, create_sqlite
from tests.certificates import give_to_server, make_authority, revoke, sign, sign_server, switch_on
from tests.servers import own_server

ROLE = "certified"


@dataclass(frozen=True)
class Certified:
    """A server that lets the role in by a certificate of its authority only, whose database `moved` the role owns."""

    server: EmbeddedServer
    authority: Path

    def url(self, certificate: Path | None, **options: str) -> URL:
        """Return the role's URL, without a password."""
        files = {"sslcert": str(certificate), "sslkey": str(certificate.with_suffix(".key"))} if certificate else {}
        sure = {"sslmode": "verify-full", "sslrootcert": str(self.authority)}
        own = self.server.url()
        bare = URL.create(own.drivername, ROLE, None, own.host, own.port, "moved")
        return bare.set(query={**sure, **files, **options})


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Certified]:
    with own_server({"fsync": "off", "max_connections": "60"}, of_the_system=True) as server:
        authority = make_authority(tmp_path_factory.mktemp("certificates"), "authority")
        sign_server(authority, server.data)
        give_to_server(authority, server.data)
        rules = server.data / "pg_hba.conf"
        rules.write_text(f"hostssl all {ROLE} 127.0.0.1/32 cert\n" + rules.read_text())
        asyncio.run(_prepare(server.url()))
        yield Certified(server, authority)


async def _prepare(url: URL) -> None:
    async with connection(url) as admin:
        await admin.execute("ALTER SYSTEM SET ssl_ca_file = 'authority.crt'")
        await admin.execute(f"CREATE ROLE {ROLE} LOGIN")
        await admin.execute(f"CREATE DATABASE moved TEMPLATE template0 ENCODING 'UTF8' OWNER {ROLE}")
    await switch_on(url)


async def test_a_whole_move_and_a_dump_by_a_certificate(certified: Certified, tmp_path: Path) -> None:
    url = certified.url(sign(certified.authority, "client", ROLE))
    create_sqlite(tmp_path / "app.db")
    await upgrade(url, alembic_project(tmp_path / "project", *POSTGRES))
    async with connection(url) as opened:
        told = await opened.fetchval("SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        report = await Mover(opened, url, tmp_path / "app.db", tmp_path / "home").run()
        programs = find_programs(opened.get_server_version().major)
    assert told == f"/CN={ROLE}"
    assert report.verified
    assert equal(tmp_path / "app.db", certified.server.url().set(database="moved")) == []
    assert not isinstance(programs, str), programs
    assert take_dump(url, programs, tmp_path / "dumps", "app", schema_only=True).entries > 10


async def test_without_a_certificate_the_server_refuses(certified: Certified) -> None:
    with pytest.raises(Permanent, match="certificate") as caught:
        await connect(certified.url(None))
    assert "sslcert" in caught.value.action


async def test_another_subjects_certificate_is_refused(certified: Certified) -> None:
    with pytest.raises(Permanent, match=ROLE):
        await connect(certified.url(sign(certified.authority, "another", "another")))


async def test_a_strangers_certificate_is_refused(certified: Certified, tmp_path: Path) -> None:
    """Since TLS 1.3 it is said after the handshake, as the server cuts the connection, which may be all one sees."""
    url = certified.url(sign(make_authority(tmp_path, "stranger"), "stranger-client", ROLE))
    told = [await refused(url) for _ in range(20)]
    refusals = [each for each in told if isinstance(each, Permanent)]
    assert refusals
    assert {each.details["title"] for each in refusals} == {"The server refuses the client's certificate"}
    assert all("read its log" in each.action for each in told if each not in refusals)


async def refused(url: URL) -> FerryError:
    with pytest.raises(FerryError) as caught:
        await connect(url)
    return caught.value


async def test_a_key_that_is_not_there_is_told_before_anything_is_opened(certified: Certified, tmp_path: Path) -> None:
    url = certified.url(sign(certified.authority, "client", ROLE), sslkey=str(tmp_path / "none.key"))
    with pytest.raises(UsageError, match=r"none\.key"):
        await connect(url)


async def test_a_server_whose_certificate_was_revoked_is_refused(certified: Certified) -> None:
    client = sign(certified.authority, "client", ROLE)
    nobody = revoke(certified.authority)
    await (await connect(certified.url(client, sslcrl=str(nobody)))).close()
    server = revoke(certified.authority, certified.authority.parent / "server.crt")
    with pytest.raises(Permanent, match=r"The TLS certificate of .* was refused.*revoked"):
        await connect(certified.url(client, sslcrl=str(server)))
