"""The run in the ledger: found, begun, begun anew, finished."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger, task

from pgferry.live.model import PhaseRecord
from pgferry.live.phases import current, require
from pgferry.postgres import runs
from pgferry.postgres.encryption import way_of
from pgferry.postgres.ledger import Run, find_run, install
from pgferry.settings import Rules, load_settings
from tasks.ends import session, target_url, wait_for
from tasks.retries import TRANSIENT


@task(name="open run", task_run_name="open run", **TRANSIENT)
def open_run(source: Path, target: str, rules: Rules, restart: bool, command: str = "migrate") -> Run:
    """Find the unfinished or finished run of this source in the target's ledger, or begin one.

    Refuses a command that may not run in the phase in which the source's move without downtime is.
    """
    url, settings = target_url(target), load_settings()

    async def work() -> Run:
        async with session(url, settings) as connection:
            if way_of(connection).exposed:
                get_run_logger().warning("%s", way_of(connection).warning)
            await install(connection)
            known = await find_run(connection, str(source))
            if known is not None:
                require(await current(connection, known.id), command)
            return await runs.open_run(connection, source, rules, restart=restart)

    run = wait_for(work())
    get_run_logger().info("Run %d of %s is %s.", run.id, source, run.status)
    return run


@task(name="read phase", task_run_name="read the phase", **TRANSIENT)
def read_phase(source: Path, target: str) -> PhaseRecord | None:
    """Return where the move of this source stands; None when it was never begun. Makes the ledger if there is none."""
    url, settings = target_url(target), load_settings()

    async def work() -> PhaseRecord | None:
        async with session(url, settings) as connection:
            await install(connection)
            known = await find_run(connection, str(source))
            return None if known is None else await current(connection, known.id)

    record = wait_for(work())
    get_run_logger().info("%s is in phase %s.", source, record.phase if record else "none")
    return record
