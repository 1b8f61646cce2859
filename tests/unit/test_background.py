"""Background processes are found again, told from others, and ended with what they started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from flows import background
from flows.background import Record
from pgferry.errors import Permanent

NAME = "sleeper"
SLEEP = "import time; print('awake', flush=True); time.sleep(60)"
PARENT = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); time.sleep(60)"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    background.stop(tmp_path, NAME)


def start(folder: Path, code: str = SLEEP) -> Record:
    with background.exclusively(folder, NAME):
        return background.start(
            folder, NAME, [sys.executable, "-c", code], environment=os.environ, directory=folder, address="here"
        )


def wait_for_log(folder: Path, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in background.last_lines(folder, NAME):
        assert time.monotonic() < deadline, background.last_lines(folder, NAME)
        time.sleep(0.02)


def test_a_started_process_is_found_again_with_its_address(folder: Path) -> None:
    assert background.running(folder, NAME) is None
    record = start(folder)
    assert background.running(folder, NAME) == record
    assert record.address == "here"
    wait_for_log(folder, "awake")


def test_it_has_its_own_session_and_none_of_this_process_files(folder: Path) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    record = start(folder)
    os.close(writer)
    assert os.getsid(record.pid) == record.pid
    assert os.read(reader, 1) == b""  # The end of the pipe: nobody else holds it open.
    os.close(reader)


@pytest.mark.parametrize(
    "other",
    [{"started_at": 1.0}, {"arguments": ("-c", "pass")}, {"pid": 2**22 + 1}],
    ids=["reused pid", "other command", "no such pid"],
)
def test_another_process_is_not_taken_for_it(folder: Path, other: dict[str, object]) -> None:
    record = start(folder)
    wait_for_log(folder, "awake")
    assert background.is_alive(record)
    assert not background.is_alive(replace(record, **other))  # type: ignore[arg-type]


def test_a_stale_record_of_another_process_stops_nothing(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEP], stdout=subprocess.DEVNULL) as bystander:
        background._write(folder, NAME, Record(bystander.pid, 1.0, ("-c", SLEEP), "", ""))
        assert not background.stop(folder, NAME)
        assert bystander.poll() is None
        bystander.kill()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": 1, "arguments": []}'])
def test_a_damaged_record_counts_as_none(folder: Path, text: str) -> None:
    (folder / f"{NAME}.json").write_text(text, "utf-8")
    assert background.read(folder, NAME) is None
    assert background.running(folder, NAME) is None


def test_a_killed_process_is_not_running_though_nobody_waited_for_it(folder: Path) -> None:
    record = start(folder)
    os.kill(record.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while background.is_alive(record):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert background.read(folder, NAME) == record


def test_stop_ends_the_process_and_what_it_started(folder: Path) -> None:
    record = start(folder, PARENT)
    wait_for_log(folder, "awake")
    (child,) = psutil.Process(record.pid).children()
    assert background.stop(folder, NAME)
    assert not background.is_alive(record)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert not background.stop(folder, NAME)


def test_stop_kills_a_process_that_ignores_the_request(folder: Path) -> None:
    record = start(folder, "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP)
    wait_for_log(folder, "awake")
    assert background.stop(folder, NAME, patience=0.2)
    assert not background.is_alive(record)


def test_children_can_be_ended_alone(folder: Path) -> None:
    record = start(folder, PARENT)
    wait_for_log(folder, "awake")
    (child,) = psutil.Process(record.pid).children()
    assert background.stop_children(folder, NAME) == [child.pid]
    assert background.is_alive(record)


def test_the_log_before_is_kept(folder: Path) -> None:
    for line in ("first", "second"):
        record = start(folder, f"print('{line}')")
        while background.is_alive(record):
            time.sleep(0.01)
    assert background.last_lines(folder, NAME) == "second"
    assert (folder / f"{NAME}.log.1").read_text("utf-8") == "first\n"


def test_only_one_holds_the_lock_and_the_other_says_that_it_waits(folder: Path) -> None:
    said: list[str] = []
    order: list[str] = []

    def second() -> None:
        with background.exclusively(folder, NAME, said.append):
            order.append("second")

    waiter = threading.Thread(target=second)
    with background.exclusively(folder, NAME):
        waiter.start()
        while not said:
            time.sleep(0.01)
        order.append("first")
    waiter.join(timeout=10)
    assert order == ["first", "second"]
    assert said == [f"Waiting for another command that is starting or stopping the {NAME}."]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with (
        pytest.raises(Permanent, match=r"file/home cannot be written.*PGFERRY_HOME"),
        background.exclusively(tmp_path / "file" / "home", NAME),
    ):
        pass


def test_the_preferred_port_is_taken_only_when_it_is_free() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert background.free_port(port) != port
    assert background.free_port(port) == port
