"""The whole verified move by the library alone: the steps of `flows.moving`, on plain threads, without Prefect.

    .venv/bin/python -m benchmarks.bare_move FILE [--no-verification]

The target is PGFERRY_TARGET's. PGFERRY_ALEMBIC_CONFIG makes the schema and PGFERRY_CONFIG has the rules: those of a
written plan, where there is one. Prints a JSON object with the seconds of each step. What it takes less than `migrate`
is Prefect's own cost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from sqlalchemy.engine import URL

from pgferry.building import build, foreign_key_work, index_work, key_work, put_aside, waiting
from pgferry.copying import export_unit, judge_group, load_unit, read_back_unit, units_to_read
from pgferry.finishing import analyze_group, conclude, settle
from pgferry.memory import keep_flat
from pgferry.model import TableVerdict
from pgferry.move import Group, Move, Unit, prepare
from pgferry.postgres.connection import Connection, connection
from pgferry.postgres.deferred import Deferred
from pgferry.postgres.ledger import install, record_snapshot
from pgferry.postgres.runs import open_run
from pgferry.postgres.schema import upgrade
from pgferry.report import Stopwatch
from pgferry.settings import Settings, load_settings, parse_target
from pgferry.sqlite import snapshot as snapshots
from pgferry.sqlite.arrow_reader import load_driver_beside
from pgferry.verify import ChunkVerdict

T = TypeVar("T")


@dataclass
class BareMove:
    """A move on threads: an export and a load at once for each degree of parallelism, and room for waiters."""

    source: Path
    url: URL
    settings: Settings
    verification: bool = True
    watch: Stopwatch = field(default_factory=Stopwatch)

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(2 * self.settings.parallelism + 2)

    def run(self) -> dict[str, float]:
        """Move the source into the fresh target; returns the seconds of each step. Raises what stands against it."""
        rules = self.settings.rules()
        load_driver_beside()
        with self.watch.step("backup"):
            self._call(install)
            run = self._call(lambda db: open_run(db, self.source, rules, restart=False))
            snapshot = snapshots.take(self.source, self.settings.home / "backups")
            self._call(lambda db: record_snapshot(db, run.id, snapshot))
        checked = self._pool.submit(snapshots.check, snapshot)
        with self.watch.step("schema"):
            asyncio.run(upgrade(self.url, self.settings.alembic_config))
        with self.watch.step("plan"):
            move = self._call(lambda db: prepare(db, run.id, snapshot, self.settings, rules, ""))
            deferred = waiting(self._call(lambda db: put_aside(db, move)))
        with self.watch.step("export and load"):
            _results([self._copy(move, unit) for group in move.groups for unit in group.units])
        with self.watch.step("indexes and verification"):
            judged = [self._finish_group(move, group, deferred) for group in move.groups]
            verdicts = [verdict for future in judged for verdict in future.result()]
        with self.watch.step("foreign keys"):
            added, checks = foreign_key_work(deferred, self.settings.parallelism)
            self._build(added.steps)
            _results([self._pool.submit(self._build, work.steps) for work in checks])
        with self.watch.step("identities"):
            self._call(lambda db: settle(db, move))
        check = checked.result()
        if self.verification:
            report = self._call(lambda db: conclude(db, move, verdicts, check, self.url, self.watch.seconds))
            assert report.verified, report
        return dict(self.watch.seconds)

    def _copy(self, move: Move, unit: Unit) -> Future[object]:
        exported = self._pool.submit(export_unit, move, unit)
        return self._pool.submit(lambda: self._call(lambda db: load_unit(db, move, unit, exported.result())))

    def _finish_group(self, move: Move, group: Group, deferred: tuple[Deferred, ...]) -> Future[Sequence[TableVerdict]]:
        works = index_work(move, group, deferred)
        builds = [self._pool.submit(self._build, work.steps) for work in works]
        keys = [built for built, work in zip(builds, works, strict=True) if work.key]
        units = units_to_read(move, group) if self.verification else ()
        read = [self._pool.submit(self._read_back, move, unit, keys) for unit in units]
        analyzed = self._pool.submit(self._analyze, move, group, builds)
        steps = key_work(move, group, deferred).steps
        return self._pool.submit(self._judge, move, group, [*builds, analyzed], read, steps)

    def _read_back(self, move: Move, unit: Unit, keys: Sequence[Future[None]]) -> tuple[ChunkVerdict, ...]:
        _results(keys)
        return self._call(lambda db: read_back_unit(db, move, unit, self.settings.index_memory))

    def _analyze(self, move: Move, group: Group, builds: Sequence[Future[None]]) -> None:
        _results(builds)
        self._call(lambda db: analyze_group(db, move, group))

    def _judge(
        self,
        move: Move,
        group: Group,
        builds: Sequence[Future[None]],
        read: Sequence[Future[tuple[ChunkVerdict, ...]]],
        attached: Sequence[Deferred],
    ) -> Sequence[TableVerdict]:
        _results(builds)
        chunks = [verdict for unit in read for verdict in unit.result()]
        self._build(attached)
        if not self.verification:
            return ()
        return self._call(lambda db: judge_group(db, move, group, chunks, self.settings.sample_rows))

    def _build(self, steps: Sequence[Deferred]) -> None:
        self._call(lambda db: build(db, steps, self.settings.index_memory))

    def _call(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async def on_connection() -> T:
            async with connection(self.url) as opened:
                return await work(opened)

        return asyncio.run(on_connection())


def _results(futures: Sequence[Future[T]]) -> list[T]:
    return [future.result() for future in futures]


def main() -> None:
    """Move a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--no-verification", action="store_true", help="do not read the rows back")
    options = parser.parse_args()
    keep_flat()
    move = BareMove(
        options.file.resolve(),
        parse_target(os.environ["PGFERRY_TARGET"]),
        load_settings(),
        verification=not options.no_verification,
    )
    began = time.monotonic()
    steps = move.run()
    json.dump({"seconds": time.monotonic() - began, "steps": steps}, sys.stdout)


if __name__ == "__main__":
    main()
