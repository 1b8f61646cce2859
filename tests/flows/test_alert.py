"""What is wrong starts the flow `alert` by the automations of prefect.yaml, and that tells a person."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flows.prefect_server import get_json
from pgferry.errors import UsageError
from tests.stack import Stack, call


def test_it_is_told_as_an_artifact_and_through_a_block(
    prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.blocks.abstract import NotificationBlock

    from flows.alert import alert

    class ToFile(NotificationBlock):
        """Writes what it is told to a file."""

        _block_type_slug = "to-file"
        path: str

        async def notify(self, body: str, subject: str | None = None) -> None:
            Path(self.path).write_text(f"{subject}\n{body}", "utf-8")

    ToFile(path=str(tmp_path / "told")).save("ops")
    state = alert("3 differences", "/srv/app.db", "abc", "to-file/ops", return_state=True)
    assert state.result()["subject"] == "pgferry: /srv/app.db: 3 differences"
    assert (tmp_path / "told").read_text("utf-8").startswith("pgferry: /srv/app.db: 3 differences\n## The validation")
    run = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
    (artifact,) = get_json(f"{prefect_api}/artifacts/filter", payload=run)
    assert (artifact["key"], "flow run `abc`" in artifact["data"]) == ("alert", True)
    with pytest.raises(UsageError, match="no block 'to-file/missing'"):
        alert("3 differences", block="to-file/missing")

    # The settings may name the block; each kind says what to do.
    monkeypatch.setenv("PGFERRY_ALERT_BLOCK", "to-file/ops")
    for kind, advice in (("breach", "flows monitor"), ("lag", "flows sync"), ("crash", "goes on where it was")):
        alert("it happened", "app.db", "abc", kind=kind)
        told = (tmp_path / "told").read_text("utf-8")
        assert told.startswith("pgferry: app.db: it happened\n## ")
        assert advice in told
    with pytest.raises(UsageError, match="no kind of alert 'other'"):
        alert("it happened", kind="other")


def event(name: str, **labels: str) -> dict[str, Any]:
    return {
        "occurred": datetime.now(UTC).isoformat(),
        "event": name,
        "id": str(uuid4()),
        "resource": {"prefect.resource.id": "pgferry.7", "prefect.resource.name": "/srv/app.db", **labels},
        "payload": {"summary": f"by {name}", "source": "/srv/app.db", "flow_run": "abc"},
    }


def crash(stack: Stack) -> str:
    """Let the server know of a flow run that crashed, as a worker does; returns its id."""
    (deployment,) = stack.ask("deployments", deployments={"name": {"any_": ["status"]}})
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2099-01-01T00:00:00Z"}}
    made = f"{stack.api}/deployments/{deployment['id']}/create_flow_run"
    run = call(made, "POST", {"name": "victim", "state": later})
    state = {"type": "CRASHED", "message": "killed"}
    call(f"{stack.api}/flow_runs/{run['id']}/set_state", "POST", {"state": state, "force": True})
    return str(run["id"])


def test_each_automation_starts_it_in_a_worker(stack: Stack) -> None:
    sent = [
        event("pgferry.validation.passed"),
        event("pgferry.validation.failed"),
        event("pgferry.monitor.breach", **{"pgferry.news": "again"}),
        event("pgferry.monitor.breach", **{"pgferry.news": "new"}),
        event("pgferry.lag.high", **{"pgferry.news": "new"}),
    ]
    call(f"{stack.api}/events", "POST", sent)
    crashed = crash(stack)
    about = {"source": "/srv/app.db", "found_by": "abc", "block": ""}
    expected = [
        {**about, "kind": "validation", "summary": "by pgferry.validation.failed"},
        {**about, "kind": "breach", "summary": "by pgferry.monitor.breach"},
        {**about, "kind": "lag", "summary": "by pgferry.lag.high"},
        {"kind": "crash", "summary": "The flow run victim crashed: killed", "found_by": crashed, "block": ""},
    ]
    deadline = time.monotonic() + 180
    while True:
        runs = stack.ask("flow_runs", deployments={"name": {"any_": ["alert"]}})
        mine = [run for run in runs if run["parameters"].get("found_by") in ("abc", crashed)]
        if len(mine) >= len(expected) and "COMPLETED" in [run["state"]["type"] for run in mine]:
            break
        assert time.monotonic() < deadline, runs
        time.sleep(0.5)
    assert {run["parameters"]["kind"]: run["parameters"] for run in mine} == {told["kind"]: told for told in expected}
    assert len(mine) == len(expected)
