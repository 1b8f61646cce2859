"""Poolers: PgBouncer itself, and a proxy that is one as far as a client can tell, by process ids of its own.

The proxy, with `resets`, forgets a session's state after each transaction, as transaction pooling with
server_reset_query does.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

import pytest
from sqlalchemy.engine import URL

from pgferry.postgres.binaries import run_as
from pgferry.postgres.place import unprivileged

PATIENCE = 300.0
RESET = b"DISCARD ALL\x00"


@contextmanager
def pgbouncer(server: URL, pool_mode: str, **settings: object) -> Iterator[URL]:
    """Run PgBouncer in front of a server, for one of its users; skips where it is not installed.

    Yields the URL that leads there.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if program is None:
        pytest.skip("no pgbouncer: the real pooler is needed here")
    folder = Path(mkdtemp(prefix="pgferry-pgbouncer-"))  # below /tmp: it runs under another account than root
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    account = unprivileged()
    _write(folder, server, port, {"pool_mode": pool_mode, **settings}, account)
    process = subprocess.Popen([program, "--quiet", str(folder / "ini")], **run_as(account))
    try:
        _wait_for(port, process)
        yield server.set(host="127.0.0.1", port=port)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def _write(folder: Path, server: URL, port: int, settings: dict[str, object], account: tuple[int, int] | None) -> None:
    given = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "logfile": folder / "log",
        "auth_type": "scram-sha-256",
        "auth_file": folder / "users",
        "server_login_retry": 1,
        **settings,
    }
    lines = [f"{name} = {value}" for name, value in given.items()]
    where = f"* = host={server.host} port={server.port}"
    (folder / "ini").write_text("\n".join(["[databases]", where, "[pgbouncer]", *lines, ""]))
    (folder / "users").write_text(f'"{server.username}" "{server.password}"\n')
    for path in (folder, *folder.iterdir()):
        if account is not None:
            os.chown(path, *account)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=PATIENCE):
            return
        assert process.poll() is None, "PgBouncer has ended"
        assert time.monotonic() < deadline, "PgBouncer does not answer"
        time.sleep(0.02)


@asynccontextmanager
async def pooler(server: URL, *, resets: bool) -> AsyncIterator[URL]:
    """Listen on a port of its own and pass everything on to the server; yields the URL that leads there."""
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_server = await asyncio.open_connection(server.host, server.port)
        forward = asyncio.ensure_future(_pass_on(reader, to_server))
        back = asyncio.ensure_future(_answers(upstream, to_server, writer, resets))
        tasks.update((forward, back))
        await asyncio.wait((forward, back), return_when=asyncio.FIRST_COMPLETED)
        for end in (to_server, writer):
            end.close()

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        port = listening.sockets[0].getsockname()[1]
        # Without the question for TLS, whose answer is a single byte and no message.
        yield server.set(host="127.0.0.1", port=port).update_query_dict({"sslmode": "disable"})
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, OSError, asyncio.IncompleteReadError):
                await task


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)


async def _answers(
    server: asyncio.StreamReader, to_server: asyncio.StreamWriter, client: asyncio.StreamWriter, resets: bool
) -> None:
    started = False
    with suppress(asyncio.IncompleteReadError):
        while True:
            kind, message = await _message(server)
            if kind == b"K":
                message = message[:5] + struct.pack("!i", 999_999) + message[9:]
            if kind == b"Z" and message[5:] == b"I":
                if started and resets:
                    to_server.write(b"Q" + struct.pack("!i", 4 + len(RESET)) + RESET)
                    while (await _message(server))[0] != b"Z":
                        pass
                started = True
            client.write(message)


async def _message(server: asyncio.StreamReader) -> tuple[bytes, bytes]:
    kind = await server.readexactly(1)
    length = await server.readexactly(4)
    return kind, kind + length + await server.readexactly(struct.unpack("!i", length)[0] - 4)
