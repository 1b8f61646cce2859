"""The plan: a PostgreSQL schema for a SQLite file, with the evidence for each decision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.futures import call
from flows.names import run_name
from pgferry.plan.outcome import plan_folder, plan_json
from pgferry.progress import reporter
from pgferry.settings import load_settings
from tasks.backup import discard_backup, take_backup
from tasks.ends import source_path
from tasks.planning import propose, try_plan, write_schema


@flow(name="plan", flow_run_name=run_name)
def plan(
    source: str = "", target: str = "", config: str = "", write: bool = False, revisions: str = ""
) -> dict[str, Any]:
    """Propose a PostgreSQL schema for a SQLite database by what its data holds; nothing is changed in either.

    Args:
        source: the SQLite file; empty for the one that the settings name.
        target: the name of the environment variable that holds the target's URL, or `secret/BLOCK`; empty for
            PGFERRY_TARGET, and without that the embedded server. The schema is tried there, and rolled back.
        config: the file with rules for tables and columns; empty for pgferry.toml if it exists.
        write: write an Alembic revision, a pgferry.toml with the questions, and the report.
        revisions: the folder to write to; empty for one in PGFERRY_HOME/plans.

    Returns:
        Per table and column the type and its evidence, what is not carried and why, the questions, and the files.
    """
    reporter().run(str(flow_run.id))

    # 1. Where from, by which rules.
    file, settings = source_path(source), load_settings(config=config or None)
    rules = settings.rules()

    # 2. A snapshot to read, of one moment; it goes when the plan is made.
    reporter().step("take a snapshot")
    snapshot = take_backup(file)
    try:
        # 3. Profile the data and propose a schema.
        reporter().step("profile the data")
        proposed = propose(snapshot, rules)
    finally:
        discard_backup(snapshot)

    # 4. Let the target say what it takes.
    reporter().step("try the schema on the target")
    accepted = call(try_plan, proposed, target)

    # 5. Write it down, when asked.
    if not write:
        return plan_json(accepted, None)
    folder = Path(revisions).absolute() if revisions else plan_folder(settings.home, file)
    return plan_json(accepted, call(write_schema, accepted, folder))
