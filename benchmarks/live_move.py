"""The move without downtime as the benchmarks make it: the library's steps one after the other, without Prefect."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL

from pgferry.building import build, put_aside
from pgferry.copying import export_unit, judge_group, load_unit, read_back_unit, units_to_read
from pgferry.finishing import analyze_group, conclude, settle
from pgferry.live.begin import begin_capture, begin_sync
from pgferry.live.forms import Forms, from_json
from pgferry.live.level import level
from pgferry.live.model import Live
from pgferry.live.pairs import prepare_live
from pgferry.model import TableVerdict
from pgferry.move import Move, prepare
from pgferry.postgres import embedded
from pgferry.postgres.connection import Connection, connection
from pgferry.postgres.deferred import pending
from pgferry.postgres.definitions import Stage
from pgferry.postgres.embedded import EmbeddedServer
from pgferry.postgres.journal import live_run, read_forms
from pgferry.postgres.ledger import Run, record_snapshot
from pgferry.postgres.runs import open_run
from pgferry.postgres.schema import upgrade
from pgferry.quoting import quote
from pgferry.sample.generate import generate
from pgferry.settings import Rules, Settings, load_settings
from pgferry.sqlite.snapshot import check, take
from pgferry.verify import ChunkVerdict

ALEMBIC = Path(__file__).parent.parent / "alembic.ini"

RULES = Rules()


@dataclass(frozen=True, slots=True)
class LiveMove:
    """The sample application's move: its SQLite file, its database, and a folder for everything else. Can be pickled.

    The URL holds the password of the embedded server.
    """

    url: URL
    source: Path
    home: Path

    @property
    def settings(self) -> Settings:
        """The settings of every step: the defaults."""
        return load_settings(home=self.home, application_env=self.home / "application.env")

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Connection]:
        """Hold a connection to the target."""
        async with connection(self.url) as opened:
            yield opened

    async def live(self, server: Connection) -> Live:
        """Return how the tables are carried now."""
        return await prepare_live(server, await live_run(server, str(self.source)), RULES, "")

    async def forms(self, server: Connection, live: Live) -> Forms:
        """Return the recorded forms in which values go back."""
        return from_json(await read_forms(server, live.run_id))

    async def dual_write(self) -> None:
        """Make the schema, install the capture, move what is there, and become level."""
        await upgrade(self.url, ALEMBIC)
        (self.home / "application.env").write_text(f"DATABASE_URL=sqlite+aiosqlite:///{self.source}\n", "utf-8")
        async with self.session() as server:
            run = await open_run(server, self.source, RULES, restart=False)
            await begin_capture(server, run)
            move = await self._load(server, run)
            assert await self._finish(server, move), f"the move of {self.source.name} was not verified"
            live = await self.live(server)
            await begin_sync(server, live, move.snapshot)
            await level(server, live)

    async def _load(self, server: Connection, run: Run) -> Move:
        snapshot = take(self.source, self.home / "backups")
        await record_snapshot(server, run.id, snapshot)
        move = await prepare(server, run.id, snapshot, self.settings, RULES, "")
        await put_aside(server, move)
        for group in move.groups:
            for unit in group.units:
                await load_unit(server, move, unit, export_unit(move, unit))
        return move

    async def _finish(self, server: Connection, move: Move) -> bool:
        memory = self.settings.index_memory
        read: list[list[ChunkVerdict]] = []
        for group in move.groups:
            units = units_to_read(move, group)
            read.append([verdict for unit in units for verdict in await read_back_unit(server, move, unit, memory)])
        stages = (Stage.INDEX, Stage.ATTACH)
        await build(server, [step for step in await pending(server, move.run_id) if step.stage in stages], memory)
        verdicts: list[TableVerdict] = []
        for group, chunks in zip(move.groups, read, strict=True):
            verdicts += await judge_group(server, move, group, chunks, self.settings.sample_rows)
        await settle(server, move)
        for group in move.groups:
            await analyze_group(server, move, group)
        report = await conclude(server, move, tuple(verdicts), check(move.snapshot), self.url, {})
        return report.verified


@dataclass(frozen=True, slots=True)
class Place:
    """Where a benchmark works: an embedded server, and a folder for its files."""

    server: EmbeddedServer
    folder: Path

    @contextmanager
    def moved(self, name: str, trades: int) -> Iterator[LiveMove]:
        """Put the sample with so many trades, in WAL mode, into dual-write; all of it is removed after the block."""
        home = self.folder / name
        home.mkdir()
        source = home / "app.db"
        generate(source, trades)
        with closing(application(source)):
            pass
        move = LiveMove(asyncio.run(embedded.create_database(self.server, name)), source, home)
        try:
            asyncio.run(move.dual_write())
            yield move
        finally:
            shutil.rmtree(home)
            asyncio.run(self._drop(name))

    async def _drop(self, name: str) -> None:
        async with connection(self.server.url()) as admin:
            await admin.execute(f"DROP DATABASE {quote(name)} WITH (FORCE)")


def application(source: Path) -> sqlite3.Connection:
    """Open the file as an application in WAL mode does; autocommit where no BEGIN is given."""
    opened = sqlite3.connect(source, timeout=30.0, isolation_level=None)
    opened.execute("PRAGMA journal_mode = WAL")
    opened.execute("PRAGMA synchronous = NORMAL")
    return opened
