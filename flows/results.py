"""What the command line prints at the end: tables for people, JSON for programs."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pgferry.postgres import embedded
from pgferry.progress import Clock
from pgferry.settings import Settings


def print_migration(
    report: dict[str, Any], clock: Clock, settings: Settings, ui_url: str | None, *, as_json: bool
) -> None:
    """Print what moved, the verdict, the backup's place, and where to look."""
    if as_json:
        print(json.dumps(report, indent=2))
        return
    console = Console()
    if report["already_migrated"]:
        console.print(
            f"This source was moved by run {report['run']} already; no row was touched. "
            "To move it once more: --restart."
        )
    console.print(_tables(report, clock))
    console.print(_steps(report))
    for line in _closing(report, settings, ui_url, clock.run_id):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def print_plan(result: dict[str, Any], clock: Clock, ui_url: str | None, *, as_json: bool) -> None:
    """Print each column's type and why, what is not carried, and what needs a person's yes."""
    if as_json:
        print(json.dumps(result, indent=2))
        return
    console = Console()
    for item in result["tables"]:
        table = Table(title=f"{item['name']} ({item['rows']:,} rows)", title_justify="left")
        for name in ("column", "type", "evidence"):
            table.add_column(name)
        for column in item["columns"]:
            table.add_row(*(escape(str(column[name])) for name in ("name", "type", "evidence")))
        console.print(table)
    lines = [
        f"Not carried: {row['kind']} {row['table']} {row['name']}: {row['reason']}" for row in result["not_carried"]
    ]
    lines += [
        f"Needs a yes: {row['table']}.{row['column']} {row['setting']} = {row['value']}: {row['reason']}"
        for row in result["questions"]
    ]
    if result["files"]:
        lines.append(
            f"Written: {result['files']['folder']} (alembic -c {result['files']['alembic_config']} upgrade head)"
        )
    for line in (*lines, _run_line(ui_url, clock.run_id)):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def print_export(result: dict[str, Any], clock: Clock, ui_url: str | None, *, as_json: bool) -> None:
    """Print which files were written."""
    if as_json:
        print(json.dumps(result, indent=2))
        return
    console = Console()
    table = Table(title="Exported")
    for name in ("table", "rows", "kept aside", "files", "MB"):
        table.add_column(name, justify="left" if name == "table" else "right")
    for row in result["tables"]:
        size = f"{row['bytes'] / 1e6:,.1f}"
        table.add_row(row["table"], f"{row['rows']:,}", f"{row['quarantined']:,}", f"{row['files']:,}", size)
    console.print(table)
    for line in (f"Files: {result['folder']}", f"Backup: {result['backup']['path']}", _run_line(ui_url, clock.run_id)):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _tables(report: dict[str, Any], clock: Clock) -> Table:
    table = Table(title=f"Moved to {report['target']}")
    aside = [name for name in ("quarantined", "excluded") if any(row[name] for row in report["tables"])]
    for name in ("table", "rows", "loaded", *aside, "seconds", "MB/s", "verdict"):
        table.add_column(name, justify="left" if name in ("table", "verdict") else "right")
    for row in report["tables"]:
        timed = clock.tables.get(row["table"])
        seconds = timed.seconds if timed else 0.0
        speed = f"{row['bytes_sent'] / 1e6 / seconds:,.1f}" if seconds else ""
        counts = [f"{row[name]:,}" for name in ("source_rows", "loaded", *aside)]
        table.add_row(row["table"], *counts, f"{seconds:.1f}" if seconds else "", speed, _verdict(row))
    return table


def _verdict(row: dict[str, Any]) -> str:
    if row["source_rows"] != row["loaded"] + row["quarantined"] + row["excluded"]:
        return "[red]ROWS MISSING[/red]"
    if row["differences"]:
        return f"[red]{row['differences']:,} differences[/red]"
    if row["excluded"]:
        return "excluded"
    equal = f"{row['cells_compared']:,} cells equal"
    return f"[yellow]{equal}; rows kept aside[/yellow]" if row["quarantined"] else f"[green]{equal}[/green]"


def _steps(report: dict[str, Any]) -> Table:
    table = Table(title="Steps")
    table.add_column("step")
    table.add_column("seconds", justify="right")
    for step in report["steps"]:
        table.add_row(step["step"], f"{step['seconds']:.1f}")
    return table


def _closing(report: dict[str, Any], settings: Settings, ui_url: str | None, run_id: str) -> list[str]:
    backup = report["backup"]
    lines = [
        f"Verified: {'yes, every cell is equal' if report['verified'] else 'NO'}",
        f"Backup:   {backup['path']} ({backup['bytes'] / 1e6:,.1f} MB, SHA-256 {backup['sha256']})",
        f"Parquet:  {report['staging']}",
        f"Look:     {_psql(report, settings)}",
        _run_line(ui_url, run_id),
    ]
    for row in report["tables"]:
        lines += [
            f"Differs:  {row['table']} {item['key']} {item['column'] or '(row)'}: {item['source']} -> {item['target']}"
            for item in row["first_differences"]
        ]
    told = [*report["notes"], *(key["told"] for key in report["foreign_keys_not_valid"])]
    return [line for line in [*lines, *(f"Note:     {note}" for note in told)] if line]


def _psql(report: dict[str, Any], settings: Settings) -> str:
    server = embedded.running(settings.home) if settings.target_url() is None else None
    if server is not None:
        return server.psql(embedded.DATABASE)
    return f"psql '{report['target'].replace('+asyncpg', '').replace(':***@', '@')}'"


def _run_line(ui_url: str | None, run_id: str) -> str:
    return f"Run:      {ui_url}/runs/flow-run/{run_id}" if ui_url else ""
