"""Prefect's own settings, read without importing Prefect, whose import takes seconds and fixes them for the process."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from pgferry.errors import UsageError


@dataclass(frozen=True, slots=True)
class Found:
    """A setting's value and the place that it was read from, as a person would name it."""

    value: str
    place: str


def find_setting(name: str) -> Found | None:
    """Return the Prefect setting `name` (`PREFECT_API_URL`), or None where nothing sets it.

    Looks where Prefect looks, in its order: the environment, `.env`, `prefect.toml` and `[tool.prefect]` of
    `pyproject.toml` in the working directory, the active profile
    (https://docs.prefect.io/v3/concepts/settings-and-profiles). Empty values count as not set. Raises UsageError for
    a TOML file that cannot be read.
    """
    section, _, key = name.removeprefix("PREFECT_").lower().partition("_")
    places: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ("the environment", os.environ),
        (".env", dotenv_values(".env")),
    )
    for place, values in places:
        if values.get(name):
            return Found(str(values[name]), place)
    for file, table in (("prefect.toml", ()), ("pyproject.toml", ("tool", "prefect"))):
        value = _inside(_read_toml(Path(file)), (*table, section, key))
        if value:
            return Found(str(value), file)
    profile, values = _active_profile()
    return Found(str(values[name]), f"the Prefect profile {profile!r}") if values.get(name) else None


def _active_profile() -> tuple[str, Mapping[str, Any]]:
    own = _read_toml(_profiles_path())
    built_in = _built_in_profiles()
    name = os.environ.get("PREFECT_PROFILE") or own.get("active") or built_in.get("active", "")
    profiles = {**built_in.get("profiles", {}), **own.get("profiles", {})}
    return name, profiles.get(name, {})


def _profiles_path() -> Path:
    named = os.environ.get("PREFECT_PROFILES_PATH")
    if named:
        return Path(named)
    return Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser() / "profiles.toml"


def _built_in_profiles() -> dict[str, Any]:
    package = find_spec("prefect")
    if package is None or package.origin is None:
        return {}
    return _read_toml(Path(package.origin).parent / "settings" / "profiles.toml")


def _inside(values: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}.", "Correct it; Prefect reads its settings there.") from error
