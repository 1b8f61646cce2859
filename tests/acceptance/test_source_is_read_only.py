"""The SQLite file is only read, except where its capture or its fence must be written."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from pgferry.copying import export_unit
from pgferry.files import plan_export, summary
from pgferry.live.status import read_status
from pgferry.operate.preflight import run_checks
from pgferry.plan.plan import make_plan
from pgferry.postgres.journal import live_run
from pgferry.sqlite.snapshot import take
from tests.acceptance.moving import Mover
from tests.acceptance.workload_schema import POSTGRES, create_sqlite
from tests.live import LiveMove

State = dict[str, tuple[int, int, bytes]]


class ItsOwnFolder(LiveMove):
    """A move of a file that is alone in its folder: the application's environment file lies elsewhere."""

    @property
    def env_file(self) -> Path:
        """The application's environment file."""
        return self.home.parent / "application.env"


@pytest.fixture
async def move(tmp_path: Path, database_url: URL) -> AsyncIterator[LiveMove]:
    """A move not begun, of a file in a folder of its own, whose target has its tables."""
    (tmp_path / "app").mkdir()
    create_sqlite(tmp_path / "app" / "app.db", wal=False)
    made = ItsOwnFolder(database_url, tmp_path / "app" / "app.db", tmp_path / "home")
    made.env_file.write_text(f"DATABASE_URL=sqlite:///{made.source}\n")
    async with made.session() as server:
        for statement in POSTGRES:
            await server.execute(statement)
    yield made


def state_of(folder: Path) -> State:
    """Return each file's inode, time of change and bytes; SQLite's shared memory apart, which readers use."""
    found = {path.name: (path.stat(), path.read_bytes()) for path in folder.iterdir() if not path.match("*-shm")}
    return {name: (stat.st_ino, stat.st_mtime_ns, content) for name, (stat, content) in found.items()}


@contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """Let nobody write to a folder and its files, as far as that can be done: root passes over modes."""
    paths = [*folder.iterdir(), folder]
    modes = [path.stat().st_mode for path in paths]
    by_root = os.geteuid() == 0 and shutil.which("chattr") is not None
    try:
        for path in paths:
            path.chmod(0o555 if path.is_dir() else 0o444)
        if by_root:
            subprocess.run(["chattr", "+i", *paths], capture_output=True, check=False)
        yield
    finally:
        if by_root:
            subprocess.run(["chattr", "-i", *paths], capture_output=True, check=False)
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode)


async def read_it_all(move: LiveMove) -> None:
    """Do everything that only reads the file: plan, preflight, move, export."""
    assert make_plan(move.source).tables
    async with move.session() as server:
        checks = await run_checks(server, move.settings, move.rules, move.source)
        assert {check.name for check in checks} >= {"SQLite integrity", "tables"}
        report = await Mover(server, move.url, move.source, move.home, chunk_rows=500).run()
        assert report.verified, report
    folder = move.home / "exports"
    plan = plan_export(take(move.source, move.home / "exported"), move.settings, move.rules, folder)
    exported = [export_unit(plan.move, unit) for group in plan.move.groups for unit in group.units]
    assert summary(plan, [chunk for unit in exported for chunk in unit], folder)["tables"]


async def test_a_file_that_nobody_may_write_is_planned_moved_and_exported(move: LiveMove) -> None:
    before = state_of(move.source.parent)
    with frozen(move.source.parent):
        await read_it_all(move)
    assert state_of(move.source.parent) == before
    assert list(before) == ["app.db"]


async def test_a_file_with_a_log_that_its_application_holds_open_is_left_as_it_is(move: LiveMove) -> None:
    with closing(sqlite3.connect(move.source, isolation_level=None)) as application:
        application.execute("PRAGMA journal_mode = WAL")
        application.execute("INSERT INTO clubs VALUES ('in the log', 'only')")
        before = state_of(move.source.parent)
        assert before["app.db-wal"][2]
        await read_it_all(move)
        assert state_of(move.source.parent) == before
        async with move.session() as server:
            assert await server.fetchval("SELECT count(*) FROM clubs WHERE name = 'in the log'") == 1


async def test_validation_and_status_only_read(move: LiveMove) -> None:
    await move.dual_write()
    before = state_of(move.source.parent)
    with frozen(move.source.parent):
        assert (await move.validate()).passed
        async with move.session() as server:
            run = await live_run(server, str(move.source))
            status = await read_status(server, run, move.settings, move.rules)
    assert status.source == str(move.source)
    assert state_of(move.source.parent) == before
