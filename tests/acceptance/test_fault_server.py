"""The server dies in the midst of it, and comes back: what was committed is there once, and the rest is made again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from itertools import count
from threading import Thread

import pytest
from sqlalchemy.engine import URL

from pgferry.errors import Transient
from pgferry.postgres.connection import connection
from pgferry.postgres.embedded import create_database
from pgferry.postgres.schema import upgrade
from tests.acceptance.moving import ROOT, Mover
from tests.acceptance.victim import CHUNK, Place
from tests.proxy import Link, Proxy, simple
from tests.servers import Crashing, crashing_server

MOMENTS = {
    "load": (b'COPY "public"."trades"("id"', 100_000),
    "record of a chunk": (b"UPDATE pgferry.chunk\n   SET loaded_at", 0),
    "read back": (b"COPY (SELECT", 0),
    "index build": (simple(b"CREATE INDEX ix_trades_item_id ON public.trades USING"), 0),
    "foreign key": (simple(b'ALTER TABLE "public"."trades" VALIDATE CONSTRAINT'), 0),
}
"""What the client has just sent when the server dies, and how many bytes more; no answer has come back."""

LATER = ("record of a chunk", "foreign key")
"""Those of them that only the long variants try."""

MakeTarget = Callable[[], URL]


@pytest.fixture(scope="module")
def crashing() -> Iterator[Crashing]:
    with crashing_server({}) as server:
        yield server


@pytest.fixture
def new_target(crashing: Crashing) -> MakeTarget:
    """A factory of empty databases on the server that dies."""

    def make() -> URL:
        crashing.start()
        return asyncio.run(create_database(crashing.server, f"fault_{next(NUMBERS)}"))

    return make


NUMBERS = count(1)


@pytest.mark.parametrize(
    "moment",
    ["load", "read back", "index build", *(pytest.param(each, marks=pytest.mark.slow) for each in LATER)],
)
def test_a_server_that_dies_is_told_of_and_the_next_run_finishes(
    moment: str, place: Place, crashing: Crashing, new_target: MakeTarget
) -> None:
    victim = place.victim(new_target())
    word, more = MOMENTS[moment]
    before = crashing.crashes
    with Proxy(victim.url) as proxy:
        proxy.when(word, lambda link: crashing.crash(), after=more)
        failed = asyncio.run(victim.attempt(proxy.url))
    assert crashing.crashes == before + 1
    assert isinstance(failed, Transient)
    assert "connection to 127.0.0.1:" in failed.message
    assert "was lost" in failed.message
    assert "run the same command again, it goes on where it stopped" in failed.action
    crashing.start()
    victim.assert_rows_are_those_of_the_ledger()
    assert asyncio.run(victim.attempt()) is None
    victim.assert_like_undisturbed()


def test_a_chunk_that_the_crash_took_back_is_loaded_again_by_the_same_run(place: Place) -> None:
    """A load does not wait for the disk; the rows and the record of them are lost together."""
    victim = place.victim()

    async def move() -> None:
        await upgrade(victim.url, ROOT / "alembic.ini")
        async with connection(victim.url) as server:
            mover = Mover(server, victim.url, place.source, victim.home, chunk_rows=CHUNK)
            loaded = await mover.load()
            await server.execute(TAKEN_BACK)
            assert (await mover.finish(loaded, await mover.check(loaded))).verified

    asyncio.run(move())
    victim.assert_like_undisturbed()


TAKEN_BACK = """
WITH lost AS (
    UPDATE pgferry.chunk SET loaded_at = NULL WHERE source_table = 'trades' AND number IN (3, 7) RETURNING xid
)
DELETE FROM trades USING lost WHERE trades.xmin::text = (lost.xid % 4294967296)::text
"""


@pytest.mark.parametrize("way", ["killed", pytest.param("stopped at once", marks=pytest.mark.slow)])
def test_the_command_goes_on_by_itself_when_the_server_is_back(
    way: str, place: Place, crashing: Crashing, new_target: MakeTarget
) -> None:
    victim = place.victim(new_target())
    word, more = MOMENTS["load" if way == "killed" else "index build"]
    with Proxy(victim.url) as proxy:

        def die(link: Link) -> None:
            (crashing.crash if way == "killed" else crashing.stop_at_once)()
            again.start()

        again = Thread(target=lambda: (time.sleep(0.5), crashing.start()))
        proxy.when(word, die, after=more)
        victim.goes_on(PGFERRY_TARGET=proxy.url.render_as_string(hide_password=False))
        again.join()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_server_that_dies_at_thirty_moments(place: Place, crashing: Crashing, new_target: MakeTarget) -> None:
    chance = random.Random(30)
    for _ in range(10):
        victim = place.victim(new_target())
        for _ in range(3):
            with victim.running() as process:
                time.sleep(chance.uniform(4, 9))
                crashing.restart()
                process.wait(240)
            victim.assert_rows_are_those_of_the_ledger()
        ended = victim.migrate("--json")
        assert (ended.returncode, ended.stderr) == (0, "")
        victim.assert_like_undisturbed()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_that_stays_away_is_named_and_the_next_run_finishes(
    place: Place, crashing: Crashing, new_target: MakeTarget
) -> None:
    victim = place.victim(new_target())
    word, more = MOMENTS["load"]
    with Proxy(victim.url) as proxy:
        proxy.when(word, lambda link: (crashing.crash(), proxy.refuse()), after=more)
        failed = victim.migrate(seconds=400, PGFERRY_TARGET=proxy.url.render_as_string(hide_password=False))
    crashing.start()
    assert failed.returncode == 1
    error = failed.stderr.strip().splitlines()[-1]
    assert error.startswith("Error: "), failed.stderr
    assert f"127.0.0.1:{proxy.url.port}" in error
    victim.assert_rows_are_those_of_the_ledger()
    victim.finishes()
