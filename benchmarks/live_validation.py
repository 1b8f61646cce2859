"""How fast both sides are compared, beside a comparison of objects row by row."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from sqlalchemy import create_engine, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from benchmarks.live_move import LiveMove, Place
from benchmarks.live_page import Rate
from pgferry.live.compare import CompareUnit, Level, UnitComparison, compare_unit
from pgferry.live.holding import Held, hold, joined
from pgferry.live.model import Live
from pgferry.live.validate import judge, plan_validation
from pgferry.postgres.connection import Connection
from pgferry.sample.models import Trade

PROCESSES = 2

HOLD = "both sides held: what is pending carried, SQLite's file copied"
COUNTS = "counts"
ALONE = "every cell, one process"
BESIDE = f"every cell, {PROCESSES} processes that share an exported snapshot"
ROW_WISE = "for comparison, on fewer rows: ORM objects of both sides, compared attribute by attribute"

Compare = Callable[[Sequence[CompareUnit]], Awaitable[list[UnitComparison]]]
Seconds = dict[str, float]


def measure_validation(place: Place, rows: int, row_wise: int, passes: int) -> list[Rate]:
    """Compare a sample with so many trades in every way; row by row only so many, from the lowest id up."""
    with place.moved("live_validation", rows) as move, _pool(move) as pool:
        done = [asyncio.run(_pass(move, pool, beside_first=number % 2 == 1)) for number in range(passes)]
        by_rows = asyncio.run(_row_by_row(move, row_wise))
    compared = done[0][0]
    seconds = {way: median(one[way] for _, one in done) for way in (HOLD, COUNTS, ALONE, BESIDE)}
    ways = [Rate(way, compared, taken, passes) for way, taken in seconds.items()]
    return [*ways, Rate(ROW_WISE, min(row_wise, rows), by_rows, 1)]


async def _pass(move: LiveMove, pool: ProcessPoolExecutor, *, beside_first: bool) -> tuple[int, Seconds]:
    """Hold both sides and compare them in each way; return the rows and the seconds of each."""
    async with move.session() as server, move.session() as holder:
        live = await move.live(server)
        began = time.monotonic()
        async with hold(server, holder, live, move.home) as held:
            seconds = {HOLD: time.monotonic() - began}
            comparison = _Comparison(move, pool, holder, held, live)
            seconds[COUNTS] = await comparison.seconds(Level.COUNTS, comparison.alone)
            ways = {ALONE: comparison.alone, BESIDE: comparison.beside}
            for way in reversed(ways) if beside_first else ways:
                seconds[way] = await comparison.seconds(Level.CELLS, ways[way])
    return comparison.rows, seconds


@dataclass
class _Comparison:
    """A held moment, and the ways to compare it."""

    move: LiveMove
    pool: ProcessPoolExecutor
    holder: Connection
    held: Held
    live: Live
    rows: int = 0

    async def seconds(self, level: Level, compare: Compare) -> float:
        """Return what the validation takes from its plan to its judgement; all must be equal."""
        began, started_at = time.monotonic(), datetime.now(UTC)
        plan = await plan_validation(self.holder, self.held, self.live, level)
        found = await compare(plan.units)
        validation = await judge(self.holder, self.held, self.live, plan, found, started_at)
        assert validation.passed, validation
        self.rows = validation.source_rows
        return time.monotonic() - began

    async def alone(self, units: Sequence[CompareUnit]) -> list[UnitComparison]:
        """Compare one unit after the other, here."""
        return [await compare_unit(self.holder, self.held.path, unit) for unit in units]

    async def beside(self, units: Sequence[CompareUnit]) -> list[UnitComparison]:
        """Compare the units in the processes of the pool."""
        waiting = [self.pool.submit(_compare, self.move, self.held, unit) for unit in units]
        return await asyncio.gather(*map(asyncio.wrap_future, waiting))


@contextmanager
def _pool(move: LiveMove) -> Iterator[ProcessPoolExecutor]:
    """Give processes that have imported everything and have connected once: a worker of a flow has, too."""
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        wait([pool.submit(_connected, move) for _ in range(PROCESSES)])
        yield pool


def _connected(move: LiveMove) -> None:
    async def work() -> None:
        async with move.session() as server:
            # Long enough that no process takes the turn of another one.
            await server.execute("SELECT pg_sleep(1)")

    asyncio.run(work())


def _compare(move: LiveMove, held: Held, unit: CompareUnit) -> UnitComparison:
    async def work() -> UnitComparison:
        async with move.session() as server, joined(server, held) as reader:
            return await compare_unit(reader, held.path, unit)

    return asyncio.run(work())


# ---------------------------------------------------------------- row by row


async def _row_by_row(move: LiveMove, rows: int) -> float:
    """Compare as a guide would: objects of both sides in the order of their ids, attribute by attribute."""
    names = [column.name for column in Trade.__table__.columns]
    query = select(Trade).order_by(Trade.id).limit(rows).execution_options(yield_per=10_000)
    source, target = create_engine(f"sqlite:///{move.source}"), create_async_engine(move.url)
    began, compared = time.monotonic(), 0
    with Session(source) as mine:
        async with AsyncSession(target) as theirs:
            left = iter(mine.scalars(query))
            async for other in await theirs.stream_scalars(query):
                row = next(left)
                assert all(getattr(row, name) == getattr(other, name) for name in names), row.id
                compared += 1
            assert next(left, None) is None
    assert compared
    seconds = time.monotonic() - began
    source.dispose()
    await target.dispose()
    return seconds
