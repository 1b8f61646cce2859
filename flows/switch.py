"""The switch: PostgreSQL takes over from SQLite at one moment, or nothing has happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.approval import ask_for_approval
from flows.futures import call
from flows.names import live_run_name
from flows.taking_over import take_the_application_over
from pgferry.live.model import Phase
from pgferry.postgres.lock import RunLock
from pgferry.progress import reporter
from pgferry.settings import load_settings, named_source
from tasks.ends import target_url
from tasks.live import Found, find_move, read_live, refuse_nowhere
from tasks.status import measure_gates
from tasks.switch import gates_json, refuse_closed
from tasks.turning import recover


@flow(name="switch", flow_run_name=live_run_name)
def switch(
    source: str = "", target: str = "", config: str = "", dry_run: bool = False, approve: bool = False
) -> dict[str, Any]:
    """Put PostgreSQL in front: gates, fence, drain, compare, `.env`, restart, health check, the application's tests.

    Whatever fails, Ctrl-C included, puts everything back; what a killed run leaves is put back by the next command.

    Args:
        source: the SQLite file; empty for the settings' own, or the only one that is kept level with the target.
        target: the name of the environment variable that holds the target's URL, or `secret/BLOCK`; empty for
            PGFERRY_TARGET, and without that the embedded server. Never a URL: parameters are kept in plain text.
        config: the file with rules for tables and columns; empty for pgferry.toml if it exists.
        dry_run: measure the gates, and do nothing more.
        approve: pause when the gates are open, until a person approves in the Prefect UI.

    Returns:
        The gates with their measured values, and how long nobody could write, step by step.
    """
    reporter().run(str(flow_run.id))

    # 1. The move, and where it stands.
    settings = load_settings(source=source or None, config=config or None)
    refuse_nowhere(target, settings)
    url = target_url(target)
    found = call(find_move, named_source(settings), target, "switch")

    # 2. The gates, each with its measured value.
    reporter().step("measure the gates")
    found = _without_leftovers(found, target, config)
    gates = call(measure_gates, found.run, target, config, "switch-gates")
    result = {"run": found.run.id, "phase": str(found.record.phase), "gates": gates_json(gates)}
    if dry_run:
        return result
    refuse_closed(gates, "switch")

    # 3. A person's word, where it is asked for.
    if approve:
        what = f"PostgreSQL is about to be in front, in the place of {found.run.source}."
        result["approved_by"] = ask_for_approval("switch", what, str(url.database), settings.approval_timeout, gates)

    with RunLock(url, found.run.source):
        # 4. The gates once more, now that nothing else is at work.
        refuse_closed(call(measure_gates, found.run, target, config, "switch-gates"), "switch")

        # 5. Fence, drain, compare, point the application over, restart, check: or all of it back.
        live = call(read_live, found.run, target, config)
        switched = take_the_application_over(live)
        return {**result, "phase": str(Phase.SWITCHED), **switched.to_json()}


def _without_leftovers(found: Found, target: str, config: str) -> Found:
    """Put back what a killed switch has left."""
    if found.record.phase is not Phase.SWITCHING:
        return found
    with RunLock(target_url(target), found.run.source):
        call(recover, found.run, target, config)
    return call(find_move, Path(found.run.source), target, "switch")
