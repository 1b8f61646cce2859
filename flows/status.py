"""Where the move without downtime stands, as an artifact."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.futures import call
from flows.names import live_run_name
from pgferry.progress import reporter
from pgferry.settings import load_settings, named_source
from tasks.live import refuse_nowhere
from tasks.status import show_status


@flow(name="status", flow_run_name=live_run_name)
def status(source: str = "", target: str = "", config: str = "") -> dict[str, Any]:
    """Show the phase, since when, the lag in rows and seconds, the last validations, the gates and the next action.

    Args:
        source: the SQLite file; empty for the settings' own, or the only one that is kept level with the target.
        target: the name of the environment variable that holds the target's URL, or `secret/BLOCK`; empty for
            PGFERRY_TARGET, and without that the embedded server. Never a URL: parameters are kept in plain text.
        config: the file with rules for tables and columns; empty for pgferry.toml if it exists.

    Returns:
        What is shown.
    """
    reporter().run(str(flow_run.id))

    # 1. Read it, and keep it as an artifact; nothing is changed.
    settings = load_settings(source=source or None, config=config or None)
    refuse_nowhere(target, settings)
    return call(show_status, named_source(settings), target, config).to_json()
