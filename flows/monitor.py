"""The monitor: what the server does, by numbers that are kept, judged and drawn."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.futures import call
from flows.names import target_run_name
from pgferry.errors import UsageError
from pgferry.progress import reporter
from pgferry.settings import load_settings
from tasks.live import refuse_nowhere
from tasks.monitor import forget, look, show, tell


@flow(name="monitor", flow_run_name=target_run_name)
def monitor(
    target: str = "", config: str = "", keep: bool = True, scheduled: bool = False
) -> dict[str, Any] | State[Any]:
    """Look at the target: queries, connections, cache, locks, sizes, indexes, dead rows, and the lag of the sync.

    The run is Completed with breaches too: each is an event, by which automations tell a person.

    Args:
        target: the name of the environment variable that holds the target's URL, or `secret/BLOCK`; empty for
            PGFERRY_TARGET, and without that the embedded server. Never a URL: parameters are kept in plain text.
        config: the file with rules for tables and columns; empty for pgferry.toml if it exists.
        keep: keep the numbers in the target's schema pgferry, which is made where it is missing; charts need them.
        scheduled: where no target is named and none was ever started, say so and end Completed instead of Failed.

    Returns:
        The numbers, the tables, the breaches, and notes on what could not be measured.
    """
    reporter().run(str(flow_run.id))

    # 1. Where to.
    settings = load_settings(config=config or None)
    try:
        refuse_nowhere(target, settings)
    except UsageError as error:
        if not scheduled:
            raise
        return Completed(message=f"Nothing to watch. {error.message}")

    # 2. Look, and keep the numbers.
    reporter().step("look at the server")
    found, series = call(look, target, config, keep)

    # 3. Show them, and tell of what is beyond its threshold.
    call(show, found, series)
    call(tell, found, str(flow_run.id))

    # 4. What nobody will look at any more.
    call(forget)
    return found.to_json()
