"""The project's own Prefect server and worker, for real: one server for this module, in a home of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows import background, operations
from flows.prefect_server import (
    NAME,
    ServerInfo,
    ensure_server,
    get_json,
    running_server,
    server_folder,
    stop_server,
)
from flows.prefect_worker import stop_worker
from pgferry.errors import Transient

ROOT = Path(__file__).resolve().parents[2]

ENSURE = """
import sys
from pathlib import Path
from flows.prefect_server import ensure_server
server = ensure_server(Path(sys.argv[1]))
print(server.pid, server.started, server.url)
"""

CONNECT = """
import sys
from pathlib import Path
from flows.prefect_server import connect_environment, running_server
connect_environment(running_server(Path(sys.argv[1])))
from prefect.settings import get_current_settings
print(get_current_settings().api.url, get_current_settings().home, sep="\\n")
"""

FLOWS = """
import os, time
from prefect import flow

@flow
def hello(seconds: float = 0):
    time.sleep(seconds)
    return os.getcwd()
"""

DEPLOYMENTS = """
name: probe
deployments:
  - name: by-hand
    entrypoint: probe.hello.hello
    work_pool: {name: pgferry}
  - name: by-the-clock
    entrypoint: probe.hello.hello
    work_pool: {name: pgferry}
    schedules: [{cron: "* * * * *"}]
"""


@pytest.fixture(scope="module", autouse=True)
def no_prefect_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """Nothing of Prefect in the environment, in the user's profile or in the working directory."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("PREFECT_"):
                patch.delenv(name)
        patch.setenv("PREFECT_PROFILES_PATH", str(tmp_path_factory.mktemp("nobody") / "profiles.toml"))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        yield patch


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home of the server")
    yield folder
    operations.down(folder)


@pytest.fixture(scope="module")
def two_starts(home: Path) -> list[str]:
    """What two commands that need a server at the same time were given.

    Their output is read to its end, so a server that held on to it would let this wait for ever.
    """
    command = [sys.executable, "-c", ENSURE, str(home)]
    commands = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    return [each.communicate(timeout=600)[0].strip() for each in commands]


@pytest.fixture
def server(home: Path, two_starts: list[str]) -> ServerInfo:
    assert all(two_starts)
    return ensure_server(home)


