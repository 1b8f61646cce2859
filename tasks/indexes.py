"""The indexes and constraints that waited for the rows."""

from __future__ import annotations

from prefect import get_run_logger, task

from pgferry import building
from pgferry.move import Move
from pgferry.postgres.deferred import Deferred
from pgferry.settings import load_settings
from tasks.ends import session, target_url, wait_for
from tasks.retries import TRANSIENT


@task(name="build", task_run_name="build {name}", **TRANSIENT)
def build(move: Move, name: str, steps: tuple[Deferred, ...]) -> int:
    """Build indexes or constraints again from their definitions in the ledger; returns how many."""
    url, settings = target_url(move.target), load_settings()

    async def work() -> None:
        async with session(url, settings) as connection:
            await building.build(connection, steps, settings.index_memory)

    wait_for(work())
    get_run_logger().info("%s: built %s.", name, ", ".join(step.name for step in steps[:5]) or "nothing")
    return len(steps)
