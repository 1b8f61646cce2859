"""Every kind of deployment by `prefect deployment run`, in a worker: the whole life of a move, by deployments."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

import pytest
import yaml
from dotenv import dotenv_values
from sqlalchemy.engine import URL, make_url

from flows.prefect_server import get_json
from tests.flows.live_place import Place, approve, assert_equal, listening, make_application, provisioned, settings_for
from tests.stack import ROOT, Stack

DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))["deployments"]
PATIENCE = 300.0

pytestmark = pytest.mark.timeout(1200)  # Much waits for much else, where a machine is busy.

PREFECT = """
import json, sys
from prefect.cli import app
for line in sys.stdin:
    sys.argv = ["prefect", *json.loads(line)]
    try:
        app()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    print(f"== {code}", flush=True)
"""
"""The command line of Prefect, kept loaded: its import takes longer than what it does."""


class Prefect:
    """Runs `prefect …`, one command after the other."""

    def __init__(self, stack: Stack) -> None:
        self._turn = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-c", PREFECT],
            cwd=ROOT,
            env=stack.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __call__(self, *arguments: str) -> str:
        """Return what the command printed; it must end well."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        said = ""
        with self._turn:
            print(json.dumps(arguments), file=self._process.stdin, flush=True)
            for line in self._process.stdout:
                if line.startswith("== "):
                    assert line == "== 0\n", said
                    return said
                said += line
        raise AssertionError(said)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


class Stopped(Exception):
    """What runs beside it has failed."""


class Told(BaseHTTPRequestHandler):
    """The application's health page, and where notifications are sent to."""

    said: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        self.said.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass
