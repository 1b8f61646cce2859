"""`python -m flows quarantine`: the rows that a move kept aside. `list` and `export` only read, without Prefect."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.command import (
    Config,
    Debug,
    Json,
    NoUi,
    Source,
    Target,
    choose_prefect,
    errors_in_words,
    quiet_prefect,
)
from flows.display import display
from pgferry.errors import FerryError, UsageError
from pgferry.postgres.connection import Connection
from pgferry.postgres.place import find_place
from pgferry.progress import Clock
from pgferry.quarantine import ExportedQuarantine, Overview, choose_run, export_quarantine, overview
from pgferry.settings import Settings, load_settings, named_source

quarantine = typer.Typer(help="Rows that the target could not hold: look at them, save them, load them after a change.",
                         no_args_is_help=True)  # fmt: skip

Tables = Annotated[list[str] | None, typer.Option("--table", help="A table by its source's name; may be repeated.")]
Limit = Annotated[int, typer.Option(min=0, help="Rows that are shown one by one.")]
Format = Annotated[str, typer.Option("--format", help="parquet or jsonl.")]
Output = Annotated[Path | None, typer.Option(help="The file to write; by default below PGFERRY_HOME/quarantine.")]
All = Annotated[bool, typer.Option("--all", help="Write the rows that were replayed, too.")]

R = TypeVar("R")


@quarantine.command("list")
def show(
    source: Source = None,
    target: Target = None,
    table: Tables = None,
    limit: Limit = 20,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what is kept aside: all of it by table, column and reason, and the first rows one by one."""
    with errors_in_words(debug):
        settings = _settings(source, target, None)

        async def look(connection: Connection) -> Overview:
            run = await choose_run(connection, named_source(settings))
            return await overview(connection, run, table or (), limit)

        found = _ask(settings, look)
        if as_json:
            print(json.dumps(found.to_json(), indent=2))
        else:
            _print_overview(found)


@quarantine.command()
def export(
    source: Source = None,
    target: Target = None,
    table: Tables = None,
    file_format: Format = "parquet",
    output: Output = None,
    everything: All = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the rows to a Parquet or JSON Lines file, with their original bytes."""
    with errors_in_words(debug):
        settings = _settings(source, target, None)

        async def write(connection: Connection) -> ExportedQuarantine:
            run = await choose_run(connection, named_source(settings))
            file = output or settings.home / "quarantine" / f"run-{run.id}.{file_format}"
            return await export_quarantine(
                connection, run, file, file_format=file_format, tables=table or (), replayed=everything
            )

        written = _ask(settings, write)
        if as_json:
            print(json.dumps({"path": str(written.path), "rows": written.rows, "bytes": written.bytes}, indent=2))
        else:
            print(f"{written.rows:,} rows in {written.path} ({written.bytes / 1e6:,.1f} MB)")


@quarantine.command()
def replay(
    source: Source = None,
    target: Target = None,
    config: Config = None,
    table: Tables = None,
    as_json: Json = False,
    no_ui: NoUi = False,
    debug: Debug = False,
) -> None:
    """Load the rows that fit by the rules that pgferry.toml has now, each exactly once; not in a live move."""
    with errors_in_words(debug):
        settings = _settings(source, target, config)
        settings.rules()
        server = choose_prefect(settings, no_ui=no_ui)
        from flows.quarantine import quarantine_replay as flow

        failure: FerryError | None = None
        with display(silent=as_json) as clock, quiet_prefect(debug):
            try:
                result = flow(
                    source=str(named_source(settings) or ""), config=str(config or ""), tables=list(table or ())
                )
            except FerryError as error:
                result, failure = _result_of(error), error
        _print_replay(result, clock, server, as_json=as_json)
        if failure is not None:
            raise failure


def _settings(source: Path | None, target: str | None, config: Path | None) -> Settings:
    """Put the options where every part finds them. The source itself need not be there: its snapshot is read."""
    if target is not None:
        os.environ["PGFERRY_TARGET"] = target
    settings = load_settings(source=source, config=config)
    if settings.target_url() is None and not find_place(settings.home).data.exists():
        raise UsageError(
            f"No target is named, and {settings.home} holds no embedded server: nothing was moved from here.",
            "Set PGFERRY_TARGET, or PGFERRY_HOME to the folder of the move.",
        )
    return settings


def _ask(settings: Settings, question: Callable[[Connection], Awaitable[R]]) -> R:
    from tasks.ends import session, target_url, wait_for

    url = target_url("")

    async def ask() -> R:
        async with session(url, settings) as connection:
            return await question(connection)

    return wait_for(ask())


def _result_of(error: FerryError) -> dict[str, Any]:
    """Return what a replay did that came to its end, though rows stay; raises any other error again."""
    from pgferry.replay import ReplayReport

    result = error.details.get("result")
    if not isinstance(result, ReplayReport):
        raise error
    return result.to_json()


def _print_overview(found: Overview) -> None:
    console = Console()
    if not found.rows:
        console.print(f"Nothing is in quarantine in run {found.run.id} of {found.run.source}.", markup=False)
        return
    listed = found.to_json()
    summary = _table(
        f"{found.rows:,} rows in quarantine, run {found.run.id}", "table", "column", "class", "reason", "rows"
    )
    for row in listed["summary"]:
        reason = row["example"] if row["rows"] == 1 else row["reason"]
        summary.add_row(*map(escape, (row["table"], row["column"], row["storage_class"], reason, f"{row['rows']:,}")))
    rows = _table(f"The first {len(listed['entries'])}", "table", "key", "column", "value", "reason")
    for row in listed["entries"]:
        key = json.dumps(row["key"], ensure_ascii=False)
        rows.add_row(*map(escape, (row["table"], key, row["column"], row["value"], row["reason"])))
    for table in (summary, rows) if listed["entries"] else (summary,):
        console.print(table)


def _print_replay(result: dict[str, Any], clock: Clock, ui_url: str | None, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, indent=2))
        return
    console = Console()
    table = _table(f"Replayed into run {result['run']}", "table", "tried", "loaded", "stay")
    for row in result["tables"]:
        table.add_row(escape(row["table"]), *(f"{row[name]:,}" for name in ("examined", "loaded", "kept")))
    console.print(table if result["tables"] else "Nothing is in quarantine.")
    if ui_url:
        line = f"Run: {ui_url}/runs/flow-run/{clock.run_id}"
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=escape(title), title_justify="left")
    for name in columns:
        table.add_column(name, justify="right" if name in ("rows", "tried", "loaded", "stay") else "left")
    return table
