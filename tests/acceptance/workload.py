"""An application under load: several processes that write to the database that a `.env` file names, until told to stop.

    with Workload(folder, env_file, seed=7) as load:
        load.start()
        …
        load.pause()
        assert not equal(path, url) and not load.lost(path)

Each transaction also inserts a token into the table `acknowledged`; when its commit has returned, the token is written
to the process's journal. So a token of a journal that is not in the database is a lost write, and a token of a
transaction that was rolled back is a write out of nowhere.
What the application meets is counted, not hidden: busy databases, lost connections, pgferry's fence, conflicts of
its own unique values; anything else is an error. `restart_command` is what a switch is to run.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

from sqlalchemy.engine import URL

from tests.acceptance.workload_equal import equal

__all__ = ["State", "Workload", "equal"]

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 180.0
"""Seconds in which every writer answers to what it is told."""


@dataclass
class State:
    """What a writer says of itself."""

    word: str = ""
    """`run`, `pause` or `stop`: the last one that it has followed."""
    connected: bool = False
    backend: str = ""
    """`sqlite` or `postgresql`."""
    restarts: int = 0
    """The last restart that it has followed, by the time of the file."""
    acknowledged: int = 0
    rolled_back: int = 0
    busy: int = 0
    conflicts: int = 0
    fenced: int = 0
    """Transactions that pgferry's fence refused."""
    gone: int = 0
    """Connections that were lost or not to be had."""
    operations: dict[str, int] = field(default_factory=dict)
    """Operation -> acknowledged transactions."""
    freezes: list[tuple[float, float]] = field(default_factory=list)
    """Time of the last acknowledged write before the fence was met, and of the first one after it (epoch seconds)."""
    median_ms: float = 0.0
    p99_ms: float = 0.0
    slowest_ms: float = 0.0
    errors: list[str] = field(default_factory=list)


