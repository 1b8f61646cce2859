"""Passwords are nowhere but in the environment: looked for in everything that runs show, record and leave behind."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import uuid4

import psutil
import pyarrow.parquet as pq
import pytest
from sqlalchemy.engine import URL

from flows import background
from flows.prefect_server import NAME as SERVER
from flows.prefect_server import get_json, server_folder
from flows.prefect_worker import NAME as WORKER
from pgferry.quoting import qualified, quote
from tests.acceptance.moving import ask
from tests.flows.live_place import listening, make_application, provisioned, settings_for
from tests.stack import MARK, PASSWORD, Stack, run_migrate, running

pytestmark = pytest.mark.timeout(900)  # The first test waits for all that the others look at.

KINDS = ("flow_runs", "task_runs", "logs", "artifacts", "deployments", "events", "block_documents", "work_pools")
LEDGER = "SELECT relname::text AS name FROM pg_class WHERE relnamespace = 'pgferry'::regnamespace AND relkind = 'r'"


STAGED, GIVEN = "Qm4Kd90sWy", "Vb7Tn2cXpe"
"""Secrets of the staging area's store and of the roles that `provision` makes."""

RANDOM = 16
"""Characters of a password from which on it is not found by chance, as `postgres` would be."""

LIFE = """
import os
from flows.cleanup import cleanup
from flows.dual_write import dual_write
from flows.export import export
from flows.monitor import monitor
from flows.preflight import preflight
from flows.provision import provision
from flows.rollback import rollback
from flows.schema import schema_upgrade
from flows.status import status
from flows.switch import switch
from flows.sync import sync
from flows.validate import validate

TARGET = dict(target="LIVE_TARGET")
schema_upgrade(**TARGET)
preflight(**TARGET)
dual_write(**TARGET)
sync(**TARGET)
validate(**TARGET)
monitor(**TARGET)
switch(**TARGET)
status(**TARGET)
rollback(**TARGET)
export()
provision(env_file=os.environ["MADE"])
try:
    cleanup(**TARGET)
except Exception as error:
    print("refused:", error)
"""


def as_text(url: URL) -> str:
    return url.render_as_string(hide_password=False)


@dataclass
class Witness:
    """Looks at the command line of every process of the machine while something runs."""

    secrets: tuple[str, ...]
    found: set[str] = field(default_factory=set)
    looks: int = 0

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look again and again."""
        stop = Event()
        thread = Thread(target=self._look_until, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _look_until(self, stop: Event) -> None:
        while not stop.wait(0.05):
            for folder in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    self._look(folder)
            self.looks += 1

    def _look(self, folder: Path) -> None:
        line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        self.found.update(line for secret in self.secrets if secret in line)


@dataclass(frozen=True)
class Runs:
    """What ran, and what was seen meanwhile; `folder` is the application's."""

    done: dict[str, subprocess.CompletedProcess[str]]
    secrets: tuple[str, ...]
    witness: Witness
    folder: Path
    ledger: dict[str, list[str]]
    """What the life's ledger said at its end, by table."""

    def secret_in(self, text: str | bytes) -> bool:
        """Say whether a text has a secret in it."""
        content = text.encode() if isinstance(text, str) else text
        return any(secret.encode() in content for secret in self.secrets)


