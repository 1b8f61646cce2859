"""The end of a move: identities, statistics, the report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from prefect import get_run_logger, task

from pgferry import finishing
from pgferry.model import OrphanedKey, TableVerdict
from pgferry.move import Group, Move
from pgferry.postgres.ledger import Run, load_times
from pgferry.report import Report, conclusion, markdown
from pgferry.settings import Rules, load_settings
from pgferry.sqlite.snapshot import SnapshotCheck
from tasks.artifacts import create_markdown_artifact
from tasks.ends import session, target_url, wait_for
from tasks.retries import TRANSIENT


@task(name="settle", task_run_name="set identities", **TRANSIENT)
def settle(move: Move) -> dict[str, int]:
    """Set identities past every id ever used."""
    url, settings = target_url(move.target), load_settings()

    async def work() -> dict[str, int]:
        async with session(url, settings) as connection:
            return await finishing.settle(connection, move)

    following = wait_for(work())
    get_run_logger().info("%d identities set.", len(following))
    return following


@task(name="analyze", task_run_name="analyze {group.name}", **TRANSIENT)
def analyze(move: Move, group: Group) -> None:
    """Gather the planner's statistics of a group's tables."""
    url, settings = target_url(move.target), load_settings()

    async def work() -> None:
        async with session(url, settings) as connection:
            await finishing.analyze_group(connection, move, group)

    wait_for(work())
    get_run_logger().info("%s: %d tables analyzed.", group.name, len(group.tables))


@task(name="report", task_run_name="report", **TRANSIENT)
def report(
    move: Move,
    verdicts: tuple[TableVerdict, ...],
    check: SnapshotCheck,
    steps: dict[str, float],
    speed: Sequence[tuple[datetime, int]] = (),
    not_valid: tuple[OrphanedKey, ...] = (),
) -> Report:
    """Keep the report in the ledger and show it.

    `speed` is what was seen of the load: moments, and the rows that were loaded since the one before. Where the ledger
    has more moments, of its chunks, those are drawn.
    """
    url, settings = target_url(move.target), load_settings()

    async def work() -> tuple[Report, list[tuple[datetime, int]]]:
        async with session(url, settings) as connection:
            concluded = await finishing.conclude(connection, move, verdicts, check, url, steps, not_valid)
            return concluded, await load_times(connection, move.run_id)

    result, times = wait_for(work())
    seen = max(speed, times, key=len)
    create_markdown_artifact(markdown(result, seen), key="migration", description=conclusion(result))
    get_run_logger().info("%s.", conclusion(result))
    return result


@task(name="validate again", task_run_name="validate foreign keys again", **TRANSIENT)
def validate_again(run: Run, target: str, rules: Rules) -> Report:
    """Validate the foreign keys that a finished run has left NOT VALID: somebody may have mended their rows."""
    url, settings = target_url(target), load_settings()

    async def work() -> Report:
        async with session(url, settings) as connection:
            return await finishing.validate_again(connection, run, url, rules, memory=settings.index_memory)

    result = wait_for(work())
    for key in result.not_valid:
        get_run_logger().warning("%s.", key)
    get_run_logger().info("%d foreign keys stay NOT VALID.", len(result.not_valid))
    return result
