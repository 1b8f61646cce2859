"""`python -m flows provision`: the target's database, roles and grants."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows.command import Debug, Json, NoUi, choose_prefect, errors_in_words, quiet_prefect
from flows.display import display
from flows.results_live import tell
from pgferry.operate import provision as provisioning
from pgferry.settings import Settings, load_settings

provision_command = typer.Typer()

EnvFile = Annotated[
    Path | None, typer.Option(help="The file that gets the URLs with passwords; by default PGFERRY_HOME/provision.env.")
]


@provision_command.command()
def provision(
    env_file: EnvFile = None,
    as_json: Json = False,
    no_ui: NoUi = False,
    debug: Debug = False,
) -> None:
    """Make the target's database, roles and grants by PGFERRY_ADMIN_URL; again, nothing is changed."""
    with errors_in_words(debug):
        settings = load_settings()
        provisioning.admin_url(settings)
        file = (env_file or provisioning.default_file(settings)).absolute()
        result, run = _without_prefect(settings, file) if no_ui else _by_flow(settings, file, as_json, debug)
        if as_json:
            print(json.dumps(result, indent=2))
        else:
            _show(result, run)


def _without_prefect(settings: Settings, file: Path) -> tuple[dict[str, Any], str]:
    return asyncio.run(provisioning.provision(settings, file)).to_json(), ""


def _by_flow(settings: Settings, file: Path, as_json: bool, debug: bool) -> tuple[dict[str, Any], str]:
    server = choose_prefect(settings, no_ui=False)
    from flows.provision import provision as flow

    with display(silent=as_json) as clock, quiet_prefect(debug):
        result: dict[str, Any] = flow(env_file=str(file))
    return result, f"{server}/runs/flow-run/{clock.run_id}"


def _show(result: dict[str, Any], run: str) -> None:
    console = Console()
    tell(console, [f"Done:        {step}" for step in result["done"]] or ["Nothing was to be done: all is there."])
    tell(
        console,
        [
            f"pgferry:     {result['target']}",
            f"application: {result['application']}",
            f"Passwords:   {result['env_file']} (append it to .env)",
            *(f"Note:        {note}" for note in result["notes"]),
            *([f"Run:         {run}"] if run else []),
        ],
    )
