"""A target made: database, roles and grants."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger, task

from pgferry.operate.provision import Provisioned, markdown, provision
from pgferry.settings import load_settings
from tasks.artifacts import create_markdown_artifact
from tasks.ends import wait_for
from tasks.retries import TRANSIENT


@task(name="provision", task_run_name="make what is missing", **TRANSIENT)
def make_target(env_file: Path) -> Provisioned:
    """Make what is missing of database, roles and grants, and show what was done; passwords go into the file alone."""
    made = wait_for(provision(load_settings(), env_file))
    create_markdown_artifact(markdown(made), key="provision", description="What was made, and who connects how")
    for step in made.done:
        get_run_logger().info("Done: %s.", step)
    for note in made.notes:
        get_run_logger().warning("%s", note)
    get_run_logger().info("%d steps were needed; the passwords are in %s.", len(made.done), made.env_file)
    return made
