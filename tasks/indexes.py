"""The indexes and constraints that waited for the rows."""

from __future__ import annotations

from prefect import get_run_logger, task

from pgferry import building
from pgferry.model import OrphanedKey
from pgferry.move import Move
from pgferry.postgres.deferred import Deferred
from pgferry.postgres.validated_keys import validate_keys
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


@task(name="validate", task_run_name="validate {name}", **TRANSIENT)
def validate(move: Move, name: str, steps: tuple[Deferred, ...]) -> tuple[OrphanedKey, ...]:
    """Validate foreign keys; returns those that rows without a parent leave NOT VALID."""
    url, settings = target_url(move.target), load_settings()

    async def work() -> tuple[OrphanedKey, ...]:
        async with session(url, settings) as connection:
            return await validate_keys(connection, steps, memory=settings.index_memory)

    left = wait_for(work())
    for key in left:
        get_run_logger().warning("%s.", key)
    get_run_logger().info("%s: %d of %d are valid.", name, len(steps) - len(left), len(steps))
    return left
