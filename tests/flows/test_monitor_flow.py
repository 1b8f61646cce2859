"""The monitor as a flow and as a command: artifacts, an event for each breach, and numbers that are kept."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL
from typer.testing import CliRunner

from flows.cli import app
from flows.prefect_server import get_json
from pgferry.errors import UsageError
from pgferry.postgres.connection import connection


@pytest.fixture
def watched(new_database: Callable[[], URL], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> URL:
    """An empty database that the settings name, and a threshold that it crosses."""
    url = new_database()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGFERRY_TARGET", url.render_as_string(hide_password=False))
    monkeypatch.setenv("PGFERRY_MONITOR_CONNECTIONS_PERCENT", "0.1")
    return url


def rows(url: URL, query: str) -> list[tuple[Any, ...]]:
    async def ask() -> list[tuple[Any, ...]]:
        async with connection(url) as opened:
            return [tuple(row) for row in await opened.fetch(query)]

    return asyncio.run(ask())


def events(api: str, flow_run: str) -> list[dict[str, Any]]:
    """Return the events that a flow run told of breaches; they take a moment to arrive."""
    wanted = {"filter": {"event": {"name": ["pgferry.monitor.breach"]}, "order": "ASC"}}
    for _ in range(100):
        found = get_json(f"{api}/events/filter", payload=wanted)["events"]
        mine = [event for event in found if event["payload"]["flow_run"] == flow_run]
        if mine:
            return mine
        time.sleep(0.1)
    raise AssertionError("no event came")


def test_a_breach_is_shown_and_told_and_the_run_is_completed(prefect_api: str, watched: URL) -> None:
    from flows.monitor import monitor

    for news in ("new", "again"):
        state = monitor(return_state=True)
        run = str(state.state_details.flow_run_id)
        assert state.is_completed()
        (event,) = events(prefect_api, run)
        assert event["resource"]["pgferry.news"] == news
        assert event["payload"]["summary"].endswith("allowed are 0.1 %.")
        assert event["payload"]["setting"] == "PGFERRY_MONITOR_CONNECTIONS_PERCENT"
    found = get_json(f"{prefect_api}/artifacts/filter", payload={"flow_runs": {"id": {"any_": [run]}}})
    artifacts = {artifact["key"]: artifact for artifact in found}
    assert artifacts.keys() >= {"monitor", "monitor-connections"}
    assert artifacts["monitor"]["data"].count("](data:image/svg+xml;base64,") == 3
    assert artifacts["monitor"]["description"] == f"{watched.database}: connections"
    assert str(watched.password) not in json.dumps(found)
    assert rows(watched, "SELECT count(DISTINCT at) FROM pgferry.metric") == [(2,)]
    assert get_json(f"{prefect_api}/flow_runs/{run}")["name"].startswith(f"monitor {watched.database} at ")


def test_where_nothing_is_watched_a_scheduled_run_says_so(
    prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.monitor import monitor

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PGFERRY_TARGET", raising=False)
    state = monitor(scheduled=True, return_state=True)
    assert state.is_completed()
    assert str(state.message).startswith("Nothing to watch. No target is named")
    with pytest.raises(UsageError, match="No target is named"):
        monitor()


def test_the_command_shows_breaches_and_ends_with_zero(watched: URL) -> None:
    shown = CliRunner().invoke(app, ["monitor"])
    assert shown.exit_code == 0, shown.output
    assert f"Database {watched.database} at " in shown.stdout
    assert "BREACH:" in shown.stdout
    told = CliRunner().invoke(app, ["monitor", "--json", "--no-keep"])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert [breach["name"] for breach in found["breaches"]] == ["connections"]
    assert found["notes"][-1] == "The numbers are not kept, as was asked."
    assert rows(watched, "SELECT count(DISTINCT at) FROM pgferry.metric") == [(1,)]


def test_old_artifacts_are_forgotten(prefect_api: str, watched: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.monitor import monitor

    def kept() -> set[str]:
        found = get_json(f"{prefect_api}/artifacts/filter", payload={"artifacts": {"key": {"like_": "monitor%"}}})
        return {each["flow_run_id"] for each in found}

    first = str(monitor(return_state=True).state_details.flow_run_id)
    assert first in kept()
    monkeypatch.setenv("PGFERRY_ARTIFACT_DAYS", "0.0000001")
    monitor()
    monitor()
    assert first not in kept()
    assert watched.database
