"""Processes that outlive the command that started them: found again by a record of what was started, and never two.

A process NAME has three files in its folder: `NAME.json` (the record), `NAME.log` (its output; `NAME.log.1` is the
one before) and `NAME.lock`. The record stays after a stop: a record alone never means that the process runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import psutil

from pgferry.errors import Permanent
from pgferry.private import make_folder, opener, write_text

Say = Callable[[str], None]
"""Takes one line of progress for a person."""

LOCK_PATIENCE = 300.0
"""Seconds to wait for another command that starts or stops the same process; a start may take minutes."""
STOP_PATIENCE = 20.0
"""Seconds that a process gets to end by itself before it is killed."""
CHILD_PATIENCE = 5.0
"""The same for the processes that it started."""
CLOCK_TOLERANCE = 2.0
"""Seconds by which two readings of one process's start time may differ when the clock was set in between."""


@dataclass(frozen=True, slots=True)
class Record:
    """A process that was started: what tells it from another that got its pid later, and what it serves or uses."""

    pid: int
    started_at: float
    """Seconds since the epoch, as the operating system tells it."""
    arguments: tuple[str, ...]
    """The command line after the program."""
    address: str
    version: str


def silent(_line: str) -> None:
    """Say nothing."""


@contextlib.contextmanager
def exclusively(folder: Path, name: str, say: Say = silent) -> Iterator[None]:
    """Hold the lock of NAME, so that only one command at a time starts or stops it.

    Creates the folder. Waits for another holder, which it says; raises Permanent when that takes too long or when
    the folder cannot be written. The lock ends with this process, however it ends.
    """
    with _open_lock(folder, name) as lock:
        if not _try_lock(lock):
            say(f"Waiting for another command that is starting or stopping the {name}.")
            _wait_for_lock(lock, name)
        yield


def read(folder: Path, name: str) -> Record | None:
    """Return the record of NAME, running or not; None when there is none, or none that can be read."""
    try:
        values = json.loads((folder / f"{name}.json").read_text("utf-8"))
        return Record(**{**values, "arguments": tuple(values["arguments"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def running(folder: Path, name: str) -> Record | None:
    """Return the record of NAME if that very process runs now."""
    record = read(folder, name)
    return record if record is not None and is_alive(record) else None


def is_alive(record: Record) -> bool:
    """Say whether the recorded process runs, and its pid was not given to another one meanwhile."""
    return _process(record) is not None


def start(
    folder: Path,
    name: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: Path,
    address: str = "",
    version: str = "",
) -> Record:
    """Start NAME detached and record it; call it while holding `exclusively`.

    The process has a session of its own, no input, the log as output and no other open file, so that neither a pipe
    that reads this command's output nor a Ctrl-C in this terminal has to do with it.
    """
    log = log_path(folder, name)
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    with open(log, "wb", opener=opener) as output:
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=dict(environment),
            start_new_session=True,
        )
    started_at = psutil.Process(child.pid).create_time()
    # It is left to itself on purpose; without this, collecting the handle is a ResourceWarning.
    child.returncode = 0
    record = Record(child.pid, started_at, tuple(command[1:]), address, version)
    _write(folder, name, record)
    return record


def stop(folder: Path, name: str, patience: float = STOP_PATIENCE) -> bool:
    """End NAME and the processes that it started, by SIGTERM and after `patience` seconds by SIGKILL.

    Returns whether it was running; call it while holding `exclusively`.
    """
    record = read(folder, name)
    process = None if record is None else _process(record)
    if process is None:
        return False
    try:
        children = process.children(recursive=True)
        _end([process], patience)
        _end(children, CHILD_PATIENCE)
    except psutil.NoSuchProcess:
        pass
    except psutil.AccessDenied as error:
        raise Permanent(
            f"The {name} (process {process.pid}) belongs to another user.", "Stop it as the user who started it."
        ) from error
    return True


def stop_children(folder: Path, name: str) -> list[int]:
    """End the processes that NAME started, but not NAME; returns their pids."""
    record = read(folder, name)
    process = None if record is None else _process(record)
    try:
        children = process.children(recursive=True) if process is not None else []
    except psutil.NoSuchProcess:
        return []
    _end(children, CHILD_PATIENCE)
    return [child.pid for child in children]


def log_path(folder: Path, name: str) -> Path:
    """Return the file that takes the output of NAME."""
    return folder / f"{name}.log"


def last_lines(folder: Path, name: str, count: int = 8) -> str:
    """Return the end of NAME's log, without empty lines."""
    try:
        lines = log_path(folder, name).read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join([line for line in lines if line.strip()][-count:])


def free_port(preferred: int | None = None, patience: float = 0.0) -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on: the preferred one if it is free within the patience."""
    deadline = time.monotonic() + patience
    while preferred:
        if _bind(preferred):
            return preferred
        if time.monotonic() >= deadline:
            break
        time.sleep(0.1)
    port = _bind(0)
    if port is None:
        raise Permanent("No port of 127.0.0.1 is free.", "Check the machine's network settings.")
    return port


def _bind(port: int) -> int | None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return None
        return int(probe.getsockname()[1])


def _open_lock(folder: Path, name: str) -> IO[bytes]:
    try:
        make_folder(folder)
        return open(folder / f"{name}.lock", "ab", opener=opener)
    except OSError as error:
        raise Permanent(
            f"The folder {folder} cannot be written: {error.strerror}.",
            "Run as the user who owns it, or set PGFERRY_HOME to a folder of your own.",
        ) from error


def _try_lock(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for_lock(lock: IO[bytes], name: str) -> None:
    deadline = time.monotonic() + LOCK_PATIENCE
    while not _try_lock(lock):
        if time.monotonic() > deadline:
            raise Permanent(
                f"Another command has been starting or stopping the {name} for {LOCK_PATIENCE:.0f} seconds.",
                f"Look for it in the process list; it holds {lock.name}.",
            )
        time.sleep(0.2)


def _process(record: Record) -> psutil.Process | None:
    try:
        process = psutil.Process(record.pid)
        if abs(process.create_time() - record.started_at) > CLOCK_TOLERANCE or _has_ended(process):
            return None
        with contextlib.suppress(psutil.AccessDenied):
            # Empty for an instant while a process starts and while it ends.
            command = process.cmdline()
            if command and tuple(command[1:]) != record.arguments:
                return None
    except psutil.NoSuchProcess:
        return None
    return process


def _has_ended(process: psutil.Process) -> bool:
    if process.status() != psutil.STATUS_ZOMBIE:
        return False
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    return True


def _end(family: Sequence[psutil.Process], patience: float) -> None:
    # One by one: a worker's flow runs have sessions of their own, so ending the process group would miss them.
    for act in (psutil.Process.terminate, psutil.Process.kill):
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                act(process)
        _wait_for_end(family, patience)


def _wait_for_end(processes: Sequence[psutil.Process], patience: float) -> None:
    # Not psutil's wait: it waits on for a process that has ended and whose parent does not ask for its result.
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and any(_runs(process) for process in processes):
        time.sleep(0.05)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and not _has_ended(process)
    except psutil.NoSuchProcess:
        return False


def _write(folder: Path, name: str, record: Record) -> None:
    temporary = folder / f"{name}.json.new"
    write_text(temporary, json.dumps(asdict(record), indent=2) + "\n")
    temporary.replace(folder / f"{name}.json")
