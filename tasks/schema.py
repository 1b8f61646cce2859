"""The target's schema, by Alembic."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger, task

from pgferry.operate.run_revisions import change
from pgferry.postgres.schema import SchemaState
from pgferry.settings import load_settings
from tasks.ends import target_url, wait_for
from tasks.retries import TRANSIENT


@task(name="alembic upgrade", task_run_name="alembic upgrade head", **TRANSIENT)
def upgrade_schema(target: str, config: Path) -> SchemaState:
    """Run the migrations up to head."""
    settings = load_settings()
    state = wait_for(change(target_url(target), config, "head", stall_timeout=settings.stall_timeout))
    get_run_logger().info(
        "The schema is at revision %s (it was at %s).", ", ".join(state.after), ", ".join(state.before) or "none"
    )
    return state
