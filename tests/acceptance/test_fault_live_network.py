"""Connections are cut or stall in the steps of a live move: the same step again goes on, and both sides are equal."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.errors import is_transient
from pgferry.live.model import Phase
from pgferry.live.phases import current
from pgferry.postgres.journal import live_run
from tests.acceptance.canary import sqlite_objects
from tests.acceptance.independent import Ways, differences
from tests.live import LiveMove
from tests.proxy import Link, Proxy

SQLITE = """
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, price REAL, data BLOB);
CREATE TABLE note (id INTEGER PRIMARY KEY, item_id INTEGER NOT NULL REFERENCES item (id), text TEXT);
"""
POSTGRES = """
CREATE TABLE item (id bigint PRIMARY KEY, name text NOT NULL UNIQUE, price double precision, data bytea);
CREATE TABLE note (id bigint PRIMARY KEY, item_id bigint NOT NULL REFERENCES item (id), text text);
"""
ROWS = 400
PATIENCE = 300.0

Step = Callable[[], Awaitable[Any]]
Fault = Callable[["Life", str], None]


@dataclass
class Life:
    """A live move behind a proxy, and the application that writes between its steps."""

    move: LiveMove
    proxy: Proxy
    direct: URL
    chance: random.Random
    bytes: dict[str, int]
    """Step -> what it sends and receives when nothing disturbs it."""
    number: int = ROWS

    # ------------------------------------------------------------ the application

    def writes(self) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Yield statements with `?` for each value: rows that are new, changed and gone, and others beside them."""
        for _ in range(60):
            self.number += 1
            row = (self.number, f"item {self.number}", self.chance.random(), self.chance.randbytes(300))
            yield "INSERT INTO item (id, name, price, data) VALUES (?, ?, ?, ?)", row
            yield "INSERT INTO note (id, item_id, text) VALUES (?, ?, ?)", (self.number, self.number, "new" * 20)
        for _ in range(60):
            key = self.chance.randint(1, self.number)
            yield "UPDATE item SET price = ?, name = ? WHERE id = ?", (self.chance.random(), f"{time.time_ns()}", key)
            gone = self.chance.randint(1, self.number)
            yield "DELETE FROM note WHERE id = ?", (gone,)

    def writes_sqlite(self) -> None:
        """Write to the file."""
        with closing(sqlite3.connect(self.move.source)) as file:
            for statement, values in self.writes():
                file.execute(statement, values)
            file.commit()

    async def writes_postgres(self) -> None:
        """Write to PostgreSQL, past the proxy."""
        server = await asyncpg.connect(self.direct.set(drivername="postgresql").render_as_string(hide_password=False))
        try:
            async with server.transaction():
                for statement, values in self.writes():
                    await server.execute(numbered(statement), *values)
        finally:
            await server.close()

    async def write(self) -> None:
        """Write to the side in front."""
        if await self.phase() is Phase.SWITCHED:
            await self.writes_postgres()
        else:
            self.writes_sqlite()

    # ------------------------------------------------------------ the move

    async def phase(self) -> Phase:
        """Return where the move stands."""
        async with self.move.session() as server:
            return (await current(server, (await live_run(server, str(self.move.source))).id)).phase

    async def undisturbed(self, name: str) -> None:
        """Do the step, again while what a disturbed one held is still held, and note what passes."""
        deadline = time.monotonic() + PATIENCE
        while True:
            before = self.proxy.bytes
            try:
                await self.step(name)()
            except Exception as error:
                if not is_transient(error) or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)
            else:
                # Most, since a step that goes on has less to do.
                self.bytes[name] = max(self.bytes.get(name, 0), self.proxy.bytes - before)
                return

    async def disturbed(self, name: str, fault: Fault) -> bool:
        """Do the step with a fault coming; return whether it failed, which must be known to pass by itself."""
        fault(self, name)
        try:
            await asyncio.wait_for(self.step(name)(), PATIENCE)
        except Exception as error:
            assert not isinstance(error, TimeoutError) and is_transient(error), repr(error)
            return True
        finally:
            self.proxy.calm()
        return False

    def step(self, name: str) -> Step:
        """Return a step by its name."""
        return {"validate": self.validate, "switch": self.switch}.get(name) or getattr(self.move, name)  # type: ignore[no-any-return]

    async def validate(self) -> None:
        """Validate, and find nothing."""
        assert (await self.move.validate()).passed

    async def switch(self) -> None:
        """Undo what was left half-way, and switch unless that is done."""
        await self.move.recover()
        if await self.phase() is not Phase.SWITCHED:
            await self.move.switch()

    async def equal(self) -> None:
        """Carry what waits, and compare by other means than the project's."""
        await self.undisturbed("sync_back" if await self.phase() is Phase.SWITCHED else "sync")
        own = tuple(name for _, name in sqlite_objects(self.move.source) if "pgferry" in name)
        assert await differences(self.move.source, self.direct, Ways(left_out=own)) == []


