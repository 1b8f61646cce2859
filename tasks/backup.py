"""The backup: a checked snapshot of the source, which everything after it reads."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger, task

from pgferry.model import Snapshot
from pgferry.postgres.ledger import Run, record_snapshot
from pgferry.settings import load_settings
from pgferry.sqlite import snapshot as snapshots
from pgferry.sqlite.arrow_reader import load_driver_beside
from pgferry.sqlite.snapshot import SnapshotCheck
from tasks.ends import session, target_url, wait_for
from tasks.retries import TRANSIENT


@task(name="back up", task_run_name="back up {source.name}", **TRANSIENT)
def back_up(source: Path, target: str, run: Run) -> Snapshot:
    """Take the run's snapshot and record it, or make sure that the recorded one is still what was taken."""
    url, settings = target_url(target), load_settings()
    if run.snapshot is not None:
        snapshots.confirm(run.snapshot)
        get_run_logger().info("Going on with the snapshot %s.", run.snapshot.path)
        return run.snapshot
    load_driver_beside()
    snapshot = snapshots.take(source, settings.home.absolute() / "backups")

    async def work() -> None:
        async with session(url, settings) as connection:
            await record_snapshot(connection, run.id, snapshot)

    wait_for(work())
    get_run_logger().info("Backup %s: %.1f MB, SHA-256 %s.", snapshot.path, snapshot.bytes / 1e6, snapshot.sha256)
    return snapshot


@task(name="take backup", task_run_name="back up {source.name}", **TRANSIENT)
def take_backup(source: Path) -> Snapshot:
    """Take a snapshot that belongs to no run."""
    snapshot = snapshots.take(source, load_settings().home.absolute() / "backups")
    get_run_logger().info("Backup %s: %.1f MB, SHA-256 %s.", snapshot.path, snapshot.bytes / 1e6, snapshot.sha256)
    return snapshot


@task(name="discard snapshot", task_run_name="discard the snapshot")
def discard_backup(snapshot: Snapshot) -> None:
    """Remove a snapshot that was taken only to be looked at."""
    Path(snapshot.path).unlink(missing_ok=True)
    get_run_logger().info("The snapshot %s is gone again.", snapshot.path)


@task(name="check backup", task_run_name="check backup", **TRANSIENT)
def check_backup(snapshot: Snapshot) -> SnapshotCheck:
    """Let SQLite check the snapshot: its structure, its foreign keys, and by PGFERRY_BACKUP_CHECK its indexes."""
    checked = snapshots.check(snapshot, indexes=load_settings().backup_check == "full")
    get_run_logger().info(
        "The backup is sound; %d complaints about values, %d rows that break a foreign key.",
        len(checked.complaints),
        checked.foreign_key_violations,
    )
    return checked
