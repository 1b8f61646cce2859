"""The faults of a soak, each with a name and a weight; each returns when it is over."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress

from benchmarks.soak_stage import STALL, Stage

Fault = Callable[[Stage], None]


def kill_follower(stage: Stage) -> None:
    """Kill the follower with SIGKILL; it is started again."""
    if stage.follower is not None:
        stage.follower.kill()
        stage.follower.wait()
    stage.keep_following()


def crash_server(stage: Stage) -> None:
    """Kill all processes of the server with SIGKILL, and start it after a moment."""
    stage.crashing.crash()
    time.sleep(stage.dice.uniform(0, 2))
    stage.crashing.start()


def stop_server(stage: Stage) -> None:
    """Stop the server at once, its clients told, and start it again."""
    stage.crashing.stop_at_once()
    time.sleep(stage.dice.uniform(0.2, 2))
    stage.crashing.start()


def cut_connections(stage: Stage) -> None:
    """Cut every connection now."""
    stage.proxy.cut()


def cut_at_bytes(stage: Stage) -> None:
    """Cut some connections at random bytes of what passes."""
    stage.proxy.cut_after(*(stage.dice.randrange(200_000) for _ in range(3)))
    time.sleep(1)
    stage.proxy.cut_after()


def stall_connections(stage: Stage) -> None:
    """Pass nothing on, on the connections that there are, for longer than is waited for."""
    stage.proxy.stall()
    time.sleep(STALL + stage.dice.uniform(1, 3))
    stage.proxy.resume()


def lock_source(stage: Stage) -> None:
    """Hold the source exclusively for some seconds."""
    opened = sqlite3.connect(stage.move.source, isolation_level=None, timeout=30)
    with closing(opened) as held, suppress(sqlite3.OperationalError):
        held.execute("BEGIN EXCLUSIVE")
        time.sleep(stage.dice.uniform(0.5, 4))
        held.execute("COMMIT")


FAULTS: Mapping[str, tuple[Fault, float]] = {
    "follower killed (SIGKILL)": (kill_follower, 3),
    "server killed (SIGKILL), recovered": (crash_server, 2),
    "server stopped at once, recovered": (stop_server, 1),
    "connections cut": (cut_connections, 3),
    "connections cut at random bytes": (cut_at_bytes, 3),
    "connections stalled": (stall_connections, 2),
    "source locked exclusively": (lock_source, 2),
}
"""Name -> what is done, and how often beside the others."""
