"""What the acceptance tests move with: the command line as a process, an Alembic project of the test's own, and the
steps of the library one by one, without Prefect."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from sqlalchemy.engine import URL

from pgferry.building import build, put_aside
from pgferry.copying import export_unit, judge_group, load_unit, read_back_unit, units_to_read
from pgferry.finishing import analyze_group, conclude, settle
from pgferry.model import OrphanedKey, TableVerdict
from pgferry.move import Group, Move, prepare
from pgferry.postgres.connection import Connection, connect
from pgferry.postgres.deferred import Deferred, pending
from pgferry.postgres.definitions import Stage
from pgferry.postgres.ledger import record_snapshot
from pgferry.postgres.runs import open_run
from pgferry.postgres.validated_keys import validate_keys
from pgferry.report import Report
from pgferry.settings import Rules, Settings, load_settings
from pgferry.sqlite import snapshot as snapshots
from pgferry.verify import ChunkVerdict

ROOT = Path(__file__).resolve().parents[2]

MEMORY = "64MB"

ENV = """
from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
"""

REVISION = """
from alembic import op

revision, down_revision, branch_labels, depends_on = "0001", None, None, None


def upgrade() -> None:
"""


def alembic_project(folder: Path, *statements: str) -> Path:
    """Write an Alembic configuration whose one revision runs the statements; return its file."""
    versions = folder / "migrations" / "versions"
    versions.mkdir(parents=True)
    body = "\n".join(f"    op.get_bind().exec_driver_sql({statement!r})" for statement in statements)
    (versions / "0001_all.py").write_text(f"{REVISION}{body}\n")
    (folder / "migrations" / "env.py").write_text(ENV)
    config = folder / "alembic.ini"
    config.write_text("[alembic]\nscript_location = %(here)s/migrations\n")
    return config


# ---------------------------------------------------------------- the command line


def environment(target: URL | str | None, home: Path, **settings: str) -> dict[str, str]:
    """Return a process environment that names a target and a home, and nothing else of this machine's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PGFERRY_", "PREFECT_"))}
    named = target.render_as_string(hide_password=False) if isinstance(target, URL) else target
    given = {} if named is None else {"PGFERRY_TARGET": named}
    return {**kept, "PYTHONPATH": str(ROOT), "PGFERRY_HOME": str(home), **given, **settings}


def command(*arguments: str | Path) -> list[str]:
    """Return the command line of `migrate`."""
    return [sys.executable, "-m", "flows", "migrate", *map(str, arguments)]


def migrate(
    *arguments: str | Path, env: dict[str, str], cwd: Path, seconds: float = 400
) -> subprocess.CompletedProcess[str]:
    """Run `python -m flows migrate` to its end; it and all that it started are killed after `seconds`."""
    with subprocess.Popen(
        command(*arguments),
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except BaseException:
            kill(process)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process that leads a session of its own, and its children, with SIGKILL."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ask(url: URL, query: str) -> list[asyncpg.Record]:
    """Run a statement on a connection of its own and return its rows."""

    async def work() -> list[asyncpg.Record]:
        connection = await connect(url)
        try:
            return await connection.fetch(query)
        finally:
            await connection.close()

    return asyncio.run(work())


# ---------------------------------------------------------------- the library, step by step


@dataclass
class Mover:
    """A move by the library, on one connection, one step after the other."""

    connection: Connection
    url: URL
    source: Path
    home: Path
    rules: Rules = field(default_factory=Rules)
    chunk_rows: int = 50
    sample_rows: int = 200

    @property
    def settings(self) -> Settings:
        return load_settings(home=self.home, chunk_rows=self.chunk_rows, sample_rows=self.sample_rows)

    async def load(self) -> Move:
        """Back up, pair, cut, put indexes aside, export and load everything."""
        run = await open_run(self.connection, self.source, self.rules, restart=False)
        snapshot = run.snapshot or snapshots.take(self.source.resolve(), self.home / "backups")
        await record_snapshot(self.connection, run.id, snapshot)
        move = await prepare(self.connection, run.id, snapshot, self.settings, self.rules, "")
        await put_aside(self.connection, move)
        for group in move.groups:
            for unit in group.units:
                await load_unit(self.connection, move, unit, export_unit(move, unit))
        return move

    async def read_back(self, move: Move) -> dict[str, list[ChunkVerdict]]:
        """Read every chunk back; the verdicts by the name of their group."""
        return {group.name: await self._read_group(move, group) for group in move.groups}

    async def _read_group(self, move: Move, group: Group) -> list[ChunkVerdict]:
        units = units_to_read(move, group)
        return [verdict for unit in units for verdict in await read_back_unit(self.connection, move, unit, MEMORY)]

    async def build(self, move: Move, *stages: Stage) -> None:
        """Build what waits of these stages."""
        await build(self.connection, [step for step in await self._pending(move) if step.stage in stages], MEMORY)

    async def _pending(self, move: Move) -> Sequence[Deferred]:
        return await pending(self.connection, move.run_id)

    async def judge(self, move: Move, chunks: dict[str, list[ChunkVerdict]]) -> dict[str, TableVerdict]:
        """Return the verdict on each table."""
        verdicts: dict[str, TableVerdict] = {}
        for group in move.groups:
            judged = await judge_group(self.connection, move, group, chunks[group.name], self.settings.sample_rows)
            verdicts |= {verdict.table: verdict for verdict in judged}
        return verdicts

    async def check(self, move: Move) -> dict[str, TableVerdict]:
        """Read back, build indexes and keys, judge."""
        chunks = await self.read_back(move)
        await self.build(move, Stage.INDEX, Stage.ATTACH)
        return await self.judge(move, chunks)

    async def finish(self, move: Move, verdicts: dict[str, TableVerdict]) -> Report:
        """Add foreign keys, set identities, and close the run."""
        left: tuple[OrphanedKey, ...] = ()
        if not move.live:
            await self.build(move, Stage.FOREIGN_KEY)
            left = await validate_keys(self.connection, await self._pending(move), memory=MEMORY)
        await settle(self.connection, move)
        for group in move.groups:
            await analyze_group(self.connection, move, group)
        check = snapshots.check(move.snapshot)
        return await conclude(self.connection, move, tuple(verdicts.values()), check, self.url, {}, left)

    async def run(self) -> Report:
        """Move everything."""
        move = await self.load()
        return await self.finish(move, await self.check(move))
