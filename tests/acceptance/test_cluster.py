"""`migrate` with its tasks in the processes of a Dask cluster, and with its files in an S3-compatible store."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import psutil
import pytest
from sqlalchemy.engine import URL

from flows.prefect_server import get_json
from pgferry.sample.generate import generate
from tests.acceptance.independent import differences
from tests.acceptance.moving import ROOT, ask, command, environment, kill, migrate
from tests.stores import BUCKET, SECRET, Store

# Each move starts processes that import Prefect: on a busy machine that alone takes a minute.
pytestmark = pytest.mark.timeout(1200)

TRADES = 9_000
LOADED = "SELECT source_table, number FROM pgferry.chunk WHERE loaded_at IS NOT NULL"


@dataclass(frozen=True)
class Place:
    """A source of its own, an empty target, and the environment of a process that moves the one to the other."""

    source: Path
    target: URL
    env: dict[str, str]
    api: str

    def lines(self) -> list[str]:
        """Return what the tasks of this source's runs have written into Prefect's log, in no order."""
        query = {"flow_runs": {"name": {"like_": self.source.name}}}
        runs = get_json(f"{self.api}/flow_runs/filter", payload=query)
        logs = {"flow_run_id": {"any_": [run["id"] for run in runs]}}
        found: list[str] = []
        while page := get_json(f"{self.api}/logs/filter", payload={"logs": logs, "offset": len(found), "limit": 200}):
            found += [line["message"] for line in page]
        return found


@pytest.fixture
def place(prefect_server: str, new_database: Callable[[], URL], tmp_path: Path) -> Callable[..., Place]:
    """A factory of places; settings are given by name."""

    def make(**settings: str) -> Place:
        source = tmp_path / f"cluster_{uuid4().hex[:8]}.db"
        generate(source, TRADES, items=100)
        target = new_database()
        config = {"PGFERRY_ALEMBIC_CONFIG": str(ROOT / "alembic.ini"), "PGFERRY_CHUNK_ROWS": "2000", **settings}
        env = environment(target, tmp_path / "home", PREFECT_API_URL=prefect_server, **config)
        return Place(source, target, env, prefect_server)

    return make


def workers_of(lines: list[str], work: str) -> set[str]:
    """Return the processes that tell of having done some work: `rows loaded`, `MB of Parquet`, `byte for byte`."""
    return {found[1] for line in lines if work in line and (found := re.search(r" By (\S+:\d+)\.$", line))}


def until(condition: Callable[[], Any], seconds: float = 300) -> Any:
    """Wait until something holds, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, condition
        time.sleep(0.1)
    return found


def test_two_processes_move_a_database_by_way_of_an_s3_store(place: Callable[..., Place], store: Store) -> None:
    options = {"endpoint_url": store.url, "key": "AKIAABCDEFGHIJKLMNOP", "secret": SECRET}
    staging = {"PGFERRY_STAGING": f"s3://{BUCKET}/moves", "PGFERRY_STAGING_OPTIONS": json.dumps(options)}
    here = place(PGFERRY_TASK_RUNNER="dask", **staging)
    ended = migrate("--source", here.source, "--json", env=here.env, cwd=here.source.parent, seconds=600)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["verified"] is True
    assert asyncio.run(differences(here.source, here.target)) == []

    chunks = len(ask(here.target, LOADED))
    keys = store.keys(f"moves/run-{report['run']}-")
    assert (
        sum(key.endswith(".parquet") for key in keys) == sum(key.endswith(".json") for key in keys) == chunks == 5 + 2
    )
    assert store.uploads() == []
    assert not any((here.source.parent / "home" / "staging").glob("**/*.parquet"))

    for work in ("MB of Parquet", "rows loaded"):
        found = until(lambda work=work: len(told := workers_of(here.lines(), work)) >= 2 and told)
        assert str(os.getpid()) not in str(found)
    told = ended.stdout + ended.stderr + "".join(here.lines()) + "".join(map(str, ask(here.target, EVERYTHING)))
    assert SECRET not in told
    assert not [key for key in keys if SECRET.encode() in store.get(key)]


EVERYTHING = "SELECT to_jsonb(r)::text FROM pgferry.run r UNION ALL SELECT to_jsonb(c)::text FROM pgferry.chunk c"


def test_a_process_of_the_cluster_is_killed_in_the_midst(place: Callable[..., Place]) -> None:
    here = place(PGFERRY_TASK_RUNNER="dask", PGFERRY_CHUNK_ROWS="600")
    with subprocess.Popen(
        command("--source", here.source, "--json"),
        env=here.env,
        cwd=here.source.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            until(lambda: loaded(here.target))
            before = len(loaded(here.target))
            victim = workers(process)[0]
            victim.send_signal(signal.SIGKILL)
            out, err = process.communicate(timeout=600)
        except BaseException:
            kill(process)
            raise
    if process.returncode != 0:
        assert "the same command again" in err
        again = migrate("--source", here.source, "--json", env=here.env, cwd=here.source.parent, seconds=600)
        assert again.returncode == 0, again.stderr
        out = again.stdout
    report = json.loads(out)
    assert 0 < before < len(loaded(here.target)) == 15 + 2
    assert report["verified"] is True
    assert asyncio.run(differences(here.source, here.target)) == []


def loaded(target: URL) -> list[asyncpg.Record]:
    """Return the chunks that the ledger has as loaded; none before there is a ledger."""
    return ask(target, LOADED) if ask(target, "SELECT 1 WHERE to_regclass('pgferry.chunk') IS NOT NULL") else []


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the cluster's processes."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"PGFERRY_STAGING": "memory://here"}, "memory://here is the memory of one process"),
        ({"PGFERRY_TARGET": None, "PGFERRY_TASK_RUNNER_ADDRESS": "tcp://127.0.0.1:1"}, "cannot reach the embedded"),
        ({"PGFERRY_TASK_RUNNER_ADDRESS": "tcp://127.0.0.1:1"}, "the cluster at tcp://127.0.0.1:1 does not answer"),
    ],
)
def test_what_a_cluster_cannot_do_is_told(
    place: Callable[..., Place], settings: dict[str, str | None], words: str
) -> None:
    here = place(PGFERRY_TASK_RUNNER="dask", DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="2s")
    env = {name: value for name, value in {**here.env, **settings}.items() if value is not None}
    ended = migrate("--source", here.source, env=env, cwd=here.source.parent)
    assert ended.returncode in (1, 2)
    assert words.lower() in ended.stderr.lower()
    assert "not foreseen" not in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(find_spec("prefect_ray") is None, reason="the extra pgferry[ray] is not installed")
def test_ray_moves_a_database(place: Callable[..., Place]) -> None:
    here = place(PGFERRY_TASK_RUNNER="ray")
    ended = migrate("--source", here.source, "--json", env=here.env, cwd=here.source.parent, seconds=600)
    assert ended.returncode == 0, ended.stderr
    assert asyncio.run(differences(here.source, here.target)) == []
    assert len(until(lambda: workers_of(here.lines(), "MB of Parquet"))) >= 1
