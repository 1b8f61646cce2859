"""`python -m flows serve`: the deployments of prefect.yaml, all of them as they stand there, run by one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.prefect_server import ServerInfo, get_json
from flows.prefect_worker import POOL, let_go_on, paused_mark
from pgferry.errors import UsageError
from pgferry.sample.generate import generate
from tests.stack import call

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))["deployments"]
DESTRUCTIVE = ("switch", "rollback", "cleanup", "schema-downgrade", "schema-upgrade", "migrate", "dual-write")
PATIENCE = 300.0


def wait_for(found: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """Return the first true answer; the served process must live meanwhile."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := found()):
        assert process.poll() is None, "serve has ended"
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.3)
    return answer


@pytest.fixture
def served(prefect_api: str, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """The command, running in the project's folder, and the file that takes what it says."""
    generate(tmp_path / "app.db", 200, items=20)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PGFERRY_", "PREFECT_"))}
    environment = {
        "PREFECT_API_URL": prefect_api,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_PROFILES_PATH": str(tmp_path / "profiles.toml"),
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PGFERRY_HOME": str(tmp_path / "home"),
        "PGFERRY_SOURCE": str(tmp_path / "app.db"),
    }
    log = tmp_path / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows", "serve"],
            cwd=ROOT,
            env=kept | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process, log
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()


def test_every_deployment_is_served_and_runs_here(prefect_api: str, served: tuple[subprocess.Popen[str], Path]) -> None:
    process, log = served
    wait_for(
        lambda: "deployments are served here" in log.read_text() and len(known(prefect_api)) == len(DEPLOYMENTS),
        process,
    )
    registered = known(prefect_api)
    for deployment in DEPLOYMENTS:
        found = registered[deployment["name"]]
        same = ("description", "tags", "parameters", "entrypoint")
        assert {name: found[name] for name in same} == {name: deployment[name] for name in same}
        assert found["global_concurrency_limit"]["limit"] == deployment["concurrency_limit"]["limit"]
        assert (
            found["concurrency_options"]["collision_strategy"] == deployment["concurrency_limit"]["collision_strategy"]
        )
        assert (found["work_pool_name"], found["paused"]) == (None, False)
        assert [spelled(each["schedule"]) for each in found["schedules"]] == deployment.get("schedules", [])

    made = get_json(f"{prefect_api}/deployments/{registered['export']['id']}/create_flow_run", payload={})
    ended = wait_for(lambda: finished(prefect_api, made["id"]), process)
    assert ended["state"]["type"] == "COMPLETED", log.read_text()
    assert (ended["name"], ended["work_pool_name"]) == ("export app.db", None)

    process.send_signal(signal.SIGTERM)
    assert process.wait(180) == 0, log.read_text()
    assert "Ended; the schedules are paused" in log.read_text()
    assert all(deployment["paused"] for deployment in known(prefect_api).values())

    # A worker's turn: registering them gives them a pool, and they go on.
    server, home = ServerInfo(prefect_api, "", None, started=False), log.parent / "home"
    for deployment in known(prefect_api).values():
        assert paused_mark(home).exists()
        change = {"work_pool_name": work_pool(prefect_api)}
        call(f"{prefect_api}/deployments/{deployment['id']}", "PATCH", change)
    let_go_on(home, server)
    assert not any(deployment["paused"] for deployment in known(prefect_api).values())
    assert not paused_mark(home).exists()


def work_pool(api: str) -> str:
    """Make the worker's pool unless it is there."""
    pools = get_json(f"{api}/work_pools/filter", payload={})
    if POOL not in {pool["name"] for pool in pools}:
        get_json(f"{api}/work_pools/", payload={"name": POOL, "type": "process"})
    return POOL


def known(api: str) -> dict[str, dict[str, Any]]:
    """Return the deployments that the server has of ours."""
    names = {deployment["name"] for deployment in DEPLOYMENTS}
    return {each["name"]: each for each in get_json(f"{api}/deployments/filter", payload={}) if each["name"] in names}


def finished(api: str, flow_run: str) -> Any:
    run = get_json(f"{api}/flow_runs/{flow_run}")
    return run if run["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None


def spelled(schedule: dict[str, Any]) -> dict[str, Any]:
    """Return a schedule as prefect.yaml writes it."""
    if "cron" in schedule:
        return {"cron": schedule["cron"], "timezone": schedule["timezone"]}
    return {"interval": int(schedule["interval"])}


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_a_deployment_says_what_a_person_must_know(deployment: dict[str, Any]) -> None:
    assert deployment["description"]
    assert "pgferry" in deployment["tags"]
    assert deployment["concurrency_limit"]["collision_strategy"] in ("ENQUEUE", "CANCEL_NEW")
    if deployment["name"] in DESTRUCTIVE:
        assert "schedules" not in deployment
        assert "triggers" not in deployment
    for schedule in deployment.get("schedules", []):
        assert "interval" in schedule or "timezone" in schedule, "a zone has to be named"


def test_schedules_triggers_and_limits_are_those_of_the_file() -> None:
    from flows.serve import build

    for deployment in DEPLOYMENTS:
        built = build(deployment)
        assert len(built.schedules or []) == len(deployment.get("schedules", []))
        assert [trigger.expect for trigger in built.triggers] == [
            set(trigger["expect"]) for trigger in deployment.get("triggers", [])
        ]


def test_a_file_that_cannot_be_served_is_told_in_words(tmp_path: Path) -> None:
    from flows.serve import read_deployments, schedule

    with pytest.raises(UsageError, match=r"There is no .*prefect.yaml"):
        read_deployments(tmp_path)
    (tmp_path / "prefect.yaml").write_text("name: x\n")
    with pytest.raises(UsageError, match="names no deployments"):
        read_deployments(tmp_path)
    with pytest.raises(UsageError, match="neither cron, interval nor rrule"):
        schedule({"slug": "never"})
    assert schedule({"rrule": "FREQ=DAILY", "timezone": "UTC"}).rrule == "FREQ=DAILY"
