"""`migrate --plan` without Prefect: the same functions in the same order, in seconds less."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL

from pgferry.plan.files import write_plan
from pgferry.plan.model import SchemaPlan
from pgferry.plan.outcome import merged_rules
from pgferry.plan.plan import make_plan
from pgferry.plan.trial import tried
from pgferry.postgres.connection import connection
from pgferry.postgres.schema import upgrade
from pgferry.report import Report
from pgferry.settings import Rules, read_rules
from tests.acceptance.moving import Mover


@dataclass(frozen=True)
class Planned:
    """What came of a planned move."""

    report: Report
    plan: SchemaPlan
    seconds: float


async def plan_and_move(
    source: Path, url: URL, home: Path, rules: Rules | None = None, *, chunk_rows: int = 5000
) -> Planned:
    """Plan a file, try the plan, make its schema by Alembic and move the rows, on a fresh database."""
    started = time.monotonic()
    given = rules or Rules()
    async with connection(url) as server:
        plan = await tried(make_plan(source, given), server)
        written = write_plan(plan, home / "plan")
        await upgrade(url, written.alembic_config)
        merged = merged_rules(given, read_rules(written.rules))
        report = await Mover(server, url, source, home, merged, chunk_rows=chunk_rows).run()
    return Planned(report, plan, time.monotonic() - started)
