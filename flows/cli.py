"""The command line: `python -m flows COMMAND`.

Exit codes: 0 all moved and verified; 2 wrong usage or configuration; 3 finished, but rows differ or are in quarantine
and no configuration accepts that; 1 anything else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows.cli_live import RESTART, live
from flows.cli_monitor import monitor_command
from flows.cli_preflight import preflight_command
from flows.cli_provision import provision_command
from flows.cli_quarantine import quarantine
from flows.cli_schema import schema
from flows.cli_serve import serve_command
from flows.command import (
    Config,
    Debug,
    Json,
    NoUi,
    Source,
    Target,
    check_migrations,
    check_target,
    checked_settings,
    choose_prefect,
    confirm_database,
    errors_in_words,
    quiet_prefect,
)
from flows.display import display, say
from flows.results import print_export, print_migration, print_plan
from flows.results_live import show_cut_over
from pgferry.errors import FerryError, UsageError
from pgferry.report import Report
from pgferry.settings import load_settings

app = typer.Typer(
    help="Move a SQLite database to PostgreSQL, whole and verified.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(live)
app.add_typer(quarantine, name="quarantine")
app.add_typer(schema, name="schema")
app.add_typer(serve_command)
app.add_typer(monitor_command)
app.add_typer(provision_command)
app.add_typer(preflight_command)

Restart = Annotated[bool, typer.Option("--restart", help="Empty what an earlier run loaded, and begin anew.")]
Confirm = Annotated[str, typer.Option(help="The target database's name, to confirm --restart without a prompt.")]
Revisions = Annotated[Path | None, typer.Option(help="Folder of the proposed schema; by default below PGFERRY_HOME.")]
Plan = Annotated[bool, typer.Option("--plan", help="Propose the schema from the data; no migrations needed.")]
CutOver = Annotated[
    bool, typer.Option("--cut-over", help="Refuse writes to SQLite meanwhile, and switch the application at the end.")
]
Write = Annotated[bool, typer.Option("--write", help="Write an Alembic revision, a pgferry.toml and the report.")]


@app.command()
def migrate(
    source: Source = None,
    target: Target = None,
    config: Config = None,
    plan: Plan = False,
    revisions: Revisions = None,
    cut_over: CutOver = False,
    restart: Restart = False,
    confirm: Confirm = "",
    as_json: Json = False,
    no_ui: NoUi = False,
    debug: Debug = False,
) -> None:
    """Move the database: backup, Parquet, alembic upgrade, import in chunks, comparison of every cell."""
    with errors_in_words(debug):
        settings = checked_settings(source, target, config)
        if restart:
            confirm_database(settings, RESTART, "--restart", confirm)
        if not plan:
            check_migrations(settings)
        check_target(settings)
        server = choose_prefect(settings, no_ui=no_ui)
        from flows.migrate import migrate as flow

        failure: FerryError | None = None
        with display(silent=as_json) as clock, quiet_prefect(debug):
            try:
                report = flow(
                    source=str(settings.source_path()),
                    config=str(config or ""),
                    restart=restart,
                    plan=plan,
                    revisions=str(revisions or ""),
                    cut_over=cut_over,
                )
            except FerryError as error:
                report, failure = _report_of(error), error
        print_migration(report, clock, settings, server, as_json=as_json)
        if "switch" in report and not as_json:
            show_cut_over(Console(), report)
        if failure is not None:
            raise failure


@app.command()
def plan(
    source: Source = None,
    target: Target = None,
    config: Config = None,
    write: Write = False,
    revisions: Revisions = None,
    as_json: Json = False,
    no_ui: NoUi = False,
    debug: Debug = False,
) -> None:
    """Propose a PostgreSQL schema by what the data holds, with evidence; changes neither database."""
    with errors_in_words(debug):
        settings = checked_settings(source, target, config)
        server = choose_prefect(settings, no_ui=no_ui)
        from flows.plan import plan as flow

        with display(silent=as_json) as clock, quiet_prefect(debug):
            result = flow(
                source=str(settings.source_path()),
                config=str(config or ""),
                write=write,
                revisions=str(revisions or ""),
            )
        print_plan(result, clock, server, as_json=as_json)


@app.command()
def export(
    source: Source = None,
    file_format: Annotated[str, typer.Option("--format", help="parquet or jsonl.")] = "parquet",
    output: Annotated[Path | None, typer.Option(help="The folder to write to; by default below PGFERRY_HOME.")] = None,
    as_json: Json = False,
    no_ui: NoUi = False,
    debug: Debug = False,
) -> None:
    """Back up the database and write its tables to files; nothing is written to PostgreSQL."""
    with errors_in_words(debug):
        if file_format not in ("parquet", "jsonl"):
            raise UsageError(f"There is no format {file_format!r}.", "Give --format parquet or --format jsonl.")
        settings = checked_settings(source, None, None)
        server = choose_prefect(settings, no_ui=no_ui)
        from flows.export import export as flow

        with display(silent=as_json) as clock, quiet_prefect(debug):
            result = flow(source=str(settings.source_path()), file_format=file_format, output=str(output or ""))
        print_export(result, clock, server, as_json=as_json)


@app.command()
def ui(debug: Debug = False) -> None:
    """Start the Prefect server and a worker in the background, register the deployments, print the address."""
    with errors_in_words(debug):
        from flows.operations import up

        info = up(load_settings().home, say=say)
        print(f"Prefect UI: {info.ui_url}\nfor Prefect's own commands: export PREFECT_API_URL={info.api_url}")


@app.command()
def down(debug: Debug = False) -> None:
    """Stop what the project started in the background: Prefect's server and worker, the embedded PostgreSQL."""
    with errors_in_words(debug):
        from flows.operations import down as stop

        stopped = stop(load_settings().home)
        print(f"Stopped: {', '.join(stopped)}." if stopped else "Nothing was running.")


def _report_of(error: FerryError) -> dict[str, Any]:
    """Return the report of a move that came to its end but is not to be accepted; raises any other error again."""
    report = error.details.get("report")
    if not isinstance(report, Report):
        raise error
    return report.to_json()
