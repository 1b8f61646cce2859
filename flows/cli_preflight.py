"""`python -m flows preflight`: the checklist before a move."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.command import Config, Debug, Json, NoUi, Source, Target, choose_prefect, errors_in_words, quiet_prefect
from flows.display import display
from flows.results_live import tell
from pgferry.errors import FerryError
from pgferry.settings import Settings, load_settings

preflight_command = typer.Typer()

_STYLES = {"pass": "[green]pass[/green]", "warn": "[yellow]warn[/yellow]", "fail": "[red]FAIL[/red]"}


@preflight_command.command()
def preflight(
    source: Source = None,
    target: Target = None,
    config: Config = None,
    as_json: Json = False,
    no_ui: NoUi = False,
    debug: Debug = False,
) -> None:
    """Go through the checklist before a move: each line measured and judged; exit code 1 when one fails."""
    with errors_in_words(debug):
        if target is not None:
            os.environ["PGFERRY_TARGET"] = target
        settings = load_settings(source=source, config=config)
        settings.rules()
        settings.target_url()
        failure: FerryError | None = None
        run = ""
        try:
            result, run = _without_prefect(settings) if no_ui else _by_flow(settings, config, as_json, debug)
        except FerryError as error:
            result, failure = error.details.get("result"), error
        if result is not None:
            _show(result, run, as_json=as_json)
        if failure is not None:
            raise failure


def _without_prefect(settings: Settings) -> tuple[Any, str]:
    from pgferry.operate.preflight import judge, to_json
    from tasks.preflight import checks_now

    checks = checks_now("", settings, settings.rules(), settings.source_path().resolve())
    judge(checks)
    return to_json(checks), ""


def _by_flow(settings: Settings, config: Path | None, as_json: bool, debug: bool) -> tuple[Any, str]:
    source = settings.source_path().resolve()
    server = choose_prefect(settings, no_ui=False)
    from flows.preflight import preflight as flow

    with display(silent=as_json) as clock, quiet_prefect(debug):
        result = flow(source=str(source), config=str(config or ""))
    return result, f"{server}/runs/flow-run/{clock.run_id}"


def _show(result: dict[str, Any], run: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, indent=2))
        return
    console = Console()
    table = Table(title="Preflight", title_justify="left")
    for name in ("check", "verdict", "measured"):
        table.add_column(name)
    for check in result["checks"]:
        table.add_row(escape(check["name"]), _STYLES[check["verdict"]], escape(check["measured"]))
    console.print(table)
    tell(
        console,
        [f"{check['verdict']} {check['name']}: {check['advice']}" for check in result["checks"] if check["advice"]],
    )
    tell(console, [f"Run: {run}"] if run else [])
