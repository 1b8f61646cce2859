"""Killed by SIGKILL at any moment, each step of a live move goes on when it is run again, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.live.model import Phase
from pgferry.live.phases import current
from pgferry.postgres.journal import live_run
from tests.acceptance.moving import ROOT
from tests.acceptance.workload import Workload, equal
from tests.acceptance.workload_schema import POSTGRES, create_sqlite, misshapen
from tests.live import LiveMove
from tests.live_step import write_settings

LONGEST = {"dual_write": 3.0, "follow": 1.5, "switch": 1.5, "roll_back": 1.0}
"""Seconds after its start within which a step is killed; Python's own start takes about one more."""

PATIENCE = 240.0
"""Seconds that an undisturbed step may take on a busy machine."""


@dataclass
class Killer:
    """Runs steps as processes and kills them."""

    move: LiveMove
    load: Workload
    dice: random.Random
    settings: Path
    kills: int = 0

    def start(self, step: str) -> subprocess.Popen[bytes]:
        """Start a step; what it says goes to a file."""
        with (self.move.home / "steps.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.live_step", str(self.settings), step],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def disturb(self, step: str, times: int) -> None:
        """Start the step and kill it, again and again; then let it come to its end."""
        for _ in range(times):
            process = self.start(step)
            with suppress(subprocess.TimeoutExpired):
                process.wait(1.0 + self.dice.uniform(0.0, LONGEST[step]))
            self.kills += process.poll() is None
            process.kill()
            process.wait()
        if step != "follow":
            self.finish(step)

    def finish(self, step: str) -> None:
        """Run the step to its end; once more while what the killed one held is still held."""
        deadline = time.monotonic() + PATIENCE
        while (code := self._run(step, deadline)) == 75:
            assert time.monotonic() < deadline
        said = (self.move.home / "steps.log").read_text()[-3000:]
        assert code == 0, f"{step}: {said}"

    def _run(self, step: str, deadline: float) -> int:
        process = self.start(step)
        try:
            return process.wait(max(1.0, deadline - time.monotonic()))
        finally:
            process.kill()
            process.wait()


@pytest.fixture
async def killer(tmp_path: Path, database_url: URL, connection: asyncpg.Connection[asyncpg.Record]) -> LiveMove:
    """The application's file, and its empty schema."""
    create_sqlite(tmp_path / "app.db")
    for statement in POSTGRES:
        await connection.execute(statement)
    move = LiveMove(database_url, tmp_path / "app.db", tmp_path / "home", chunk_rows=60)
    move.write_environment()
    return move


@pytest.fixture
def load(tmp_path: Path, killer: LiveMove) -> Iterator[Workload]:
    """The application, writing."""
    with Workload(tmp_path / "load", killer.env_file, seed=23, rate=200) as running:
        running.start()
        yield running


async def phase(move: LiveMove) -> Phase:
    """Return where the move stands."""
    async with move.session() as server:
        return (await current(server, (await live_run(server, str(move.source))).id)).phase


async def wrong(load: Workload, move: LiveMove) -> list[str]:
    """Return what is wrong while nobody writes; the application goes on then."""
    load.pause()
    if await phase(move) is Phase.DUAL_WRITE:
        await move.sync()
    else:
        await move.sync_back()
    found = [*load.errors, *load.lost(move.source), *load.lost_in(move.url), *equal(move.source, move.url)]
    found += misshapen(move.source)
    load.resume()
    return found


async def live_through(move: LiveMove, load: Workload, seed: int, kills: int) -> int:
    """Go through every phase, killing each step `kills` times; returns how many processes were really killed."""
    settings = move.home / "step.json"
    write_settings(settings, move, load.folder / "restart")
    killer = Killer(move, load, random.Random(seed), settings)
    await asyncio.to_thread(killer.disturb, "dual_write", kills)
    await asyncio.to_thread(killer.disturb, "follow", kills)
    assert await wrong(load, move) == []
    await asyncio.to_thread(killer.disturb, "switch", kills)
    assert await phase(move) is Phase.SWITCHED
    await asyncio.to_thread(load.run_until, 30)
    await asyncio.to_thread(killer.disturb, "follow", kills)
    assert await wrong(load, move) == []
    await asyncio.to_thread(killer.disturb, "roll_back", kills)
    assert await phase(move) is Phase.DUAL_WRITE
    await asyncio.to_thread(load.run_until, 30)
    assert await wrong(load, move) == []
    return killer.kills


async def test_killed_steps_go_on(killer: LiveMove, load: Workload) -> None:
    assert await live_through(killer, load, seed=5, kills=1) >= 3


@pytest.mark.slow
async def test_fifty_kills(killer: LiveMove, load: Workload) -> None:
    assert await live_through(killer, load, seed=6, kills=13) >= 50
