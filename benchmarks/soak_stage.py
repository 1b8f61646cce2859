"""Where a soak takes place: an application that writes, a follower, a server that may die, a proxy in between."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import psutil

from pgferry.live.model import Phase
from pgferry.live.phases import current
from pgferry.postgres import embedded
from pgferry.postgres.journal import live_run
from tests.acceptance.workload import Workload
from tests.acceptance.workload_schema import POSTGRES, create_sqlite
from tests.live import LiveMove
from tests.live_step import write_settings
from tests.proxy import Proxy
from tests.server_activity import activity
from tests.servers import Crashing, crashing_server

ROOT = Path(__file__).parent.parent

STALL = 3.0
"""Seconds without a byte after which a connection is looked into."""

PATIENCE = 180.0
"""Seconds in which everything must be level, or a step at its end."""

GONE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, sqlite3.OperationalError)


class Lost(AssertionError):
    """The move did not come back from a fault."""


@dataclass
class Stage:
    """Everything that a fault can be done to."""

    folder: Path
    crashing: Crashing
    proxy: Proxy
    move: LiveMove
    load: Workload
    dice: random.Random
    follower: subprocess.Popen[bytes] | None = None
    followed: bool = True
    """Whether a follower that has ended is started again."""
    carried: list[str] = field(default_factory=list)

    # ------------------------------------------------------------ processes

    def step(self, name: str) -> subprocess.Popen[bytes]:
        """Start a step of the move as a process; what it says goes to a file."""
        with (self.folder / "steps.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.live_step", str(self.folder / "step.json"), name],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def finish(self, name: str) -> None:
        """Run a step until it comes to its end, again and again while what stands against it may pass."""
        deadline = time.monotonic() + PATIENCE
        while (code := self.ended(self.step(name), deadline)) != 0:
            if code != 75 or time.monotonic() > deadline:
                raise Lost(f"{name} ended with {code}: {self.log()}")
            time.sleep(0.3)

    def ended(self, process: subprocess.Popen[bytes], deadline: float) -> int:
        """Wait for a step, and keep the follower alive meanwhile."""
        try:
            while process.poll() is None:
                self.keep_following()
                if time.monotonic() > deadline:
                    raise Lost(f"a step does not end: {self.where(process)}")
                time.sleep(0.02)
            return process.returncode
        finally:
            process.kill()
            process.wait()

    def where(self, process: subprocess.Popen[bytes]) -> str:
        """Return where a step stands, what the server does for whom, and the last that the steps said."""
        sessions = activity(self.crashing.server.url("app"))
        process.send_signal(signal.SIGUSR1)
        time.sleep(1)
        return f"{' '.join(map(str, process.args))}\n{sessions}\n{self.log()}"

    def log(self) -> str:
        """Return the last that the steps said."""
        return (self.folder / "steps.log").read_text("utf-8", "replace")[-10_000:]

    def keep_following(self) -> None:
        """Start a follower when there is none."""
        if self.follower is not None and self.follower.poll() not in (None, -9, 75):
            raise Lost(f"the follower ended with {self.follower.returncode}: {self.log()}")
        if self.followed and (self.follower is None or self.follower.poll() is not None):
            self.follower = self.step("stay")

    def stop_following(self) -> None:
        """End the follower for good."""
        self.followed = False
        if self.follower is not None:
            self.follower.kill()
            self.follower.wait()

    def memory(self) -> int:
        """Return the follower's resident memory."""
        if self.follower is None:
            return 0
        with suppress(psutil.NoSuchProcess):
            return int(psutil.Process(self.follower.pid).memory_info().rss)
        return 0

    # ------------------------------------------------------------ where it stands

    def phase(self) -> Phase:
        """Return the phase, asked for until the server answers."""

        async def ask() -> Phase:
            async with self.move.session() as server:
                return (await current(server, (await live_run(server, str(self.move.source))).id)).phase

        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return asyncio.run(ask())
            except Exception as error:
                if time.monotonic() > deadline:
                    raise Lost(f"no phase: {error!r}") from error
                time.sleep(0.1)

    def in_sqlite(self) -> str:
        """Return the newest token in SQLite, or "" where there is none."""
        with closing(sqlite3.connect(f"file:{self.move.source}?mode=ro", uri=True, timeout=30)) as file:
            row = file.execute("SELECT token FROM acknowledged ORDER BY rowid DESC LIMIT 1").fetchone()
            return str(row[0]) if row else ""

    def in_postgres(self, query: str, *values: object) -> object:
        """Return what a query answers, past the proxy."""

        async def ask() -> object:
            url = self.crashing.server.url("app").set(drivername="postgresql")
            server = await asyncpg.connect(url.render_as_string(hide_password=False), timeout=10)
            try:
                return await server.fetchval(query, *values, timeout=30)
            finally:
                await server.close(timeout=5)

        return asyncio.run(ask())

    def newest(self) -> str:
        """Return the newest token on the side in front."""
        with suppress(*GONE):
            if self.load.states()[0].backend == "sqlite":
                return self.in_sqlite()
            return str(self.in_postgres("SELECT token FROM acknowledged ORDER BY at DESC LIMIT 1") or "")
        return ""

    def arrived(self, token: str) -> bool:
        """Say whether the token is on both sides."""
        with suppress(*GONE):
            if self.in_postgres("SELECT token FROM acknowledged WHERE token = $1", token) is None:
                return False
            with closing(sqlite3.connect(f"file:{self.move.source}?mode=ro", uri=True, timeout=30)) as file:
                return file.execute("SELECT 1 FROM acknowledged WHERE token = ?", (token,)).fetchone() is not None
        return False

    def await_arrival(self, token: str) -> None:
        """Wait until the token is on both sides."""
        deadline = time.monotonic() + PATIENCE
        while token and not self.arrived(token):
            self.keep_following()
            if time.monotonic() > deadline:
                raise Lost(f"the write {token} has not arrived: {self.log()}")
            time.sleep(0.02)


@contextmanager
def stage(folder: Path, seed: int, rate: float) -> Iterator[Stage]:
    """Set the stage: an application that writes, dual-write begun, a follower at work."""
    dice = random.Random(seed)
    create_sqlite(folder / "app.db")
    with crashing_server({}) as crashing:
        url = asyncio.run(embedded.create_database(crashing.server, "app"))
        with Proxy(url) as proxy:
            move = LiveMove(proxy.url, folder / "app.db", folder / "home", chunk_rows=100, stall=STALL)
            asyncio.run(_prepared(move))
            # It waits for the disk: what it was told is committed must outlive a crash of either side.
            with Workload(folder / "load", move.env_file, seed=seed, rate=rate, slow=True) as load:
                write_settings(folder / "step.json", move, load.folder / "restart")
                made = Stage(folder, crashing, proxy, move, load, dice)
                load.start()
                try:
                    asyncio.run(move.dual_write())
                    made.keep_following()
                    yield made
                finally:
                    made.stop_following()


async def _prepared(move: LiveMove) -> None:
    async with move.session() as server:
        for statement in POSTGRES:
            await server.execute(statement)
    move.write_environment()
