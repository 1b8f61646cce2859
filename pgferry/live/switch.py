"""The switch: PostgreSQL takes over from SQLite at one moment, or nothing has happened.

Between the fence and the rewritten environment file nobody can write anywhere, so that time depends on what was
written since the last comparison, not on the size of the database. Whatever fails, `turning.turn_back` undoes it.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy.engine import URL

from pgferry.errors import Permanent, Transient, UsageError
from pgferry.live import phases
from pgferry.live.compare import compare_keys
from pgferry.live.environment import point_at, target_value
from pgferry.live.forward import sync_once
from pgferry.live.front import FREED, RESTART_DUE, read_noted
from pgferry.live.model import Live, Phase
from pgferry.live.write_back import FRONT
from pgferry.model import CellDifference
from pgferry.postgres import capture as target_capture
from pgferry.postgres import fence as target_fence
from pgferry.postgres.connection import Connection
from pgferry.postgres.deferred import pending, rebuild_one
from pgferry.postgres.definitions import Stage
from pgferry.postgres.identity import set_identities
from pgferry.postgres.journal import forget_touched, server_time, touched_since
from pgferry.postgres.patience import patiently
from pgferry.quoting import qualified
from pgferry.settings import Settings
from pgferry.sqlite import fence as source_fence
from pgferry.sqlite.capture import forget_note, set_note
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.connect import open_read_only
from pgferry.sqlite.fence import writing

logger = logging.getLogger(__name__)

FENCED = "this database has moved to PostgreSQL; writes to the SQLite file are refused. python -m flows status"
"""What the application is told when it writes to SQLite after the fence."""

DRAINS = 20
"""Cycles that a drain may take: under the fence the second one finds nothing."""


@dataclass(frozen=True, slots=True)
class TakenOver:
    """What the frozen part of a switch did; `frozen` is in seconds, by step and as a whole."""

    drained: int
    compared: int
    """Rows that were written since the last comparison, and compared once more."""
    identities: Mapping[str, int]
    foreign_keys: int
    frozen: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """How long nobody could write anywhere."""
        return sum(self.frozen.values())


class _Clock:
    def __init__(self) -> None:
        self.steps: dict[str, float] = {}
        self._last = time.monotonic()

    def step(self, name: str) -> None:
        now = time.monotonic()
        self.steps[name] = self.steps.get(name, 0.0) + now - self._last
        self._last = now


async def take_over(connection: Connection, live: Live, settings: Settings, url: URL) -> TakenOver:
    """Fence SQLite, drain, compare, set identities, add foreign keys, capture in PostgreSQL, rewrite the environment.

    The forms in which values go back to SQLite must be recorded before. Raises what stands against it, with the fence
    up and the phase `switching`: the caller turns back (`turning.turn_back`).
    """
    path = Path(live.source)
    _refuse_unsettled(path)
    if (await phases.current(connection, live.run_id)).phase is not Phase.SWITCHING:
        await phases.enter(connection, live.run_id, Phase.SWITCHING, "the switch begins", {})
    clock = _Clock()
    source_fence.fence(path, FENCED)
    clock.step("fence")
    drained = await drain(connection, live)
    clock.step("drain")
    with closing(open_read_only(path)) as source:
        compared = await compare_touched(connection, live, source)
        sequences = read_catalog(source).sequences
    clock.step("compare")
    identities = await set_identities(connection, [table.pair for table in live.tables], sequences)
    clock.step("identities")
    added = await _add_foreign_keys(connection, live)
    clock.step("foreign keys")
    await target_capture.install(connection, live)
    _decide(path)
    clock.step("reverse capture")
    point_at(settings, target_value(settings, url))
    # Last: while the environment may name SQLite yet, nobody writes here.
    await target_fence.lift(connection)
    clock.step("environment")
    return TakenOver(drained, compared, identities, added, clock.steps)


def _refuse_unsettled(path: Path) -> None:
    if read_noted(path).emergency is not None:
        raise UsageError(
            f"{path} notes an emergency rollback that is not settled.", "Run `python -m flows rollback --carry`."
        )


def _decide(path: Path) -> None:
    """Note that PostgreSQL is in front; raises Permanent when SQLite can be written to by now."""
    with writing(path) as source:
        if not source_fence.is_fenced(source):
            raise Permanent(
                f"{path} is not fenced any more: somebody has taken the fence down during the switch.",
                "Was `python -m flows rollback --emergency` run? Look at `python -m flows status`, then switch again.",
            )
        set_note(source, FRONT, "postgres")
        for note in (RESTART_DUE, FREED):
            forget_note(source, note)


async def drain(connection: Connection, live: Live, phase: Phase = Phase.SWITCHING) -> int:
    """Sync until nothing is left, with the fence up; returns the rows carried."""
    rows = 0
    for _ in range(DRAINS):
        synced = await sync_once(connection, live, phases=frozenset({phase}))
        if synced.idle:
            return rows
        rows += sum(synced.tables.values())
    raise Permanent(f"{live.source} is still written to although it is fenced.", "Find the writer that drops triggers.")


async def compare_touched(connection: Connection, live: Live, source: sqlite3.Connection) -> int:
    """Compare the rows that were carried since the last comparison; returns how many.

    Both sides must be held, or still. Raises Permanent with the first differences.
    """
    count = 0
    found: list[CellDifference] = []
    for table, keys in (await touched_since(connection, live.run_id)).items():
        found += await compare_keys(connection, source, live.table(table), keys, live.run_id)
        count += len(keys)
    if found:
        first = found[0]
        raise Permanent(
            f"{len(found)} cells differ among the {count} rows that were carried last; the first: table "
            f"{first.table!r}, {first.key}, column {first.column or '(row)'}: {first.source} / {first.target}.",
            "Run `python -m flows validate --repair`, and look for what writes to PostgreSQL besides the sync.",
            differences=tuple(found),
        )
    return count


async def _add_foreign_keys(connection: Connection, live: Live) -> int:
    """Add the foreign keys that wait, NOT VALID: instant, and every new row is held to them.

    Raises Transient when a table stays locked, as by a VACUUM: nobody can write meanwhile.
    """
    steps = [step for step in await pending(connection, live.run_id) if step.stage is Stage.FOREIGN_KEY]
    for step in steps:
        add = partial(rebuild_one, connection, step, memory="64MB")
        await patiently(connection, add, qualified(step.schema, step.table))
    return len(steps)


async def validate_foreign_keys(connection: Connection, live: Live) -> tuple[str, ...]:
    """Validate the foreign keys that were added, beside the application's work; returns what stands against any.

    A foreign key whose rows break it stays NOT VALID, and the next call tries it again; what is returned says what the
    rows are and which statement validates it.
    """
    problems: list[str] = []
    for step in await pending(connection, live.run_id):
        if step.stage is Stage.VALIDATE:
            try:
                await rebuild_one(connection, step, memory="64MB")
            except Permanent as error:
                problems.append(str(error))
    return tuple(problems)


async def finish_switch(connection: Connection, live: Live, taken: TakenOver) -> None:
    """Enter `switched`: from here on the way back is a rollback.

    Atomic. Raises OutOfOrder, with any fence left as it is, when another process has undone the switch meanwhile. The
    triggers of the open fence are dropped afterwards, as far as nobody reads: `fence` and the cleanup find the rest.
    """
    details = {"frozen": dict(taken.frozen), "drained": taken.drained, "compared": taken.compared}
    async with connection.transaction():
        await phases.enter(connection, live.run_id, Phase.SWITCHED, "PostgreSQL is in front", details)
        await forget_touched(connection, live.run_id, await server_time(connection))
    try:
        await target_fence.unfence(connection, live)
    except Transient as error:
        # They let every write pass; a long reader is no reason to take the switch back.
        logger.info("The triggers of the fence stay for now: %s", error.message)
