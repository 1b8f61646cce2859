"""The move without downtime by the library alone, step by step: what the flows do, without Prefect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.engine import URL

from pgferry.errors import is_transient
from pgferry.live.approach import approach
from pgferry.live.begin import begin_capture, begin_sync
from pgferry.live.cleanup import Cleaned, clean_up
from pgferry.live.follow import follow
from pgferry.live.forms import Forms, from_json
from pgferry.live.level import level
from pgferry.live.model import Live, Synced
from pgferry.live.pairs import prepare_live
from pgferry.live.phases import current
from pgferry.live.resume import Resumed, copy_changed, note_changes
from pgferry.live.reverse import sync_back
from pgferry.live.status import measure_lag, source_state
from pgferry.live.switch import TakenOver, finish_switch, take_over, validate_foreign_keys
from pgferry.live.turning import Returned, recover, roll_back
from pgferry.live.validate import validate
from pgferry.live.validation import Validation
from pgferry.postgres.connection import Connection, connection
from pgferry.postgres.journal import live_run, read_forms, read_position, read_recorded_capture, sync_lock
from pgferry.postgres.runs import open_run
from pgferry.settings import Rules, Settings, load_settings
from pgferry.sqlite.snapshot import take
from tests.acceptance.moving import Mover


@dataclass
class LiveMove:
    """One application's move: a SQLite file, a database, a home, an environment file."""

    url: URL
    source: Path
    home: Path
    rules: Rules = field(default_factory=Rules)
    chunk_rows: int = 500
    stall: float = 60.0
    """Seconds without a byte after which a connection is looked into."""

    @property
    def env_file(self) -> Path:
        """The application's environment file."""
        return self.home / "application.env"

    @property
    def settings(self) -> Settings:
        """The settings of every step."""
        return load_settings(home=self.home, application_env=self.env_file, chunk_rows=self.chunk_rows)

    def write_environment(self) -> None:
        """Let the application's environment name the SQLite file, if there is no such file yet."""
        if not self.env_file.exists():
            self.home.mkdir(parents=True, exist_ok=True)
            self.env_file.write_text(f"# the application\nDATABASE_URL=sqlite+aiosqlite:///{self.source}\n")

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Connection]:
        """Hold a connection to the target."""
        async with connection(self.url, stall_timeout=self.stall) as opened:
            yield opened

    async def live(self, server: Connection) -> Live:
        """Return how the tables are carried now."""
        return await prepare_live(server, await live_run(server, str(self.source)), self.rules, "")

    async def forms(self, server: Connection, live: Live) -> Forms:
        """Return the recorded forms in which values go back."""
        return from_json(await read_forms(server, live.run_id))

    async def dual_write(self) -> Live:
        """Install the capture, move what is there, and carry what was written meanwhile."""
        self.write_environment()
        async with self.session() as server:
            run = await open_run(server, self.source, self.rules, restart=False)
            await begin_capture(server, run)
            if run.status != "finished":
                mover = Mover(server, self.url, self.source, self.home, self.rules, chunk_rows=self.chunk_rows)
                move = await mover.load()
                report = await mover.finish(move, await mover.check(move))
                assert report.verified, report
            live = await self.live(server)
            finished = await live_run(server, str(self.source))
            assert finished.snapshot is not None
            await begin_sync(server, live, finished.snapshot)
            await level(server, live)
            return live

    async def validate(self) -> Validation:
        """Compare every cell of both sides at one moment."""
        async with self.session() as server, self.session() as holder:
            return await validate(server, holder, await self.live(server), self.home / "held")

    async def follow(self, stop: asyncio.Event) -> None:
        """Follow in the direction of the phase until it is told to stop, whatever happens to the connection."""
        while not stop.is_set():
            try:
                async with self.session() as server:
                    live = await self.live(server)

                    async def back(connection: Connection, live: Live = live) -> Synced:
                        async with sync_lock(connection):
                            return await sync_back(connection, live, await self.forms(connection, live))

                    await follow(server, live, back, lambda synced: None, stop)
            except Exception as error:
                if not is_transient(error):
                    raise
                await asyncio.sleep(0.3)

    async def resume(self) -> Resumed:
        """Take a change of the schema over: capture as it is now, the tables concerned copied again."""
        async with self.session() as server:
            run = await live_run(server, str(self.source))
            await note_changes(server, run)
            snapshot = take(self.source, self.home / "backups")
            resumed = await copy_changed(server, run, self.rules, "", snapshot)
            await level(server, await self.live(server))
            return resumed

    async def sync(self) -> Synced:
        """Carry forward until nothing is left."""
        async with self.session() as server:
            return await level(server, await self.live(server), near=0, soon=0)

    async def lag(self) -> tuple[int, float]:
        """Return the changes that wait, and the seconds that the side behind is behind."""
        async with self.session() as server:
            run = await live_run(server, str(self.source))
            position = await read_position(server, run.id)
            state = source_state(self.source, await read_recorded_capture(server, run.id), position)
            found = await measure_lag(server, run, self.rules, (await current(server, run.id)).phase, state, position)
            assert found is not None
            return found.rows, found.seconds

    async def sync_back(self) -> int:
        """Carry back until nothing is left; returns the rows."""
        rows = 0
        async with self.session() as server:
            live = await self.live(server)
            forms = await self.forms(server, live)
            async with sync_lock(server):
                while not (synced := await sync_back(server, live, forms)).idle:
                    rows += sum(synced.tables.values())
        return rows

    async def switch(self, restart: Callable[[], None] = lambda: None) -> TakenOver:
        """Switch to PostgreSQL; `restart` lets the application follow, when its environment has been turned."""
        async with self.session() as server:
            live = await self.live(server)
            async with self.session() as holder:
                await approach(server, holder, live, self.home)
            taken = await take_over(server, live, self.settings, self.url)
            restart()
            await finish_switch(server, live, taken)
            problems = await validate_foreign_keys(server, live)
            assert not problems, problems
            return taken

    async def roll_back(self) -> Returned:
        """Go back to SQLite."""
        async with self.session() as server:
            live = await self.live(server)
            return await roll_back(server, live, self.settings, await self.forms(server, live))

    async def recover(self) -> Returned | None:
        """Undo what a killed command has left."""
        async with self.session() as server:
            live = await self.live(server)
            return await recover(server, live, self.settings, await self.forms(server, live))

    async def clean_up(self) -> Cleaned:
        """Remove everything."""
        async with self.session() as server:
            live = await self.live(server)
            return await clean_up(server, live, self.settings, await self.forms(server, live))
