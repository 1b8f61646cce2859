"""The simple move: a SQLite database goes to PostgreSQL, whole and verified, in one maintenance window."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from flows.futures import call
from flows.moving import leave_earlier, move_once, move_snapshot, moved_already, refuse_unverified
from flows.names import run_name
from flows.runner import lanes
from flows.taking_over import take_the_application_over
from pgferry.finishing import judge_report
from pgferry.live.model import Phase
from pgferry.postgres.ledger import Run
from pgferry.postgres.lock import RunLock
from pgferry.progress import reporter
from pgferry.report import Report
from pgferry.settings import Rules, Settings, load_settings
from tasks.capture import begin_capture, begin_sync
from tasks.ends import source_path, target_url
from tasks.live import read_live
from tasks.run import open_run
from tasks.window import give_window_up, open_window, refuse_unready


@flow(name="migrate", flow_run_name=run_name, task_runner=lanes())
def migrate(
    source: str = "",
    target: str = "",
    config: str = "",
    restart: bool = False,
    plan: bool = False,
    revisions: str = "",
    cut_over: bool = False,
) -> dict[str, Any]:
    """Move a SQLite database to PostgreSQL: backup, Parquet, schema, rows, indexes, and a comparison of every cell.

    Killed at any moment, the same call goes on where it was. A source that has moved already is left alone.

    Args:
        source: the SQLite file; empty for the one that the settings name.
        target: the name of the environment variable that holds the target's URL, or `secret/BLOCK`; empty for
            PGFERRY_TARGET, and without that the embedded server. Never a URL: parameters are kept in plain text.
        config: the file with rules for tables and columns; empty for pgferry.toml if it exists.
        restart: empty what an earlier run of this source has loaded, and begin anew.
        plan: propose the schema from the data, for a source without Alembic migrations; safe defaults, no questions.
        revisions: the folder that the proposed schema is kept in; empty for one in PGFERRY_HOME/plans.

        cut_over: end with the switch: writes to the source are refused from the beginning, and at the end the
            application's environment file names PostgreSQL, it is restarted, looked at and tested; or all as before.

    Returns:
        The report; with `cut_over`, under `switch`, how long nobody could write, step by step. The run fails when rows
        are lost, differ, or are quarantined or leave a foreign key NOT VALID without being accepted.
    """
    log = get_run_logger()
    reporter().run(str(flow_run.id))

    # 1. Where from, where to, by which rules.
    reporter().step("find source and target")
    file, settings = source_path(source), load_settings(config=config or None)
    url, rules = target_url(target), settings.rules()

    with RunLock(url, str(file)):
        if cut_over:
            refuse_unready(file)
            if restart:
                leave_earlier(file, target, "migrate --cut-over")

        # 2. One run a source: a finished one is left alone, an unfinished one goes on.
        run = open_run(file, target, rules, restart, "migrate --cut-over" if cut_over else "migrate")
        if cut_over:
            return _cut_over(file, target, config, run, settings, rules, plan=plan, revisions=revisions)
        if run.status == "finished":
            log.info("This source was moved by run %d; nothing is left to do. --restart begins anew.", run.id)
            return _judged(moved_already(run, target, rules))

        # 3. Back up, make the schema, copy, build indexes, verify; see `moving`.
        moved = move_snapshot(file, target, run, settings, rules, plan=plan, revisions=revisions)

        # 4. Anything but equal is a failure.
        return _judged(moved.report)


def _cut_over(
    file: Path, target: str, config: str, run: Run, settings: Settings, rules: Rules, *, plan: bool, revisions: str
) -> dict[str, Any]:
    # 3. Capture, so that nothing is lost when the window is given up; then the fence, for as long as the rest takes.
    reporter().step("fence SQLite")
    call(begin_capture, run, target)
    fenced_at = time.monotonic()
    try:
        call(open_window, run, target)

        # 4. The move; foreign keys are added by the switch.
        moved = move_once(file, target, run, settings, rules, plan=plan, revisions=revisions)
        refuse_unverified(moved)
        live = call(read_live, run, target, config)
        call(begin_sync, live, moved.snapshot)
    except BaseException:
        reporter().step("the copy failed; let the application write again")
        give_window_up(run, target)
        raise

    # 5. The last steps are those of the switch, its way back included.
    switched = take_the_application_over(live, fenced_at)
    return {**moved.report.to_json(), "phase": str(Phase.SWITCHED), "switch": switched.to_json()}


def _judged(result: Report) -> dict[str, Any]:
    judge_report(result)
    return result.to_json()
