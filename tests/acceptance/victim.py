"""A move that has a fault coming, by the command or by the library, and what it must have made of the target."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.errors import FerryError
from pgferry.postgres.connection import connection
from pgferry.postgres.problems import explain
from pgferry.postgres.schema import upgrade
from pgferry.sample.generate import generate
from tests.acceptance.independent import differences
from tests.acceptance.moving import ROOT, Mover, ask, command, environment, kill, migrate

TRADES = 12_000
CHUNK = 1_000

STEPS = (
    "back up",
    "make the schema",
    "pair tables and cut chunks",
    "export and load",
    "build indexes and verify",
    "add foreign keys",
    "set identities",
)
"""What the command says on stderr when a step begins."""

OBJECTS = {
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
    "constraints": """
        SELECT conrelid::regclass::text, conname, contype::text, convalidated, pg_get_constraintdef(oid)
          FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2""",
    "sequences": "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'public' ORDER BY 1",
    "columns": """
        SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull
          FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
         WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 ORDER BY 1, attnum""",
    "chunks": """
        SELECT source_table, number, rows, loaded_rows, quarantined, digest, differences, verified_at IS NOT NULL
          FROM pgferry.chunk ORDER BY 1, 2""",
    "waiting": "SELECT name FROM pgferry.deferred WHERE dropped_at IS NOT NULL AND rebuilt_at IS NULL",
    "runs": "SELECT status, count(*) FROM pgferry.run GROUP BY 1",
}

CATALOG = ("indexes", "constraints", "sequences", "columns", "waiting", "runs")
"""Those of them in which no row shows."""

TABLES = ("items", "trades", "watchlist")


def state(url: URL) -> dict[str, list[tuple[Any, ...]]]:
    """Return all that the target holds beside its rows."""
    return {name: [tuple(row) for row in ask(url, query)] for name, query in OBJECTS.items()}


@dataclass(frozen=True)
class Place:
    """Where all cases run: one source, one Prefect server, a target and a home for each."""

    source: Path
    server: Callable[[], str]
    """Returns the API's address of a Prefect server, which is started when it is asked for."""
    undisturbed: dict[str, list[tuple[Any, ...]]]
    make_database: Callable[[], URL]
    make_home: Callable[[], Path]

    def victim(self, url: URL | None = None, **settings: str) -> Victim:
        """Return a new move, to a database of its own, or to that of the URL."""
        return Victim(self, url or self.make_database(), self.make_home(), settings)


@dataclass(frozen=True)
class Victim:
    """A move that is going to be disturbed, again and again."""

    place: Place
    url: URL
    home: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    """By environment, beside those that each move here has."""

    @property
    def env(self) -> dict[str, str]:
        return environment(
            self.url,
            self.home,
            PREFECT_API_URL=self.place.server(),
            PGFERRY_CHUNK_ROWS=str(CHUNK),
            PGFERRY_ALEMBIC_CONFIG=str(ROOT / "alembic.ini"),
            **self.settings,
        )

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            command("--source", self.place.source),
            env=self.env,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                kill(process)

    def killed_at(self, step: str, later: float = 0.0) -> bool:
        """Start the command and kill it when it says that the step begins, or some seconds later.

        Say whether it was still alive then; when not, it must have come to a good end.
        """
        with self.running() as process:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if line.startswith(step):
                    break
            else:
                pytest.fail(f"it ended before {step!r}: {said}")
            time.sleep(later)
        killed = process.returncode == -signal.SIGKILL
        assert killed or process.returncode == 0, process.returncode
        self.wait_until_alone()
        self.assert_rows_are_those_of_the_ledger()
        return killed

    def wait_until_alone(self) -> None:
        """Wait until the server has noticed that the killed process is gone."""
        deadline = time.monotonic() + 30
        others = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        while ask(self.url, others):
            assert time.monotonic() < deadline, "a session of the killed process goes on"
            time.sleep(0.05)

    def assert_rows_are_those_of_the_ledger(self) -> None:
        """Rows and the record of them commit together: at no moment is there one without the other."""
        if not ask(self.url, "SELECT 1 WHERE to_regclass('pgferry.chunk') IS NOT NULL"):
            return
        for table in TABLES:
            if ask(self.url, f"SELECT 1 WHERE to_regclass('public.{table}') IS NOT NULL"):
                recorded = f"SELECT coalesce(sum(loaded_rows), 0) FROM pgferry.chunk WHERE source_table = '{table}'"
                assert ask(self.url, f"SELECT count(*) = ({recorded}) FROM {table}")[0][0], table

    def migrate(self, *arguments: str, seconds: float = 480, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end, whatever that is."""
        env = {**self.env, **settings}
        return migrate("--source", self.place.source, *arguments, env=env, cwd=self.home, seconds=seconds)

    async def attempt(self, url: URL | None = None, *, stall: float = 60.0) -> FerryError | None:
        """Move by the library, without Prefect; return what it failed by, in the words of a person's terminal."""
        return await attempt_move(url or self.url, self.place.source, self.home, stall=stall)

    def goes_on(self, **settings: str) -> None:
        """Run the command to its end, which it must come to by itself, whatever it tells of the way."""
        ended = self.migrate("--json", **settings)
        assert ended.returncode == 0, ended.stderr
        self.assert_like_undisturbed()

    def finishes(self, **settings: str) -> None:
        """Run the same command to its end, and compare what came out with an undisturbed run."""
        ended = self.migrate("--json", **settings)
        assert (ended.returncode, ended.stderr) == (0, "")
        report = json.loads(ended.stdout)
        assert report["verified"] is True
        assert report["already_migrated"] is False
        self.assert_like_undisturbed()

    def assert_moved(self) -> None:
        """Compare the rows with the source, and every object with what an undisturbed run makes: rows may be others."""
        assert asyncio.run(differences(self.place.source, self.url)) == []
        now = state(self.url)
        assert {name: now[name] for name in CATALOG} == {name: self.place.undisturbed[name] for name in CATALOG}

    def assert_like_undisturbed(self) -> None:
        assert asyncio.run(differences(self.place.source, self.url)) == []
        assert state(self.url) == self.place.undisturbed
        chunks = "SELECT count(DISTINCT xid) FROM pgferry.chunk WHERE source_table = 'trades'"
        assert ask(self.url, f"SELECT count(DISTINCT xmin::text) = ({chunks}) FROM trades")[0][0], "a chunk twice"


async def attempt_move(url: URL, source: Path, home: Path, *, stall: float = 60.0) -> FerryError | None:
    """Move by the library, without Prefect; return what it failed by, in the words of a person's terminal."""
    try:
        await upgrade(url, ROOT / "alembic.ini", stall_timeout=stall)
        async with connection(url, stall_timeout=stall) as server:
            report = await Mover(server, url, source, home, chunk_rows=CHUNK).run()
    except (FerryError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        return explain(error, url)
    assert report.verified, report
    return None


def make_place(
    folder: Path, server: Callable[[], str], make_database: Callable[[], URL], make_home: Callable[[], Path]
) -> Place:
    """Make the source in a folder, and see what an undisturbed move makes of it."""
    source = folder / "app.db"
    generate(source, TRADES)
    place = Place(source, server, {}, make_database, make_home)
    first = place.victim()
    failed = asyncio.run(first.attempt())
    assert failed is None, failed
    assert asyncio.run(differences(source, first.url)) == []
    made = state(first.url)
    assert len(made["indexes"]) >= 7
    assert len(made["chunks"]) == TRADES // CHUNK + 2
    assert made["waiting"] == []
    return replace(place, undisturbed=made)