class Life:
    """What is run, and what came of it: the name of a deployment -> its flow run."""

    stack: Stack
    prefect: Prefect
    settings: dict[str, str]
    """Of every run."""
    place: Place
    urls: dict[str, str] = field(default_factory=dict)
    """Of the runs of the move: those that were provisioned."""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: threading.Event = field(default_factory=threading.Event)
    """Something has gone wrong: nothing more is waited for."""

    def run(self, kind: str, /, environment: dict[str, str] | None = None, **parameters: object) -> None:
        """Run a deployment to its end."""
        self.ended(kind, self.begin(kind, environment, **parameters))

    def begin(self, kind: str, environment: dict[str, str] | None = None, **parameters: object) -> str:
        """Run a deployment by the command line, and return the flow run's id."""
        given = [f"--param={name}={json.dumps(value)}" for name, value in parameters.items()]
        said = self.prefect("deployment", "run", f"{kind}/{kind}", *self.variables(environment), *given)
        return str(re.findall(r"UUID: (\S+)", said)[0])

    def variables(self, environment: dict[str, str] | None = None) -> tuple[str, str]:
        """Return the options by which a flow run gets the settings of this move, and not those of the worker."""
        given = self.urls if environment is None else environment
        return "--job-variable", f"env={json.dumps(self.settings | given)}"

    def ended(self, kind: str, run: str) -> None:
        """Wait until a flow run has ended, and keep it."""
        found = self.until(lambda: self._read(run), lambda found: found["state"]["type"] in ENDS)
        assert found["state"]["type"] == "COMPLETED", f"{kind}: {found['state']}\n{self.log(run)}"
        self.runs[kind] = found

    def paused(self, kind: str) -> str:
        """Wait until the run of the deployment waits for a person, and return its id."""
        query = {"deployments": {"name": {"any_": [kind]}}}
        found = self.until(
            lambda: self.stack.ask("flow_runs", **query),
            lambda found: found and found[0]["state"]["type"] in ("PAUSED", *ENDS),
        )[0]
        assert found["state"]["type"] == "PAUSED", f"{kind}: {found['state']}\n{self.log(found['id'])}"
        return str(found["id"])

    def approve(self, run: str) -> None:
        """Do what a person does in the Prefect UI."""
        approve(self.stack.api, str(self.place.target.database), run)

    def log(self, run: str) -> str:
        """Return what a flow run has logged."""
        lines = self.stack.ask("logs", logs={"flow_run_id": {"any_": [run]}})
        return "\n".join(line["message"] for line in lines)

    def artifacts(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the artifacts of a kind's run, by key."""
        found = self.stack.ask("artifacts", flow_runs={"id": {"any_": [self.runs[kind]["id"]]}})
        return {each["key"]: each for each in found if each["key"]}

    def until(self, ask: Callable[[], Any], well: Callable[[Any], bool]) -> Any:
        """Ask until the answer is well."""
        deadline = time.monotonic() + PATIENCE
        while not well(answer := ask()):
            assert time.monotonic() < deadline, answer
            if self.failed.wait(0.3):
                raise Stopped
        return answer

    def _read(self, run: str) -> Any:
        return get_json(f"{self.stack.api}/flow_runs/{run}")


ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@pytest.fixture(scope="module")
def life(
    stack: Stack,
    deployed_run: subprocess.CompletedProcess[str],
    server_url: URL,
    new_database: Callable[[], URL],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Life]:
    """All of it: what depends on each other one after the other, and beside it what does not."""
    assert deployed_run.returncode == 0, deployed_run.stdout + deployed_run.stderr
    folder = tmp_path_factory.mktemp("life")
    make_application(folder)
    rest(stack)
    with listening(Told) as port, provisioned(server_url, folder.name) as names:
        settings = settings_for(folder, port) | {
            "PGFERRY_ALEMBIC_CONFIG": str(folder / "alembic.ini"),
            "PGFERRY_BACKUP_TOOL": "none is needed here",
            "NO_PROXY": "127.0.0.1",
        }
        administrator = names | {"PGFERRY_ADMIN_URL": as_text(server_url)}
        target = server_url.set(database=names["PGFERRY_PROVISION_DATABASE"])
        made = Life(stack, Prefect(stack), settings, Place(folder, target, stack.api))
        notify(stack, port)
        try:
            with ThreadPoolExecutor(2) as chains:
                begun = [
                    chains.submit(a_move, made, administrator),
                    chains.submit(what_stands_alone, made, new_database()),
                ]
                _, waiting = wait(begun, return_when=FIRST_EXCEPTION)
                if waiting:
                    made.failed.set()
            for chain in sorted(begun, key=lambda chain: isinstance(chain.exception(), Stopped)):
                chain.result()
            (made.runs["migrate"],) = stack.ask("flow_runs", deployments={"name": {"any_": ["migrate"]}})
            yield made
        finally:
            made.prefect.end()


def a_move(life: Life, administrator: dict[str, str]) -> None:
    """From an empty server to PostgreSQL in front, and back."""
    place = life.place
    life.run("provision", administrator)
    made = dotenv_values(place.folder / "home" / "provision.env")
    life.urls = {name: str(made[name]) for name in ("PGFERRY_TARGET", "PGFERRY_APPLICATION_URL")}
    life.run("dual-write")
    place.sqlite("INSERT INTO items (name, active, price) VALUES ('oak', 0, 7.25)", "DELETE FROM notes WHERE n = 2")
    life.run("sync")
    life.run("validate")

    with ThreadPoolExecutor(1) as others:
        # The line of the runbook.
        line = ("prefect", "deployment", "run", "switch/switch", "--watch")
        watched = others.submit(life.stack.run, *line, *life.variables())
        switch = life.paused("switch")
        life.run("status")
        life.approve(switch)
        assert watched.result().returncode == 0, watched.result().stdout
    life.ended("switch", switch)

    place.postgres("INSERT INTO notes VALUES ('late', 9)")
    life.run("cleanup")
    rollback = life.begin("rollback")
    assert life.paused("rollback") == rollback
    life.approve(rollback)
    life.ended("rollback", rollback)


def what_stands_alone(life: Life, database: URL) -> None:
    """The deployments that need no move of their own, or that of the whole stack."""
    other = {"PGFERRY_TARGET": as_text(database)}
    life.run("schema-upgrade", other)
    life.run("preflight", other)
    life.run("plan", other)
    life.run("schema-downgrade", other, revision="base", confirm=str(database.database))
    life.run("monitor", other)
    life.run("export", {})
    life.run("alert", {}, summary="3 differences", source="app.db", block="custom-webhook/ops")
    theirs = {name: life.stack.environment[name] for name in ("PGFERRY_SOURCE", "PGFERRY_TARGET", "PGFERRY_HOME")}
    life.run("quarantine-replay", theirs)


def rest(stack: Stack) -> None:
    """Wait until nothing runs that a schedule had begun before they were switched off."""
    deadline = time.monotonic() + PATIENCE
    query = {"flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}}}
    while running := stack.ask("flow_runs", **query):
        assert time.monotonic() < deadline, running
        time.sleep(0.3)


def notify(stack: Stack, port: int) -> None:
    """Make a notification block in the stack's Prefect server."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: stack.api}):
        block = CustomWebhookNotificationBlock(
            name="ops", url=f"http://127.0.0.1:{port}/", json_data={"text": "{{subject}}: {{body}}"}
        )
        block.save("ops", overwrite=True)


def as_text(url: URL) -> str:
    return url.render_as_string(hide_password=False)


# ---------------------------------------------------------------- what came of it

ARTIFACTS = {
    "alert": "alert",
    "cleanup": "cleanup-gates",
    "dual-write": "migration",
    "export": "export",
    "migrate": "migration",
    "monitor": "monitor",
    "plan": "plan",
    "preflight": "preflight",
    "provision": "provision",
    "quarantine-replay": "quarantine",
    "rollback": "rollback",
    "schema-downgrade": "schema-change",
    "schema-upgrade": "schema-change",
    "status": "status",
    "switch": "switch",
    "sync": None,
    "validate": "validation",
}
"""The deployment -> the artifact that a person looks at after its run."""


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_it_runs_by_the_command_line_in_a_worker(life: Life, deployment: dict[str, Any]) -> None:
    run = life.runs[deployment["name"]]
    assert run["state"]["type"] == "COMPLETED"
    assert (run["work_pool_name"], run["infrastructure_pid"] is not None) == ("pgferry", True)
    assert set(deployment["tags"]) <= set(run["tags"])
    assert deployment["parameters"].keys() <= run["parameters"].keys()
    shown = ARTIFACTS[deployment["name"]]
    assert shown is None or shown in life.artifacts(deployment["name"])


@pytest.mark.parametrize("kind", ["switch", "rollback"])
def test_a_person_was_asked(life: Life, kind: str) -> None:
    states = get_json(f"{life.stack.api}/flow_run_states/?flow_run_id={life.runs[kind]['id']}")
    assert [state["type"] for state in states].count("PAUSED") == 1
    (paused,) = [state for state in states if state["type"] == "PAUSED"]
    assert paused["state_details"]["run_input_keyset"]["schema"].endswith("approval-schema")


def test_the_cleanup_only_said_what_it_would_remove(life: Life) -> None:
    assert "_pgferry" in str(life.artifacts("cleanup"))
    assert life.place.sqlite("SELECT count(*) FROM sqlite_schema WHERE name LIKE '%pgferry%'") != [(0,)]


def test_every_write_is_where_it_belongs(life: Life) -> None:
    phases = life.place.postgres("SELECT phase FROM pgferry.phase ORDER BY id")
    assert [phase for (phase,) in phases if phase in ("dual-write", "switched")] == [
        "dual-write",
        "switched",
        "dual-write",
    ]
    assert_equal(life.place)
    assert life.place.sqlite("SELECT body FROM notes WHERE n = 9") == [("late",)]
    assert life.place.restarts == 2


def test_the_notification_went_through_the_block(life: Life) -> None:
    assert life.runs["alert"]["parameters"]["block"] == "custom-webhook/ops"
    (told,) = [json.loads(said)["text"] for said in Told.said]
    assert told.startswith("pgferry: app.db: 3 differences: ## The validation of `app.db` failed")


def test_the_roles_of_the_move_are_those_that_were_provisioned(life: Life) -> None:
    assert make_url(life.urls["PGFERRY_TARGET"]).username == f"ferry_{life.place.folder.name}"
    application = make_url(dotenv_values(life.place.folder / "application.env")["DATABASE_URL"] or "")
    assert application.drivername == "sqlite+aiosqlite", "it is back in front"
    assert (f"app_{life.place.folder.name}",) in life.place.postgres("SELECT DISTINCT tableowner FROM pg_tables")
