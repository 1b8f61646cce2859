"""A schema proposed from the data: made, tried on the target, written."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger, task

from pgferry.model import Snapshot
from pgferry.plan.files import WrittenPlan, write_plan
from pgferry.plan.model import SchemaPlan
from pgferry.plan.report import render_report
from pgferry.plan.trial import tried
from pgferry.settings import Rules, load_settings
from tasks.artifacts import create_markdown_artifact
from tasks.ends import session, target_url, wait_for
from tasks.retries import TRANSIENT


@task(name="propose schema", task_run_name="profile the data and propose a schema", **TRANSIENT)
def propose(snapshot: Snapshot, rules: Rules) -> SchemaPlan:
    """Profile every column and propose a type for it, with evidence."""
    # Imported here: with it comes sqlglot, for which a move by the application's own migrations need not wait.
    from pgferry.plan.plan import make_plan

    plan = make_plan(Path(snapshot.path), rules)
    get_run_logger().info("%d tables proposed, %d questions.", len(plan.tables), len(plan.questions))
    return plan


@task(name="try schema", task_run_name="try the schema on the target", **TRANSIENT)
def try_plan(plan: SchemaPlan, target: str) -> SchemaPlan:
    """Let the target say what it takes; nothing stays there. What it refuses is left out and reported."""
    url, settings = target_url(target), load_settings()

    async def work() -> SchemaPlan:
        async with session(url, settings) as connection:
            return await tried(plan, connection)

    accepted = wait_for(work())
    create_markdown_artifact(render_report(accepted), key="plan", description="The proposed schema, with evidence")
    get_run_logger().info("The target takes it; %d objects are not carried.", len(accepted.not_carried))
    return accepted


@task(name="write schema", task_run_name="write the revision to {folder}", **TRANSIENT)
def write_schema(plan: SchemaPlan, folder: Path) -> WrittenPlan:
    """Write the plan as an Alembic environment with one revision, pgferry.toml and the report."""
    written = write_plan(plan, folder)
    get_run_logger().info("Revision %s is %s.", written.revision_id, written.revision)
    return written
