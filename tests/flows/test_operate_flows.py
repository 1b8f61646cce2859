"""Provisioning and the preflight from the command line's side, without and with a Prefect server."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from dotenv import dotenv_values
from sqlalchemy.engine import URL, make_url
from typer.testing import CliRunner, Result

from flows.cli import app
from flows.prefect_server import get_json
from pgferry.errors import Permanent
from pgferry.postgres.connection import connection
from pgferry.quoting import quote
from tests.pooler import pgbouncer

SOURCE = """
CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT);
INSERT INTO notes (body) VALUES ('one'), ('two');
"""


@dataclass(frozen=True)
class Place:
    """A source and an empty target, in the folder that commands run in."""

    folder: Path
    api: str

    def command(self, *arguments: str) -> Result:
        """Run a command as a person does."""
        return CliRunner().invoke(app, list(arguments))

    def recorded(self, kind: str, run: str) -> list[dict[str, Any]]:
        """Return what Prefect has kept of a flow run."""
        found: list[dict[str, Any]] = get_json(
            f"{self.api}/{kind}/filter", payload={"flow_runs": {"id": {"any_": [run]}}}
        )
        return found


@pytest.fixture(scope="module")
def place(
    prefect_api: str, new_database: Callable[[], URL], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("operate")
    with closing(sqlite3.connect(folder / "notes.db")) as source:
        source.executescript(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PGFERRY_TARGET", new_database().render_as_string(hide_password=False))
        patch.setenv("PGFERRY_SOURCE", "notes.db")
        patch.setenv("PGFERRY_HOME", str(folder / "home"))
        yield Place(folder, prefect_api)


@pytest.fixture
def site(place: Place, server_url: URL, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Names to provision, which are gone at the end."""
    mark = uuid4().hex[:10]
    names = {
        "PGFERRY_ADMIN_URL": server_url.render_as_string(hide_password=False),
        "PGFERRY_PROVISION_DATABASE": f"made_{mark}",
        "PGFERRY_APPLICATION_ROLE": f"app_{mark}",
        "PGFERRY_FERRY_ROLE": f"ferry_{mark}",
    }
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PGFERRY_HOME", str(place.folder / mark))
    yield names
    asyncio.run(_remove(server_url, names))


async def _remove(url: URL, names: dict[str, str]) -> None:
    async with connection(url) as admin:
        await admin.execute(f"DROP DATABASE IF EXISTS {quote(names['PGFERRY_PROVISION_DATABASE'])} WITH (FORCE)")
        for name in ("PGFERRY_FERRY_ROLE", "PGFERRY_APPLICATION_ROLE"):
            await admin.execute(f"DROP ROLE IF EXISTS {quote(names[name])}")


def secrets_of(path: Path, admin: str) -> list[str]:
    values = dotenv_values(path)
    passwords = [make_url(str(values[name])).password for name in ("PGFERRY_TARGET", "PGFERRY_APPLICATION_URL")]
    return [str(password) for password in (*passwords, make_url(admin).password) if password]


def test_provision_is_a_command_that_says_what_it_did(place: Place, site: dict[str, str]) -> None:
    first = place.command("provision", "--no-ui", "--env-file", "made.env", "--json")
    assert first.exit_code == 0, first.output
    told = json.loads(first.stdout)
    assert len(told["done"]) == 9
    assert told["env_file"] == str(place.folder / "made.env")
    again = place.command("provision", "--no-ui", "--env-file", "made.env")
    assert again.stdout.startswith("Nothing was to be done: all is there.")
    secrets = secrets_of(place.folder / "made.env", site["PGFERRY_ADMIN_URL"])
    assert len(secrets) >= 2
    assert not [secret for secret in secrets if secret in first.output + again.output]


