"""The `migrate` flow, recorded by a real Prefect server, from the sample to a fresh database."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL

from flows.prefect_server import get_json
from pgferry.errors import FerryError, Permanent, UsageError
from pgferry.postgres.connection import connect
from pgferry.quoting import quote
from pgferry.sample.generate import generate

ROOT = Path(__file__).resolve().parents[2]
TRADES = 5_000
TABLES = ("items", "trades", "watchlist")


@dataclass(frozen=True)
class Place:
    """Where the flow runs: its source, its target, its home, and the server that records it."""

    source: Path
    target: URL
    home: Path
    api: str

    def runs(self, kind: str, **query: Any) -> Any:
        """Ask the Prefect API for `flow_runs`, `task_runs` or `artifacts`."""
        return get_json(f"{self.api}/{kind}/filter", payload=query)

    def task_runs(self, flow_run: str, enough: int = 1) -> list[dict[str, Any]]:
        """Return the task runs of a flow run when all of them are known to have ended: the server lags behind."""
        query = {"flow_runs": {"id": {"any_": [flow_run]}}}
        deadline = time.monotonic() + 180
        while True:
            found: list[dict[str, Any]] = self.runs("task_runs", **query)
            if len(found) >= enough and all(run["end_time"] for run in found):
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.2)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return what the target answers."""

        async def ask() -> list[tuple[Any, ...]]:
            connection = await connect(self.target)
            try:
                return [tuple(row) for row in await connection.fetch(query)]
            finally:
                await connection.close()

        return asyncio.run(ask())


