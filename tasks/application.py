"""The application as a running service: restarted, waited for, tested, by what the settings name."""

from __future__ import annotations

from prefect import get_run_logger, task
from sqlalchemy.engine import URL

from pgferry.live import application
from pgferry.settings import load_settings


@task(name="restart application", task_run_name="restart the application", persist_result=False)
def restart_application(url: URL | None) -> float:
    """Restart the application by its command and return the seconds that took; 0 where no command is set."""
    return restart_now(url)


def restart_now(url: URL | None) -> float:
    """Do the same outside a task run, as the way back does: nothing may keep it from being done."""
    seconds = application.restart(load_settings(), url)
    if seconds is None:
        get_run_logger().warning("No PGFERRY_RESTART_COMMAND is set: restart the application now.")
        return 0.0
    get_run_logger().info("The application was restarted in %.1f s.", seconds)
    return seconds


@task(name="wait for health", task_run_name="wait until the application is healthy", persist_result=False)
def wait_until_healthy() -> float:
    """Ask the health URL until it answers, and return the seconds that took; 0 where none is set."""
    seconds = application.wait_until_healthy(load_settings())
    if seconds is None:
        get_run_logger().warning("No PGFERRY_HEALTH_URL is set: nobody knows whether the application is well.")
        return 0.0
    get_run_logger().info("The application is healthy after %.1f s.", seconds)
    return seconds


@task(name="test application", task_run_name="run the application's tests", persist_result=False)
def run_application_tests(url: URL | None) -> float | None:
    """Run the application's own tests and return the seconds that took; None where no command is set."""
    seconds = application.run_tests(load_settings(), url)
    if seconds is None:
        get_run_logger().info("No PGFERRY_TEST_COMMAND is set.")
    else:
        get_run_logger().info("The application's tests passed in %.1f s.", seconds)
    return seconds
