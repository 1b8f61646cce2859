"""The beginning of the move without downtime: SQLite stays in front, PostgreSQL is filled and then kept level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.futures import call, with_result
from flows.moving import leave_earlier, move_once, refuse_unverified
from flows.names import run_name
from flows.runner import lanes
from pgferry.live.model import Phase
from pgferry.plan.outcome import plan_folder
from pgferry.postgres.ledger import Run
from pgferry.postgres.lock import RunLock
from pgferry.progress import reporter
from pgferry.replay import replay_rules
from pgferry.settings import Settings, load_settings
from tasks import capture
from tasks.backup import discard_backup, take_backup
from tasks.ends import source_path, target_url
from tasks.live import judge_quarantine, read_live
from tasks.preflight import look_ahead
from tasks.run import open_run
from tasks.schema import upgrade_schema
from tasks.sync import carry_until_level


@flow(name="dual-write", flow_run_name=run_name, task_runner=lanes())
def dual_write(
    source: str = "",
    target: str = "",
    config: str = "",
    plan: bool = False,
    resume: bool = False,
    undo: bool = False,
    restart: bool = False,
) -> dict[str, Any]:
    """Begin the move without downtime: capture what the application writes, copy what is there, become level.

    The application goes on writing to SQLite all along. Killed at any moment, the same call goes on where it was; in
    phase dual-write it only carries what is left.

    Args:
        source: the SQLite file; empty for the one that the settings name.
        target: the name of the environment variable that holds the target's URL, or `secret/BLOCK`; empty for
            PGFERRY_TARGET, and without that the embedded server. Never a URL: parameters are kept in plain text.
        config: the file with rules for tables and columns; empty for pgferry.toml if it exists.
        plan: propose the schema from the data, for a source without Alembic migrations.
        resume: go on after the source's schema was changed; only the tables concerned are copied again.
        undo: leave dual-write; what was installed in SQLite is removed, PostgreSQL keeps its rows.
        restart: empty what an earlier run of this source has loaded, and begin anew.

    Returns:
        The run, the phase, the report of the first copy, and what was carried after it.
    """
    reporter().run(str(flow_run.id))

    # 1. Where from, where to, by which rules.
    reporter().step("find source and target")
    file, settings = source_path(source), load_settings(config=config or None)
    url, rules = target_url(target), settings.rules()

    with RunLock(url, str(file)):
        if undo:
            return _left(file, target)
        if restart:
            leave_earlier(file, target, "dual-write")

        # 2. One run a source, in a phase that allows this.
        command = "dual-write --resume" if resume else "dual-write"
        run = open_run(file, target, rules, restart, command)
        if resume or call(capture.was_resuming, run, target):
            return _resumed(file, target, config, run, settings)

        # 3. What stands in the way is told before anything is changed.
        reporter().step("look for what stands in the way")
        call(look_ahead, run, target, config)

        # 4. Capture first: from here on every write of the application is in the outbox.
        reporter().step("install capture")
        call(capture.begin_capture, run, target)

        # 5. The move of a snapshot, as `migrate` does it; foreign keys wait. A copy that is finished is not repeated.
        moved = move_once(file, target, run, settings, rules, plan=plan)
        refuse_unverified(moved)

        # 6. From the snapshot on PostgreSQL is kept level; only the sync may write to it.
        reporter().step("begin to keep PostgreSQL level")
        live = call(read_live, run, target, config)
        call(capture.begin_sync, live, moved.snapshot)

        # 7. Carry what was written since.
        reporter().step("carry what was written meanwhile")
        carried = call(carry_until_level, live)
        result = {
            "run": run.id,
            "phase": str(Phase.DUAL_WRITE),
            "report": moved.report.to_json(),
            "carried": carried.to_json(),
        }

        # 8. Rows that PostgreSQL cannot hold are a failure unless they are accepted; everything else is level.
        with with_result(result):
            call(judge_quarantine, live)
        return result


def _resumed(file: Path, target: str, config: str, run: Run, settings: Settings) -> dict[str, Any]:
    # 3. Capture for the tables of now, before the snapshot that they are copied from.
    reporter().step("install capture for the tables of now")
    call(capture.note_changes, run, target)

    # 4. The target's schema must have the same change.
    reporter().step("make the schema")
    planned = plan_folder(settings.home, file) / "alembic.ini"
    upgrade_schema(target, planned if planned.exists() else settings.alembic_config)

    # 5. Copy the tables concerned, from a snapshot that goes when that is done.
    reporter().step("copy changed tables again")
    snapshot = take_backup(file)
    try:
        done = call(capture.copy_changed, run, target, replay_rules(settings, file), snapshot)
    finally:
        discard_backup(snapshot)

    # 6. Carry what was written since.
    reporter().step("carry what was written meanwhile")
    carried = call(carry_until_level, call(read_live, run, target, config))
    return {
        "run": run.id,
        "phase": str(Phase.DUAL_WRITE),
        "copied": list(done.copied),
        "gone": list(done.forgotten),
        "carried": carried.to_json(),
    }


def _left(file: Path, target: str) -> dict[str, Any]:
    reporter().step("remove the capture")
    done = call(capture.undo, file, target)
    return {"phase": str(Phase.NONE), "removed": list(done.removed)}