class Workload:
    """The writers of one application. Its folder holds the journals; `start` again goes on with them."""

    def __init__(
        self, folder: Path, env_file: Path, seed: int = 1, writers: int = 3, *, rate: float = 300, slow: bool = False
    ) -> None:
        """Make a workload of `rate` transactions a second in total; `slow` waits for the disk at each commit."""
        self.folder, self.env_file, self.seed, self.writers = folder, env_file, seed, writers
        self.rate, self.slow = rate, slow
        self._processes: list[subprocess.Popen[bytes]] = []
        self._health: ThreadingHTTPServer | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Workload:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ------------------------------------------------------------ what it is told

    def start(self) -> None:
        """Start the writers; returns when each is connected."""
        assert not self._processes, "it runs already"
        for path in self.folder.glob("state-*"):
            path.unlink()
        self._say("run")
        self._processes = [self._spawn(number) for number in range(self.writers)]
        self._await(lambda state: state.connected, "is connected")

    def pause(self) -> None:
        """Let the writers finish what they do and wait; nothing is written any more when it returns."""
        self._say("pause")
        self._await(lambda state: state.word == "pause", "has paused")

    def resume(self) -> None:
        """Let the writers go on."""
        self._say("run")
        self._await(lambda state: state.word == "run", "goes on")

    def restart(self) -> None:
        """Let the writers connect anew, by the .env file as it is now; returns when each is connected."""
        path = self.folder / "restart"
        path.touch()
        self._await(lambda state: state.restarts == path.stat().st_mtime_ns and state.connected, "has restarted")

    @property
    def restart_command(self) -> str:
        """A shell command that makes the writers restart, and does not wait for them: see `health_url`."""
        return f"touch {shlex.quote(str((self.folder / 'restart').absolute()))}"

    def stop(self) -> None:
        """End the writers, and kill one that does not end."""
        self._say("stop")
        for process in self._processes:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = []
        if self._health is not None:
            self._health.shutdown()
            self._health.server_close()
            self._health = None

    def run_for(self, seconds: float) -> None:
        """Let the writers write for a while."""
        time.sleep(seconds)

    def run_until(self, more: int, seconds: float = PATIENCE) -> None:
        """Wait until that many more transactions are acknowledged; fails when that takes longer than `seconds`."""
        goal, deadline = self.total("acknowledged") + more, time.monotonic() + seconds
        while self.total("acknowledged") < goal:
            assert time.monotonic() < deadline, f"no {more} transactions in {seconds} s: {self.states()}"
            time.sleep(0.02)

    # ------------------------------------------------------------ what it says

    def acknowledged(self) -> set[str]:
        """Return the tokens of all transactions whose commit has returned."""
        return self._tokens("journal")

    def rolled_back(self) -> set[str]:
        """Return the tokens of all transactions that the application has rolled back itself."""
        return self._tokens("rolled-back")

    def doubtful(self) -> set[str]:
        """Return the tokens of transactions whose connection was lost: committed or not, nobody told."""
        return self._tokens("doubtful")

    @property
    def errors(self) -> list[str]:
        """What the writers met and should not have."""
        return [f"writer {number}: {error}" for number, state in enumerate(self.states()) for error in state.errors]

    @property
    def freezes(self) -> list[float]:
        """For each writer and fence, the seconds between its last write before and its first write after."""
        return [after - before for state in self.states() for before, after in state.freezes]

    def states(self) -> list[State]:
        """Return what each writer said last."""
        return [read_state(self.folder, number) for number in range(self.writers)]

    def total(self, count: str) -> int:
        """Return the sum over the writers of a counter of State."""
        return sum(getattr(state, count) for state in self.states())

    def operations(self) -> dict[str, int]:
        """Return how many transactions of each operation are acknowledged."""
        found: dict[str, int] = {}
        for state in self.states():
            for name, count in state.operations.items():
                found[name] = found.get(name, 0) + count
        return found

    def lost(self, path: Path) -> list[str]:
        """Return a line for each token that is not in the SQLite file and should be, or is and should not be.

        To be called while nothing is written.
        """
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
            return self._judged({token for (token,) in file.execute("SELECT token FROM acknowledged")})

    def lost_in(self, url: URL | str) -> list[str]:
        """Do the same as `lost` for a PostgreSQL database."""
        from tests.acceptance.workload_equal import tokens

        return self._judged(tokens(url))

    @property
    def healthy(self) -> bool:
        """Whether every writer runs and has connected since the last restart."""
        path = self.folder / "restart"
        restart = path.stat().st_mtime_ns if path.exists() else 0
        alive = bool(self._processes) and all(process.poll() is None for process in self._processes)
        return alive and all(state.connected and state.restarts == restart for state in self.states())

    @property
    def health_url(self) -> str:
        """An address that answers 200 when the workload is healthy and 503 when not; served until `stop`."""
        if self._health is None:
            self._health = _health_server(lambda: self.healthy)
        return f"http://127.0.0.1:{self._health.server_address[1]}/health"

    # ------------------------------------------------------------ inside

    def _judged(self, present: set[str]) -> list[str]:
        lost, phantoms = self.acknowledged() - present, self.rolled_back() & present
        strange = present - self.acknowledged() - self.doubtful() - phantoms
        return [
            *(f"acknowledged, but not there: {token}" for token in sorted(lost)),
            *(f"rolled back, but there: {token}" for token in sorted(phantoms)),
            *(f"never acknowledged, but there: {token}" for token in sorted(strange)),
        ]

    def _tokens(self, kind: str) -> set[str]:
        texts = (path.read_text() for path in self.folder.glob(f"{kind}-*"))
        return {token for text in texts for token in text.split("\n")[:-1]}

    def _say(self, word: str) -> None:
        replace(self.folder / "control", word)

    def _spawn(self, number: int) -> subprocess.Popen[bytes]:
        given = {"seed": self.seed, "rate": self.rate / self.writers, "slow": self.slow, "env": str(self.env_file)}
        arguments = [str(self.folder), str(number), json.dumps(given)]
        with (self.folder / f"log-{number}").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.acceptance.workload_writer", *arguments],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _await(self, done: Callable[[State], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        for number, process in enumerate(self._processes):
            while not done(state := read_state(self.folder, number)):
                log = self.folder / f"log-{number}"
                assert process.poll() is None, f"writer {number} has ended: {log.read_text()[-2000:]}"
                assert time.monotonic() < deadline, f"writer {number} does not say that it {what}: {state}"
                time.sleep(0.005)

    def kill_writer(self, number: int) -> None:
        """Kill a writer with SIGKILL and start it anew."""
        self._processes[number].send_signal(signal.SIGKILL)
        self._processes[number].wait()
        (self.folder / f"state-{number}").unlink(missing_ok=True)
        self._processes[number] = self._spawn(number)


def replace(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old or the new text."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.new")
    unfinished.write_text(text)
    unfinished.rename(path)


def read_state(folder: Path, number: int) -> State:
    """Return what a writer said last; the empty State when it has not said anything."""
    try:
        return State(**json.loads((folder / f"state-{number}").read_text()))
    except FileNotFoundError:
        return State()


def percentiles(seconds: list[float]) -> tuple[float, float, float]:
    """Return median, 99th percentile and maximum in milliseconds."""
    if not seconds:
        return 0.0, 0.0, 0.0
    ordered = sorted(seconds)
    return tuple(round(s * 1000, 3) for s in (median(ordered), ordered[len(ordered) * 99 // 100], ordered[-1]))  # type: ignore[return-value]


def _health_server(healthy: Callable[[], bool]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if healthy() else 503)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    return server
