"""Where the application finds its database: a variable in its environment file, turned to one side or the other."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from pgferry.errors import Permanent
from pgferry.live.env_file import read_variable, replace_variable
from pgferry.settings import Settings, sqlite_path

KEPT = ".before-switch"
"""What the name of the kept environment file ends with."""

_DRIVERS = {"aiosqlite": "postgresql+asyncpg"}
_PLAIN = "postgresql"


def kept_file(settings: Settings) -> Path:
    """Return where the environment file of before the switch is kept."""
    return settings.application_env.with_name(settings.application_env.name + KEPT)


def check_environment(settings: Settings, source: Path) -> str:
    """Say what stands against turning the application by its environment file; empty when nothing does."""
    path, name = settings.application_env, settings.application_variable
    value = read_variable(path, name) if path.exists() else None
    if value is None:
        return f"{path} has no {name}"
    named = sqlite_path(value)
    if named is None or named.resolve() != source.resolve():
        return f"{name} in {path} does not name {source}"
    return ""


def target_value(settings: Settings, url: URL) -> str:
    """Return what the application's variable becomes: the setting's value, else the target's URL.

    The target's driver is asyncpg where the application's SQLite driver was aiosqlite, else SQLAlchemy's default.
    """
    if settings.application_url is not None:
        return settings.application_url.get_secret_value()
    value = read_variable(settings.application_env, settings.application_variable) or ""
    return url.set(drivername=_DRIVERS.get(_driver(value), _PLAIN)).render_as_string(hide_password=False)


def point_at(settings: Settings, value: str) -> None:
    """Write the value into the environment file, atomically; the file of before is kept. Again: nothing changes."""
    path, name = settings.application_env, settings.application_variable
    if read_variable(path, name) != value:
        replace_variable(path, name, value, kept_file(settings))


def points_away(settings: Settings) -> bool | None:
    """Say whether the environment file names another database than a SQLite file; None when it names none at all."""
    path, name = settings.application_env, settings.application_variable
    value = read_variable(path, name) if path.exists() else None
    return None if value is None else sqlite_path(value) is None


def point_back(settings: Settings, source: Path) -> bool:
    """Let the environment file name SQLite again; returns whether it had to be changed. Only the one variable changes.

    Raises Permanent when the file of before the switch is gone and the value cannot be known.
    """
    path, name = settings.application_env, settings.application_variable
    if not points_away(settings):
        return False
    kept = kept_file(settings)
    before = read_variable(kept, name) if kept.exists() else None
    if before is None:
        raise Permanent(
            f"{kept} is gone: what {name} was before the switch is not known.",
            f"Set {name} in {path} to the SQLite file {source} by hand, then run this again.",
        )
    replace_variable(path, name, before, path.with_name(path.name + ".before-rollback"))
    return True


def _driver(value: str) -> str:
    try:
        return make_url(value).get_driver_name()
    except (ArgumentError, ImportError):
        return ""
