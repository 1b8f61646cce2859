"""`python -m flows monitor`: one look at the target, without Prefect; its events and artifacts are the deployment's."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.cli_live import given
from flows.command import Config, Debug, Json, Target, errors_in_words
from flows.results_live import tell
from pgferry.operate.watched import Listing, Look
from pgferry.settings import Settings

monitor_command = typer.Typer()

Keep = Annotated[bool, typer.Option(help="Keep the numbers in the target's schema pgferry, for charts.")]


@monitor_command.command()
def monitor(
    target: Target = None,
    config: Config = None,
    keep: Keep = True,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what the server does: queries, connections, cache, locks, sizes, indexes, the lag of the sync."""
    with errors_in_words(debug):
        settings = given(None, target, config)
        found = asyncio.run(_look(settings, keep))
        if as_json:
            print(json.dumps(found.to_json(), indent=2))
        else:
            _show(Console(), found)


async def _look(settings: Settings, kept: bool) -> Look:
    # No Prefect here: its import alone takes longer than the answer.
    from pgferry.operate.monitor import watch
    from pgferry.postgres import embedded
    from pgferry.postgres.connection import connection
    from pgferry.postgres.pooling import refuse_shared_session
    from pgferry.postgres.problems import server_of

    url = settings.target_url()
    if url is None:
        url = await embedded.create_database(embedded.start(settings.home), embedded.DATABASE)
    async with connection(url, timeout=settings.connect_timeout) as opened:
        await refuse_shared_session(opened, url, settings.connect_timeout)  # The look's time-outs are its session's.
        found, _ = await watch(opened, settings, server_of(url), kept=kept)
    return found


def _show(console: Console, found: Look) -> None:
    tell(console, [f"Database {found.database} at {found.server}, PostgreSQL {found.version}"])
    for listing in found.listings:
        console.print(_table(listing))
    tell(console, [f"Note:     {note}" for note in found.notes])
    tell(console, [f"BREACH:   {breach.sentence} {breach.action}" for breach in found.breaches])
    if not found.breaches:
        tell(console, ["All within the thresholds."])


def _table(listing: Listing) -> Table:
    table = Table(title=escape(listing.title), title_justify="left")
    for name, value in zip(listing.head, listing.rows[0], strict=True):
        table.add_column(name, justify="right" if isinstance(value, int | float) else "left", overflow="fold")
    for row in listing.rows:
        table.add_row(*(escape(f"{value:,}" if isinstance(value, int) else str(value)) for value in row))
    return table
