"""The sync: one round in either direction, and the sync that stays."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact

from pgferry.errors import is_transient
from pgferry.live.follow import Back, follow
from pgferry.live.forms import Forms, from_json
from pgferry.live.level import level, until_level
from pgferry.live.model import Direction, Live, Synced
from pgferry.live.reverse import sync_back
from pgferry.postgres.connection import Connection
from pgferry.postgres.journal import read_forms, sync_lock
from pgferry.settings import load_settings
from tasks.ends import session, target_url, wait_for
from tasks.retries import TRANSIENT

TELL_SECONDS = 10.0
"""How often the sync that stays tells of itself."""

FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
"""Seconds until a lost connection is tried again: the first time, and at the most."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What cycles of the sync carried, added up. `moment` is the one that both sides are level with."""

    direction: Direction
    moment: datetime
    cycles: int = 0
    rows: int = 0
    deleted: int = 0
    quarantined: int = 0
    position: int = 0
    longest: float = 0.0
    """Seconds of the longest cycle."""

    def then(self, synced: Synced) -> Carried:
        """Return it with one cycle more."""
        return replace(
            self,
            direction=synced.direction,
            moment=synced.moment,
            cycles=self.cycles + 1,
            rows=self.rows + synced.rows,
            deleted=self.deleted + synced.deleted,
            quarantined=self.quarantined + synced.quarantined,
            position=synced.position,
            longest=max(self.longest, synced.seconds),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "direction": str(self.direction),
            "cycles": self.cycles,
            "rows": self.rows,
            "deleted": self.deleted,
            "quarantined": self.quarantined,
            "position": self.position,
            "moment": self.moment.isoformat(),
            "longest_cycle_seconds": round(self.longest, 3),
        }

    def __str__(self) -> str:
        kept = f", {self.quarantined} kept aside" if self.quarantined else ""
        return (
            f"{self.direction}: {self.rows} rows written, {self.deleted} removed{kept} in {self.cycles} cycles, "
            f"level with {self.moment:%Y-%m-%d %H:%M:%S} UTC"
        )


class Tally:
    """Adds cycles up as they are told of."""

    def __init__(self, direction: Direction) -> None:
        self.total = Carried(direction, datetime.now(UTC))

    def add(self, synced: Synced) -> None:
        """Add a cycle."""
        self.total = self.total.then(synced)


@task(name="level", task_run_name="carry until level", **TRANSIENT)
def carry_until_level(live: Live) -> Carried:
    """Carry SQLite's changes until PostgreSQL is nearly level, then remove what the outbox needs no more."""
    url, settings = target_url(live.target), load_settings()
    tally = Tally(Direction.FORWARD)

    async def work() -> None:
        async with session(url, settings) as connection:
            await level(connection, live, tally.add, near=settings.max_lag_rows)

    wait_for(work())
    get_run_logger().info("%s.", tally.total)
    return tally.total


@task(name="carry back", task_run_name="carry back until level", **TRANSIENT)
def carry_back(live: Live) -> Carried:
    """Carry PostgreSQL's changes to SQLite until it is nearly level."""
    url, settings = target_url(live.target), load_settings()
    tally = Tally(Direction.REVERSE)

    async def work() -> None:
        async with session(url, settings) as connection:
            cycle = partial(back_of(live), connection)
            await until_level(cycle, "PostgreSQL", tally.add, near=settings.max_lag_rows)

    wait_for(work())
    get_run_logger().info("%s.", tally.total)
    return tally.total


def back_of(live: Live) -> Back:
    """Return one cycle of the sync back, by the recorded forms, which it reads once."""
    known: list[Forms] = []

    async def back(connection: Connection) -> Synced:
        if not known:
            known.append(from_json(await read_forms(connection, live.run_id)))
        async with sync_lock(connection):
            return await sync_back(connection, live, known[0])

    return back


# ---------------------------------------------------------------- the sync that stays


@task(name="follow", task_run_name="follow", persist_result=False)
def follow_changes(live: Live) -> Carried:
    """Carry each change within moments of its commit, in the direction of the phase, until SIGINT or SIGTERM.

    A lost connection is made anew, for as long as it takes. Raises what no waiting cures: a changed schema, a row that
    a constraint of the target refuses.
    """
    tally = Tally(Direction.FORWARD)
    wait_for(_follow(live, tally))
    get_run_logger().info("Stopped. %s.", tally.total)
    return tally.total


async def _follow(live: Live, tally: Tally) -> None:
    stop = asyncio.Event()
    with _stopping(stop.set):
        teller = asyncio.create_task(_tell(tally, stop))
        try:
            await _reconnecting(live, tally, stop)
        finally:
            stop.set()
            await teller


async def _reconnecting(live: Live, tally: Tally, stop: asyncio.Event) -> None:
    # In a thread: it may start the embedded server, with a loop of its own.
    url, settings = await asyncio.to_thread(target_url, live.target), load_settings()
    delay = FIRST_DELAY
    while not stop.is_set():
        before = tally.total.cycles
        try:
            async with session(url, settings) as connection:
                await follow(connection, live, back_of(live), tally.add, stop)
        except Exception as error:
            if not is_transient(error):
                raise
            delay = FIRST_DELAY if tally.total.cycles > before else min(2 * delay, LONGEST_DELAY)
            get_run_logger().warning("%s Trying again in %.0f s.", error, delay)
            await _pause(stop, delay)


async def _tell(tally: Tally, stop: asyncio.Event) -> None:
    """Log a line and renew one artifact now and then, when something was carried."""
    artifact: UUID | None = None
    told = 0
    while not stop.is_set():
        await _pause(stop, TELL_SECONDS)
        if tally.total.cycles == told:
            continue
        told = tally.total.cycles
        get_run_logger().info("%s; the longest cycle took %.2f s.", tally.total, tally.total.longest)
        artifact = await _shown(artifact, str(tally.total))


async def _shown(artifact: UUID | None, description: str) -> UUID | None:
    # One artifact that is renewed: a new one each time would be thousands a day.
    try:
        if artifact is not None:
            return await aupdate_progress_artifact(artifact, progress=100.0, description=description)
        return await acreate_progress_artifact(progress=100.0, key="sync", description=description)
    except Exception as error:
        # A Prefect server that is away must not stop the sync.
        get_run_logger().warning("The artifact was not written: %s.", type(error).__name__)
        return artifact


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return


@contextmanager
def _stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the work between two cycles; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])
