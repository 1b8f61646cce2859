"""The maintenance window: SQLite fenced while it is copied."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger, task

from pgferry.errors import UsageError
from pgferry.live import window
from pgferry.live.environment import check_environment
from pgferry.postgres.ledger import Run
from pgferry.settings import load_settings
from tasks.ends import session, target_url, wait_for


def refuse_unready(source: Path) -> None:
    """Raise UsageError when the application could not be pointed at PostgreSQL at the end."""
    settings = load_settings()
    problem = check_environment(settings, source)
    if problem:
        raise UsageError(f"The application cannot be switched: {problem}.", "Correct it, or PGFERRY_APPLICATION_ENV.")


@task(name="open window", task_run_name="fence SQLite", persist_result=False)
def open_window(run: Run, target: str) -> None:
    """Refuse writes to SQLite from here on; reads work."""
    url, settings = target_url(target), load_settings()

    async def work() -> None:
        async with session(url, settings) as connection:
            await window.open_window(connection, run)

    wait_for(work())
    get_run_logger().info("Writes to %s are refused until the application is pointed at PostgreSQL.", run.source)


def give_window_up(run: Run, target: str) -> bool:
    """Let the application write to SQLite again after a copy that failed. No task: it must be done in any case."""
    url, settings = target_url(target), load_settings()
    window.lower(settings, run)

    async def work() -> bool:
        async with session(url, settings) as connection:
            return await window.give_window_up(connection, run, settings)

    return wait_for(work())
