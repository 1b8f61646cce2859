"""The first half of a move alone: the tables of a snapshot as files, for people who want only those."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from pgferry.model import ColumnPair, ExportedChunk, Snapshot, SourceTable, TablePair, TargetColumn, TargetTable
from pgferry.move import Move, unrecorded
from pgferry.plan.model import SchemaPlan, TablePlan
from pgferry.plan.plan import make_plan
from pgferry.private import make_folder, write_text
from pgferry.settings import Rules, Settings
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.connect import open_read_only
from pgferry.staging import Staging

FORMATS = ("parquet", "jsonl")


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What an export writes: the units of its move, and the objects of the source that are not tables of rows."""

    move: Move
    schema: SchemaPlan


def plan_export(snapshot: Snapshot, settings: Settings, rules: Rules, folder: Path) -> ExportPlan:
    """Decide the types of the files' columns by what the data holds, as `plan` does; reads the snapshot only."""
    plan = make_plan(Path(snapshot.path), rules)
    connection = open_read_only(Path(snapshot.path), immutable=True)
    try:
        catalog = read_catalog(connection)
    finally:
        connection.close()
    pairs = [
        _pair(catalog.table(table.source), table, rules)
        for table in plan.tables
        if not rules.table(table.source).exclude
    ]
    return ExportPlan(unrecorded(snapshot, pairs, settings, str(folder)), plan)


def to_jsonl(staging: Staging, exported: ExportedChunk) -> ExportedChunk:
    """Write a chunk's rows beside its Parquet file as JSON Lines, then remove the Parquet file.

    Moments are ISO 8601, decimals and canonical texts are strings, bytes are base64. Atomic: the new file appears
    whole. Returns what the chunk now is.
    """
    path = staging.chunk_path(exported.chunk, ".jsonl")
    written = staging.write_lines(path, _lines(staging, exported))
    staging.discard_file(exported.path)
    staging.discard_file(staging.chunk_path(exported.chunk, ".json"))
    return ExportedChunk(
        exported.chunk,
        written.path,
        exported.rows,
        written.bytes,
        written.sha256,
        exported.quarantined,
        exported.quarantine_path,
        exported.quarantine_sha256,
        exported.in_order,
    )


def summary(plan: ExportPlan, exported: Iterable[ExportedChunk], folder: Path) -> dict[str, Any]:
    """Return what was written, and keep it as `manifest.json` beside the files."""
    move = plan.move
    chunks: dict[str, list[ExportedChunk]] = {table: [] for table in move.reads}
    for chunk in exported:
        chunks[chunk.chunk.table].append(chunk)
    result = {
        "folder": str(folder),
        "backup": {"path": move.snapshot.path, "sha256": move.snapshot.sha256, "bytes": move.snapshot.bytes},
        "tables": [_table(move, table, chunks[table]) for table in sorted(chunks)],
        "not_exported": [
            {"kind": item.kind, "name": item.name, "reason": item.reason}
            for item in plan.schema.not_carried
            if item.kind == "table"
        ],
    }
    make_folder(folder)
    write_text(folder / "manifest.json", json.dumps(result, indent=2) + "\n")
    return result


def _pair(source: SourceTable, table: TablePlan, rules: Rules) -> TablePair:
    columns = tuple(TargetColumn(column.name, column.type) for column in table.columns)
    pairs = tuple(
        ColumnPair(column.source, target, rules.column(table.source, column.source.name))
        for column, target in zip(table.columns, columns, strict=True)
    )
    key = table.key.columns if table.key else ()
    return TablePair(source, TargetTable("", table.name, 0, columns, key), pairs)


def _table(move: Move, table: str, chunks: list[ExportedChunk]) -> dict[str, Any]:
    ordered = sorted(chunks, key=lambda chunk: chunk.chunk.number)
    return {
        "table": table,
        "source_rows": move.source_rows[table],
        "rows": sum(chunk.rows for chunk in ordered),
        "quarantined": sum(chunk.quarantined for chunk in ordered),
        "bytes": sum(chunk.bytes for chunk in ordered),
        "files": len(ordered),
        "columns": [
            {"name": column.pair.target.name, "declared": column.pair.source.declared}
            for column in move.reads[table].columns
        ],
        "parts": [
            {"path": chunk.path, "rows": chunk.rows, "sha256": chunk.sha256, "quarantine": chunk.quarantine_path}
            for chunk in ordered
        ],
    }


def _lines(staging: Staging, exported: ExportedChunk) -> Iterable[bytes]:
    for batch in staging.read_batches(exported.path):
        for row in batch.to_pylist():
            yield json.dumps(row, default=_plain, ensure_ascii=False, allow_nan=True).encode() + b"\n"


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    raise TypeError(f"a {type(value).__name__} has no form in JSON Lines")
