"""The application as the settings describe it: restarted, waited for and tested without a secret being shown."""

from __future__ import annotations

from sqlalchemy.engine import URL

from pgferry.live import service
from pgferry.settings import Settings


def restart(settings: Settings, url: URL | None) -> float | None:
    """Run the restart command and return its seconds; None where none is set. Raises as `service.restart`."""
    if settings.restart_command is None:
        return None
    return service.restart(
        settings.restart_command, settings.restart_timeout, secrets=_secrets(settings, url), without=_without(settings)
    )


def wait_until_healthy(settings: Settings) -> float | None:
    """Wait for the health URL and return the seconds; None where none is set. Raises as `service.wait_healthy`."""
    return None if settings.health_url is None else service.wait_healthy(settings.health_url, settings.health_timeout)


def run_tests(settings: Settings, url: URL | None) -> float | None:
    """Run the test command and return its seconds; None where none is set. Raises as `service.run_tests`."""
    if settings.test_command is None:
        return None
    return service.run_tests(
        settings.test_command, settings.test_timeout, secrets=_secrets(settings, url), without=_without(settings)
    )


_NOT_THE_APPLICATIONS = (
    "PGFERRY_ADMIN_URL",
    "PGFERRY_APPLICATION_PASSWORD",
    "PGFERRY_FERRY_PASSWORD",
    "PGFERRY_STAGING_OPTIONS",
)
"""Secrets that no command of the application's needs."""


def _without(settings: Settings) -> tuple[str, ...]:
    # A value that this process was started with would hide from the application what its file says by now.
    return (settings.application_variable, *_NOT_THE_APPLICATIONS)


def _secrets(settings: Settings, url: URL | None) -> list[str]:
    known = [] if url is None else [url.password, url.render_as_string(hide_password=False)]
    if settings.application_url is not None:
        known.append(settings.application_url.get_secret_value())
    return [str(secret) for secret in known if secret]