def test_provision_is_a_flow_whose_record_holds_no_secret(place: Place, site: dict[str, str]) -> None:
    from flows.provision import provision

    state = provision(return_state=True)
    result = state.result()
    run = str(state.state_details.flow_run_id)
    (recorded,) = place.recorded("flow_runs", run)
    (artifact,) = place.recorded("artifacts", run)
    assert recorded["name"] == f"provision {site['PGFERRY_PROVISION_DATABASE']}"
    assert "made role" in artifact["data"]
    kept = f"{recorded} {artifact} {result} {place.recorded('logs', run)} {place.recorded('task_runs', run)}"
    secrets = secrets_of(Path(result["env_file"]), site["PGFERRY_ADMIN_URL"])
    assert not [secret for secret in secrets if secret in kept]


def test_provision_without_an_administrator_says_how(place: Place) -> None:
    done = place.command("provision", "--no-ui")
    assert done.exit_code == 2
    assert "PGFERRY_ADMIN_URL" in done.output


def test_preflight_is_a_command_that_ends_with_1_when_a_check_fails(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    well = place.command("preflight", "--no-ui", "--json")
    assert well.exit_code == 0, well.output
    assert json.loads(well.stdout)["passed"] is True
    monkeypatch.setenv("PGFERRY_POOL_SIZE", "10000")
    ill = place.command("preflight", "--no-ui", "--json")
    assert ill.exit_code == 1
    told = json.loads(ill.stdout)
    assert [check["name"] for check in told["checks"] if check["verdict"] == "fail"] == ["connections"]
    shown = place.command("preflight", "--no-ui")
    assert shown.exit_code == 1
    assert "FAIL" in shown.stdout
    assert "fail connections: Raise max_connections" in shown.stdout


def test_a_server_that_cannot_be_reached_is_a_check_that_fails(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    target = "postgresql://app:zx81secret@127.0.0.1:1/app"
    monkeypatch.setenv("PGFERRY_TARGET", target)  # What --target sets is undone with it.
    done = place.command("preflight", "--no-ui", "--json", "--target", target)
    assert done.exit_code == 1
    (server,) = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "server"]
    assert (server["verdict"], "Nothing accepts connections" in server["measured"]) == ("fail", True)
    assert "zx81secret" not in done.output


def test_preflight_is_a_flow_with_a_table_and_a_list(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.preflight import preflight

    done = preflight(return_state=True)
    assert done.result()["passed"] is True
    run = str(done.state_details.flow_run_id)
    (recorded,) = place.recorded("flow_runs", run)
    artifacts = {artifact["key"]: artifact for artifact in place.recorded("artifacts", run)}
    assert recorded["name"].startswith("preflight notes.db, ")
    assert artifacts["preflight"]["data"].startswith("## Preflight: ready (")
    assert len(json.loads(artifacts["preflight-checks"]["data"])) == len(done.result()["checks"])

    monkeypatch.setenv("PGFERRY_POOL_SIZE", "10000")
    state = preflight(return_state=True)
    with pytest.raises(Permanent, match="The preflight fails: connections: 10017 needed"):
        state.result()
    keys = {artifact["key"] for artifact in place.recorded("artifacts", str(state.state_details.flow_run_id))}
    assert keys >= {"preflight", "preflight-checks"}


def test_behind_a_pooler_that_shares_sessions_nothing_begins_and_the_preflight_says_why(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pgbouncer(make_url(os.environ["PGFERRY_TARGET"]), "transaction") as url:
        monkeypatch.setenv("PREFECT_API_URL", place.api)
        monkeypatch.setenv("PGFERRY_TARGET", url.render_as_string(hide_password=False))
        checked = place.command("preflight", "--no-ui", "--json")
        assert checked.exit_code == 1
        failed = [check for check in json.loads(checked.stdout)["checks"] if check["verdict"] == "fail"]
        assert [(check["name"], check["measured"]) for check in failed] == [
            ("connection pooler", "there is one, and it gives each transaction another session")
        ]
        for command in (("sync",), ("migrate", "--plan"), ("dual-write", "--plan"), ("monitor", "--no-keep")):
            refused = place.command(*command)
            assert refused.exit_code == 1, refused.output
            assert "a pooler gives each transaction another session" in refused.stderr
            assert "Let PGFERRY_TARGET name PostgreSQL itself" in refused.stderr
