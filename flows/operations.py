"""What runs in the background, up and down: the Prefect server, its worker, the embedded PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flows.background import Say, silent
from flows.prefect_server import ensure_server, stop_server
from flows.prefect_worker import POOL, ensure_worker, let_go_on, register_deployments, stop_worker
from pgferry.errors import FerryError


@dataclass(frozen=True, slots=True)
class UiInfo:
    """Where a person looks, and what serves it."""

    ui_url: str
    api_url: str
    """What PREFECT_API_URL must be for Prefect's own command line to use this server."""
    own_server: bool
    """Whether it is the project's own server, and not a configured one."""
    started: bool
    """Whether the server was started just now."""
    worker_pid: int
    pool: str = POOL


def up(home: Path, project: Path | None = None, say: Say = silent) -> UiInfo:
    """Have a Prefect server, a worker and the deployments of the project's prefect.yaml; start what is missing.

    `project` is the folder of prefect.yaml, the working directory by default. Running it again changes nothing.
    Raises Transient or Permanent, see `ensure_server`, `ensure_worker` and `register_deployments`.
    """
    server = ensure_server(home, say)
    worker = ensure_worker(home, server, POOL, say)
    register_deployments(server, project or Path.cwd(), say)
    let_go_on(home, server)
    return UiInfo(server.ui_url, server.url, server.home is not None, server.started, worker.pid)


def down(home: Path) -> list[str]:
    """Stop all that the project started and left running; returns the names of what was stopped, none when none ran.

    What cannot be stopped does not keep the rest from being stopped; its error is raised at the end.
    """
    stopped: list[str] = []
    errors: list[FerryError] = []
    for name, stop in _STOPS:
        try:
            if stop(home):
                stopped.append(name)
        except FerryError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return stopped


def _stop_postgres(home: Path) -> bool:
    from pgferry.postgres import embedded

    return embedded.stop(home)


_STOPS: tuple[tuple[str, Callable[[Path], bool]], ...] = (
    ("Prefect worker", stop_worker),  # Before the server, so that it can say good-bye to it.
    ("Prefect server", stop_server),
    ("PostgreSQL", _stop_postgres),
)
