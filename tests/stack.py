"""All of the project as a person has it running: Prefect server, worker, deployments, and a password to guard."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.engine import URL

from flows.prefect_server import get_json
from pgferry.postgres.connection import connect
from pgferry.quoting import literal, quote
from pgferry.sample.generate import generate

ROOT = Path(__file__).resolve().parents[1]
MARK = "Zx81qL7rVt"
"""The part of the password that is the same in a URL as outside of it."""
PASSWORD = f"%/{MARK}@$"
TRADES = 1_500
PATIENCE = 300.0


@dataclass(frozen=True)
class Stack:
    """What runs. `target` is the database that the worker moves to, by a role whose password is PASSWORD."""

    home: Path
    source: Path
    target: URL
    environment: dict[str, str]
    api: str
    said: str
    """What the command printed that started it all."""

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a module (`flows`, `prefect`) with arguments, as a person does in the project's folder."""
        return self._python("-m", *arguments, **environment)

    def flow(self, target: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the `migrate` flow itself, without the checks that the command line makes before Prefect is reached."""
        return self._python("-c", f"from flows.migrate import migrate; migrate(target={target!r})", **environment)

    def script(self, text: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program's text."""
        return self._python("-c", text, **environment)

    def _python(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=480,
            check=False,
            umask=0,  # What must not be open to others is not, whatever this says: test_files_are_private.
        )

    def ask(self, kind: str, **query: Any) -> Any:
        """Return what the Prefect API knows of `flow_runs`, `task_runs`, `logs`, …"""
        return get_json(f"{self.api}/{kind}/filter", payload=query)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return what the target answers."""
        return asyncio.run(_rows(self.target, query))


@contextmanager
def running(server_url: URL, folder: Path) -> Iterator[Stack]:
    """Start all of it, and stop it at the end."""
    target = server_url.set(username=_name(), password=PASSWORD, database=_name())
    generate(folder / "osrs_tool_hub.db", TRADES, items=200)
    asyncio.run(_execute(server_url, _creation(target)))
    environment = _environment(folder, target)
    begun = Stack(folder / "home", folder / "osrs_tool_hub.db", target, environment, "", "")
    try:
        up = begun.run("flows", "ui")
        assert up.returncode == 0, up.stderr
        (api,) = re.findall(r"PREFECT_API_URL=(\S+)", up.stdout)
        environment |= {"PREFECT_API_URL": api}
        _rest(api)
        yield Stack(begun.home, begun.source, target, environment, api, up.stdout + up.stderr)
    finally:
        down = begun.run("flows", "down")
        asyncio.run(_execute(server_url, _removal(target)))
    assert "Prefect worker, Prefect server" in down.stdout


@pytest.fixture(scope="session")
def stack(server_url: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Prefect's server and worker in a home of their own, with the project's deployments; one for all tests."""
    with running(server_url, tmp_path_factory.mktemp("stack")) as begun:
        yield begun


@pytest.fixture(scope="session")
def deployed_run(stack: Stack) -> subprocess.CompletedProcess[str]:
    """The `migrate` deployment, run once by the worker and watched to its end."""
    return run_migrate(stack)


def run_migrate(stack: Stack) -> subprocess.CompletedProcess[str]:
    """Run the `migrate` deployment by the worker, and watch it to its end."""
    return stack.run("prefect", "--no-prompt", "deployment", "run", "migrate/migrate", "--watch")


def _rest(api: str) -> None:
    """Switch the schedules off: what runs each minute would take a deployment's only place from a test."""
    for deployment in get_json(f"{api}/deployments/filter", payload={}):
        for schedule in deployment["schedules"]:
            call(f"{api}/deployments/{deployment['id']}/schedules/{schedule['id']}", "PATCH", {"active": False})


def call(url: str, method: str, payload: Any) -> Any:
    """Ask the Prefect API, past any proxy, and return its answer; a server that is busy is asked again."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return _call(url, method, payload)
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                raise
        time.sleep(0.5)


def _call(url: str, method: str, payload: Any) -> Any:
    request = urllib.request.Request(
        url, json.dumps(payload).encode(), {"Content-Type": "application/json"}, method=method
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        return json.loads(answer.read() or "null")


def _name() -> str:
    return f"pgferry_stack_{uuid4().hex[:12]}"


def _environment(folder: Path, target: URL) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PGFERRY_", "PREFECT_"))}
    return {
        **kept,
        "PGFERRY_HOME": str(folder / "home"),
        "PGFERRY_SOURCE": str(folder / "osrs_tool_hub.db"),
        "PGFERRY_TARGET": target.render_as_string(hide_password=False),
        "PREFECT_PROFILES_PATH": str(folder / "profiles.toml"),  # not those of this user
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "COLUMNS": "200",
    }


def _creation(target: URL) -> list[str]:
    role, database = quote(str(target.username)), quote(str(target.database))
    return [
        f"CREATE ROLE {role} LOGIN PASSWORD {literal(PASSWORD)}",
        f"CREATE DATABASE {database} OWNER {role} TEMPLATE template0 ENCODING 'UTF8'",
    ]


def _removal(target: URL) -> list[str]:
    return [
        f"DROP DATABASE IF EXISTS {quote(str(target.database))} WITH (FORCE)",
        f"DROP ROLE IF EXISTS {quote(str(target.username))}",
    ]


async def _execute(url: URL, statements: Sequence[str]) -> None:
    connection = await connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _rows(url: URL, query: str) -> list[tuple[Any, ...]]:
    connection = await connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()
