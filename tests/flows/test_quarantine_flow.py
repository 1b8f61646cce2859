"""The quarantine from the command line's side: a move that keeps rows aside, a changed rule, a replay."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL
from typer.testing import CliRunner, Result

from flows.cli import app
from flows.prefect_server import get_json
from pgferry.finishing import NotAccepted
from pgferry.postgres.connection import connect

SOURCE = """
CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, at DATETIME, qty INTEGER);
INSERT INTO events VALUES (1, '2024-01-02 03:04:05', 1), (2, 1700000000, 2), (3, 1700000003, ''), (4, NULL, '');
"""
REVISION = """
from alembic import op
revision, down_revision = "1", None
def upgrade():
    op.execute("CREATE TABLE events (id bigint PRIMARY KEY, at timestamp, qty integer)")
"""
ENVIRONMENT = """
from alembic import context
context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
"""
EPOCH = '[tables.events.columns.at]\nepoch = "s"\n'
EMPTY = '[tables.events.columns.qty]\non_empty = "null"\n'


@dataclass(frozen=True)
class Place:
    """A source with rows that do not fit, in the folder that commands run in."""

    folder: Path
    target: URL
    api: str

    def command(self, *arguments: str) -> Result:
        """Run a command as a person does."""
        return CliRunner().invoke(app, ["quarantine", *arguments])

    def events(self) -> list[tuple[Any, ...]]:
        """Return what the target holds."""

        async def ask() -> list[tuple[Any, ...]]:
            connection = await connect(self.target)
            try:
                return [
                    tuple(row) for row in await connection.fetch("SELECT id, at::text, qty FROM events ORDER BY id")
                ]
            finally:
                await connection.close()

        return asyncio.run(ask())


@pytest.fixture(scope="module")
def place(
    prefect_api: str, new_database: Callable[[], URL], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("quarantine")
    (folder / "schema" / "versions").mkdir(parents=True)
    (folder / "schema" / "versions" / "1.py").write_text(REVISION)
    (folder / "schema" / "env.py").write_text(ENVIRONMENT)
    (folder / "alembic.ini").write_text(f"[alembic]\nscript_location = {folder}/schema\n")
    with closing(sqlite3.connect(folder / "app.db")) as source:
        source.executescript(SOURCE)
    found = Place(folder, new_database(), prefect_api)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in {
            "TARGET": found.target.render_as_string(hide_password=False),
            "SOURCE": "app.db",
            "HOME": str(folder / "home"),
        }.items():
            patch.setenv(f"PGFERRY_{name}", value)
        yield found


@pytest.fixture(scope="module")
def moved(place: Place) -> Place:
    from flows.migrate import migrate

    with pytest.raises(NotAccepted, match=r"quarantine list\. .* quarantine replay; or accept them"):
        migrate()
    assert place.events() == [(1, "2024-01-02 03:04:05", 1)]
    return place


def test_the_kept_rows_are_listed_and_exported_without_prefect(moved: Place) -> None:
    listed = moved.command("list", "--json", "--limit", "2")
    assert listed.exit_code == 0, listed.output
    seen = json.loads(listed.stdout)
    assert (seen["rows"], [entry["key"] for entry in seen["entries"]]) == (3, [[2], [3]])
    shown = moved.command("list", "--table", "events")
    assert "3 rows in quarantine" in shown.stdout
    assert "1700000003" in shown.stdout

    written = moved.command("export", "--format", "jsonl", "--json")
    assert written.exit_code == 0, written.output
    file = Path(json.loads(written.stdout)["path"])
    assert file.parent == moved.folder / "home" / "quarantine"
    assert [json.loads(line)["key"] for line in file.read_text().splitlines()] == [[2], [3], [4]]
    assert moved.command("export", "--format", "csv").exit_code == 2


def test_a_replay_is_recorded_and_ends_as_what_stays_is_judged(moved: Place) -> None:
    from flows.migrate import migrate
    from flows.quarantine import quarantine_replay

    rules = moved.folder / "pgferry.toml"
    rules.write_text(EPOCH)
    state = quarantine_replay(return_state=True)
    with pytest.raises(NotAccepted, match="1 rows were loaded from quarantine; still in it: 2 of events"):
        state.result()
    assert [row[0] for row in moved.events()] == [1, 2]

    rules.write_text(EPOCH + EMPTY)
    done = quarantine_replay(tables=["events"], return_state=True)
    result = done.result()

    assert (result["loaded"], result["kept"], result["complete"]) == (2, 0, True)
    assert moved.events() == [
        (1, "2024-01-02 03:04:05", 1),
        (2, "2023-11-14 22:13:20", 2),
        (3, "2023-11-14 22:13:23", None),
        (4, None, None),
    ]
    run = {"flow_runs": {"id": {"any_": [str(done.state_details.flow_run_id)]}}}
    (recorded,) = get_json(f"{moved.api}/flow_runs/filter", payload=run)
    assert recorded["name"].startswith("quarantine-replay app.db, ")
    (artifact,) = get_json(f"{moved.api}/artifacts/filter", payload=run)
    assert "| events | 2 | 2 | 0 |" in artifact["data"]

    again = migrate()
    assert (again["already_migrated"], again["complete"], again["tables"][0]["quarantined"]) == (True, True, 0)
    assert moved.command("list").stdout.startswith("Nothing is in quarantine")
