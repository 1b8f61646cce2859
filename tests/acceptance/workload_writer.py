"""One writer of the workload: `python -m tests.acceptance.workload_writer FOLDER NUMBER SETTINGS`.

It does one transaction after the other, looks before each at what it is told, and ends when its parent has ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import asyncpg
from dotenv import dotenv_values
from sqlalchemy.engine import URL, make_url

from tests.acceptance import workload_postgres, workload_sqlite
from tests.acceptance.workload import State, percentiles, replace
from tests.acceptance.workload_schema import Chance, stored

TOKEN = "INSERT INTO acknowledged (token, worker, serial, at) VALUES"
REPORT_SECONDS = 0.05
KEPT_LATENCIES = 200_000
KEPT_ERRORS = 20
REFUSALS = 1200
"""Attempts to connect, one after the other, until it is an error: a minute and more."""


class Application(Protocol):
    """A database that transactions can be done on; `backend` says which."""

    backend: str

    def choose(self, chance: Chance) -> str:
        """Return an operation by weight."""
        ...

    def transact(self, name: str, chance: Chance, token: tuple[str, int, int]) -> bool:
        """Do one transaction; return whether it is committed, else it was rolled back on purpose."""
        ...

    def judge(self, error: Exception) -> str:
        """Return which counter of State an error belongs to; `errors` for what should not be."""
        ...

    def close(self) -> None:
        """Give the connection up."""
        ...


class SqliteApplication:
    """The application on SQLite, with foreign keys on, as SQLAlchemy would run it."""

    backend = "sqlite"

    def __init__(self, url: URL, number: int, slow: bool) -> None:
        self.number = number
        # Five seconds is the driver's default patience with a busy file.
        self.connection = sqlite3.connect(f"file:{url.database}?mode=rw", uri=True, isolation_level=None, timeout=5)
        self.connection.execute("PRAGMA foreign_keys = ON")
        self.connection.execute(f"PRAGMA synchronous = {'FULL' if slow else 'OFF'}")
        # With it REPLACE fires delete triggers, without it does not: applications of both kinds write at once.
        self.connection.execute(f"PRAGMA recursive_triggers = {'ON' if number % 3 == 2 else 'OFF'}")
        self.connection.execute("SELECT count(*) FROM acknowledged").fetchone()

    def choose(self, chance: Chance) -> str:
        return chance.choices(list(workload_sqlite.WEIGHTS), list(workload_sqlite.WEIGHTS.values()))[0]

    def transact(self, name: str, chance: Chance, token: tuple[str, int, int]) -> bool:
        self.connection.execute("BEGIN IMMEDIATE" if chance.some(0.8) else "BEGIN")
        try:
            workload_sqlite.work(self.connection, name, chance)
            self.connection.execute(f"{TOKEN} (?, ?, ?, ?)", (*token, stored(datetime.now(UTC).replace(tzinfo=None))))
            self.connection.execute("COMMIT")
        except BaseException as error:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            if isinstance(error, workload_sqlite.RolledBack):
                return False
            raise
        return True

    def judge(self, error: Exception) -> str:
        if str(error).startswith("pgferry:"):
            return "fenced"
        if not isinstance(error, sqlite3.Error) or "_pgferry" in str(error):
            return "errors"
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return "busy"
        return "conflicts" if str(error).startswith("UNIQUE constraint failed: ") else "errors"

    def close(self) -> None:
        self.connection.close()


class PostgresApplication:
    """The application on PostgreSQL, with asyncpg on an event loop of its own."""

    backend = "postgresql"
    busy = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError)
    gone = (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError)

    def __init__(self, url: URL, number: int, slow: bool) -> None:
        self.loop = asyncio.new_event_loop()
        dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
        try:
            settings = {"application_name": f"workload {number}", "synchronous_commit": "on" if slow else "off"}
            self.connection = self._do(asyncpg.connect(dsn, timeout=5, server_settings=settings))
            self._do(self.connection.fetchval("SELECT count(*) FROM acknowledged"))
        except BaseException:
            self.loop.close()
            raise

    def _do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def choose(self, chance: Chance) -> str:
        return chance.choices(list(workload_postgres.WEIGHTS), list(workload_postgres.WEIGHTS.values()))[0]

    def transact(self, name: str, chance: Chance, token: tuple[str, int, int]) -> bool:
        committed: bool = self._do(self._transact(name, chance, token))
        return committed

    async def _transact(self, name: str, chance: Chance, token: tuple[str, int, int]) -> bool:
        try:
            async with self.connection.transaction():
                await workload_postgres.work(self.connection, name, chance)
                moment = datetime.now(UTC).replace(tzinfo=None)
                await self.connection.execute(f"{TOKEN} ($1, $2, $3, $4)", *token, moment)
        except workload_postgres.RolledBack:
            return False
        return True

    def judge(self, error: Exception) -> str:
        if str(error).startswith("pgferry:"):
            return "fenced"
        if isinstance(error, self.busy):
            return "busy"
        if isinstance(error, self.gone) or self.connection.is_closed():
            return "gone"
        # A number that the server gave and that exists already is no conflict of the application's.
        own = isinstance(error, asyncpg.UniqueViolationError) and str(error.constraint_name) not in IDENTITIES
        return "conflicts" if own else "errors"

    def close(self) -> None:
        self.connection.terminate()
        self._do(asyncio.sleep(0))
        self.loop.close()


IDENTITIES = [f"{table}_pkey" for table in ("accounts", "orders", "nodes", "seats", "scratch", "audit")]


def connect(env_file: Path, number: int, slow: bool) -> Application:
    """Connect to the database that the .env file names."""
    url = make_url(dotenv_values(env_file)["DATABASE_URL"] or "")
    kind = SqliteApplication if url.get_backend_name() == "sqlite" else PostgresApplication
    return kind(url, number, slow)


class Writer:
    """The loop of a writer, and what it says of itself."""

    def __init__(self, folder: Path, number: int, seed: int, rate: float, slow: bool, env: str) -> None:
        self.folder, self.number, self.rate, self.slow, self.env = folder, number, rate, slow, Path(env)
        self.parent, self.state, self.chance = os.getppid(), State(), Chance(f"writer {number} of {seed}")
        # A process that is started again must not use a token twice.
        self.name, self.serial = f"{seed}.{number}.{time.time_ns():x}", 0
        self.application: Application | None = None
        self.refused = 0
        self.files = {kind: (folder / f"{kind}-{number}").open("ab", 0) for kind in JOURNALS}
        self.latencies: list[float] = []
        self.last_write, self.frozen_since = time.time(), 0.0
        self.next_turn, self.next_report = time.monotonic(), 0.0

    def run(self) -> None:
        """Write until told to stop, or until nobody is there to tell it."""
        while (word := (self.folder / "control").read_text()) != "stop" and os.getppid() == self.parent:
            if word != self.state.word:
                self.state.word = word
                self.report()
            if self.has_restarted() or self.application is None:
                self.reconnect()
            elif word == "pause":
                time.sleep(0.01)
            else:
                self.turn()
            if time.monotonic() > self.next_report:
                self.report()
        self.disconnect()
        self.state.word = "stop"
        self.report()

    def has_restarted(self) -> bool:
        try:
            restart = (self.folder / "restart").stat().st_mtime_ns
        except FileNotFoundError:
            return False
        restarted, self.state.restarts = restart != self.state.restarts, restart
        return restarted

    def reconnect(self) -> None:
        self.disconnect()
        try:
            self.application = connect(self.env, self.number, self.slow)
        except Exception as error:
            self.state.gone += 1
            self.refused += 1
            self.note(f"connecting: {error!r}", self.refused == REFUSALS)
            time.sleep(0.05)
            return
        self.refused = 0
        self.state.connected, self.state.backend = True, self.application.backend
        self.report()

    def disconnect(self) -> None:
        if self.application is not None:
            self.application.close()
        self.application, self.state.connected = None, False

    def turn(self) -> None:
        """Do one transaction, when it is time for it."""
        assert self.application is not None
        self.await_turn()
        name, started = self.application.choose(self.chance), time.monotonic()
        token = (f"{self.name}.{self.serial}", self.number, self.serial)
        try:
            committed = self.application.transact(name, self.chance, token)
        except Exception as error:
            self.fail(name, token[0], error)
            return
        self.serial += 1
        if not committed:
            self.write("rolled-back", token[0])
            self.state.rolled_back += 1
            return
        self.write("journal", token[0])
        self.acknowledge(name, time.monotonic() - started)

    def await_turn(self) -> None:
        """Keep the rate; what was missed for more than a second is not made up for."""
        now = time.monotonic()
        self.next_turn = max(self.next_turn + 1 / self.rate, now - 1)
        if self.next_turn > now:
            time.sleep(self.next_turn - now)

    def acknowledge(self, name: str, seconds: float) -> None:
        self.state.acknowledged += 1
        self.state.operations[name] = self.state.operations.get(name, 0) + 1
        if len(self.latencies) < KEPT_LATENCIES:
            self.latencies.append(seconds)
        self.last_write = time.time()
        if self.frozen_since:
            self.state.freezes.append((self.frozen_since, self.last_write))
            self.frozen_since = 0.0

    def fail(self, name: str, token: str, error: Exception) -> None:
        assert self.application is not None
        kind = self.application.judge(error)
        if kind == "errors":
            self.note(f"{name}: {error!r}", True)
        else:
            setattr(self.state, kind, getattr(self.state, kind) + 1)
        if kind == "fenced":
            self.frozen_since = self.frozen_since or self.last_write
            time.sleep(0.005)
        if kind in ("gone", "errors"):
            # Its commit may have been on the way.
            self.write("doubtful", token)
            self.serial += 1
        if kind == "gone":
            self.disconnect()

    def note(self, sentence: str, wrong: bool) -> None:
        if wrong and len(self.state.errors) < KEPT_ERRORS:
            self.state.errors.append(sentence)

    def write(self, kind: str, token: str) -> None:
        self.files[kind].write(f"{token}\n".encode())

    def report(self) -> None:
        self.next_report = time.monotonic() + REPORT_SECONDS
        if self.state.word != "run":
            self.state.median_ms, self.state.p99_ms, self.state.slowest_ms = percentiles(self.latencies)
        replace(self.folder / f"state-{self.number}", json.dumps(asdict(self.state)))


JOURNALS = ("journal", "rolled-back", "doubtful")


if __name__ == "__main__":
    Writer(Path(sys.argv[1]), int(sys.argv[2]), **json.loads(sys.argv[3])).run()
