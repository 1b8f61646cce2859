"""How far PostgreSQL is behind while the sync follows: one process writes, one follows, one looks."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import sqlite3
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from typing import Any

import psutil

from benchmarks.live_move import LiveMove, Place, application
from benchmarks.live_page import Lag
from pgferry.live.follow import follow
from pgferry.live.model import Synced
from pgferry.postgres.connection import Connection

LOOK_SECONDS = 0.002
"""How often PostgreSQL is asked for the newest row."""

PATIENCE = 120.0
"""Seconds in which the follower must be there, and in which the last row must be."""

# Rows are carried in the order of their ids here, and the primary key's index answers.
_NEWEST = "SELECT max(id) FROM trades"

SPAWN = multiprocessing.get_context("spawn")

Moments = list[tuple[float, int]]
"""Seconds of the machine's monotonic clock, which all processes share, and an id."""


@dataclass(frozen=True, slots=True)
class _Signals:
    ready: Event
    """The one who looks is connected."""
    go: Event


def measure_lag(place: Place, rows: int, rate: float, seconds: float) -> Lag:
    """Write at that rate for so long into a sample with so many trades, and see each row arrive."""
    with place.moved("live_lag", rows) as move:
        first = _newest_row(move) + 1
        last = first + int(rate * seconds)
        with _process(_follow, move) as follower:
            _write_one(move, first)
            asyncio.run(_await_row(move, first))
            committed, seen, cpu = _written_and_seen(move, follower, range(first + 1, last + 1), rate)
    return _lag(rows, rate, committed, seen, cpu)


def _written_and_seen(move: LiveMove, follower: BaseProcess, ids: range, rate: float) -> tuple[Moments, Moments, float]:
    signals = _Signals(SPAWN.Event(), SPAWN.Event())
    written, looked = SPAWN.Pipe(duplex=False), SPAWN.Pipe(duplex=False)
    with (
        _process(_write, move, ids, rate, signals, written[1]) as writer,
        _process(_look, move, ids[-1], signals, looked[1]) as observer,
    ):
        assert signals.ready.wait(PATIENCE), "the observer is not connected"
        before = _cpu(follower)
        signals.go.set()
        committed, seen = _received(written[0], writer, rate, ids), _received(looked[0], observer, rate, ids)
        return committed, seen, _cpu(follower) - before


def _received(pipe: Pipe, process: BaseProcess, rate: float, ids: range) -> Moments:
    assert pipe in wait([pipe, process.sentinel], len(ids) / rate + PATIENCE), f"{process.name} has said nothing"
    moments: Moments = pipe.recv()
    return moments


def _cpu(process: BaseProcess) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


@contextmanager
def _process(target: Any, *arguments: object) -> Iterator[BaseProcess]:
    """Run a function in a process of its own, which is asked to end after the block."""
    process = SPAWN.Process(target=target, args=arguments, name=target.__name__.strip("_"), daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.terminate()
        process.join(30)
        if process.is_alive():
            process.kill()


def _lag(rows: int, rate: float, committed: Moments, seen: Moments, cpu: float) -> Lag:
    lags = sorted(behind(committed, seen))
    return Lag(
        rows=rows,
        rate=rate,
        writes=len(committed),
        seconds=committed[-1][0] - committed[0][0],
        median=lags[len(lags) // 2] * 1000,
        p99=lags[len(lags) * 99 // 100] * 1000,
        longest=lags[-1] * 1000,
        cpu=cpu,
    )


def behind(committed: Moments, seen: Moments) -> list[float]:
    """Return for each commit the seconds until an id at least as high was seen; both ascend."""
    heights = [newest for _, newest in seen]
    return [seen[bisect_left(heights, row)][0] - moment for moment, row in committed]


# ---------------------------------------------------------------- the application


def _newest_row(move: LiveMove) -> int:
    with closing(application(move.source)) as opened:
        return int(opened.execute(_NEWEST).fetchone()[0])


def _write_one(move: LiveMove, row: int) -> None:
    with closing(application(move.source)) as opened:
        _insert(opened, row, _template(opened))


def _write(move: LiveMove, ids: range, rate: float, signals: _Signals, answer: Pipe) -> None:
    committed: Moments = []
    with closing(application(move.source)) as opened:
        template = _template(opened)
        signals.go.wait()
        began = time.monotonic()
        for number, row in enumerate(ids):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            _insert(opened, row, template)
            committed.append((time.monotonic(), row))
    answer.send(committed)
    _stay()


def _template(opened: sqlite3.Connection) -> Sequence[object]:
    row: tuple[object, ...] = opened.execute("SELECT * FROM trades ORDER BY id LIMIT 1").fetchone()
    return row[1:]


def _insert(opened: sqlite3.Connection, row: int, template: Sequence[object]) -> None:
    marks = ", ".join("?" * (1 + len(template)))
    opened.execute(f"INSERT INTO trades VALUES ({marks})", (row, *template))


def _stay() -> None:
    # What was sent is only safe when it was taken: the one who asked ends this process.
    signal.pause()


# ---------------------------------------------------------------- the follower


def _follow(move: LiveMove) -> None:
    asyncio.run(_follow_until_told(move))


async def _follow_until_told(move: LiveMove) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with move.session() as server:
        await follow(server, await move.live(server), _no_way_back, lambda synced: None, stop)


async def _no_way_back(connection: Connection) -> Synced:
    raise AssertionError("SQLite is in front all along")


# ---------------------------------------------------------------- the observer


def _look(move: LiveMove, last: int, signals: _Signals, answer: Pipe) -> None:
    answer.send(asyncio.run(_seen(move, last, signals)))
    _stay()


async def _seen(move: LiveMove, last: int, signals: _Signals) -> Moments:
    seen: Moments = []
    async with move.session() as server:
        newest = await server.prepare(_NEWEST)
        signals.ready.set()
        while not seen or seen[-1][1] < last:
            found = await newest.fetchval()
            if not seen or found > seen[-1][1]:
                seen.append((time.monotonic(), found))
            await asyncio.sleep(LOOK_SECONDS)
    return seen


async def _await_row(move: LiveMove, row: int) -> None:
    deadline = time.monotonic() + PATIENCE
    async with move.session() as server:
        while await server.fetchval(_NEWEST) < row:
            assert time.monotonic() < deadline, "the follower does not follow"
            await asyncio.sleep(0.05)
