"""The target made ready: a database, the application's role and pgferry's own, with no more rights than they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.futures import call
from pgferry.operate.provision import default_file
from pgferry.progress import reporter
from pgferry.settings import load_settings
from tasks.provision import make_target


def _run_name() -> str:
    return f"provision {load_settings().provision_database}"


@flow(name="provision", flow_run_name=_run_name)
def provision(env_file: str = "") -> dict[str, Any]:
    """Make the target's database, roles and grants where they are missing; what is there already stays.

    The administrator's URL is the setting PGFERRY_ADMIN_URL of the machine that the flow runs on, never a parameter.

    Args:
        env_file: the file that gets the URLs with their passwords, as lines for .env, readable by this account alone;
            empty for provision.env in PGFERRY_HOME, on the machine that the flow runs on.

    Returns:
        The URLs without their passwords, the file, and the steps that were needed: none when all was there.
    """
    reporter().run(str(flow_run.id))

    # 1. Make what is missing; again, nothing is.
    reporter().step("make database, roles and grants")
    file = Path(env_file).absolute() if env_file else default_file(load_settings())
    return call(make_target, file).to_json()