def numbered(statement: str) -> str:
    """Return the statement with PostgreSQL's marks."""
    first, *others = statement.split("?")
    return first + "".join(f"${number}{text}" for number, text in enumerate(others, 1))


# ---------------------------------------------------------------- faults


def cut(life: Life, name: str) -> None:
    """Cut whatever connection passes on some byte of the step."""
    life.proxy.cut_after(life.chance.randrange(life.bytes[name]))


WORDS = {
    "sync": (b"UPDATE pgferry.position", b"COPY "),
    "validate": (b"pg_export_snapshot", b"COPY ("),
    "switch": (b"INSERT INTO pgferry.phase", b"CREATE TRIGGER"),
    "sync_back": (b"COPY (", b"DELETE FROM "),
}
"""What a step sends at some moment."""


def stall(life: Life, name: str) -> None:
    """Stall the connection that sends one of the step's words."""
    life.proxy.when(life.chance.choice(WORDS[name]), Link.stall)


# ---------------------------------------------------------------- the tests


@pytest.fixture
async def life(tmp_path: Path, database_url: URL) -> Any:
    """A move whose sides are level, and what each step sends when nothing disturbs it."""
    with closing(sqlite3.connect(tmp_path / "app.db")) as file:
        file.executescript(SQLITE)
        rows = [(number, f"item {number}", number / 8, bytes(200)) for number in range(1, ROWS + 1)]
        file.executemany("INSERT INTO item VALUES (?, ?, ?, ?)", rows)
        file.executemany("INSERT INTO note VALUES (?, ?, 'x')", [(number, number) for number, *_ in rows])
        file.commit()
    with Proxy(database_url) as proxy:
        move = LiveMove(proxy.url, tmp_path / "app.db", tmp_path / "home", stall=0.5)
        async with move.session() as server:
            await server.execute(POSTGRES)
        made = Life(move, proxy, database_url, random.Random(53), {})
        await move.dual_write()
        yield made


async def rounds(life: Life, fault: Fault, times: int) -> int:
    """Disturb each step so many times, there and back; return how often one failed."""
    failures = 0
    for name in ("sync", "validate", "switch", "sync_back"):
        for _ in range(times):
            if name == "switch" and await life.phase() is Phase.SWITCHED:
                await life.undisturbed("roll_back")
            await life.write()
            if name not in life.bytes:
                await life.undisturbed(name)
                if name == "switch":
                    await life.undisturbed("roll_back")
                await life.write()
            failures += await life.disturbed(name, fault)
            await life.undisturbed(name)
            await life.equal()
    return failures


async def test_connections_that_are_cut_in_a_live_step(life: Life) -> None:
    assert await rounds(life, cut, 1) >= 3


async def test_connections_that_stall_in_a_live_step(life: Life) -> None:
    assert await rounds(life, stall, 1) == 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", [cut, stall])
async def test_a_live_move_under_many_faults(fault: Fault, life: Life) -> None:
    assert await rounds(life, fault, 15) >= 45
