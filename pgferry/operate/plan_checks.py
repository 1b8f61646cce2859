"""What a preflight looks at in the plan around the move: the application's file, the way back, who watches."""

from __future__ import annotations

from pathlib import Path

from pgferry.errors import FerryError
from pgferry.live.environment import check_environment
from pgferry.operate.check import Check, failed_check, passed, warned
from pgferry.postgres.connection import Connection
from pgferry.postgres.statements import statements
from pgferry.settings import Settings

SQL = statements("preflight")

ENVIRONMENT = "environment file"

MONITORED_SECONDS = 3600.0
"""How old the monitor's latest numbers may be; it measures every few minutes."""


def check_environment_file(settings: Settings, source: Path) -> Check:
    """Look whether the application can be turned by its environment file; only a live move and a cut-over need that."""
    path, name = settings.application_env, settings.application_variable
    advice = f"Let {name} in {path} name the file, or correct PGFERRY_APPLICATION_ENV and PGFERRY_APPLICATION_VARIABLE."
    if not path.exists():
        return warned(ENVIRONMENT, f"there is no {path}: the switch has nothing to turn", advice)
    try:
        problem = check_environment(settings, source)
    except FerryError as error:
        return failed_check(ENVIRONMENT, error.message, error.action)
    if problem:
        return failed_check(ENVIRONMENT, problem, advice)
    return passed(ENVIRONMENT, f"{name} in {path} names {source}")


def check_way_back(settings: Settings) -> Check:
    """Look whether switch and rollback can restart the application and see that it is well, without a person."""
    name = "rollback plan"
    wanted = {"PGFERRY_RESTART_COMMAND": settings.restart_command, "PGFERRY_HEALTH_URL": settings.health_url}
    missing = [variable for variable, value in wanted.items() if value is None]
    if not missing:
        tests = "and tests" if settings.test_command else "no PGFERRY_TEST_COMMAND"
        return passed(name, f"restart command and health URL are set, {tests}")
    return warned(
        name,
        f"not set: {', '.join(missing)}",
        "With them, switch and rollback restart the application, see that it is well, and turn back by themselves if"
        " not. Without them that is a person's work, within seconds.",
    )


async def check_monitoring(connection: Connection) -> Check:
    """Look whether the monitor has measured lately."""
    name = "monitoring"
    advice = "Run the deployment `monitor` on its schedule, and name a notification block in PGFERRY_ALERT_BLOCK."
    seconds = None
    if await connection.fetchval(SQL["monitor_readable"]):
        seconds = await connection.fetchval(SQL["monitored"])
    if seconds is None:
        return warned(name, "the monitor has never measured this database", advice)
    if seconds > MONITORED_SECONDS:
        return warned(name, f"the monitor measured {seconds / 3600:.1f} hours ago", advice)
    return passed(name, f"the monitor measured {seconds / 60:.0f} minutes ago")
