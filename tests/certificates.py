"""Certificates of the tests' own, made by openssl, and a server that speaks TLS with them."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from sqlalchemy.engine import URL

from pgferry.errors import FerryError
from pgferry.postgres.connection import connect, connection

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_REVOCATIONS = """[ca]
default_ca = own
[own]
database = {authority}.index
default_md = sha256
default_crl_days = 1
"""


def own_address() -> str:
    """Return an address of this machine that is no loopback address; empty where it has none."""
    for addresses in psutil.net_if_addrs().values():
        for item in addresses:
            if item.family == socket.AF_INET and not item.address.startswith(("127.", "169.254.")):
                return str(item.address)
    return ""


def make_authority(folder: Path, name: str) -> Path:
    """Make an authority's key and certificate, side by side; returns the certificate."""
    _openssl(folder, "req", "-x509", *_KEY, "-days", "1", "-subj", f"/CN={name}", *_files(name))
    return folder / f"{name}.crt"


def sign_server(authority: Path, data: Path) -> None:
    """Make the server's key, and its certificate for the addresses of this machine, below its data folder."""
    names = f"subjectAltName=IP:127.0.0.1,IP:{own_address() or '127.0.0.2'}"
    give_to_server(sign(authority, "server", "a server", names), data)


def sign(authority: Path, name: str, subject: str, extension: str = "basicConstraints=CA:FALSE") -> Path:
    """Make a key and a certificate for a subject beside those of its authority; returns the certificate."""
    folder = authority.parent
    _openssl(folder, "req", *_KEY, "-subj", f"/CN={subject}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
    (folder / f"{name}.extension").write_text(extension)
    by = ("-CA", authority.name, "-CAkey", f"{authority.stem}.key", "-CAcreateserial", "-days", "1")
    _openssl(folder, "x509", "-req", "-in", f"{name}.csr", *by, "-extfile", f"{name}.extension", "-out", f"{name}.crt")
    (folder / f"{name}.key").chmod(0o600)
    return folder / f"{name}.crt"


def revoke(authority: Path, *certificates: Path) -> Path:
    """Make the authority's list of what it has revoked."""
    folder, name = authority.parent, authority.stem
    (folder / f"{name}.index").write_text("")
    (folder / f"{name}.cnf").write_text(_REVOCATIONS.format(authority=name))
    by = ("ca", "-config", f"{name}.cnf", "-cert", authority.name, "-keyfile", f"{name}.key")
    for certificate in certificates:
        _openssl(folder, *by, "-revoke", certificate.name)
    _openssl(folder, *by, "-gencrl", "-out", f"{name}.crl")
    return folder / f"{name}.crl"


def give_to_server(certificate: Path, data: Path) -> None:
    """Copy a certificate and its key to where a server may read them."""
    owner = data.stat()
    for file in (certificate, certificate.with_suffix(".key")):
        shutil.copyfile(file, data / file.name)
        (data / file.name).chmod(0o600)
        os.chown(data / file.name, owner.st_uid, owner.st_gid)


async def switch_on(url: URL) -> None:
    """Let the server speak TLS with what is below its data folder."""
    async with connection(url) as admin:
        await admin.execute("ALTER SYSTEM SET ssl = on")
        await admin.execute("SELECT pg_reload_conf()")
    async with asyncio.timeout(120):
        while True:
            with suppress(FerryError):
                await (await connect(url.set(query={"sslmode": "require"}))).close()
                return
            await asyncio.sleep(0.05)


def _files(name: str) -> tuple[str, ...]:
    return ("-keyout", f"{name}.key", "-out", f"{name}.crt")


def _openssl(folder: Path, *arguments: str) -> None:
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make certificates with")
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