@pytest.fixture(scope="module")
def project(home: Path, two_starts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two deployments, registered, and a worker for them."""
    assert all(two_starts)
    folder = tmp_path_factory.mktemp("project")
    (folder / "probe").mkdir()
    (folder / "probe" / "__init__.py").write_text("", "utf-8")
    (folder / "probe" / "hello.py").write_text(FLOWS, "utf-8")
    (folder / "prefect.yaml").write_text(DEPLOYMENTS, "utf-8")
    operations.up(home, folder)
    return folder


def wait_for(found: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.3)
    return result


def create_run(server: ServerInfo, deployment: str, **parameters: object) -> str:
    identifier = get_json(f"{server.url}/deployments/name/hello/{deployment}")["id"]
    run = get_json(f"{server.url}/deployments/{identifier}/create_flow_run", payload={"parameters": parameters})
    return str(run["id"])


def state(server: ServerInfo, run: str) -> str:
    return str(get_json(f"{server.url}/flow_runs/{run}")["state"]["name"])


def test_two_commands_at_once_start_one_server(two_starts: list[str]) -> None:
    pids, started, urls = zip(*(line.split() for line in two_starts), strict=True)
    assert len(set(pids)) == len(set(urls)) == 1
    assert sorted(started) == ["False", "True"]


def test_it_is_found_again_and_answers(home: Path, server: ServerInfo, two_starts: list[str]) -> None:
    assert (str(server.pid), server.started) == (two_starts[0].split()[0], False)
    assert server == running_server(home)
    assert get_json(f"{server.url}/health") is True
    assert get_json(f"{server.url}/admin/version") == server.version


def test_its_ui_calls_its_own_api(server: ServerInfo) -> None:
    settings = get_json(f"{server.ui_url}/ui-settings")
    assert settings["api_url"] == server.url


def test_a_server_of_another_version_is_said(home: Path, server: ServerInfo) -> None:
    folder = server_folder(home)
    record = background.read(folder, NAME)
    assert record is not None
    said: list[str] = []
    background._write(folder, NAME, replace(record, version="3.0.0"))
    assert ensure_server(home, said.append).pid == server.pid
    background._write(folder, NAME, record)
    assert [line for line in said if "version 3.0.0" in line and "make down" in line]


def test_a_configured_server_is_used_and_left_alone(
    server: ServerInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", server.url)
    used = ensure_server(tmp_path)
    assert (used.url, used.ui_url, used.pid, used.home) == (server.url, server.ui_url, None, None)
    assert not stop_server(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert get_json(f"{server.url}/health") is True


def test_a_configured_server_that_does_not_answer_is_an_error_with_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = background.free_port()
    monkeypatch.setenv("PREFECT_API_URL", f"http://me:secret@127.0.0.1:{port}/api")
    with pytest.raises(Transient, match=r"PREFECT_API_URL in the environment.*--no-ui") as caught:
        ensure_server(tmp_path)
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_prefect_uses_the_server_that_the_environment_was_connected_to(home: Path, server: ServerInfo) -> None:
    done = subprocess.run([sys.executable, "-c", CONNECT, str(home)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [server.url, str(server.home)]
    assert done.stderr == ""


def test_the_worker_runs_a_deployment_in_the_projects_folder(server: ServerInfo, project: Path) -> None:
    run = create_run(server, "by-hand")
    assert wait_for(lambda: state(server, run) in ("Completed", "Failed", "Crashed"), 120)
    assert state(server, run) == "Completed"
    steps = get_json(f"{server.url}/deployments/name/hello/by-hand")["pull_steps"]
    assert steps == [{"prefect.deployments.steps.set_working_directory": {"directory": str(project)}}]


def test_up_again_changes_nothing(home: Path, server: ServerInfo, project: Path) -> None:
    first = operations.up(home, project)
    assert (first.api_url, first.started, first.own_server) == (server.url, False, True)
    assert operations.up(home, project) == first
    assert len(get_json(f"{server.url}/deployments/filter", payload={})) == 2


def test_a_cron_schedule_fires(server: ServerInfo, project: Path) -> None:
    assert project.exists()
    deployment = get_json(f"{server.url}/deployments/name/hello/by-the-clock")["id"]
    query = {
        "deployments": {"id": {"any_": [deployment]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    runs = wait_for(lambda: get_json(f"{server.url}/flow_runs/filter", payload=query), 150)
    assert all(run["auto_scheduled"] for run in runs)


def test_a_run_that_is_cut_off_by_down_counts_as_crashed(home: Path, server: ServerInfo, project: Path) -> None:
    assert project.exists()
    run = create_run(server, "by-hand", seconds=600)
    wait_for(lambda: state(server, run) in ("Running", "Completed"), 180)
    process = int(get_json(f"{server.url}/flow_runs/{run}")["infrastructure_pid"])
    assert stop_worker(home)
    assert state(server, run) == "Crashed"
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert not stop_worker(home)


def test_a_killed_server_is_started_again_at_the_same_address(home: Path, server: ServerInfo) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    said: list[str] = []
    again = ensure_server(home, said.append)
    assert again.started
    assert again.pid != server.pid
    assert again.url == server.url
    # A killed process may be seen for an instant longer, and is waited for first.
    assert any("Starting the Prefect server" in line for line in said)


def test_down_stops_the_server_and_says_so(home: Path, server: ServerInfo) -> None:
    assert operations.down(home) == ["Prefect server"]
    assert operations.down(home) == []
    assert running_server(home) is None
    with pytest.raises(Transient):
        get_json(f"{server.url}/health")
