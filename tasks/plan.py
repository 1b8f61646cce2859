"""What goes where: tables and columns paired, chunks cut, indexes and constraints put aside."""

from __future__ import annotations

from prefect import get_run_logger, task

from pgferry.building import put_aside
from pgferry.model import Snapshot
from pgferry.move import Move, prepare
from pgferry.postgres.deferred import Deferred
from pgferry.postgres.ledger import Run
from pgferry.progress import reporter
from pgferry.settings import Rules, load_settings
from tasks.ends import session, target_url, wait_for
from tasks.retries import TRANSIENT


@task(name="pair and cut", task_run_name="pair tables and cut chunks", **TRANSIENT)
def pair_and_cut(run: Run, snapshot: Snapshot, target: str, rules: Rules) -> Move:
    """Pair the source's tables with the target's and cut them into chunks, recorded in the ledger."""
    url, settings = target_url(target), load_settings()

    async def work() -> Move:
        async with session(url, settings) as connection:
            return await prepare(connection, run.id, snapshot, settings, rules, target)

    move = wait_for(work())
    for table, rows in move.source_rows.items():
        reporter().table(table, rows)
    for note in move.notes:
        reporter().step(f"note: {note}")
        get_run_logger().warning("%s.", note)
    chunks = sum(len(unit.chunks) for group in move.groups for unit in group.units)
    get_run_logger().info("%d tables with %s rows in %d chunks are to move.", len(move.reads), f"{move.rows:,}", chunks)
    return move


@task(name="defer indexes", task_run_name="put indexes and constraints aside", **TRANSIENT)
def defer_indexes(move: Move) -> tuple[Deferred, ...]:
    """Drop the indexes and constraints of the tables that are to be loaded, their definitions safe in the ledger.

    Small tables keep theirs, all but the foreign keys.
    """
    url, settings = target_url(move.target), load_settings()

    async def work() -> tuple[Deferred, ...]:
        async with session(url, settings) as connection:
            return await put_aside(connection, move)

    deferred = wait_for(work())
    get_run_logger().info("%d definitions of indexes and constraints wait in the ledger.", len(deferred))
    return deferred
