"""The first half of a move: a backup, and the tables as files. Nothing is written to PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run

from flows.choices import FormatName
from flows.futures import call, results, submit
from flows.names import run_name
from flows.runner import lanes, told_elsewhere
from pgferry.errors import UsageError
from pgferry.files import FORMATS
from pgferry.model import ExportedChunk
from pgferry.move import Unit
from pgferry.progress import reporter
from pgferry.settings import load_settings
from tasks.backup import check_backup, take_backup
from tasks.chunks import export as export_chunks
from tasks.ends import source_path
from tasks.files import plan_export, write_jsonl, write_manifest
from tasks.progress import Work, progress


@flow(name="export", flow_run_name=run_name, task_runner=lanes())
def export(source: str = "", file_format: FormatName = "parquet", output: str = "", config: str = "") -> dict[str, Any]:
    """Back up a SQLite database and write its tables to Parquet or JSON Lines.

    Args:
        source: the SQLite file; empty for the one that the settings name.
        file_format: `parquet` or `jsonl`.
        output: the folder to write to; empty for a new one in PGFERRY_HOME/exports.
        config: the file with rules for tables and columns; empty for pgferry.toml if it exists.

    Returns:
        What was written: the folder, the backup, and per table its rows, files and checksums.
    """
    reporter().run(str(flow_run.id))
    if file_format not in FORMATS:
        raise UsageError(f"There is no format {file_format!r}.", f"Give one of {', '.join(FORMATS)}.")

    # 1. Where from, by which rules.
    file, settings = source_path(source), load_settings(config=config or None)
    rules = settings.rules()

    # 2. Back up; everything after reads the backup.
    reporter().step("back up")
    snapshot = take_backup(file)
    checked = submit(check_backup, snapshot)

    # 3. Choose the types by the data, and cut the tables into chunks.
    reporter().step("choose types and cut chunks")
    folder = Path(output).absolute() if output else settings.home.absolute() / "exports" / Path(snapshot.path).stem
    plan = plan_export(snapshot, rules, folder)

    # 4. Write the files.
    reporter().step("write files")
    units = [unit for group in plan.move.groups for unit in group.units]
    parts = [plan.move.only(group.tables) for group in plan.move.groups for _ in group.units]
    with progress(plan.move, Work.EXPORT):
        written = [submit(export_chunks, part, unit) for part, unit in zip(parts, units, strict=True)]
        if file_format == "jsonl":
            written = [
                submit(write_jsonl, unit.name, folder, exported) for unit, exported in zip(units, written, strict=True)
            ]
        exported = tuple(chunk for unit, future in zip(units, written, strict=True) for chunk in _written(unit, future))

    # 5. Say what is there.
    checked.result()
    return call(write_manifest, plan, exported, folder)


def _written(unit: Unit, future: PrefectFuture[tuple[ExportedChunk, ...]]) -> tuple[ExportedChunk, ...]:
    (chunks,) = results([future])
    told_elsewhere(unit.chunks, reporter().exported)
    return chunks
