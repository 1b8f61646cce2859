"""A disk is full: here while rows are staged or backed up, there while rows are loaded or indexes built."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

import pytest
from sqlalchemy.engine import URL

from pgferry.errors import Permanent
from pgferry.postgres import embedded
from pgferry.postgres.embedded import EmbeddedServer
from tests.acceptance.moving import ask
from tests.acceptance.victim import Place
from tests.proxy import Proxy, simple
from tests.servers import crashing_server

KIB = 1024
MIB = 1024 * KIB

SERVER = {"fsync": "off", "wal_recycle": "off", "min_wal_size": "32MB", "max_wal_size": "64MB"}


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a file system of so many KiB there; skips where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}k,mode=755", "pgferry-test", folder]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a disk of the test's own needs the right to mount one")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def grow(folder: Path, size: int) -> None:
    """Give the file system so many KiB."""
    subprocess.run(["mount", "-o", f"remount,size={size}k", folder], check=True)


def fill(folder: Path, left: int = 0) -> Path:
    """Fill the disk until so many KiB are left, while others may write, too; return the file that does it."""
    ballast = folder / "ballast"
    with ballast.open("wb", 0) as file, suppress(OSError):
        while (room := os.statvfs(folder)).f_bavail * room.f_frsize > left * KIB:
            file.write(bytes(min(MIB, room.f_bavail * room.f_frsize - left * KIB)))
    return ballast


# ---------------------------------------------------------------- here


@pytest.mark.parametrize(("where", "size", "named"), [("staging", 256, "staging file"), ("backups", 2048, "backup of")])
def test_no_room_here_is_told_by_the_place_and_the_next_run_finishes(
    where: str, size: int, named: str, place: Place
) -> None:
    victim = place.victim()
    with small_disk(victim.home / where, size) as full:
        failed = asyncio.run(victim.attempt())
        assert isinstance(failed, Permanent)
        assert named in failed.message
        assert str(full) in failed.message
        assert "Make room" in failed.action
        assert not list(full.rglob("*.part"))
        victim.assert_rows_are_those_of_the_ledger()
        grow(full, 65_536)
        assert asyncio.run(victim.attempt()) is None
        victim.assert_like_undisturbed()


@pytest.mark.slow
def test_the_command_names_the_place_and_does_not_try_again(place: Place) -> None:
    victim = place.victim()
    with small_disk(victim.home / "staging", 256) as full:
        ended = victim.migrate()
        assert ended.returncode == 1
        error = ended.stderr.strip().splitlines()[-1]
        assert error.startswith(f"Error: The staging file {full}"), ended.stderr
        assert "No space left on device" in error
        assert "Make room, or name another place with PGFERRY_STAGING" in error
        victim.assert_rows_are_those_of_the_ledger()
        victim.finishes(PGFERRY_STAGING=str(victim.home / "elsewhere"))


# ---------------------------------------------------------------- there


@contextmanager
def full_tablespace(size: int) -> Iterator[tuple[URL, Path]]:
    """Make a database of a server of its own whose files lie on a disk of so many KiB; the log has room."""
    with crashing_server({}) as crashing:
        data = crashing.server.data
        with small_disk(data.parents[1] / "small", size) as folder:
            inside = folder / "space"
            inside.mkdir()
            shutil.chown(inside, data.stat().st_uid, data.stat().st_gid)
            ask(crashing.server.url(), f"CREATE TABLESPACE small LOCATION '{inside}'")
            ask(crashing.server.url(), "CREATE DATABASE app TABLESPACE small")
            yield crashing.server.url("app"), folder


WHEN = {
    "load": (b"SET LOCAL synchronous_commit = off", 512, "The disk of PostgreSQL at 127.0.0.1:"),
    "index build": (b"CREATE UNIQUE INDEX pk_trades ON", 0, "cannot be built"),
}
"""What is sent when the disk is filled, the KiB that are left, and what is told."""


@pytest.mark.parametrize("when", WHEN)
def test_no_room_on_the_server_is_told_and_the_next_run_finishes(when: str, place: Place) -> None:
    word, left, told = WHEN[when]
    with full_tablespace(16_384) as (url, folder):
        victim = place.victim(url)
        with Proxy(url) as proxy:
            proxy.when(simple(word), lambda link: fill(folder, left) and None)
            failed = asyncio.run(victim.attempt(proxy.url))
        assert isinstance(failed, Permanent), failed
        assert told in failed.message
        assert "No space left on device" in failed.message
        assert "run the same command again" in failed.action
        (folder / "ballast").unlink()
        victim.assert_rows_are_those_of_the_ledger()
        assert asyncio.run(victim.attempt()) is None
        victim.assert_like_undisturbed()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_room_for_the_servers_data_and_log_at_any_size(place: Place) -> None:
    """Without room for its log the server ends, and starts again when there is some."""
    # Not below pytest's own folder: the server runs under another account, and each start of pytest closes that folder.
    above = Path(mkdtemp(prefix="pgferry-test-"))
    above.chmod(0o755)
    failures = 0
    with small_disk(above / "disk", 400_000) as folder:
        embedded.start(folder, SERVER)
        try:
            for left in range(1, 26, 2):
                failures += failed_for_room(place, folder, left)
        finally:
            embedded.stop(folder)
    assert failures >= 3
    shutil.rmtree(above)


def failed_for_room(place: Place, folder: Path, left: int) -> bool:
    """Move with so many MiB left, and once more with room; return whether the first one failed."""
    server: EmbeddedServer = embedded.start(folder)
    victim = place.victim(asyncio.run(embedded.create_database(server, f"app_{left}")))
    ballast = fill(folder, left * KIB)
    failed = asyncio.run(victim.attempt())
    ballast.unlink()
    server = embedded.start(folder)
    if failed is not None:
        assert f"127.0.0.1:{server.port}" in failed.message
        victim.assert_rows_are_those_of_the_ledger()
        assert asyncio.run(victim.attempt()) is None
    victim.assert_like_undisturbed()
    ask(server.url(), f"DROP DATABASE app_{left}")
    return failed is not None
