"""The clock of this machine is set back, or on: nothing is carried in its order, and nothing is lost by it."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.live.gates import measure_switch
from pgferry.postgres.journal import live_run
from pgferry.sqlite.snapshot import still_current, take, written_since
from tests.acceptance.moving import ROOT
from tests.acceptance.victim import Place
from tests.acceptance.workload_equal import equal
from tests.acceptance.workload_schema import POSTGRES, create_sqlite
from tests.live import LiveMove
from tests.live_step import write_settings
from tests.proxy import Link, Proxy

HOUR = 3600


def under_a_clock(shifted: int, *arguments: str | Path) -> str:
    """Run a module whose clock is wrong by so many seconds; return what it prints."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.shifted", str(shifted), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture
async def move(tmp_path: Path, database_url: URL, connection: asyncpg.Connection[asyncpg.Record]) -> LiveMove:
    create_sqlite(tmp_path / "app.db")
    for statement in POSTGRES:
        await connection.execute(statement)
    made = LiveMove(database_url, tmp_path / "app.db", tmp_path / "home")
    made.write_environment()
    return made


def write(move: LiveMove, label: str, rows: int = 40) -> None:
    """Let the application insert, change and delete; each time it is the same rows that change."""
    with closing(sqlite3.connect(move.source)) as file:
        file.execute("DELETE FROM scratch WHERE id % 7 = 3")
        file.execute("UPDATE scratch SET label = ?", (label,))
        file.executemany("INSERT INTO scratch (label, amount) VALUES (?, ?)", [(label, n) for n in range(rows)])
        file.commit()


async def test_a_sync_carries_by_the_outbox_whatever_the_clock_says(move: LiveMove) -> None:
    await move.dual_write()
    settings = move.home / "step.json"
    write_settings(settings, move, move.home / "restart")

    def step(name: str, shifted: int) -> str:
        return under_a_clock(shifted, "tests.live_step", settings, name)

    for label, shifted in (("on", HOUR), ("back", -HOUR)):
        write(move, label)
        rows, seconds = json.loads(await asyncio.to_thread(step, "lag", shifted))
        assert rows > 0
        assert seconds > HOUR - 300 if shifted > 0 else seconds == 0, "the clock is not the one that was set"
        await asyncio.to_thread(step, "sync", shifted)
        assert equal(move.source, move.url) == []
        assert await move.lag() == (0, 0.0)
    for number, shifted in enumerate((HOUR, -HOUR), 1):
        write(move, f"validated {shifted}")
        await asyncio.to_thread(step, "validate", shifted)
        async with move.session() as server:
            facts = await measure_switch(server, (await live_run(server, str(move.source))).id, lag=None)
        assert len(facts.validations) == number, "a validation counts by the server's clock"
        assert abs(facts.now - facts.validations[0].moment) < timedelta(minutes=10)
    assert equal(move.source, move.url) == []


def test_a_move_goes_on_under_another_clock(place: Place) -> None:
    victim = place.victim()
    with Proxy(victim.url) as proxy:
        proxy.when(b'COPY "public"."trades"("id"', Link.cut, after=100_000)
        assert asyncio.run(victim.attempt(proxy.url)) is not None
    victim.wait_until_alone()
    url = victim.url.render_as_string(hide_password=False)
    said = under_a_clock(-HOUR, "tests.move_step", url, place.source, victim.home)
    assert said == "verified\n"
    victim.assert_like_undisturbed()


def test_a_write_after_the_snapshot_is_seen_when_the_clock_was_set_back(tmp_path: Path) -> None:
    source = tmp_path / "app.db"
    with closing(sqlite3.connect(source)) as file:
        file.execute("CREATE TABLE t (a)")
        snapshot = take(source, tmp_path / "backups")
        assert not written_since(snapshot)
        assert still_current(snapshot)
        file.execute("INSERT INTO t VALUES (1)")
        file.commit()
    before = (datetime.now(UTC) - timedelta(hours=1)).timestamp()
    os.utime(source, (before, before))
    assert written_since(snapshot)
    assert not still_current(snapshot)
