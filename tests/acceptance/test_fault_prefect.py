"""The Prefect server is away while the command works: the data are right, and the command ends as it should."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from flows.prefect_server import ensure_server, get_json, running_server
from tests.acceptance.victim import Place, Victim


def server_processes(home: Path) -> list[psutil.Process]:
    """Return the processes of the Prefect server."""
    server = running_server(home)
    assert server is not None
    assert server.pid is not None
    first = psutil.Process(server.pid)
    return [first, *first.children(recursive=True)]


def send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def runs_on_while(victim: Victim, step: str, away: Callable[[], None]) -> str:
    """Start the command, let the Prefect server be away when a step begins, and return what it said till its end."""
    said = []
    with victim.running() as process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if line.startswith(step):
                away()
                step = "\0"
        code = process.wait(300)
    assert code == 0, "".join(said)
    return "".join(said)


def test_a_prefect_server_that_hangs_for_some_seconds_is_waited_for(
    place: Place, prefect_server: str, prefect_home: Path
) -> None:
    processes = server_processes(prefect_home)

    def hang() -> None:
        send(processes, signal.SIGSTOP)
        try:
            time.sleep(8)
        finally:
            send(processes, signal.SIGCONT)

    victim = place.victim()
    runs_on_while(victim, "export and load", hang)
    victim.assert_like_undisturbed()
    latest = get_json(f"{prefect_server}/flow_runs/filter", payload={"sort": "START_TIME_DESC", "limit": 1})
    assert latest[0]["state"]["type"] == "COMPLETED"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("step", ["back up", "export and load", "build indexes and verify"])
def test_a_prefect_server_that_is_killed_and_back_after_a_minute(
    step: str, place: Place, prefect_server: str, prefect_home: Path
) -> None:
    def die() -> None:
        send(server_processes(prefect_home), signal.SIGKILL)
        time.sleep(45)
        assert ensure_server(prefect_home).url == prefect_server

    victim = place.victim()
    runs_on_while(victim, step, die)
    victim.assert_like_undisturbed()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_prefect_server_that_stays_away_is_named_and_the_next_run_finishes(
    place: Place, prefect_server: str, prefect_home: Path
) -> None:
    victim = place.victim()
    try:
        with victim.running() as process:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if line.startswith("export and load"):
                    send(server_processes(prefect_home), signal.SIGKILL)
            code = process.wait(900)
        error = next(line for line in said if line.startswith("Error: "))
        assert code == 1
        assert f"The Prefect server at {prefect_server} does not answer any more" in error
        assert "run the same command again" in error
        victim.wait_until_alone()
        victim.assert_rows_are_those_of_the_ledger()
    finally:
        assert ensure_server(prefect_home).url == prefect_server
    # The move itself may have come to its end; then there is nothing left to do.
    again = victim.migrate()
    assert again.returncode == 0, again.stderr
    victim.assert_like_undisturbed()
