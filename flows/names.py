"""What a flow run is called in the Prefect UI."""

from __future__ import annotations

import os

from prefect.runtime import flow_run

from pgferry.errors import UsageError
from pgferry.settings import load_settings, named_source, parse_target
from tasks.ends import SECRET, source_path

POSTGRES_PORT = 5432
"""The port that need not be named."""


def run_name() -> str:
    """Return what the running flow does, from which file, and where; Prefect asks within the run.

    Not a template of the `source` parameter, which is empty when the settings name the file.
    """
    try:
        file = source_path(str(flow_run.parameters.get("source") or ""))
    except UsageError:
        # Said by the flow's first step; here it would make the run crash without a name.
        return str(flow_run.flow_name)
    return _named(file.name, *_places())


def live_run_name() -> str:
    """Return what the running flow does, with which file where the settings name it, and where.

    After the switch the settings name the file no more.
    """
    try:
        file = named_source(load_settings(source=flow_run.parameters.get("source") or None))
    except UsageError:
        file = None
    return _named(*([file.name] if file else []), *_places())


def target_run_name() -> str:
    """Return what the running flow does to the target, and where that is."""
    return _named(*_places())


def place(target: str) -> str:
    """Return where a flow's `target` parameter leads, as a person would say it; never a password, never an error."""
    if target.startswith(SECRET):
        return target
    try:
        named = os.environ.get(target, "")
        url = parse_target(named) if named else load_settings().target_url()
    except UsageError:
        return target
    if url is None:
        return target or "the embedded server"
    port = f":{url.port}" if url.port not in (None, POSTGRES_PORT) else ""
    return f"{url.database} at {url.host or 'this machine'}{port}"


def _places() -> list[str]:
    parameters = flow_run.parameters
    return [place(str(parameters["target"] or ""))] if "target" in parameters else []


def _named(*parts: str) -> str:
    return f"{flow_run.flow_name} {', '.join(parts)}".strip()
