"""The cleanup: what is going to be removed, and its removal."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger, task

from pgferry.errors import UsageError
from pgferry.live import cleanup
from pgferry.live.cleanup import Cleaned
from pgferry.live.forms import from_json
from pgferry.live.model import Live
from pgferry.live.phases import current, next_action, require
from pgferry.live.which import known_run
from pgferry.postgres.journal import read_forms, read_recorded_capture
from pgferry.postgres.ledger import Run
from pgferry.settings import load_settings
from tasks.artifacts import create_markdown_artifact
from tasks.ends import session, target_url, wait_for
from tasks.live import Found
from tasks.retries import TRANSIENT


@task(name="find move to clean up", task_run_name="find the move", **TRANSIENT)
def find_to_clean_up(source: Path | None, target: str) -> Found:
    """Find the move that PostgreSQL is in front of, or whose cleanup was cut off: its capture is still recorded."""
    url, settings = target_url(target), load_settings()

    async def work() -> tuple[Found, bool]:
        async with session(url, settings) as connection:
            run = await known_run(connection, source)
            record = await current(connection, run.id)
            return Found(run, record), await read_recorded_capture(connection, run.id) is not None

    found, captured = wait_for(work())
    require(found.record, "cleanup")
    if not captured:
        raise UsageError(f"Nothing is left to clean up of {found.run.source}.", next_action(found.record.phase))
    get_run_logger().info("Run %d of %s is in phase %s.", found.run.id, found.run.source, found.record.phase)
    return found


@task(name="plan cleanup", task_run_name="list what is to be removed", **TRANSIENT)
def plan_cleanup(run: Run, target: str) -> tuple[str, ...]:
    """List what the cleanup removes; nothing is changed."""
    url, settings = target_url(target), load_settings()

    async def work() -> tuple[str, ...]:
        async with session(url, settings) as connection:
            return await cleanup.planned(connection, run, settings)

    planned = wait_for(work())
    _show(planned, "## To be removed", "What the cleanup would remove")
    get_run_logger().info("%d objects are to be removed.", len(planned))
    return planned


@task(name="clean up", task_run_name="remove what is left of the move", **TRANSIENT)
def clean_up(live: Live) -> Cleaned:
    """Carry the last changes back, remove everything but the ledger, and archive the SQLite file."""
    url, settings = target_url(live.target), load_settings()

    async def work() -> Cleaned:
        async with session(url, settings) as connection:
            forms = from_json(await read_forms(connection, live.run_id))
            return await cleanup.clean_up(connection, live, settings, forms)

    return _told(wait_for(work()))


@task(name="finish cleanup", task_run_name="remove what a cleanup that was cut off has left", **TRANSIENT)
def finish_cleanup(run: Run, target: str) -> Cleaned:
    """Finish a cleanup that was cut off; needs no agreement of the schemas."""
    url, settings = target_url(target), load_settings()

    async def work() -> Cleaned:
        async with session(url, settings) as connection:
            return await cleanup.finish(connection, run, settings)

    return _told(wait_for(work()))


def _told(done: Cleaned) -> Cleaned:
    archive = done.archive
    _show(
        done.removed,
        f"## Removed\n\nArchive: `{archive.path}` ({archive.packed_bytes / 1e6:,.1f} MB, SHA-256 of the database in "
        f"it `{archive.sha256}`)",
        "What the cleanup removed",
    )
    get_run_logger().info("%d objects removed; the archive is %s.", len(done.removed), archive.path)
    return done


def _show(objects: tuple[str, ...], head: str, description: str) -> None:
    lines = [head, "", *(f"- {name}" for name in objects)]
    create_markdown_artifact("\n".join(lines), key="cleanup", description=description)
