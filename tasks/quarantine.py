"""The quarantine: its run found, its rows tried again, the outcome told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import get_run_logger, task

from pgferry import replay as replaying
from pgferry.live import phases
from pgferry.postgres.ledger import Run, install
from pgferry.progress import reporter
from pgferry.quarantine import choose_run
from pgferry.replay import Replay, ReplayReport, TableReplay, replay_markdown
from pgferry.settings import Rules, load_settings
from pgferry.sqlite import snapshot as snapshots
from tasks.artifacts import create_markdown_artifact
from tasks.ends import session, target_url, wait_for
from tasks.retries import TRANSIENT


@task(name="find run", task_run_name="find the finished run", **TRANSIENT)
def find_finished_run(source: Path | None, target: str) -> Run:
    """Find the run whose rows are in quarantine, and make sure that its snapshot is what was taken."""
    url, settings = target_url(target), load_settings()

    async def work() -> Run:
        async with session(url, settings) as connection:
            run = await choose_run(connection, source)
            await install(connection)
            phases.require(await phases.current(connection, run.id), "quarantine replay")
            return run

    run = wait_for(work())
    if run.snapshot is not None:
        snapshots.confirm(run.snapshot)
    get_run_logger().info("Run %d of %s is %s.", run.id, run.source, run.status)
    return run


@task(name="prepare replay", task_run_name="pair tables by the rules of now", **TRANSIENT)
def prepare(run: Run, rules: Rules, target: str, tables: Sequence[str]) -> Replay:
    """Pair the tables with quarantined rows as the run did, with the value rules of now."""
    url, settings = target_url(target), load_settings()

    async def work() -> Replay:
        async with session(url, settings) as connection:
            return await replaying.prepare_replay(connection, run, rules, target, tables)

    prepared = wait_for(work())
    for table, rows in prepared.waiting.items():
        reporter().table(table, rows)
    rows = sum(prepared.waiting.values())
    get_run_logger().info("%d rows of %d tables are in quarantine.", rows, len(prepared.waiting))
    return prepared


@task(name="replay", task_run_name="replay {table}", **TRANSIENT)
def replay_table(work: Replay, table: str, orphans_only: bool = False) -> TableReplay:
    """Try the quarantined rows of a table again and load those that fit, each exactly once."""
    url, settings = target_url(work.target), load_settings()

    def advance(rows: int) -> None:
        reporter().exported(table, rows)
        reporter().loaded(table, rows)
        reporter().verified(table, rows)

    async def run() -> TableReplay:
        async with session(url, settings) as connection:
            return await replaying.replay_table(connection, work, table, orphans_only=orphans_only, advance=advance)

    done = wait_for(run())
    get_run_logger().info("%s: %d of %d rows loaded, %d stay.", table, done.loaded, done.examined, done.kept)
    return done


@task(name="conclude replay", task_run_name="statistics and report", **TRANSIENT)
def conclude(work: Replay, tables: tuple[TableReplay, ...]) -> ReplayReport:
    """Gather statistics, check the books, and show what was done."""
    url, settings = target_url(work.target), load_settings()

    async def run() -> ReplayReport:
        async with session(url, settings) as connection:
            return ReplayReport(tables, await replaying.conclude_replay(connection, work, memory=settings.index_memory))

    result = wait_for(run())
    create_markdown_artifact(replay_markdown(result), key="quarantine", description="Rows replayed from quarantine")
    get_run_logger().info("%d rows loaded, %d stay in quarantine.", result.loaded, result.kept)
    return result
