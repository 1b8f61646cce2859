"""The deployments of prefect.yaml are sound, are registered, and run in a worker without a network."""

from __future__ import annotations

import importlib
import inspect
import subprocess
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.prefect_server import get_json
from flows.prefect_worker import POOL
from pgferry.errors import Permanent
from tests.stack import TRADES, Stack

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))
DEPLOYMENTS: list[dict[str, Any]] = PROJECT["deployments"]


def flow_of(deployment: dict[str, Any]) -> Any:
    module, _, name = deployment["entrypoint"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_nothing_is_pulled_so_that_runs_start_where_the_project_is() -> None:
    assert "pull" not in PROJECT
    assert not [each["name"] for each in DEPLOYMENTS if "pull" in each]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_the_entrypoint_is_a_flow_that_takes_the_parameters(deployment: dict[str, Any]) -> None:
    from prefect import Flow

    flow = flow_of(deployment)
    assert isinstance(flow, Flow)
    assert deployment["parameters"].keys() <= inspect.signature(flow.fn).parameters.keys()
    assert flow.validate_parameters(deployment["parameters"]).keys() >= deployment["parameters"].keys()
    assert deployment["work_pool"]["name"] == POOL
    assert deployment["concurrency_limit"]["limit"] == 1


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_every_parameter_is_described_for_the_person_who_runs_it(deployment: dict[str, Any]) -> None:
    described = flow_of(deployment).parameters.properties
    assert deployment["description"]
    assert [name for name, schema in described.items() if not schema.get("description")] == []


def test_the_sync_runs_every_minute_and_the_validation_every_night() -> None:
    named = {deployment["name"]: deployment for deployment in DEPLOYMENTS}
    assert named["sync"]["schedules"] == [{"interval": 60}]
    assert named["sync"]["concurrency_limit"]["collision_strategy"] == "CANCEL_NEW"
    assert named["validate"]["schedules"] == [{"cron": "0 3 * * *", "timezone": "Europe/London"}]


def test_no_deployment_carries_a_url() -> None:
    assert "://" not in str([deployment["parameters"] for deployment in DEPLOYMENTS])


def test_up_registers_every_deployment_and_says_where_to_look(stack: Stack) -> None:
    registered = {each["name"]: each for each in get_json(f"{stack.api}/deployments/filter", payload={})}
    assert registered.keys() == {deployment["name"] for deployment in DEPLOYMENTS}
    for deployment in DEPLOYMENTS:
        found = registered[deployment["name"]]
        same = ("description", "tags", "parameters", "entrypoint")
        assert {name: found[name] for name in same} == {name: deployment[name] for name in same}
        assert (found["work_pool_name"], found["paused"]) == (POOL, False)
        assert found["global_concurrency_limit"]["limit"] == 1
        limit = deployment["concurrency_limit"]
        assert found["concurrency_options"]["collision_strategy"] == limit["collision_strategy"]
        spelled = [{name: each["schedule"].get(name) for name in ("cron", "timezone")} for each in found["schedules"]]
        wanted = deployment.get("schedules", [])
        assert [each for each in spelled if each["cron"]] == [each for each in wanted if "cron" in each]
        assert len(spelled) == len(wanted)
    assert f"Prefect UI: {stack.api.removesuffix('/api')}" in stack.said


def test_the_run_form_explains_each_parameter_and_offers_the_words_that_it_takes(stack: Stack) -> None:
    registered = {each["name"]: each for each in get_json(f"{stack.api}/deployments/filter", payload={})}
    for deployment in registered.values():
        properties = deployment["parameter_openapi_schema"]["properties"]
        assert [name for name, schema in properties.items() if not schema.get("description")] == []
        assert deployment["enforce_parameter_schema"]
    offered = registered["validate"]["parameter_openapi_schema"]["properties"]["level"]
    assert offered["enum"] == ["counts", "sample", "cells"]
    run = f"{stack.api}/deployments/{registered['validate']['id']}/create_flow_run"
    with pytest.raises(Permanent) as refused:
        get_json(run, payload={"parameters": {"level": "most"}})
    assert refused.value.details["status"] == HTTPStatus.CONFLICT


DESTRUCTIVE = ("switch", "rollback", "cleanup")


@pytest.mark.parametrize("name", DESTRUCTIVE)
def test_what_turns_or_ends_a_move_has_no_schedule_and_asks_for_approval(name: str) -> None:
    (deployment,) = [deployment for deployment in DEPLOYMENTS if deployment["name"] == name]
    assert deployment["parameters"]["approve"] is True
    assert not {"schedules", "triggers"} & deployment.keys()


def test_the_deployment_moves_the_database_in_a_worker(
    stack: Stack, deployed_run: subprocess.CompletedProcess[str]
) -> None:
    assert deployed_run.returncode == 0, deployed_run.stdout + deployed_run.stderr
    assert stack.rows("SELECT count(*), max(id) FROM trades") == [(TRADES, TRADES)]
    assert stack.rows("SELECT status FROM pgferry.run") == [("finished",)]
    (run,) = stack.ask("flow_runs", deployments={"name": {"any_": ["migrate"]}})
    assert run["name"].startswith(f"migrate osrs_tool_hub.db, {stack.target.database} at ")
    assert run["state"]["type"] == "COMPLETED"
    artifacts = [each for each in stack.ask("artifacts") if each["flow_run_id"] == run["id"]]
    assert [each["key"] for each in artifacts if each["type"] == "markdown"] == ["migration"]