@pytest.fixture(scope="module")
def stack(server_url: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One of its own: other tests give URLs to their flow runs as job variables, which Prefect keeps."""
    with running(server_url, tmp_path_factory.mktemp("stack")) as begun:
        yield begun


@pytest.fixture(scope="module")
def deployed_run(stack: Stack) -> subprocess.CompletedProcess[str]:
    """The `migrate` deployment of this stack, run once."""
    return run_migrate(stack)


@pytest.fixture(scope="module")
def runs(
    stack: Stack,
    deployed_run: subprocess.CompletedProcess[str],
    server_url: URL,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Runs]:
    """Runs with all that --debug shows: of `migrate`, one that finds its work done and some that fail; a whole life."""
    folder, mark = tmp_path_factory.mktemp("application"), uuid4().hex[:8]
    make_application(folder)
    admin = str(server_url.password or "")
    secrets = (MARK, STAGED, GIVEN, *([admin] if len(admin) >= RANDOM else ()))
    live = stack.target.set(database=f"live_{mark}")
    with ExitStack() as opened:
        names = opened.enter_context(provisioned(server_url, mark))
        opened.callback(ask, server_url, f"DROP DATABASE IF EXISTS {quote(f'live_{mark}')} WITH (FORCE)")
        ask(server_url, f"CREATE DATABASE {quote(f'live_{mark}')} OWNER {quote(str(live.username))} TEMPLATE template0")
        witness = Witness(secrets)
        opened.enter_context(witness.looking())
        environment = {
            **settings_for(folder, opened.enter_context(listening())),
            **names,
            "PGFERRY_HOME": str(stack.home),
            "PGFERRY_ALEMBIC_CONFIG": str(folder / "alembic.ini"),
            "PGFERRY_RESTART_COMMAND": f"env > '{folder}/environment'",
            "PGFERRY_STAGING_OPTIONS": json.dumps({"secret": STAGED}),
            "PGFERRY_ADMIN_URL": as_text(server_url),
            "PGFERRY_APPLICATION_PASSWORD": f"{GIVEN}1",
            "PGFERRY_FERRY_PASSWORD": f"{GIVEN}2",
            "LIVE_TARGET": as_text(live),
            "MADE": str(folder / "provision.env"),
        }
        done = {"deployment": deployed_run, "life": stack.script(LIFE, **environment), **migrations(stack)}
        kept = ledger(live)
    yield Runs(done, secrets, witness, folder, kept)


def migrations(stack: Stack) -> dict[str, subprocess.CompletedProcess[str]]:
    """Run `migrate` where its work is done, and where it fails."""
    absent = as_text(stack.target.set(database="pgferry_is_not_there"))
    wrong = as_text(stack.target.set(password=f"{PASSWORD}!"))
    nobody = as_text(stack.target.set(username="pgferry_nobody"))
    command = ("flows", "migrate", "--debug")
    return {
        "again": stack.run(*command, "--json"),
        "no such database": stack.run(*command, "--target", absent),
        "wrong password": stack.run(*command, PGFERRY_TARGET=wrong),
        "no such user": stack.run(*command, PGFERRY_TARGET=nobody),
        "no database": stack.run(*command, PGFERRY_TARGET=as_text(stack.target).rpartition("/")[0]),
        "no port": stack.run(*command, PGFERRY_TARGET=f"postgresql://me:{MARK}@127.0.0.1:port/app"),
        # The command line finds these out before Prefect is reached; a flow run must not tell more than it does.
        "flow: no such database": stack.flow("ELSEWHERE", ELSEWHERE=absent),
        "flow: wrong password": stack.flow("ELSEWHERE", ELSEWHERE=wrong),
        "flow: no port": stack.flow("ELSEWHERE", ELSEWHERE=f"postgresql://me:{MARK}@127.0.0.1:port/app"),
    }


def test_the_runs_ended_as_they_should(runs: Runs) -> None:
    told = {name: (run.returncode, run.stderr) for name, run in runs.done.items()}
    assert (told["deployment"][0], told["again"][0], told["life"][0]) == (0, 0, 0), told
    assert json.loads(runs.done["again"].stdout)["already_migrated"] is True
    for name in ("no such database", "wrong password", "no such user"):
        assert told[name][0] == 1, told[name]
        assert "Traceback" in told[name][1], "it shows what --debug shows"
    assert (told["no database"][0], told["no port"][0]) == (2, 2)
    for name in ("flow: no such database", "flow: wrong password", "flow: no port"):
        assert told[name][0] == 1, told[name]


def test_no_output_has_the_password(stack: Stack, runs: Runs) -> None:
    assert not runs.secret_in(stack.said)
    assert [name for name, run in runs.done.items() if runs.secret_in(run.stdout + run.stderr)] == []


def test_the_prefect_api_tells_no_password(stack: Stack, runs: Runs) -> None:
    known = {kind: list(everything(stack, kind)) for kind in KINDS}
    assert len(known["flow_runs"]) >= 5
    assert all(known[kind] for kind in ("flow_runs", "task_runs", "logs", "artifacts", "deployments"))
    assert sum(run["state"]["type"] == "FAILED" for run in known["flow_runs"]) == 4, "those of migrate, and cleanup"
    assert "osrs_tool_hub" in json.dumps(known["flow_runs"])
    names = {run["name"].split()[0] for run in known["flow_runs"]}
    assert len(names) >= 10, names
    assert [kind for kind, answers in known.items() if runs.secret_in(json.dumps(answers))] == []


def test_no_file_below_the_home_has_the_password(stack: Stack, runs: Runs) -> None:
    files = [path for path in stack.home.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"prefect.db", "prefect-server.log", "prefect-worker.log"} <= names
    assert b"osrs_tool_hub" in b"".join(path.read_bytes() for path in files if path.name.startswith("prefect.db"))
    assert [str(path) for path in files if runs.secret_in(path.read_bytes())] == []


def test_no_parquet_file_has_the_password(stack: Stack, runs: Runs) -> None:
    files = list(stack.home.rglob("*.parquet"))
    assert files
    for path in files:
        with pq.ParquetFile(path) as file:
            assert not runs.secret_in(
                f"{file.metadata.metadata} {file.schema_arrow.metadata} {file.read().to_pydict()}"
            )


def test_the_ledger_has_no_password(stack: Stack, runs: Runs) -> None:
    moved = ledger(stack.target)
    assert {"run", "chunk"} <= set(moved)
    assert any("osrs_tool_hub" in text for text in moved["run"])
    assert {"metric", "validation", "phase"} <= {name for name, rows in runs.ledger.items() if rows}, runs.ledger.keys()
    assert [name for name, rows in [*moved.items(), *runs.ledger.items()] if runs.secret_in(str(rows))] == []


def test_the_process_list_shows_no_password(runs: Runs) -> None:
    assert runs.witness.looks > 10
    # What a person gives as an argument is there for all to see, and not by our doing.
    assert [line for line in runs.witness.found if " --target " not in line] == []


def test_only_those_have_passwords_in_their_environment_that_need_them(stack: Stack, runs: Runs) -> None:
    folder = server_folder(stack.home)
    server, worker = (psutil.Process(background.read(folder, name).pid) for name in (SERVER, WORKER))  # type: ignore[union-attr]
    assert MARK in str(worker.environ())
    for process in (server, *server.children(recursive=True)):
        assert not runs.secret_in(str(process.environ())), process.cmdline()
    # The application's restart command gets the target's, by the variables that this test has set.
    given = (runs.folder / "environment").read_text()
    assert MARK in given
    assert [secret for secret in runs.secrets[1:] if secret in given] == []


def test_what_is_written_for_a_person_is_for_its_owner_only(runs: Runs) -> None:
    ours = [path for path in runs.folder.rglob("*") if path.is_file() and path.name != "environment"]
    holding = [path for path in ours if runs.secret_in(path.read_bytes())]
    assert {path.name for path in holding} == {"application.env.before-rollback", "provision.env"}
    assert {path.stat().st_mode & 0o777 for path in holding} == {0o600}


def ledger(url: URL) -> dict[str, list[str]]:
    """Return the rows of all tables of pgferry's own schema, as text."""
    tables = [row["name"] for row in ask(url, LEDGER)]
    return {
        name: [row["text"] for row in ask(url, f"SELECT t::text AS text FROM {qualified('pgferry', name)} AS t")]
        for name in tables
    }


def everything(stack: Stack, kind: str) -> Iterator[dict[str, Any]]:
    """Yield all that the API has of a kind."""
    if kind == "events":
        page = stack.ask(kind, limit=50)
        while page["events"]:
            yield from page["events"]
            if not page["next_page"]:
                return
            page = get_json(page["next_page"])
        return
    offset = 0
    while page := stack.ask(kind, limit=200, offset=offset):
        yield from page
        offset += len(page)