@pytest.fixture(scope="module")
def place(
    prefect_api: str, new_database: Callable[[], URL], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("move")
    found = Place(folder / "osrs_tool_hub.db", new_database(), folder / "home", prefect_api)
    generate(found.source, TRADES, items=300)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings = {
            "TARGET": found.target.render_as_string(hide_password=False),
            "HOME": str(found.home),
            "ALEMBIC_CONFIG": str(ROOT / "alembic.ini"),
            "CHUNK_ROWS": "2000",
        }
        for name, value in settings.items():
            patch.setenv(f"PGFERRY_{name}", value)
        yield found


@dataclass(frozen=True)
class Run:
    id: str
    result: dict[str, Any]


@pytest.fixture(scope="module")
def run(place: Place) -> Run:
    """The first run."""
    return moved(place)


def attempt(place: Place, **parameters: Any) -> Any:
    """Run the flow and return its final state."""
    from flows.migrate import migrate

    return migrate(**{"source": str(place.source), **parameters}, return_state=True)


def moved(place: Place) -> Run:
    state = attempt(place)
    return Run(str(state.state_details.flow_run_id), state.result())


def test_every_row_is_moved_and_verified(place: Place, run: Run) -> None:
    with closing(sqlite3.connect(place.source)) as source:
        expected = {name: source.execute(f"SELECT count(*) FROM {quote(name)}").fetchone()[0] for name in TABLES}
    assert run.result["verified"] is True
    assert run.result["complete"] is True
    assert {table["table"]: table["loaded"] for table in run.result["tables"]} == expected
    assert all(table["differences"] == table["quarantined"] == 0 for table in run.result["tables"])
    assert {name: place.rows(f"SELECT count(*) FROM {quote(name)}")[0][0] for name in TABLES} == expected
    assert Path(run.result["backup"]["path"]).parent == place.home / "backups"


def test_the_flow_run_says_what_it_does_to_what(place: Place, run: Run) -> None:
    (found,) = place.runs("flow_runs", flow_runs={"id": {"any_": [run.id]}})
    assert found["name"].startswith(f"migrate osrs_tool_hub.db, {place.target.database} at ")
    assert str(place.target.password) not in found["name"]
    assert found["state"]["type"] == "COMPLETED"


def test_the_flow_run_is_named_after_the_settings_source_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGFERRY_SOURCE", str(place.source.with_name("absent.db")))
    state = attempt(place, source="")
    (found,) = place.runs("flow_runs", flow_runs={"id": {"any_": [str(state.state_details.flow_run_id)]}})
    assert found["name"].startswith("migrate absent.db, ")


def test_task_runs_say_table_and_chunk(place: Place, run: Run) -> None:
    names = {task["name"] for task in place.task_runs(run.id, enough=18)}
    assert {f"{step} trades {part}/3" for step in ("export", "load", "read back") for part in (1, 2, 3)} <= names
    assert {"judge trades", "back up osrs_tool_hub.db", "alembic upgrade head", "report"} <= names
    assert not [name for name in names if "{" in name or (name.rpartition("-")[2].isalnum() and "-" in name)]


def test_one_artifact_has_the_result_table(place: Place, run: Run) -> None:
    found = place.runs("artifacts", flow_runs={"id": {"any_": [run.id]}})
    (artifact,) = [each for each in found if each["type"] == "markdown"]
    assert artifact["key"] == "migration"
    assert "![Rows loaded per second](data:image/svg+xml;base64," in artifact["data"]
    table = next(table for table in run.result["tables"] if table["table"] == "trades")
    assert f"| trades | 5,000 | 5,000 | 0 | 0 | {table['cells_compared']:,} | 0 | equal |" in artifact["data"]


def test_progress_has_come_to_its_end(place: Place, run: Run) -> None:
    found = place.runs("artifacts", flow_runs={"id": {"any_": [run.id]}})
    told = {each["key"]: each for each in found if each["type"] == "progress"}
    assert {key: each["data"] for key, each in told.items()} == {"loading-all-tables": 100, "verifying-all-tables": 100}
    rows = sum(table["loaded"] for table in run.result["tables"])
    assert told["loading-all-tables"]["description"].startswith(f"Loading all tables: done, {rows:,} rows")


def test_a_second_run_touches_nothing(place: Place, run: Run) -> None:
    marks = "SELECT min(xmin::text::bigint), max(xmin::text::bigint), count(*) FROM "
    before = [place.rows(marks + quote(name)) for name in TABLES]
    again = moved(place)
    assert again.result["already_migrated"] is True
    assert again.result["run"] == run.result["run"]
    assert [place.rows(marks + quote(name)) for name in TABLES] == before
    assert [task["name"] for task in place.task_runs(again.id)] == ["open run"]


def test_a_source_that_is_no_database_fails_the_run_at_once(place: Place, tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("no database, although it is called one. " * 100, "utf-8")
    state = attempt(place, source=str(tmp_path / "notes.db"))
    with pytest.raises(FerryError, match=r"notes\.db"):
        state.result()
    identifier = str(state.state_details.flow_run_id)
    (found,) = place.runs("flow_runs", flow_runs={"id": {"any_": [identifier]}})
    assert found["state"]["type"] == "FAILED"
    assert all(task["run_count"] == 1 for task in place.task_runs(identifier))


def test_a_url_is_refused_as_a_parameter(place: Place) -> None:
    state = attempt(place, target="postgresql://somebody@127.0.0.1/app")
    with pytest.raises(Permanent, match="plain text"):
        state.result()


def test_a_target_may_be_a_secret_block(place: Place, run: Run) -> None:
    from prefect.blocks.system import Secret

    Secret(value=place.target.render_as_string(hide_password=False)).save("pgferry-target")
    again = attempt(place, target="secret/pgferry-target").result()
    assert (again["run"], again["already_migrated"]) == (run.result["run"], True)
    with pytest.raises(UsageError, match="no Prefect Secret block 'missing'"):
        attempt(place, target="secret/missing").result()


def test_a_failed_step_is_told_by_its_own_error(
    place: Place, new_database: Callable[[], URL], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by that of the step after it, which could not begin."""
    (tmp_path / "file").write_text("where a folder should be", "utf-8")
    monkeypatch.setenv("PGFERRY_STAGING", str(tmp_path / "file"))
    monkeypatch.setenv("PGFERRY_TARGET", new_database().render_as_string(hide_password=False))
    state = attempt(place)
    assert state.is_failed()
    with pytest.raises((FerryError, NotADirectoryError), match=str(tmp_path / "file")):
        state.result()
