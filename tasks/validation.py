"""The validation: what is to be compared of a held moment, its comparison, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.events import emit_event

from pgferry.chart import data_uri
from pgferry.live import queries as querying
from pgferry.live import repair as repairing
from pgferry.live import validate as validating
from pgferry.live.compare import CompareUnit, Level, UnitComparison, compare_unit
from pgferry.live.history import chart, history_table
from pgferry.live.holding import Held, joined
from pgferry.live.model import Live, ValidationRecord
from pgferry.live.queries import QueryComparison, compare_queries, read_queries
from pgferry.live.repair import Repaired
from pgferry.live.validate import ValidationPlan
from pgferry.live.validation import Validation, conclusion, markdown, numbered, table_row
from pgferry.postgres.validations import validations
from pgferry.report import shown
from pgferry.settings import load_settings
from tasks.artifacts import create_markdown_artifact, create_table_artifact
from tasks.ends import session, target_url, wait_for
from tasks.retries import TRANSIENT

TOGETHER_ROWS = 200_000
TOGETHER = 100
"""Units of small tables that share one task: so many rows, and so many units, at the most."""


SHOWN_NIGHTS = 30
"""Validations that the history shows."""


@task(name="plan validation", task_run_name="count both sides", **TRANSIENT)
def plan(held: Held, live: Live, level: Level, percent: float) -> ValidationPlan:
    """Count the rows of both sides, and cut the comparison into units."""
    url, settings = target_url(live.target), load_settings()

    async def work() -> ValidationPlan:
        async with session(url, settings) as connection, joined(connection, held) as reader:
            return await validating.plan_validation(reader, held, live, level, percent=percent)

    planned = wait_for(work())
    rows = sum(table.source_rows for table in planned.tables)
    get_run_logger().info("%d tables with %s rows in %d units.", len(planned.tables), f"{rows:,}", len(planned.units))
    return planned


def batches(units: Sequence[CompareUnit]) -> list[tuple[str, tuple[CompareUnit, ...]]]:
    """Return the units by task, each with a name: large ones alone, many small ones together."""
    found: list[list[CompareUnit]] = []
    for unit in units:
        last = found[-1] if found else []
        if last and len(last) < TOGETHER and sum(other.rows for other in last) + unit.rows <= TOGETHER_ROWS:
            last.append(unit)
        else:
            found.append([unit])
    return [(_name(batch), tuple(batch)) for batch in found]


def _name(batch: Sequence[CompareUnit]) -> str:
    return batch[0].name if len(batch) == 1 else f"{batch[0].name} and {len(batch) - 1} more"


@task(name="compare", task_run_name="compare {name}", **TRANSIENT)
def compare(held: Held, target: str, name: str, units: tuple[CompareUnit, ...]) -> tuple[UnitComparison, ...]:
    """Compare units on a connection of their own that sees the held moment."""
    url, settings = target_url(target), load_settings()

    async def work() -> tuple[UnitComparison, ...]:
        async with session(url, settings) as connection, joined(connection, held) as reader:
            return tuple([await compare_unit(reader, held.path, unit) for unit in units])

    found = wait_for(work())
    rows, differences = sum(item.rows for item in found), sum(item.difference_count for item in found)
    get_run_logger().info("%s: %s rows compared, %s differences.", name, f"{rows:,}", f"{differences:,}")
    return found


@task(name="compare queries", task_run_name="run the application's queries on both sides", **TRANSIENT)
def run_queries(held: Held, target: str, folder: Path) -> tuple[QueryComparison, ...]:
    """Run the application's own SELECTs on both sides, and compare answers and latencies."""
    url, settings = target_url(target), load_settings()
    asked = read_queries(folder)

    async def work() -> tuple[QueryComparison, ...]:
        async with session(url, settings) as connection, joined(connection, held) as reader:
            return await compare_queries(reader, held.path, asked)

    compared = wait_for(work())
    if compared:
        create_markdown_artifact(
            querying.markdown(compared), key="queries", description="The application's queries on both sides"
        )
    same, slower = sum(item.equal for item in compared), sum(item.slower for item in compared)
    get_run_logger().info("%d of %d queries answer the same, %d are slower.", same, len(compared), slower)
    return compared


