"""The beginning of dual-write, its continuation after a change of the schema, and the way out of it."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger, task

from pgferry.live import begin, resume
from pgferry.live.begin import Undone
from pgferry.live.model import Capture, Live, Phase
from pgferry.live.phases import current
from pgferry.live.resume import Resumed
from pgferry.model import Snapshot
from pgferry.postgres.journal import live_run, read_position
from pgferry.postgres.ledger import Run
from pgferry.settings import Rules, load_settings
from tasks.artifacts import create_markdown_artifact
from tasks.ends import session, target_url, wait_for
from tasks.retries import TRANSIENT


@task(name="begin capture", task_run_name="install capture triggers", **TRANSIENT)
def begin_capture(run: Run, target: str) -> Capture:
    """Install the triggers that log touched keys in the source, in one short write transaction."""
    url, settings = target_url(target), load_settings()

    async def work() -> Capture:
        async with session(url, settings) as connection:
            return await begin.begin_capture(connection, run)

    capture = wait_for(work())
    get_run_logger().info("%d tables of %s are captured.", len(capture.tables), run.source)
    return capture


@task(name="was resuming", task_run_name="look for a resumption that was cut off", **TRANSIENT)
def was_resuming(run: Run, target: str) -> bool:
    """Say whether tables are to be copied again after a change of the schema: then a first copy was made long ago."""
    url, settings = target_url(target), load_settings()

    async def work() -> bool:
        async with session(url, settings) as connection:
            loading = (await current(connection, run.id)).phase is Phase.LOADING
            return loading and await read_position(connection, run.id) is not None

    found = wait_for(work())
    get_run_logger().info("The first copy %s.", "is made; changed tables are copied again" if found else "is in work")
    return found


@task(name="begin sync", task_run_name="begin to keep PostgreSQL level", **TRANSIENT)
def begin_sync(live: Live, snapshot: Snapshot) -> None:
    """Record the snapshot's place in the outbox as the sync's first position, and fence the target."""
    url, settings = target_url(live.target), load_settings()

    async def work() -> None:
        async with session(url, settings) as connection:
            await begin.begin_sync(connection, live, snapshot)

    wait_for(work())
    get_run_logger().info("PostgreSQL is kept level from the snapshot of %s on.", f"{snapshot.taken_at:%H:%M:%S} UTC")


@task(name="note changes", task_run_name="install capture for the tables of now", **TRANSIENT)
def note_changes(run: Run, target: str) -> Capture:
    """Install capture for the tables of now, and record which of them must be copied again."""
    url, settings = target_url(target), load_settings()

    async def work() -> Capture:
        async with session(url, settings) as connection:
            return await resume.note_changes(connection, run)

    capture = wait_for(work())
    get_run_logger().info("%d tables of %s are captured.", len(capture.tables), run.source)
    return capture


@task(name="copy changed tables", task_run_name="copy changed tables again", **TRANSIENT)
def copy_changed(run: Run, target: str, rules: Rules, snapshot: Snapshot) -> Resumed:
    """Copy the tables whose schema was changed, and only them, in one transaction with the sync's new position."""
    url, settings = target_url(target), load_settings()

    async def work() -> Resumed:
        async with session(url, settings) as connection:
            return await resume.copy_changed(connection, run, rules, target, snapshot)

    done = wait_for(work())
    names = ", ".join(done.copied) or "none"
    create_markdown_artifact(
        f"Copied again: {names}\n\nGone: {', '.join(done.forgotten) or 'none'}",
        key="resume",
        description="Tables after a change of the schema",
    )
    get_run_logger().info("Copied again: %s; gone: %d tables.", names, len(done.forgotten))
    return done


@task(name="undo dual-write", task_run_name="remove the capture", **TRANSIENT)
def undo(source: Path, target: str) -> Undone:
    """Remove capture and fence from both sides; the target keeps its rows."""
    url, settings = target_url(target), load_settings()

    async def work() -> Undone:
        async with session(url, settings) as connection:
            return await begin.undo(connection, await live_run(connection, str(source)))

    undone = wait_for(work())
    get_run_logger().info("%d objects were removed from %s.", len(undone.removed), source)
    return undone
