"""Servers that the embedded one cannot stand for: those with OpenSSL and contrib modules, from the system."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import psutil
import pytest

from pgferry.postgres import embedded
from pgferry.postgres.embedded import EmbeddedServer

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))


@contextmanager
def own_server(settings: Mapping[str, str], *, of_the_system: bool = False) -> Iterator[EmbeddedServer]:
    """Run a server of the test's own; `of_the_system` takes Debian's newest, and skips where there is none."""
    if of_the_system and not INSTALLED:
        pytest.skip("no PostgreSQL of the system: its OpenSSL and contrib modules are needed here")
    # Below /tmp, not pytest's own folder (mode 700): the server may run under another account.
    home = Path(mkdtemp(prefix="pgferry-test-"))
    home.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        if of_the_system:
            patch.setenv("PG_BIN_DIR", str(INSTALLED[-1].parent))
        try:
            yield embedded.start(home, settings)
        finally:
            embedded.stop(home)
            shutil.rmtree(home)


@dataclass
class Crashing:
    """A server that is killed, and started again in the same place: it recovers from its log then."""

    server: EmbeddedServer
    crashes: int = 0

    def crash(self) -> None:
        """Kill the postmaster and every process of its own with SIGKILL."""
        postmaster = psutil.Process(self.server.pid)
        postmaster.suspend()  # It would start processes that are not in the list, and these would live on.
        for process in (*postmaster.children(recursive=True), postmaster):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.crashes += 1

    def stop_at_once(self) -> None:
        """Stop it as `pg_ctl stop -m immediate` does: its clients are told, and nothing is written down."""
        os.kill(self.server.pid, signal.SIGQUIT)
        self.crashes += 1

    def start(self) -> None:
        """Start it again, on its port."""
        self.server = embedded.start(self.server.data.parents[1])

    def restart(self) -> None:
        """Kill it, and start it again."""
        self.crash()
        self.start()


@contextmanager
def crashing_server(settings: Mapping[str, str]) -> Iterator[Crashing]:
    """Run a server that may be killed: what its processes have written is there, as the machine lives on."""
    with own_server({"fsync": "off", "max_connections": "60", **settings}) as server:
        yield Crashing(server)
