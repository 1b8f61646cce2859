"""The sync: what was written to the side in front is carried to the other one."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.futures import call
from flows.names import live_run_name
from pgferry.errors import UsageError
from pgferry.live.model import Phase
from pgferry.live.phases import require
from pgferry.postgres.lock import RunLock, Taken
from pgferry.progress import reporter
from pgferry.settings import load_settings, named_source
from tasks.ends import target_url
from tasks.live import Found, find_move, read_live, refuse_nowhere
from tasks.sync import carry_back, carry_until_level, follow_changes
from tasks.turning import recover

BETWEEN = frozenset({Phase.SWITCHING, Phase.ROLLING_BACK})
"""Phases between two fronts: a command is at work there, or was killed."""


@flow(name="sync", flow_run_name=live_run_name)
def sync(
    source: str = "", target: str = "", config: str = "", follow: bool = False, scheduled: bool = False
) -> dict[str, Any] | State[Any]:
    """Carry what was written since, in the direction that the phase says; run it again and again, or let it stay.

    Safe to stop and to kill at any moment, and to run beside itself: each change is carried once.

    Args:
        source: the SQLite file; empty for the settings' own, or the only one that is kept level with the target.
        target: the name of the environment variable that holds the target's URL, or `secret/BLOCK`; empty for
            PGFERRY_TARGET, and without that the embedded server. Never a URL: parameters are kept in plain text.
        config: the file with rules for tables and columns; empty for pgferry.toml if it exists.
        follow: stay, and carry each change within moments of its commit, until SIGINT or SIGTERM.
        scheduled: where nothing is kept level, say so and end Completed instead of Failed.

    Returns:
        The phase, the direction, and what was carried. The run fails when the source's schema was changed.
    """
    reporter().run(str(flow_run.id))

    # 1. The move, and where it stands.
    settings = load_settings(source=source or None, config=config or None)
    try:
        refuse_nowhere(target, settings)
        found = call(find_move, named_source(settings), target)
        if found.record.phase not in BETWEEN:
            require(found.record, "sync")
    except UsageError as error:
        if not scheduled:
            raise
        return Completed(message=f"Nothing to carry. {error.message}")

    # 2. Between two fronts a command is at work, or was killed: then its work is undone first.
    if found.record.phase in BETWEEN:
        recovered = _recovered(found, target, config)
        if recovered is None:
            return {"run": found.run.id, "phase": str(found.record.phase), "carried": None}
        found = recovered

    # 3. Pair the tables as they are now.
    reporter().step("pair tables")
    live = call(read_live, found.run, target, config)

    # 4. Carry, in the direction of the phase.
    reporter().step("follow" if follow else "carry")
    if follow:
        carried = call(follow_changes, live)
    else:
        carried = call(carry_until_level if found.record.phase is Phase.DUAL_WRITE else carry_back, live)
    return {"run": found.run.id, "phase": str(found.record.phase), "carried": carried.to_json()}


def _recovered(found: Found, target: str, config: str) -> Found | None:
    """Undo what a killed command left half-way; None while it is alive."""
    try:
        with RunLock(target_url(target), found.run.source, patience=0.0):
            call(recover, found.run, target, config)
    except Taken as error:
        get_run_logger().info("%s It is left alone.", error.message)
        return None
    return call(find_move, found.file, target)