@task(name="judge validation", task_run_name="judge", **TRANSIENT)
def judge(
    held: Held, live: Live, planned: ValidationPlan, found: Sequence[UnitComparison], started_at: datetime
) -> Validation:
    """Bring together what all units found, and look for rows that waiting foreign keys would refuse."""
    url, settings = target_url(live.target), load_settings()

    async def work() -> Validation:
        async with session(url, settings) as connection, joined(connection, held) as reader:
            return await validating.judge(reader, held, live, planned, found, started_at)

    validation = wait_for(work())
    get_run_logger().info("%s, %d orphans.", conclusion(validation), validation.orphans)
    return validation


@task(name="record validation", task_run_name="record", **TRANSIENT)
def record(held: Held, target: str, planned: ValidationPlan, validation: Validation) -> Validation:
    """Keep the validation in the ledger, and show it."""
    url, settings = target_url(target), load_settings()

    async def work() -> int:
        async with session(url, settings) as connection:
            return await validating.conclude(connection, held, planned, validation)

    kept = numbered(validation, wait_for(work()))
    head = ("table", "SQLite rows", "PostgreSQL rows", "quarantined", "excluded", "compared", "differences", "verdict")
    rows = [dict(zip(head, map(shown, table_row(table)), strict=True)) for table in kept.tables]
    create_table_artifact(rows, key="validation-tables", description=conclusion(kept))
    create_markdown_artifact(markdown(kept), key="validation", description=conclusion(kept))
    get_run_logger().info("%s, in %.1f s.", conclusion(kept), kept.seconds)
    return kept


@task(name="show history", task_run_name="show the nights", **TRANSIENT)
def show_history(live: Live) -> int:
    """Show the latest validations as a picture and a table; returns how many there are."""
    url, settings = target_url(live.target), load_settings()

    async def work() -> tuple[ValidationRecord, ...]:
        async with session(url, settings) as connection:
            return await validations(connection, live.run_id, SHOWN_NIGHTS)

    nights = wait_for(work())
    name = Path(live.source).name
    text = f"![The validations]({data_uri(chart(nights, name))})\n\n{history_table(nights)}"
    create_markdown_artifact(text, key="validation-history", description=f"The latest validations of {name}")
    get_run_logger().info("%d of %d validations passed.", sum(night.passed for night in nights), len(nights))
    return len(nights)


@task(name="repair", task_run_name="mend differing rows", **TRANSIENT)
def mend(live: Live, validation: Validation) -> Repaired:
    """Bring the rows that differ to what the side in front holds, and record each."""
    url, settings = target_url(live.target), load_settings()

    async def work() -> Repaired:
        async with session(url, settings) as connection:
            return await repairing.repair(connection, live, validation.id, validation.differing)

    repaired = wait_for(work())
    get_run_logger().info("%d rows mended, %d differences are left.", repaired.rows, len(repaired.left))
    return repaired


def repaired_json(repaired: Repaired) -> dict[str, Any]:
    """Return a repair for programs."""
    return {"rows": repaired.rows, "tables": dict(repaired.tables), "left": [asdict(item) for item in repaired.left]}


@task(name="tell", task_run_name="emit the event")
def tell(source: str, validation: Validation, flow_run: str) -> None:
    """Emit `pgferry.validation.passed` or `.failed`, with numbers, for automations."""
    summary = conclusion(validation)
    emit_event(
        f"pgferry.validation.{'passed' if validation.passed else 'failed'}",
        resource={"prefect.resource.id": f"pgferry.{validation.run_id}", "prefect.resource.name": source},
        payload={
            "summary": summary,
            "source": source,
            "flow_run": flow_run,
            "run": validation.run_id,
            "validation": validation.id,
            "direction": str(validation.direction),
            "level": str(validation.level),
            "rows": validation.rows,
            "cells": validation.cells,
            "differences": validation.difference_count,
            "quarantined": validation.quarantined,
            "orphans": validation.orphans,
            "queries_wrong": len(validation.wrong_queries),
            "seconds": round(validation.seconds, 3),
        },
    )
    get_run_logger().info("Told: %s.", summary)
