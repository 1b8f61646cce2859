"""The commands of the move without downtime, as a person runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.flows.live_place import Health, Place, assert_equal, make_place, plant

__all__ = ["make_place"]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(make_place: Callable[[], Place]) -> Iterator[Place]:
    """An application, and a Prefect server that commands find by the environment."""
    found = make_place()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", found.api)
        patch.setenv("COLUMNS", "200")
        yield found


def answer(done: Result, code: int = 0) -> Any:
    """Return the JSON that a command printed."""
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_every_command_says_first_what_is_missing(place: Place) -> None:
    for command in ("sync", "validate", "switch", "rollback", "cleanup", "status"):
        confirmed = ("--confirm", str(place.target.database)) if command == "cleanup" else ()
        done = place.command(command, *confirmed)
        assert done.exit_code == 2, done.output
        assert "python -m flows dual-write" in done.stderr
        assert "Traceback" not in done.output


def test_options_that_do_not_go_together_are_refused(place: Place) -> None:
    for arguments, said in [
        (("dual-write", "--undo", "--resume"), "--resume and --undo"),
        (("dual-write", "--restart", "--confirm", "postgres"), f"--restart --confirm {place.target.database}"),
        (("rollback", "--emergency", "--carry"), "--emergency and --carry"),
        (("rollback", "--prefer", "postgres"), "--prefer goes with --carry"),
        (("rollback", "--carry", "--prefer", "mine"), "--prefer postgres or --prefer sqlite"),
        (("validate", "--level", "most"), "counts, sample, cells"),
        (("switch", "--approve", "--no-ui"), "Leave out --no-ui"),
        (("cleanup",), f"--confirm {place.target.database}"),
    ]:
        done = place.command(*arguments)
        assert done.exit_code == 2, done.output
        assert said in done.stderr


def test_dual_write_prints_what_it_did(place: Place) -> None:
    done = place.command("dual-write")
    assert done.exit_code == 0, done.output
    assert "SQLite to PostgreSQL: 0 rows written" in done.stdout
    assert f"Run:      {place.api.removesuffix('/api')}/runs/flow-run/" in done.stdout
    again = answer(place.command("dual-write", "--json"))
    assert (again["phase"], again["report"]["already_migrated"]) == ("dual-write", True)


def test_status_answers_without_prefect(place: Place) -> None:
    code = (
        "import sys; from flows.cli import app; app(['status', '--json'], standalone_mode=False); "
        "sys.exit(', '.join({'prefect', 'alembic', 'pandas'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert (seen["phase"], seen["lag_rows"], seen["fenced"]) == ("dual-write", 0, False)
    assert seen["next"].startswith("Run `python -m flows validate`")
    shown = place.command("status").stdout
    assert "dual-write since" in shown
    assert "validations passed" in shown


def test_differences_end_with_exit_code_3(place: Place) -> None:
    plant(place, "UPDATE items SET name = 'ruin' WHERE id = 1")
    done = place.command("validate")
    assert done.exit_code == 3, done.output
    assert "Differs: items id=1 name: 'rune' / 'ruin'" in done.stdout
    assert "1 differences between SQLite and PostgreSQL" in done.stderr
    counts = answer(place.command("validate", "--level", "counts", "--json"))
    assert (counts["passed"], counts["cells"]) == (True, 0)
    mended = answer(place.command("validate", "--repair", "--json"))
    assert (mended["passed"], mended["repaired"]["tables"]) == (True, {"items": 1})


def test_sync_follows_until_it_is_stopped(place: Place) -> None:
    command = [sys.executable, "-m", "flows", "sync", "--follow", "--json"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        try:
            arrives(place, "first", patience=240)
            arrives(place, "second", patience=60)
            running.send_signal(signal.SIGINT)
            out, err = running.communicate(timeout=120)
        finally:
            running.kill()
    assert running.returncode == 0, err.decode()
    assert json.loads(out)["carried"]["rows"] == 2
    assert_equal(place)


def arrives(place: Place, body: str, patience: float) -> None:
    """Write a row to SQLite, and wait until PostgreSQL has it."""
    place.sqlite(f"INSERT INTO notes VALUES ('{body}', 1)")
    deadline = time.monotonic() + patience
    while not place.postgres(f"SELECT 1 FROM notes WHERE body = '{body}'"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    "ended_by", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_a_switch_that_is_interrupted_leaves_the_application_where_it_was(
    place: Place, monkeypatch: pytest.MonkeyPatch, ended_by: signal.Signals
) -> None:
    """While it waits for the application to become healthy: PostgreSQL is captured, and .env names it already."""
    answer(place.command("dual-write", "--json"))  # changes nothing where the tests before have begun it
    answer(place.command("validate", "--json"))
    monkeypatch.setattr(Health, "status", 503)
    # Longer than anything here is waited for: a signal that is lost must fail the test.
    before = {**environment(), "PGFERRY_HEALTH_TIMEOUT": "600"}
    command, restarts = [sys.executable, "-m", "flows", "switch", "--json"], place.restarts
    with subprocess.Popen(command, env=before, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        try:
            restarted(place, running, restarts + 1)
            place.postgres("INSERT INTO notes VALUES ('between', 5)")
            running.send_signal(ended_by)
            if ended_by is not signal.SIGKILL:
                restarted(place, running, restarts + 2)
                monkeypatch.setattr(Health, "status", 200)  # Where it is put back, it is healthy.
            running.wait(240)
        finally:
            running.kill()
    assert running.returncode != 0
    monkeypatch.setattr(Health, "status", 200)
    if ended_by is signal.SIGKILL:
        assert place.phase == "switching"
        assert answer(place.command("sync", "--json"))["phase"] == "dual-write"
    assert place.phase == "dual-write"
    assert "DATABASE_URL=sqlite" in place.env
    assert place.restarts == restarts + 2
    assert place.sqlite("DELETE FROM notes WHERE n = 5 RETURNING body") == [("between",)]
    answer(place.command("sync", "--json"))
    assert_equal(place)


def restarted(place: Place, running: subprocess.Popen[bytes], times: int) -> None:
    """Wait until the application was restarted that many times."""
    deadline = time.monotonic() + 240
    while place.restarts < times:
        assert time.monotonic() < deadline
        assert running.poll() is None, running.communicate()
        time.sleep(0.1)


def test_dual_write_can_be_left(place: Place) -> None:
    place.sqlite("VACUUM")
    assert "renumbered by VACUUM" in place.command("sync").stderr
    left = answer(place.command("dual-write", "--undo", "--json"))
    assert left["phase"] == "none"
    assert place.sqlite("SELECT count(*) FROM sqlite_schema WHERE name LIKE '%pgferry%'") == [(0,)]
    assert "Begin anew" in place.command("dual-write").stderr
    anew = answer(place.command("dual-write", "--restart", "--confirm", str(place.target.database), "--json"))
    assert (anew["phase"], anew["report"]["already_migrated"]) == ("dual-write", False)
    assert_equal(place)


def environment() -> dict[str, str]:
    """Return the environment of a command that runs by itself."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}
