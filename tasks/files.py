"""The tables of a snapshot as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import get_run_logger, task

from pgferry import files
from pgferry.files import ExportPlan
from pgferry.model import ExportedChunk, Snapshot
from pgferry.progress import reporter
from pgferry.report import shown
from pgferry.settings import Rules, load_settings
from pgferry.staging import Staging
from tasks.artifacts import create_table_artifact
from tasks.retries import TRANSIENT


@task(name="plan export", task_run_name="choose types and cut chunks", **TRANSIENT)
def plan_export(snapshot: Snapshot, rules: Rules, folder: Path) -> ExportPlan:
    """Decide the files' types by the data, and cut the tables into chunks."""
    plan = files.plan_export(snapshot, load_settings(), rules, folder)
    for table, rows in plan.move.source_rows.items():
        reporter().table(table, rows)
    get_run_logger().info("%d tables with %s rows are to be written.", len(plan.move.reads), f"{plan.move.rows:,}")
    return plan


@task(name="write jsonl", task_run_name="write {name} as JSON Lines", **TRANSIENT)
def write_jsonl(name: str, folder: Path, exported: tuple[ExportedChunk, ...]) -> tuple[ExportedChunk, ...]:
    """Turn exported chunks into JSON Lines."""
    staging = Staging(str(folder))
    written = tuple(files.to_jsonl(staging, chunk) for chunk in exported)
    get_run_logger().info("%s: %s rows as JSON Lines.", name, f"{sum(chunk.rows for chunk in written):,}")
    return written


@task(name="manifest", task_run_name="manifest", **TRANSIENT)
def write_manifest(plan: ExportPlan, exported: tuple[ExportedChunk, ...], folder: Path) -> dict[str, Any]:
    """Write down which files there are, with rows and checksums."""
    result = files.summary(plan, exported, folder)
    tables = [_row(table) for table in result["tables"]]
    create_table_artifact(tables, key="export", description=f"Files in {folder}")
    get_run_logger().info("%d tables are in %s.", len(tables), folder)
    return result


def _row(table: dict[str, Any]) -> dict[str, str]:
    columns = {"table": "table", "source rows": "source_rows", "rows": "rows", "quarantined": "quarantined",
               "files": "files"}  # fmt: skip
    cells = {name: shown(table[key]) for name, key in columns.items()}
    return {**cells, "MB": f"{table['bytes'] / 1e6:,.1f}"}
