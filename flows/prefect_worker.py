"""The project's process worker and its deployments: what `prefect deployment run` and schedules need."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Collection
from importlib.metadata import version as installed_version
from pathlib import Path

from flows import background
from flows.background import Record, Say, silent
from flows.prefect_server import ServerInfo, get_json, server_environment, server_folder, shown
from pgferry.errors import FerryError, Permanent

NAME = "prefect-worker"

POOL = "pgferry"
"""The work pool that prefect.yaml names."""

START_PATIENCE = 120.0
"""Seconds until a starting worker must have registered with the server."""

REPORT_PATIENCE = 15.0
"""Seconds that a worker gets to tell the server of its ended flow runs."""

DEPLOY_PATIENCE = 300.0
"""Seconds that the registration of all deployments may take."""


def ensure_worker(home: Path, server: ServerInfo, pool: str = POOL, say: Say = silent) -> Record:
    """Return the process worker of this home, started in the background when it does not run.

    The worker makes the work pool where there is none and leaves one that is there as it is. A worker that was started
    for another server or pool is replaced. Its flow runs see this process's environment. Raises Permanent when it
    does not come up.
    """
    folder = server_folder(home)
    with background.exclusively(folder, NAME, say):
        command = _command(pool)
        found = background.running(folder, NAME)
        if found is not None and found.address == server.url and found.arguments == tuple(command[1:]):
            return found
        background.stop(folder, NAME)
        return _start(folder, server, pool, command, say)


def stop_worker(home: Path) -> bool:
    """Stop the worker and the flow runs that it started; returns whether it was running.

    The flow runs end first, so that the worker can still tell the server that they crashed: otherwise they would count
    as running for ever, and take the place of the next run where a concurrency limit holds.
    """
    folder = server_folder(home)
    if not folder.exists():
        return False
    with background.exclusively(folder, NAME):
        _wait_for_reports(folder, background.stop_children(folder, NAME))
        return background.stop(folder, NAME)


def register_deployments(server: ServerInfo, project: Path, say: Say = silent) -> None:
    """Register every deployment of the project's prefect.yaml with the server; the same again changes nothing.

    The work pool must exist. Raises Permanent with the end of Prefect's output when that fails.
    """
    say("Registering the deployments of prefect.yaml.")
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    try:
        done = subprocess.run(
            command,
            cwd=project,
            env=server_environment(server),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=DEPLOY_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Permanent(f"`prefect deploy --all` took over {DEPLOY_PATIENCE:.0f} seconds.", "Try it again.") from error
    if done.returncode:
        end = "\n".join(done.stdout.strip().splitlines()[-12:])
        raise Permanent(f"The deployments of {project / 'prefect.yaml'} were not registered:\n{end}\n", "Correct them.")


def paused_mark(home: Path) -> Path:
    """Return the file that is there when `serve` may have left the deployments paused."""
    return server_folder(home) / "paused-by-serve"


def let_go_on(home: Path, server: ServerInfo) -> None:
    """Let the worker's deployments go on that the end of `serve` has paused: registering them again does not do it."""
    if not paused_mark(home).exists():
        return
    for deployment in get_json(f"{server.url}/deployments/filter", payload={}):
        if deployment["paused"] and deployment["work_pool_name"] == POOL:
            get_json(f"{server.url}/deployments/{deployment['id']}/resume_deployment", payload={})
    paused_mark(home).unlink()


def _command(pool: str) -> list[str]:
    start = ["worker", "start", "--pool", pool, "--type", "process", "--name", _worker_name()]
    return [sys.executable, "-m", "prefect", "--no-prompt", *start, "--install-policy", "never"]


def _worker_name() -> str:
    return f"pgferry on {platform.node() or 'this machine'}"


def _start(folder: Path, server: ServerInfo, pool: str, command: list[str], say: Say) -> Record:
    say(f"Starting a worker for the work pool {pool} in the background.")
    record = background.start(
        folder,
        NAME,
        command,
        environment=server_environment(
            server, {"HOME": str(folder), "PREFECT_WORKER_QUERY_SECONDS": "3", **os.environ}
        ),
        directory=Path.cwd(),
        address=server.url,
        version=installed_version("prefect"),
    )
    deadline = time.monotonic() + START_PATIENCE
    while background.is_alive(record) and time.monotonic() < deadline:
        if _is_online(server, pool):
            return record
        time.sleep(0.5)
    end = background.last_lines(folder, NAME)
    background.stop(folder, NAME)
    raise Permanent(
        f"The Prefect worker did not register with {shown(server.url)}. The end of its log:\n{end}\n",
        f"The whole log is {background.log_path(folder, NAME)}.",
    )


def _is_online(server: ServerInfo, pool: str) -> bool:
    try:
        workers = get_json(f"{server.url}/work_pools/{pool}/workers/filter", payload={})
    except FerryError:
        return False  # The pool may not be there yet.
    return any(worker["name"] == _worker_name() and worker["status"] == "ONLINE" for worker in workers)


def _wait_for_reports(folder: Path, ended: Collection[int]) -> None:
    record = background.running(folder, NAME)
    deadline = time.monotonic() + REPORT_PATIENCE
    while ended and record is not None and _in_work(record.address, ended) and time.monotonic() < deadline:
        time.sleep(0.5)


def _in_work(url: str, pids: Collection[int]) -> bool:
    """Say whether the server believes that one of these processes of this machine's worker has a flow run in work."""
    try:
        runs = get_json(f"{url}/flow_runs/filter", payload={"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}})
    except FerryError:
        return False
    pending = {run["infrastructure_pid"] for run in runs if run["labels"].get("prefect.worker.name") == _worker_name()}
    return not pending.isdisjoint(str(pid) for pid in pids)
