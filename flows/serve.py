"""All deployments of prefect.yaml in one process, without a worker or a work pool."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import yaml
from prefect import Flow
from prefect import serve as serve_deployments
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentTriggerTypes
from prefect.schedules import Cron, Interval, RRule, Schedule
from prefect.types.entrypoint import EntrypointType
from pydantic import TypeAdapter

from pgferry.errors import UsageError

_TRIGGER: TypeAdapter[Any] = TypeAdapter(DeploymentTriggerTypes)


def read_deployments(project: Path) -> list[dict[str, Any]]:
    """Return the deployments of a project's prefect.yaml; raises UsageError when there are none."""
    file = project / "prefect.yaml"
    try:
        deployments: list[dict[str, Any]] = yaml.safe_load(file.read_text("utf-8"))["deployments"]
    except FileNotFoundError as error:
        raise UsageError(f"There is no {file}.", "Run this in the project's folder.") from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UsageError(f"{file} names no deployments: {error}.", "Correct the file.") from error
    return deployments


def build(deployment: Mapping[str, Any]) -> RunnerDeployment:
    """Return a deployment of prefect.yaml as `serve` takes it, with all that it says but its work pool."""
    limit = deployment.get("concurrency_limit")
    built = _flow(deployment["entrypoint"]).to_deployment(
        name=deployment["name"],
        description=deployment.get("description"),
        tags=list(deployment.get("tags", ())),
        parameters=dict(deployment.get("parameters", {})),
        schedules=[schedule(given) for given in deployment.get("schedules", ())],
        concurrency_limit=ConcurrencyLimitConfig.model_validate(limit) if isinstance(limit, dict) else limit,
        triggers=_triggers(deployment),
        paused=False,  # The end of the last serve has paused it.
        # A file's path would load a second copy of the flow.
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return cast("RunnerDeployment", built)  # It is a coroutine only inside an event loop.


def schedule(given: Mapping[str, Any]) -> Schedule:
    """Return a schedule of prefect.yaml; raises UsageError for one that has neither cron, interval nor rrule."""
    options = {name: given[name] for name in ("timezone", "active", "parameters", "slug") if name in given}
    if "cron" in given:
        return Cron(given["cron"], **options)
    if "interval" in given:
        seconds = given["interval"]
        return Interval(timedelta(seconds=seconds) if isinstance(seconds, int | float) else seconds, **options)
    if "rrule" in given:
        return RRule(given["rrule"], **options)
    raise UsageError(f"The schedule {dict(given)} has neither cron, interval nor rrule.", "Correct prefect.yaml.")


def serve(deployments: Sequence[RunnerDeployment], limit: int) -> None:
    """Register the deployments and run what is due, at most `limit` at a time, until SIGINT or SIGTERM.

    At the end their schedules are paused, so that nothing piles up while nobody runs it; the next serve, or
    `make ui`, lets them go on.
    """
    serve_deployments(*deployments, limit=limit, print_starting_message=False)


def _flow(entrypoint: str) -> Flow[..., Any]:
    module, _, name = entrypoint.rpartition(".")
    flow: Flow[..., Any] = getattr(importlib.import_module(module), name)
    return flow


def _triggers(deployment: Mapping[str, Any]) -> list[Any]:
    given = enumerate(deployment.get("triggers", ()), 1)
    return [
        _TRIGGER.validate_python({"name": f"{deployment['name']}__automation_{number}", **trigger})
        for number, trigger in given
    ]
